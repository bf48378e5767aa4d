"""Meta-test (Algorithm 2): adapt the network to one image, then enlarge it. Pure functions of arrays.

All of them work under jax.jit (with `scale`, `num_steps` and `model` static), jax.vmap over images, kernels or both, and
jax.grad with respect to parameters and kernel. An offset is a part of the compiled programs: each new one compiles anew (not
so with `TiledAdapter`).
"""

import functools
import operator
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from mzsr_jax.core import checks, inner_rules, maml, networks
from mzsr_jax.core import degradation as degradation_lib
from mzsr_jax.core.inner_rules import Rates, Spectral
from mzsr_jax.core.kernels import Degradation
from mzsr_jax.core.model import NET
from mzsr_jax.core.network import Network, Observation, Params


def l1(params: Params, inputs: Observation, targets: Float[ArrayLike, "*n h w c"], network: Network = NET) -> Float[Array, ""]:
  """Mean absolute error of the network's output, in [0, 1] units: the loss of all three stages (Eq. 4).

  Args:
    params: of the network.
    inputs: what it observes, see `network.Network`.
    targets: HR images.
    network: see `network.Network`.
  """
  return jnp.abs(network.reconstruct(params, inputs) - targets).mean()


@functools.partial(jax.jit, static_argnames=("scale", "network", "keep"))
def _adapt(params, lr, degradation, rates, scale, network, keep):
  """(adapted parameters, with `keep` those after each step, stacked)."""
  inputs = network.observe(degradation_lib.son(lr, degradation, scale), degradation, scale, lr.shape[:2])
  loss = lambda params: l1(params, inputs, lr, network)
  params, (_, after_each) = maml.adapt(loss, params, rates, observe=(lambda params: params) if keep else None)
  return params, after_each


@functools.partial(jax.jit, static_argnames=("scale", "network"))
def _super_resolve(params, lr, degradation, scale, network):
  return jnp.clip(network.reconstruct(params, network.observe(lr, degradation, scale)), 0, 1)


@functools.partial(jax.jit, static_argnames="scale")
def _lr_son(lr, degradation, scale):
  return degradation_lib.enlarge(degradation_lib.son(lr, degradation, scale), scale, lr.shape[:2], degradation.offset)


def lr_son(
    lr: Float[ArrayLike, "h w c"], degradation: Degradation | Float[ArrayLike, "k k"], scale: degradation_lib.Factors = 2
) -> Float[Array, "h w c"]:
  """The LR image degraded by its own degradation, clipped to [0, 1] and enlarged back to its size by bicubic.

  Args and errors: see `adapt`.
  """
  checks.check_image(lr)
  return _lr_son(jnp.asarray(lr), checks.checked(degradation), scale)


def adapt(
    params: Params,
    lr: Float[ArrayLike, "h w c"],
    degradation: Degradation | Float[ArrayLike, "k k"],
    scale: float = 2,
    inner_lrs: float | Rates | Spectral = 0.01,
    num_steps: int | None = None,
    model: Network | None = None,
) -> Params:
  """Gradient steps on LR son -> LR image (Algorithm 2, lines 1 to 6), in one compiled program.

  Differentiable, but for the kinks of L1: its gradient jumps where a residual changes its sign, and a derivative with respect
  to kernel or image knows nothing of the jumps. It may then be far from the slope over any distance, where that of
  `maml.adapt` with a smooth loss is not (experiments/api.ipynb).

  Args:
    params: meta-learned parameters theta_M.
    lr: LR image, RGB float32 in [0, 1], any size.
    degradation: how the LR image was made; a bare kernel (odd side, sum 1) means direct subsampling and no noise.
    scale: scale factor.
    inner_lrs: learning rate of every step, or (n,) of each, or a tree shaped like `params` with (n,) for each leaf
      (see `weights.load`); `Spectral`, for the other steps of `inner_rules`.
    num_steps: gradient steps, at most n; None for all n, or 5 where one rate serves every step. 0 returns `params`.
    model: the network; None for that which the parameters are of (`networks.of`).

  Returns:
    Parameters adapted to the image.

  Raises:
    ValueError: the image is no float array of three axes or, outside of jit, not in [0, 1]; the kernel is not (k, k) with k odd
      or, outside of jit, not of sum 1.
  """
  return _adapted(params, lr, degradation, scale, inner_lrs, num_steps, model, keep=False)[0]


def _adapted(params, lr, degradation, scale, inner_lrs, num_steps, network, keep):
  checks.check_image(lr)
  lr, degradation = jnp.asarray(lr), checks.checked(degradation)
  rates = inner_rules.schedule(inner_lrs, num_steps, params)
  rates = jax.tree.map(lambda lrs: jnp.asarray(lrs, lr.dtype), rates)
  if not len(jax.tree.leaves(rates)[0]):
    return params, None
  return _adapt(params, lr, degradation, rates, scale, network or networks.of(params), keep)


def super_resolve(
    params: Params,
    lr: Float[ArrayLike, "h w c"],
    scale: float = 2,
    degradation: Degradation | Float[ArrayLike, "k k"] | None = None,
    model: Network | None = None,
) -> Float[Array, "p q c"]:
  """Enlarges an LR image (Algorithm 2, line 7).

  Args:
    params: parameters of the network, adapted or not.
    lr: RGB float32 in [0, 1].
    scale: scale factor.
    degradation: see `adapt`; None for no blur. The paper's network uses its offset alone.
    model: the network; None for that which the parameters are of (`networks.of`).

  Returns:
    (ceil(H * scale), ceil(W * scale), C) in [0, 1].

  Raises:
    ValueError: see `adapt`.
  """
  checks.check_image(lr)
  degradation = Degradation(jnp.ones((1, 1))) if degradation is None else checks.checked(degradation)
  return _super_resolve(params, jnp.asarray(lr), degradation, scale, model or networks.of(params))


def trajectory(
    params: Params,
    lr: Float[ArrayLike, "h w c"],
    degradation: Degradation | Float[ArrayLike, "k k"],
    shown: Sequence[int],
    scale: float,
    inner_lrs: float | Rates | Spectral,
    model: Network | None = None,
) -> dict[int, Float[Array, "p q c"]]:
  """SR images after several numbers of steps, in one pass of the adaptation.

  Args:
    shown: numbers of steps, ascending.
    inner_lrs: as in `adapt`, of as many steps as the last of `shown`, or more.
    others: see `adapt`.

  Returns:
    By number of steps, (ceil(H * scale), ceil(W * scale), C) in [0, 1].
  """
  _, after_each = _adapted(params, lr, degradation, scale, inner_lrs, shown[-1], model, keep=True)
  states = lambda i: jax.tree.map(operator.itemgetter(i - 1), after_each) if i else params
  return {i: super_resolve(states(i), lr, scale, degradation, model) for i in shown}
