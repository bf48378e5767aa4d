"""What the public functions ask of images, kernels and parameters before they work: misuse would give wrong pictures.

Types and shapes are checked always, values outside of jit alone.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from mzsr_jax.core.kernels import Degradation, as_degradation

# Noise and unclipped subsampling lead a little beyond [0, 1]; 8 bits in a float array far beyond.
_LOWEST, _HIGHEST = -1.0, 2.0
_SUM_ERROR = 1e-3  # of a kernel


def check_image(image: ArrayLike, name: str = "the image") -> None:
  """Raises ValueError for what is no float array (H, W, C) of finite values in [0, 1], or a little beyond."""
  if not hasattr(image, "dtype"):
    image = np.asarray(image)
  if image.ndim != 3 or not jnp.issubdtype(image.dtype, jnp.floating):
    raise ValueError(f"{name} must be a float array (H, W, 3) in [0, 1], not {image.dtype} {image.shape}")
  if isinstance(image, jax.core.Tracer) or not image.size:
    return
  values = np.asarray(image)  # not JAX's own minimum, which jit would trace for a constant too
  low, high = float(values.min()), float(values.max())
  if not (_LOWEST <= low and high <= _HIGHEST):  # nor is NaN
    raise ValueError(f"{name} must be in [0, 1], not from {low:g} to {high:g}: divide 8-bit values by 255")


def checked(degradation: Degradation | ArrayLike) -> Degradation:
  """The degradation, see `as_degradation`. Raises ValueError where its kernel is not (k, k), k odd, finite, and of sum 1."""
  degradation = as_degradation(degradation)
  check_kernel(degradation.kernel)
  return degradation


def check_floats(images: ArrayLike) -> None:
  """Raises ValueError for what is no float array (..., H, W, C), of any values: for what is linear in images."""
  if images.ndim < 3 or not jnp.issubdtype(images.dtype, jnp.floating):
    raise ValueError(f"the image must be a float array (..., H, W, C), not {images.dtype} {images.shape}")


def check_kernel(kernel: ArrayLike) -> None:
  """Raises ValueError for what is not (k, k), k odd, finite, and of sum 1."""
  kernel = kernel if hasattr(kernel, "dtype") else np.asarray(kernel)
  if kernel.ndim != 2 or kernel.shape[0] != kernel.shape[1] or kernel.shape[0] % 2 == 0:
    raise ValueError(f"a kernel must be (k, k) with k odd, not {kernel.shape}")
  if not isinstance(kernel, jax.core.Tracer) and not abs((total := float(np.asarray(kernel).sum())) - 1) <= _SUM_ERROR:
    raise ValueError(f"a kernel must have sum 1, not {total:g}: divide it by its sum")
