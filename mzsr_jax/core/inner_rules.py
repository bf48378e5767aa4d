"""Inner rules: gradient steps, or conjugate gradients under the spectral norm with a line search.

Wherever learning rates are taken, plain ones ask for gradient steps, and `Spectral` ones for the other rule.
"""

from collections.abc import Callable
from typing import NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, PyTree

Rates = Float[ArrayLike, " n"] | PyTree[Float[ArrayLike, " n"]]  # for all parameters, or for each leaf of them
RULES = ("gradient", "spectral")
MAX_STEP_SCALE = 16.0  # that a line search makes of a step
_UNIT = 0.02  # root mean square of an orthogonal direction: rates are then about as large as those of gradient steps
_NEWTON_SCHULZ = 5 * ((3.4445, -4.775, 2.0315),)  # of Muon (Jordan et al., 2024): singular values end from 0.7 to 1.2
EPS = 1e-20  # of a gradient that is zero, as in flat images


@flax.struct.dataclass
class Spectral:
  """Rates of steps by conjugate gradients under the spectral norm (that of the layer which changes most), with a line search.

  The first step is one of steepest descent under that norm. It goes along the orthogonal matrix that is nearest to each
  layer's gradient (as in Muon), and is in proportion to how steeply the loss falls that way (the dual norm of the gradient:
  Bernstein and Newhouse, 2024). Orthogonal matrices change all that a layer sees, where the gradients of one image have few
  directions. Later steps go partly where the one before went, as far as Polak and Ribiere's formula says (nonlinear conjugate
  gradients, steepest descent in the place of the gradient). The length of each is then set right by one more pass through the
  network (`parabolic_line_search`), so that parameters far from an image go further than those that are near.

  Attributes:
    rates: of the steps, or of one, that are tried, as they would be for gradient steps; a step may end up to `MAX_STEP_SCALE`
      times as long.
  """

  rates: Rates | PyTree[Float[ArrayLike, ""]]


class CGState(NamedTuple):
  """What a step leaves to the next, each shaped like the parameters but the last.

  Attributes:
    gradient: that it was made of.
    trial: where it went, before its length was set right.
    slope: along steepest descent, () float.
  """

  gradient: PyTree
  trial: PyTree
  slope: Float[ArrayLike, ""]


def rates_of(rule: str, rates: Rates) -> Rates | Spectral:
  """Rates that ask for one of `RULES`."""
  return Spectral(rates) if rule == "spectral" else rates


def bare(inner_lrs: Rates | Spectral) -> Rates:
  """The rates alone, whichever way they were given."""
  return inner_lrs.rates if isinstance(inner_lrs, Spectral) else inner_lrs


def per_leaf(inner_lrs: Rates | Spectral, params: PyTree) -> PyTree[Float[ArrayLike, " n"]] | Spectral:
  """The same rates as a tree shaped like the parameters, in `Spectral` where they were so before."""
  rates = bare(inner_lrs)
  if isinstance(rates, (jax.Array, np.ndarray)):
    rates = jax.tree.map(lambda _: rates, params)
  return Spectral(rates) if isinstance(inner_lrs, Spectral) else rates


def schedule(
    inner_lrs: float | Rates | Spectral, num_steps: int | None, params: PyTree, default_steps: int = 5
) -> PyTree[Float[ArrayLike, " m"]] | Spectral:
  """The rates of `num_steps` steps for each leaf; None takes all that are given, or `default_steps` of one rate for all.

  Raises:
    ValueError: there are fewer rates than steps.
  """

  def take(lrs):
    if jnp.ndim(lrs) == 0:
      return jnp.broadcast_to(jnp.asarray(lrs), default_steps if num_steps is None else num_steps)
    if num_steps is not None and len(lrs) < num_steps:
      raise ValueError(f"{num_steps} steps need as many learning rates, not {len(lrs)}")
    return lrs[:num_steps]

  return per_leaf(jax.tree.map(take, inner_lrs), params)


def init_state(inner_lrs: Rates | Spectral, params: PyTree) -> CGState | None:
  """What the first step is given to remember."""
  if not isinstance(inner_lrs, Spectral):
    return None
  zeros = jax.tree.map(jnp.zeros_like, params)  # which vary over devices as the parameters do
  return CGState(zeros, zeros, jnp.zeros_like(jax.tree.leaves(params)[0], shape=()))


def change(
    rates: PyTree[Float[ArrayLike, ""]] | Spectral,
    loss: Callable[[PyTree], Float[ArrayLike, ""]],
    params: PyTree,
    value: Float[ArrayLike, ""],
    gradient: PyTree,
    memory: CGState | None,
) -> tuple[PyTree, CGState | None]:
  """What a step subtracts from the parameters, and what it leaves to the next.

  Args:
    rates: this step's, of each leaf; they say by their type how to step.
    loss: that is lowered; called once more where there is a line search, on the host or under jit as this is.
    params: before the step.
    value: of the loss there.
    gradient: there.
    memory: what the step before left, or `init_state`.
  """
  if not isinstance(rates, Spectral):
    return _plain(gradient, rates), None
  memory = _conjugate(gradient, rates.rates, memory)
  return parabolic_line_search(memory.trial, gradient, value, loss(subtract(params, memory.trial))), memory


@jax.jit
def subtract(params: PyTree, change: PyTree) -> PyTree:
  """The parameters after a step."""
  return jax.tree.map(jnp.subtract, params, change)


@jax.jit
def parabolic_line_search(change: PyTree, gradient: PyTree, value: Float[ArrayLike, ""], tried: Float[ArrayLike, ""]) -> PyTree:
  """A change as long as takes the loss to the bottom of a parabola, and at most `MAX_STEP_SCALE` times as long.

  Args:
    change: what was tried, subtracted from the parameters.
    gradient: of the loss before that.
    value: the loss before that.
    tried: the loss after it.
  """
  slope = _dot(gradient, change)  # by which the loss would fall along a straight line
  bend = tried - value + slope
  long = bend <= slope / (2 * MAX_STEP_SCALE)  # NaN stays NaN, so that it is not taken for a step of length 0
  length = jnp.where(long, MAX_STEP_SCALE, slope / (2 * jnp.where(long, 1, bend)))
  return jax.tree.map(lambda c: length * c, change)


def _dot(a: PyTree, b: PyTree) -> Float[Array, ""]:
  return sum(jax.tree.leaves(jax.tree.map(lambda x, y: (x * y).sum(), a, b)))


@jax.jit
def _plain(gradient: PyTree, rates: PyTree) -> PyTree:
  return jax.tree.map(lambda rate, g: rate * g, rates, gradient)


@jax.jit
def _conjugate(gradient: PyTree, rates: PyTree, last: CGState) -> CGState:
  steepest = _steepest(gradient, rates)
  slope = _dot(gradient, steepest)
  first = last.slope == 0
  kept = jnp.where(first, 0, (slope - _dot(last.gradient, steepest)) / jnp.where(first, 1, last.slope))
  trial = jax.tree.map(lambda z, before: z + jnp.clip(kept, 0, 1) * before, steepest, last.trial)
  falls = _dot(gradient, trial) > 0
  return CGState(gradient, jax.tree.map(lambda t, z: jnp.where(falls, t, z), trial, steepest), slope)


def _steepest(gradient: PyTree, rates: PyTree) -> PyTree:
  directions = jax.tree.map(lambda g: _orthogonal(g) if g.ndim > 1 else _scaled(g), gradient)
  slope = _dot(gradient, directions)
  return jax.tree.map(lambda rate, d: rate * slope * d, rates, directions)


def _scaled(g: Float[ArrayLike, "..."]) -> Float[Array, "..."]:
  return g * (_UNIT * jax.lax.rsqrt((g * g).mean() + EPS))


def _orthogonal(g: Float[ArrayLike, "... n"]) -> Float[Array, "... n"]:
  """A convolution's or a matrix' gradient, all that an output sees by outputs, with its singular values made equal.

  Newton-Schulz iterations, so roughly equal. A convolution of (3, 3, 64, 64) takes a thousandth of the time of its gradient.
  """
  matrix = g.reshape(-1, g.shape[-1])
  tall = matrix.shape[0] > matrix.shape[1]
  x = matrix.T if tall else matrix
  x = x * jax.lax.rsqrt((x * x).sum() + EPS)
  dot = lambda a, b: jnp.dot(a, b, precision="highest")
  for a, b, c in _NEWTON_SCHULZ:
    gram = dot(x, x.T)
    x = a * x + dot(b * gram + c * dot(gram, gram), x)
  return ((x.T if tall else x) * (_UNIT * max(matrix.shape) ** 0.5)).reshape(g.shape)
