"""Random blur kernels of every kind that photos have: what the unrolled network is trained on. Pure, on device.

All lie around a centre that may be off the middle pixel, are sampled at pixels, and sum to 1.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Key

SIZE = 21  # pixels, side
FAMILIES = ("none", "gaussian", "perturbed", "motion", "disk", "area", "sharpened")
_RANGE = np.arange(SIZE, dtype=np.float32) - SIZE // 2
_MIN_VARIANCE = 0.05  # pixels^2
_POINTS = 24  # of a path of motion

Kernel = Float[Array, "21 21"]
Centre = Float[Array, " 2"]


def sample(
    key: Key[Array, ""], scale: Float[ArrayLike, ""], centre: Float[ArrayLike, " 2"], weights: Float[ArrayLike, " 7"]
) -> Kernel:
  """One random kernel.

  Args:
    key: jax.random key.
    scale: scale factor s: kernels of larger scales are wider.
    centre: (dy, dx) from the middle pixel, downwards and to the right.
    weights: how often each of `FAMILIES` is drawn; they sum to 1.
  """
  which, key = jax.random.split(key)
  family = jax.random.choice(which, len(FAMILIES), p=jnp.asarray(weights, jnp.float32))
  kernel = jnp.stack([draw(key, scale, centre) for draw in _DRAWN])[family]
  return kernel / kernel.sum()


def _offsets(centre: Centre) -> tuple[Float[Array, "21 1"], Float[Array, "1 21"]]:
  """(y, x) of the pixels from the centre."""
  return (_RANGE - centre[0])[:, None], (_RANGE - centre[1])[None]


def _none(key, scale, centre: Centre) -> Kernel:
  """No blur; off the middle, bilinear interpolation."""
  del key, scale
  y, x = _offsets(centre)
  return jnp.maximum(1 - jnp.abs(y), 0) * jnp.maximum(1 - jnp.abs(x), 0)


def _gaussian_of(u, centre: Centre, low, high) -> Kernel:
  """Variances from low to high, evenly in their standard deviations, of any angle; u: three numbers from [0, 1)."""
  largest = jnp.sqrt(low) + (jnp.sqrt(high) - jnp.sqrt(low)) * u[0]
  least = jnp.sqrt(low) + (largest - jnp.sqrt(low)) * u[1]
  y, x = _offsets(centre)
  c, s = jnp.cos(np.pi * u[2]), jnp.sin(np.pi * u[2])
  along, across = c * x + s * y, c * y - s * x
  exponent = -0.5 * ((along / largest) ** 2 + (across / least) ** 2)
  return jnp.exp(exponent - exponent.max())  # a narrow one may lie between pixels


def _gaussian(key, scale, centre: Centre) -> Kernel:
  """The paper's family, widened: variances from 0.05 to 2.5 s; a third is isotropic."""
  u = jax.random.uniform(key, (4,))
  u = u.at[1].set(jnp.where(u[3] < 1 / 3, 1.0, u[1]))
  return _gaussian_of(u, centre, _MIN_VARIANCE, 2.5 * scale)


def _perturbed(key, scale, centre: Centre) -> Kernel:
  """As in DIV2KRK (Bell-Kligler et al., 2019): 11x11 pixels, each multiplied by a random number from 0.75 to 1.25."""
  u_key, noise_key = jax.random.split(key)
  kernel = _gaussian_of(jax.random.uniform(u_key, (3,)), centre, 0.35, 2.5 * scale)
  noise = jax.random.uniform(noise_key, kernel.shape, minval=0.75, maxval=1.25)
  window = (np.abs(_RANGE) <= 5).astype(np.float32)
  return kernel * noise * np.outer(window, window)


def _motion(key, scale, centre: Centre) -> Kernel:
  """The path of a shaking camera, a random walk of slowly turning direction, drawn by a pen half a pixel wide."""
  length_key, turn_key, start_key = jax.random.split(key, 3)
  length = jax.random.uniform(length_key, (), minval=1.0, maxval=2.0 + 2.5 * scale)
  angle = 2 * np.pi * jax.random.uniform(start_key) + jnp.cumsum(0.3 * jax.random.normal(turn_key, (_POINTS,)))
  path = jnp.cumsum(jnp.stack([jnp.sin(angle), jnp.cos(angle)], 1), 0) * length / _POINTS
  path = jnp.clip(path - path.mean(0, keepdims=True), -8, 8)
  y, x = _offsets(centre)
  stroke = lambda axis, place: jnp.exp(-((axis.ravel()[None] - place[:, None]) ** 2) / (2 * 0.5**2))  # (points, pixels)
  return jnp.matmul(stroke(y, path[:, 0]).T, stroke(x, path[:, 1]), precision="highest")


def _disk(key, scale, centre: Centre) -> Kernel:
  """A lens out of focus: a disk whose border is a pixel wide."""
  radius = jax.random.uniform(key, minval=0.7, maxval=1.0 + 0.9 * scale)
  y, x = _offsets(centre)
  return jnp.clip(radius + 0.5 - jnp.sqrt(y * y + x * x), 0, 1)


def _area(key, scale, centre: Centre) -> Kernel:
  """The mean over an LR pixel, as of a sensor or a program that shrinks by averaging: a square of side s."""
  del key
  y, x = _offsets(centre)
  side = lambda axis: jnp.clip((scale + 1) / 2 - jnp.abs(axis), 0, jnp.minimum(scale, 1.0))
  return side(y) * side(x)


def _sharpened(key, scale, centre: Centre) -> Kernel:
  """A Gaussian, as wide as what cameras and programs shrink by, then an unsharp mask of the LR image."""
  u = jax.random.uniform(key, (5,))
  low, high = 0.25 * scale, 0.6 * scale  # standard deviations: a program's, and of soft optics
  sigma = low + (high - low) * u[0]
  amount, radius = 1.5 * u[1], (0.5 + u[2]) * scale
  y, x = _offsets(centre)
  square = y * y + x * x
  density = lambda variance: jnp.exp(-0.5 * square / variance) / variance
  return (1 + amount) * density(sigma**2) - amount * density(sigma**2 + radius**2)


_DRAWN = (_none, _gaussian, _perturbed, _motion, _disk, _area, _sharpened)
