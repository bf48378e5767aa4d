"""Blur kernels: the anisotropic Gaussian family of the paper, and what a kernel is part of, a degradation."""

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Key

TRAINING_SIZE = 15  # pixels, supplementary material of the paper
EVALUATION_SIZE = 21

SUBSAMPLINGS = ("direct", "bicubic")

Scalar = Float[ArrayLike, ""]


@flax.struct.dataclass
class Degradation:
  """How an LR image came from its HR image: I_LR = (I_HR * kernel) subsampled + noise (Eq. 1). The scale goes beside it.

  A pytree: kernel and noise may be traced and mapped, subsampling and offset are parts of compiled programs.

  Attributes:
    kernel: (k, k) float32, k odd, sum 1; its middle pixel lies on the LR pixel's own place, s i. None: still to be estimated.
    subsample: "direct" (every s-th pixel) or "bicubic" (antialiased bicubic shrinking).
    offset: where the kernel's centre is treated as being: (dy, dx) from its middle, downwards and to the right, HR pixels.
      The enlargement before the network makes up for it (see `degradation.enlarge`); the blur knows `kernel` alone.
    noise_std: of the Gaussian noise of the LR image, in [0, 1] units. The image's sons get as much.
  """

  kernel: Float[ArrayLike, "*t k k"] | None
  subsample: str = flax.struct.field(pytree_node=False, default="direct")
  offset: tuple[float, float] = flax.struct.field(pytree_node=False, default=(0.0, 0.0))
  noise_std: float | Float[Array, "*t"] = 0.0


def as_degradation(degradation: Degradation | Float[ArrayLike, "k k"]) -> Degradation:
  """A degradation as it is; that of a bare kernel is direct subsampling without noise."""
  return degradation if isinstance(degradation, Degradation) else Degradation(degradation)


def first_moments(kernel: Float[ArrayLike, "k k"]) -> tuple[Float[ArrayLike, ""], Float[ArrayLike, ""]]:
  """(dy, dx) of the centre of mass of a kernel of sum 1 from its middle pixel, downwards and to the right; may be traced."""
  axis = np.arange(kernel.shape[0]).astype(kernel.dtype) - kernel.shape[0] // 2
  return (kernel.sum(1) * axis).sum(), (kernel.sum(0) * axis).sum()


def centre_of_mass(kernel: Float[np.ndarray, "k k"]) -> tuple[float, float]:
  """`first_moments` of a kernel of any sum, to a millionth of a pixel."""
  moments = first_moments(kernel.astype(np.float64) / kernel.sum(dtype=np.float64))
  # What is left of a millionth are roundings of symmetric kernels, which would change results by roundings. -0.0 + 0 is 0.
  return tuple(float(np.round(moment, 6) + 0) for moment in moments)


def gaussian(
    lambda1: Scalar, lambda2: Scalar, theta: Scalar, size: int, centre: tuple[float, float] = (0.0, 0.0)
) -> Float[Array, "size size"]:
  """Anisotropic Gaussian kernel, k(x) ~ exp(-x' inv(Sigma) x / 2), Sigma = R(theta) diag(lambda1, lambda2) R(theta)' (Eq. 3).

  Args:
    lambda1: variance along the first principal axis, pixels^2.
    lambda2: variance along the second.
    theta: angle of the first axis, radians, from x (rightwards) towards y (downwards).
    size: odd side length, pixels.
    centre: (dy, dx) of its centre from the middle pixel, downwards and to the right.

  Returns:
    (size, size) kernel with sum 1, rows y, columns x.

  Raises:
    ValueError: an even size; or, outside of jit, a variance that is no number above 0.
  """
  return _density(lambda1, lambda2, theta, size, centre, jnp)


def _density(lambda1, lambda2, theta, size, centre, xp) -> ArrayLike:
  """`gaussian` by jax.numpy, or, where there is nothing to compile, by NumPy."""
  if size % 2 == 0:
    raise ValueError(f"a kernel's size must be odd, not {size}")
  variances = [x for x in (lambda1, lambda2) if not isinstance(x, jax.core.Tracer)]
  if not all(0 < float(x) < float("inf") for x in variances):
    raise ValueError(f"variances must be numbers above 0, not {', '.join(map(str, variances))}")
  radius = (size - 1) / 2
  axis = xp.linspace(-radius, radius, size)
  x, y = xp.meshgrid(axis - centre[1], axis - centre[0])
  c, s = xp.cos(theta), xp.sin(theta)
  along, across = c * x + s * y, c * y - s * x
  k = xp.exp(-0.5 * (along**2 / lambda1 + across**2 / lambda2))
  return k / k.sum()


def exact_gaussian(
    shape: tuple[float, float, float], size: int = EVALUATION_SIZE, centre: tuple[float, float] = (0.0, 0.0)
) -> Float[np.ndarray, "size size"]:
  """`gaussian` in float64, on the host, of (lambda1, lambda2, theta).

  The rounding of LR images to 8 bits shows the last digits of a float32 exponential.
  """
  return _density(*shape, size, centre, np)


def sample(
    key: Key[Array, ""], scale: Scalar, min_variance: float = 1.0, size: int = TRAINING_SIZE
) -> Float[Array, "size size"]:
  """One random kernel of the training distribution p(k): lambda1 ~ U[m, 2.5 s], lambda2 ~ U[m, lambda1], theta ~ U[0, pi].

  Args:
    key: jax.random key.
    scale: the task's scale factor s (may be traced).
    min_variance: m, pixels^2, above 0; 1 in the paper. Less lets the network see what is hardly blurred.
    size: side length, pixels.
  """
  return gaussian(*shapes(jax.random.uniform(key, (3,)), scale, min_variance), size)


def shapes(u: Float[ArrayLike, "3 *n"], scale: Scalar, min_variance: float) -> tuple[ArrayLike, ArrayLike, ArrayLike]:
  """lambda1, lambda2 and theta of `sample`, of numbers from [0, 1)."""
  u1, u2, u3 = u
  lambda1 = min_variance + (2.5 * scale - min_variance) * u1
  return lambda1, min_variance + (lambda1 - min_variance) * u2, np.pi * u3


def shrunk(kernel: Float[np.ndarray, "k k"], ratios: tuple[float, float]) -> Float[np.ndarray, "k k"]:
  """A kernel whose standard deviations are `ratios` (vertical, horizontal), each from 0 to 1, of what they were.

  What a pixel holds is moved towards the middle, to the two pixels nearest its new place; so half a pixel of blur may be added.
  """
  place = np.arange(len(kernel)) - len(kernel) // 2
  rows, columns = (np.maximum(1 - np.abs(place[:, None] - ratio * place), 0) for ratio in ratios)
  return (rows @ kernel @ columns.T).astype(kernel.dtype)


def at_smaller_factors(degradation: Degradation, ratios: tuple[float, float]) -> Degradation:
  """A degradation by factors at which everything is `ratios` (vertical, horizontal) as wide, see `shrunk`."""
  offset = tuple(o * ratio for o, ratio in zip(degradation.offset, ratios))
  return degradation.replace(kernel=shrunk(degradation.kernel, ratios), offset=offset)


def padded(kernel: Float[np.ndarray, "k k"]) -> Float[np.ndarray, "n n"]:
  """With zeros around it up to the size of the evaluation kernels, so that kernels share programs; a larger one as it is."""
  return np.pad(kernel, max(EVALUATION_SIZE - len(kernel), 0) // 2)
