"""Model-agnostic meta-learning, second order: the inner loop, the multi-step meta-loss, the mean over tasks.

Nothing here knows of images: a loss is a function of parameters. The inner loop is written once and serves meta-training
(Algorithm 1), meta-test (Algorithm 2) and the ablations.
"""

import operator
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int, PyTree

from mzsr_jax.core import inner_rules
from mzsr_jax.core.inner_rules import CGState, Rates, Spectral

Loss = Callable[[PyTree], Float[Array, ""]]
TASK_BATCHINGS = ("vmap", "map", "unroll")
ALGORITHMS = ("maml", "reptile")
INNER_LOOPS = ("scan", "unroll")
WEIGHT_SCHEDULES = ("annealed", "constant", "last")


def adapt(
    loss: Loss,
    params: PyTree,
    inner_lrs: Rates | Spectral,
    *,
    first_order: bool = False,
    observe: Callable[[PyTree], PyTree] | None = None,
    inner_loop: str = "scan",
    remat: bool = False,
) -> tuple[PyTree, tuple[Float[Array, " n"], PyTree]]:
  """Plain gradient descent, theta <- theta - alpha_i grad loss(theta), for i = 1..n (Alg. 1 line 7, Alg. 2 line 5).

  Differentiable to any order, as far as `loss` and `observe` are. `Spectral` rates ask for the other steps of `inner_rules`.

  Args:
    loss: scalar function of the parameters.
    params: theta_0, any pytree.
    inner_lrs: (n,) learning rates alpha_i, one a step, n at least 1; or a pytree shaped like `params` with an (n,) array for
      each leaf.
    first_order: treat the inner gradients as constants when this is differentiated in turn.
    observe: function of the parameters, called on theta_1 ... theta_n.
    inner_loop: "scan" (one step is compiled, and its buffers serve all steps) or "unroll" (each step is compiled).
    remat: keep only the parameters of each step, and compute the rest anew when this is differentiated in turn.

  Returns:
    (theta_n, (losses, observed)): losses (n,) are loss(theta_0) ... loss(theta_n-1), observed is stacked over steps.
  """
  if inner_loop not in INNER_LOOPS:
    raise ValueError(f"inner loop must be one of {', '.join(INNER_LOOPS)}, not {inner_loop!r}")

  def body(state, rates):
    state, value = step(loss, rates, state, first_order=first_order)
    return state, (value, observe(state[0]) if observe else None)

  start, per_leaf = (params, inner_rules.init_state(inner_lrs, params)), inner_rules.per_leaf(inner_lrs, params)
  (theta, _), out = lax.scan(jax.checkpoint(body) if remat else body, start, per_leaf, unroll=inner_loop == "unroll")
  return theta, out


def step(
    loss: Loss,
    rates: PyTree | Spectral,
    state: tuple[PyTree, CGState | None],
    *,
    first_order: bool = False,
    value_and_grad: Callable[[PyTree], tuple[Float[Array, ""], PyTree]] | None = None,
) -> tuple[tuple[PyTree, CGState | None], Float[Array, ""]]:
  """One step of `adapt`: the only place that steps.

  Args:
    loss, first_order: see `adapt`.
    value_and_grad: of the loss; given where it is summed on the host, part by part, and not by one program.
    rates: this step's, for each leaf of the parameters.
    state: the parameters, and what the step before left (at first `inner_rules.init_state`).

  Returns:
    (state, loss): the loss is that before the step.
  """
  theta, memory = state
  value, gradient = (value_and_grad or jax.value_and_grad(loss))(theta)
  at, before, gradient = lax.stop_gradient((theta, value, gradient)) if first_order else (theta, value, gradient)
  change, memory = inner_rules.change(rates, loss, at, before, gradient, memory)
  return (inner_rules.subtract(theta, change), memory), value


def loss_weights(
    step: int | Int[Array, ""], num_inner_steps: int, schedule: str, anneal_steps: int, floor: float
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


def _with_gradient_at_once(loss: Loss) -> Loss:
  """The same loss, whose gradient is computed along with its value and then waits to be scaled.

  When the gradient is wanted in any case, this spares keeping the activations until the backward pass comes by. What it
  returns has one reverse-mode derivative, and none of second order or forward mode.
  """

  @jax.custom_vjp
  def eager(params):
    return loss(params)

  eager.defvjp(jax.value_and_grad(loss), lambda gradient, scale: (jax.tree.map(lambda g: g * scale, gradient),))
  return eager


def meta_loss(
    params: PyTree,
    support_loss: Loss,
    query_loss: Loss,
    inner_lrs: Rates | Spectral,
    weights: Float[ArrayLike, " n"],
    *,
    first_order: bool = False,
    inner_loop: str = "scan",
    remat: bool = False,
) -> tuple[Float[Array, ""], dict[str, Array]]:
  """Weighted sum of the query losses after every inner step on the support loss, for one task (Eq. 5, 7).

  Made to be differentiated by jax.grad, once: it has no forward mode and no second derivative (`_with_gradient_at_once`).

  Args:
    params: theta.
    support_loss: what the inner loop descends.
    query_loss: what the adapted parameters are judged by.
    inner_lrs: see `adapt`.
    weights: (n,) weights of the query losses.
    first_order: first-order MAML: gradients of gradients are dropped.
    inner_loop, remat: see `adapt`.

  Returns:
    (loss, metrics): metrics hold "support_losses" (n,), before each step, and "query_losses" (n + 1,), before the first
    step and after each.
  """
  before = lax.stop_gradient(query_loss(lax.stop_gradient(params)))
  _, (support_losses, query_losses) = adapt(
      support_loss, params, inner_lrs, first_order=first_order, observe=_with_gradient_at_once(query_loss),
      inner_loop=inner_loop, remat=remat,
  )  # fmt: skip
  metrics = {"support_losses": support_losses, "query_losses": jnp.concatenate([before[None], query_losses])}
  return jnp.dot(weights, query_losses, precision="highest"), metrics


def reptile_gradient(
    params: PyTree, support_loss: Loss, query_loss: Loss, inner_lrs: Rates | Spectral, *, inner_loop: str = "scan"
) -> tuple[tuple[Float[Array, ""], dict[str, Array]], PyTree]:
  """theta_0 - theta_n of one task, which an outer optimizer takes for a gradient (Reptile: Nichol, Achiam and Schulman, 2018).

  Args: see `meta_loss`; the query loss is only watched.

  Returns:
    ((loss, metrics), gradient): as jax.value_and_grad of `meta_loss` does, the loss being the last query loss.
  """
  adapted, (support_losses, query_losses) = adapt(support_loss, params, inner_lrs, observe=query_loss, inner_loop=inner_loop)
  query_losses = jnp.concatenate([query_loss(params)[None], query_losses])
  metrics = {"support_losses": support_losses, "query_losses": query_losses}
  return (query_losses[-1], metrics), jax.tree.map(jnp.subtract, params, adapted)


def mean_over_tasks(function: Callable[[PyTree], PyTree], tasks: PyTree, batching: str) -> PyTree:
  """Mean of function(task) over tasks stacked on the leading axis.

  Args:
    function: of one task; here a gradient, so that no more than one task's activations need be alive with "map".
    tasks: pytree whose leaves have a leading task axis.
    batching: "vmap" (all at once, as grouped convolutions, which XLA runs very slowly on a CPU), "map" (one after another
      in a loop: the memory of one task) or "unroll" (one after another without a loop: longer to compile, and XLA may keep
      several tasks in memory).
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
