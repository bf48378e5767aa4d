"""Blur kernels: the anisotropic Gaussian family of the paper, its evaluation kernels by name, and kernel files."""

import math
import pathlib
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mzsr_jax.errors import UserError

TRAINING_SIZE = 15  # pixels, supplementary material of the paper
EVALUATION_SIZE = 21

SUBSAMPLINGS = ("direct", "bicubic")


class Degradation(NamedTuple):
  """How an LR image came from its HR image: I_LR = (I_HR * kernel) subsampled (Eq. 1).

  Attributes:
    kernel: (k, k) float32, k odd, sum 1, centred on its middle pixel.
    subsample: "direct" (every s-th pixel) or "bicubic" (antialiased bicubic shrinking).
  """

  kernel: np.ndarray
  subsample: str


def gaussian(lambda1, lambda2, theta, size: int) -> Float[Array, "size size"]:
  """Anisotropic Gaussian kernel, k(x) ~ exp(-x' inv(Sigma) x / 2), Sigma = R(theta) diag(lambda1, lambda2) R(theta)' (Eq. 3).

  Args:
    lambda1: variance along the first principal axis, pixels^2.
    lambda2: variance along the second.
    theta: angle of the first axis, radians, from x (rightwards) towards y (downwards).
    size: odd side length, pixels.

  Returns:
    (size, size) kernel with sum 1, rows y, columns x.
  """
  radius = (size - 1) / 2
  axis = jnp.linspace(-radius, radius, size)
  x, y = jnp.meshgrid(axis, axis)
  c, s = jnp.cos(theta), jnp.sin(theta)
  along, across = c * x + s * y, c * y - s * x
  k = jnp.exp(-0.5 * (along**2 / lambda1 + across**2 / lambda2))
  return k / k.sum()


def sample(key, scale, min_variance: float = 1.0, size: int = TRAINING_SIZE) -> Float[Array, "size size"]:
  """One random kernel of the training distribution p(k): lambda1 ~ U[m, 2.5 s], lambda2 ~ U[m, lambda1], theta ~ U[0, pi].

  Args:
    key: jax.random key.
    scale: the task's scale factor s (may be traced).
    min_variance: m, pixels^2, above 0; 1 in the paper. Less lets the network see what is hardly blurred.
    size: side length, pixels.
  """
  u1, u2, u3 = jax.random.uniform(key, (3,))
  lambda1 = min_variance + (2.5 * scale - min_variance) * u1
  lambda2 = min_variance + (lambda1 - min_variance) * u2
  return gaussian(lambda1, lambda2, jnp.pi * u3, size)


# (lambda1, lambda2, theta, subsampling) of the paper's evaluation kernels. The paper states lambda1 = 4 for g^d_ani; its
# BSD100 and Urban100 columns follow from 5 instead, hence `gani5`.
_EVALUATION = {
    "g02d": (0.2, 0.2, 0.0, "direct"),
    "g20d": (2.0, 2.0, 0.0, "direct"),
    "gani": (4.0, 1.0, -0.5, "direct"),
    "gani5": (5.0, 1.0, -0.5, "direct"),
    "g13b": (1.3, 1.3, 0.0, "bicubic"),
}
NAMES = ("bicubic", *_EVALUATION)


def load_degradation(spec: str, subsample: str | None = None) -> Degradation:
  """The degradation that a command line names.

  Args:
    spec: one of `NAMES`, or the path of a .mat or .npy file that holds a kernel.
    subsample: "direct" or "bicubic"; None takes the name's own, and "direct" for a file.

  Raises:
    UserError: unknown name or subsampling, or a file that holds no usable kernel.
  """
  if subsample is not None and subsample not in SUBSAMPLINGS:
    raise UserError(f"unknown subsampling '{subsample}': use one of {', '.join(SUBSAMPLINGS)}")
  if spec == "bicubic":
    return Degradation(np.ones((1, 1), np.float32), subsample or "bicubic")
  if spec in _EVALUATION:
    *shape, own = _EVALUATION[spec]
    # In float64: the rounding of LR images to 8 bits shows the last digits of a float32 exponential.
    with jax.enable_x64(True):
      kernel = np.asarray(gaussian(*shape, EVALUATION_SIZE), np.float32)
    return Degradation(kernel, subsample or own)
  if pathlib.Path(spec).suffix.lower() in (".mat", ".npy"):
    return Degradation(read_kernel(spec), subsample or "direct")
  raise UserError(f"unknown kernel '{spec}': use one of {', '.join(NAMES)}, or the path of a .mat or .npy file")


def read_kernel(path: str | pathlib.Path) -> Float[np.ndarray, "k k"]:
  """Reads a blur kernel from a .npy file, or from the one 2-D array of a MATLAB (v5 to v7) .mat file.

  Returns:
    (k, k) float32 kernel, normalised to sum 1.

  Raises:
    UserError: no such file, not readable, no or several 2-D arrays, not square and odd, not finite, or of sum 0.
  """
  path = pathlib.Path(path)
  if not path.is_file():
    raise UserError(f"kernel file '{path}' does not exist")
  candidates = _numeric_matrices(path)
  if len(candidates) != 1:
    found = ", ".join(f"'{name}' {array.shape}" for name, array in candidates.items()) or "none"
    raise UserError(f"kernel file '{path}' must hold one 2-D array of real numbers, found: {found}")
  (kernel,) = candidates.values()
  height, width = kernel.shape
  if height != width or height % 2 == 0:
    raise UserError(f"kernel in '{path}' is {height}x{width}: it must be square with an odd side, centred on its middle")
  if not np.isfinite(kernel).all():
    raise UserError(f"kernel in '{path}' holds NaN or infinite values")
  total = kernel.sum(dtype=np.float64)
  if not math.isfinite(total) or total <= 1e-8 * np.abs(kernel).max(initial=1e-300):
    raise UserError(f"kernel in '{path}' has sum {total:.3g}: it must be positive to be normalised to 1")
  return (kernel.astype(np.float64) / total).astype(np.float32)


def _numeric_matrices(path: pathlib.Path) -> dict[str, np.ndarray]:
  """The real, 2-D arrays of a kernel file, by name."""
  try:
    if path.suffix.lower() == ".npy":
      arrays = {path.stem: np.load(path, allow_pickle=False)}
    else:
      import scipy.io  # only .mat files need it, and it takes a moment to load

      arrays = scipy.io.loadmat(path)
  except Exception as e:  # each reader has its own zoo of exceptions for damaged files
    raise UserError(f"kernel file '{path}' cannot be read: {' '.join(str(e).split())[:200]}") from e
  return {
      name: array
      for name, array in arrays.items()
      if isinstance(array, np.ndarray) and array.ndim == 2 and array.dtype.kind in "fiu" and not name.startswith("__")
  }
