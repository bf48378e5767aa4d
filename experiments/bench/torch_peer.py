"""MZSR's network, meta-step and meta-test in PyTorch eager mode: the peer that the timing scripts compare with.

Written for the benchmarks alone (`pip install '.[bench]'`); it takes the JAX parameters, so that results can be compared too.
Convolutions run in PyTorch's own NCHW layout, with oneDNN on a CPU and cuDNN on a GPU.
"""

import jax
import numpy as np
import torch
import torch.nn.functional as F


def from_jax(params) -> list[torch.Tensor]:
  """Weights (D, C, 3, 3) and bias (D,) of each layer in turn, leaves that require gradients."""
  tensors = []
  for i in range(len(params)):
    layer = jax.device_get(params[f"conv{i + 1}"])
    tensors += [torch.tensor(np.ascontiguousarray(layer["kernel"].transpose(3, 2, 0, 1))), torch.tensor(layer["bias"])]
  return [t.requires_grad_() for t in tensors]


def image(x) -> torch.Tensor:
  """(N, H, W, 3) array to (N, 3, H, W) tensor."""
  return torch.tensor(np.ascontiguousarray(np.asarray(x).transpose(0, 3, 1, 2)))


def network(params: list[torch.Tensor], x: torch.Tensor) -> torch.Tensor:
  """(N, 3, H, W) -> (N, 3, H, W): input + last convolution, ReLU after all others."""
  h = x
  for i in range(0, len(params), 2):
    h = F.conv2d(h, params[i], params[i + 1], padding=1)
    if i < len(params) - 2:
      h = F.relu(h)
  return x + h


def l1(params, pair) -> torch.Tensor:
  """Mean absolute error on (inputs, targets)."""
  return (network(params, pair[0]) - pair[1]).abs().mean()


def meta_gradient(params, tasks, inner_lr: float, num_inner_steps: int):
  """Second-order gradient of the mean query loss over steps and tasks; `tasks` holds (support, query) pairs of tensors.

  Before the first step the query loss is computed as well, for nothing but equal work: `maml.meta_loss` reports it.
  """
  total = [torch.zeros_like(p) for p in params]
  loss = 0.0
  for support, query in tasks:  # one at a time, so that one task's graph is alive
    theta, value = params, 0.0
    with torch.no_grad():
      l1(theta, query).item()
    for _ in range(num_inner_steps):
      gradient = torch.autograd.grad(l1(theta, support), theta, create_graph=True)
      theta = [p - inner_lr * g for p, g in zip(theta, gradient)]
      value = value + l1(theta, query) / num_inner_steps
    for t, g in zip(total, torch.autograd.grad(value, params)):
      t += g / len(tasks)
    loss += value.item() / len(tasks)
  return loss, total


def adapt(params, pair, inner_lrs) -> list[torch.Tensor]:
  """Plain gradient steps on one image pair."""
  for lr in inner_lrs:
    gradient = torch.autograd.grad(l1(params, pair), params)
    params = [(p - float(lr) * g).detach().requires_grad_() for p, g in zip(params, gradient)]
  return params
