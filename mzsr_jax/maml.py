"""Model-agnostic meta-learning, second order: the inner loop, the multi-step meta-loss, the mean over tasks.

Nothing here knows of images: a loss is a function of parameters. The inner loop is written once and serves meta-training
(Algorithm 1), meta-test (Algorithm 2) and the ablations.
"""

import operator
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, PyTree

Loss = Callable[[PyTree], Float[Array, ""]]
TASK_BATCHINGS = ("vmap", "map", "unroll")
WEIGHT_SCHEDULES = ("annealed", "constant", "last")


def adapt(
    loss: Loss, params: PyTree, inner_lrs, *, first_order: bool = False, observe: Callable[[PyTree], PyTree] | None = None
):
  """Plain gradient descent, theta <- theta - alpha_i grad loss(theta), for i = 1..n (Alg. 1 line 7, Alg. 2 line 5).

  Args:
    loss: scalar function of the parameters.
    params: theta_0, any pytree.
    inner_lrs: (n,) learning rates alpha_i, one a step, n at least 1; or a pytree shaped like `params` with an (n,) array for
      each leaf.
    first_order: treat the inner gradients as constants when this is differentiated in turn.
    observe: function of the parameters, called on theta_1 ... theta_n.

  Returns:
    (theta_n, (losses, observed)): losses (n,) are loss(theta_0) ... loss(theta_n-1), observed is stacked over steps.
  """
  per_leaf = jax.tree.map(lambda _: inner_lrs, params) if isinstance(inner_lrs, (jax.Array, np.ndarray)) else inner_lrs
  num_steps = jax.tree.leaves(per_leaf)[0].shape[0]
  theta, records = params, []
  # Not lax.scan: XLA's CPU backend runs a convolution inside a loop, one of a single turn too, 20 times slower than outside.
  for i in range(num_steps):
    value, gradient = jax.value_and_grad(loss)(theta)
    if first_order:
      gradient = lax.stop_gradient(gradient)
    rates = jax.tree.map(operator.itemgetter(i), per_leaf)
    theta = jax.tree.map(lambda p, lr, g: p - lr * g, theta, rates, gradient)
    records.append((value, observe(theta) if observe else None))
  return theta, jax.tree.map(lambda *steps: jnp.stack(steps), *records)


def loss_weights(
    step, num_inner_steps: int, schedule: str, anneal_steps: int, floor: float
) -> Float[Array, " n"]:
  """Weights of the query losses after each inner step; they sum to 1 (the w_i of Eq. 7).

  Args:
    step: meta-step, may be traced.
    num_inner_steps: n.
    schedule: "constant" (1/n each), "last" (only the last step counts) or "annealed": from 1/n each, all but the last decay
      linearly over `anneal_steps` meta-steps to `floor` / n, and the last takes what they lose.
    anneal_steps: meta-steps until the floor is reached.
    floor: what is left of a weight then, as a fraction of 1/n.
  """
  n = num_inner_steps
  if schedule == "constant":
    other = jnp.float32(1 / n)
  elif schedule == "last":
    other = jnp.float32(0)
  elif schedule == "annealed":
    progress = jnp.minimum(jnp.asarray(step, jnp.float32) / anneal_steps, 1.0)
    other = (1 - (1 - floor) * progress) / n
  else:
    raise ValueError(f"loss weight schedule must be one of {', '.join(WEIGHT_SCHEDULES)}, not {schedule!r}")
  return jnp.append(jnp.full((n - 1,), other), 1 - (n - 1) * other)


def meta_loss(params: PyTree, support_loss: Loss, query_loss: Loss, inner_lrs, weights, *, first_order: bool = False):
  """Weighted sum of the query losses after every inner step on the support loss, for one task (Eq. 5, 7).

  Args:
    params: theta.
    support_loss: what the inner loop descends.
    query_loss: what the adapted parameters are judged by.
    inner_lrs: see `adapt`.
    weights: (n,) weights of the query losses.
    first_order: first-order MAML: gradients of gradients are dropped.

  Returns:
    (loss, metrics): metrics hold "support_losses" (n,), before each step, and "query_losses" (n + 1,), before the first
    step and after each.
  """
  before = lax.stop_gradient(query_loss(lax.stop_gradient(params)))
  _, (support_losses, query_losses) = adapt(support_loss, params, inner_lrs, first_order=first_order, observe=query_loss)
  metrics = {"support_losses": support_losses, "query_losses": jnp.concatenate([before[None], query_losses])}
  return jnp.dot(weights, query_losses, precision="highest"), metrics


def mean_over_tasks(function: Callable[[PyTree], PyTree], tasks: PyTree, batching: str) -> PyTree:
  """Mean of function(task) over tasks stacked on the leading axis.

  Args:
    function: of one task; here a gradient, so that no more than one task's activations need be alive with "map".
    tasks: pytree whose leaves have a leading task axis.
    batching: "vmap" (all at once; XLA sees grouped convolutions, which it runs very slowly on a CPU), "map" (one after
      another in a loop: the least memory and compilation; very slow on a CPU, where XLA does not parallelise convolutions
      inside loops) or "unroll" (one after another without a loop: longer to compile, the fastest on a CPU).
  """
  if batching == "vmap":
    out = jax.vmap(function)(tasks)
  elif batching == "map":
    out = lax.map(function, tasks)
  elif batching == "unroll":
    count = jax.tree.leaves(tasks)[0].shape[0]
    each = [function(jax.tree.map(operator.itemgetter(i), tasks)) for i in range(count)]
    out = jax.tree.map(lambda *xs: jnp.stack(xs), *each)
  else:
    raise ValueError(f"task batching must be one of {', '.join(TASK_BATCHINGS)}, not {batching!r}")
  return jax.tree.map(lambda x: x.mean(axis=0), out)
