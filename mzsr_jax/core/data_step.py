"""The data step: the image nearest to another one that has a given LR image, in closed form (beyond the paper).

It is the proximal step of half-quadratic splitting, as in USRNet (Zhang, Van Gool and Timofte, CVPR 2020), here for any
linear degradation: x = z + A' (A A' + mu)^-1 (y - A z). It has no parameters.
"""

import functools

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from mzsr_jax.core import forward_operator
from mzsr_jax.core.forward_operator import ForwardOperator

_EPS = 1e-20  # of sums of squares: what has converged divides by it
_TOLERANCE = 0.2  # of an error, in parts of the first, see `data_step`


@functools.partial(jax.jit, static_argnames=("iterations", "most_iterations"))
def data_step(
    z: Float[ArrayLike, "h w c"],
    y: Float[ArrayLike, "p q c"],
    a: ForwardOperator,
    mu: Float[ArrayLike, ""],
    iterations: int = 4,
    spectrum: Float[Array, "p f"] | None = None,
    most_iterations: int = 0,
) -> Float[Array, "h w c"]:
  """argmin over x of |y - A x|^2 + mu |x - z|^2.

  Differentiable to any order: the derivatives of the linear system are linear systems, solved alike.

  Args:
    z: what the image is thought to be.
    y: its LR image.
    a: the degradation.
    mu: trust in z against y, above 0; with mu near 0, the LR image of the result is y.
    iterations: of preconditioned conjugate gradients.
    spectrum: `preconditioner(a)`, where several steps share it.
    most_iterations: while the error is more than a fifth of the first one, iterations go on up to this number.
  """
  spectrum = preconditioner(a) if spectrum is None else spectrum
  matvec = lambda w: forward_operator.forward(a, forward_operator.adjoint(a, w)) + mu * w
  # What the filter spreads to unknown pixels is no part of the system, and would keep it from converging.
  approximate = lambda w: forward_operator.on_known(a, _filter(w, 1 / (spectrum + mu)))
  solve = lambda matvec, b: _conjugate_gradients(matvec, approximate, b, iterations, most_iterations)
  missing = forward_operator.on_known(a, y - forward_operator.forward(a, z))
  w = jax.lax.custom_linear_solve(matvec, missing, solve, symmetric=True)
  return z + forward_operator.adjoint(a, w)


def preconditioner(a: ForwardOperator) -> Float[Array, "p f"]:
  """Eigenvalues of A A' as if it were a periodic convolution, by the real FFT's frequencies.

  A A' is one away from borders for whole scales, and nearly one for others with bicubic subsampling; what it makes of one pixel
  tells which. With direct subsampling by fractions it is none, so more iterations are needed.
  """
  rows, columns = forward_operator.known(a)
  middle = [jnp.where(known, jnp.arange(len(known)), 0).sum() // known.sum() for known in (rows, columns)]
  pixel = jnp.zeros((len(rows), len(columns), 1), a.rows.blocks.dtype).at[middle[0], middle[1]].set(1)
  response = forward_operator.forward(a, forward_operator.adjoint(a, pixel))[..., 0]
  response = jnp.roll(response, [-m for m in middle], (0, 1))
  return jnp.maximum(jnp.fft.rfft2(response).real, 0)


def _filter(image: Float[Array, "p q c"], spectrum: Float[Array, "p f"]) -> Float[Array, "p q c"]:
  """Periodic convolution, by the eigenvalues of a symmetric kernel."""
  frequencies, spectrum = jnp.fft.rfft2(image, axes=(0, 1)), spectrum[..., None]
  filtered = jax.lax.complex(frequencies.real * spectrum, frequencies.imag * spectrum)
  return jnp.fft.irfft2(filtered, image.shape[:2], axes=(0, 1))


def _conjugate_gradients(matvec, approximate, b, iterations: int, most: int):
  """Preconditioned conjugate gradients from 0; `most`: see `data_step`."""
  dot = lambda x, y: (x * y).sum()

  def iterate(state):
    i, x, r, d, rs = state
    m = matvec(d)
    alpha = rs / (dot(d, m) + _EPS)
    x, r = x + alpha * d, r - alpha * m
    s = approximate(r)
    rs, before = dot(r, s), rs
    return i + 1, x, r, s + rs / (before + _EPS) * d, rs

  s = approximate(b)
  first = dot(b, s)  # the square of the error's norm, as the preconditioner estimates it

  def goes_on(state):
    i, *_, rs = state
    if most <= iterations:
      return i < iterations  # under jax.vmap, a loop that images end costs more
    return (i < iterations) | ((i < most) & (rs > _TOLERANCE**2 * first))

  # A loop: unrolled, programs would take several times as long to compile.
  return jax.lax.while_loop(goes_on, iterate, (0, jnp.zeros_like(b), b, s, first))[1]
