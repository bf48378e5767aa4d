"""How the inner loop steps: along the gradient, or along the orthogonal matrices that are nearest to it.

Wherever learning rates are taken, plain ones ask for gradient steps, and `Orthogonal` ones for the other kind.
"""

from collections.abc import Callable

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, PyTree

Rates = Float[ArrayLike, " n"] | PyTree[Float[ArrayLike, " n"]]  # for all parameters, or for each leaf of them
RULES = ("gradient", "orthogonal")
_UNIT = 0.01  # root mean square of a direction: rates are then about as large as those of gradient steps
_NEWTON_SCHULZ = 5 * ((3.4445, -4.775, 2.0315),)  # of Muon (Jordan et al., 2024): singular values end from 0.7 to 1.2
_TINY = 1e-20  # of a gradient that is zero, as in flat images


@flax.struct.dataclass
class Orthogonal:
  """Rates of steps along orthogonalised gradients.

  Attributes:
    rates: as they would be for gradient steps, but of directions whose root mean square is 0.01 whatever the gradient's size.
  """

  rates: Rates


def rates_of(rule: str, rates: Rates) -> Rates | Orthogonal:
  """Rates that ask for one of `RULES`."""
  return Orthogonal(rates) if rule == "orthogonal" else rates


def per_leaf(inner_lrs: Rates | Orthogonal, params: PyTree) -> PyTree[Float[ArrayLike, " n"]]:
  """The rates alone, as a tree shaped like the parameters, whichever way they were given."""
  rates = inner_lrs.rates if isinstance(inner_lrs, Orthogonal) else inner_lrs
  return jax.tree.map(lambda _: rates, params) if isinstance(rates, (jax.Array, np.ndarray)) else rates


def direction(inner_lrs: Rates | Orthogonal) -> Callable[[PyTree], PyTree]:
  """The function from a gradient to what rates multiply, one object for a rule; differentiable."""
  return _orthogonalised if isinstance(inner_lrs, Orthogonal) else _plain


def _plain(gradient: PyTree) -> PyTree:
  return gradient


def _orthogonalised(gradient: PyTree) -> PyTree:
  return jax.tree.map(lambda g: _orthogonal(g) if g.ndim > 1 else _scaled(g), gradient)


def _scaled(g: Float[Array, "..."]) -> Float[Array, "..."]:
  return g * (_UNIT * jax.lax.rsqrt((g * g).mean() + _TINY))


def _orthogonal(g: Float[Array, "... n"]) -> Float[Array, "... n"]:
  """A convolution's or a matrix' gradient, all that an output sees by outputs, with its singular values made equal.

  Newton-Schulz iterations, so roughly equal. A convolution of (3, 3, 64, 64) takes a thousandth of the time of its gradient.
  """
  matrix = g.reshape(-1, g.shape[-1])
  tall = matrix.shape[0] > matrix.shape[1]
  x = matrix.T if tall else matrix
  x = x * jax.lax.rsqrt((x * x).sum() + _TINY)
  dot = lambda a, b: jnp.dot(a, b, precision="highest")
  for a, b, c in _NEWTON_SCHULZ:
    gram = dot(x, x.T)
    x = a * x + dot(b * gram + c * dot(gram, gram), x)
  return ((x.T if tall else x) * (_UNIT * max(matrix.shape) ** 0.5)).reshape(g.shape)
