"""The one degradation model, I_LR = (I_HR * k) down_s + n (Eq. 1), and the bicubic enlargement that precedes the network.

Training pairs, LR sons and synthesised benchmarks all come from here. Images are (..., H, W, C) float in [0, 1];
nothing is clipped unless stated. All functions are linear in the image, differentiable in image and kernel, and may be
jitted and vmapped; sizes, scales and subsampling are static.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from mzsr_jax.core import checks, resize
from mzsr_jax.core.kernels import Degradation

# One scale factor, or one for each axis: (vertical, horizontal).
Factors = float | tuple[float, float]


def per_axis(scale: Factors) -> tuple[float, float]:
  """(vertical, horizontal) scale factors."""
  return tuple(scale) if isinstance(scale, tuple) else (scale, scale)


def blur(image: Float[ArrayLike, "*b h w c"], kernel: Float[ArrayLike, "k k"]) -> Float[Array, "*b h w c"]:
  """Correlates every channel with one kernel; the edge pixel is repeated at the border (SciPy's 'reflect')."""
  pad = kernel.shape[-1] // 2
  return correlate(jnp.pad(image, (*[(0, 0)] * (image.ndim - 3), (pad, pad), (pad, pad), (0, 0)), mode="symmetric"), kernel)


def correlate(image: Float[ArrayLike, "*b h w c"], kernel: Float[ArrayLike, "k k"]) -> Float[Array, "*b p q c"]:
  """Correlates every channel with one kernel where the kernel lies inside the image: (H - k + 1, W - k + 1)."""
  if kernel.shape[-1] == 1:
    return image * kernel[0, 0]
  *batch, height, width, channels = image.shape
  out = jax.lax.conv_general_dilated(
      jnp.moveaxis(image, -1, -3).reshape(-1, height, width, 1),
      kernel[:, :, None, None].astype(image.dtype),
      (1, 1),
      "VALID",
      dimension_numbers=("NHWC", "HWIO", "NHWC"),
      precision="highest",
  )
  return jnp.moveaxis(out.reshape(*batch, channels, *out.shape[1:3]), -3, -1)


def resample(
    image: Float[ArrayLike, "*b h w c"], rows: Float[ArrayLike, "p h"], columns: Float[ArrayLike, "q w"]
) -> Float[Array, "*b p q c"]:
  """rows @ image @ columns' on every channel."""
  rows, columns = jnp.asarray(rows, image.dtype), jnp.asarray(columns, image.dtype)
  image = jnp.einsum("ph,...hwc->...pwc", rows, image, precision="highest")
  return jnp.einsum("qw,...pwc->...pqc", columns, image, precision="highest")


def subsample(image: Float[ArrayLike, "*b h w c"], scale: Factors, mode: str) -> Float[Array, "*b p q c"]:
  """Shrinks to ceil(H / scale) x ceil(W / scale), `mode` "direct" (pixels round(s i)) or "bicubic"."""
  return resample(image, *(resize.shrink(length, s, mode) for length, s in zip(image.shape[-3:-1], per_axis(scale))))


def enlarge(
    image: Float[ArrayLike, "*b h w c"],
    scale: Factors,
    size: tuple[int, int] | None = None,
    offset: tuple[float, float] = (0.0, 0.0),
) -> Float[Array, "*b p q c"]:
  """Enlarges by bicubic interpolation to ceil(H * scale) x ceil(W * scale), or to the leading `size` of that.

  A kernel whose centre lies at an offset d from its middle makes LR pixels of what lies d further in the HR image. They are
  put d further here (the coordinate u(p) of HR pixel p becomes u(p) - d / scale), so that the result is, away from borders,
  what it would be with the kernel centred: what the network was trained for. That holds for either subsampling.

  Args:
    image: (..., H, W, C).
    scale: scale factor, or a (vertical, horizontal) pair.
    size: height and width of the result; None for all.
    offset: d, (vertical, horizontal), HR pixels; numbers that are known when traced.

  Raises:
    ValueError: the image is no float array.
  """
  checks.check_floats(image)
  axes = zip(image.shape[-3:-1], per_axis(scale), size or (None, None), offset)
  return resample(image, *(resize.enlarge(*axis) for axis in axes))


def degrade(
    image: Float[ArrayLike, "*b h w c"], kernel: Float[ArrayLike, "k k"], scale: Factors, mode: str
) -> Float[Array, "*b p q c"]:
  """(image * kernel) subsampled by `scale`: the noise-free LR image, unclipped, ceil(H / s) x ceil(W / s).

  Raises:
    ValueError: the image is no float array; the kernel is not (k, k) with k odd or, outside of jit, not of sum 1.
  """
  checks.check_floats(image)
  checks.check_kernel(kernel)
  return subsample(blur(image, kernel), scale, mode)


def son(
    lr: Float[Array, "h w c"], degradation: Degradation, scale: Factors
) -> Float[Array, "p q c"]:
  """An LR image degraded as its HR image was (Algorithm 2, line 2), noise and all, clipped to [0, 1]."""
  made = degrade(lr, degradation.kernel, scale, degradation.subsample)
  return jnp.clip(made + jnp.asarray(degradation.noise_std, made.dtype) * son_noise(made.shape).astype(made.dtype), 0, 1)


def son_noise(shape: tuple[int, ...]) -> Float[np.ndarray, "..."]:
  """Standard normal noise of a son: the same at every call, so that an adaptation in parts is one in a whole."""
  return np.random.default_rng(0).standard_normal(shape, np.float32)


class Degrader:
  """Blur, subsampling, noise and enlargement of square patches for a list of scales, one of them picked by an index.

  The operators of all scales are zero-padded to one shape and stacked, so that the scale of a task can be traced: the
  padding meets zero columns on the way back, and every scale keeps its exact result.
  """

  def __init__(self, patch_size: int, scales: tuple[float, ...], mode: str):
    """Args: side of the (HR) patches in pixels; scale factors; "direct" or "bicubic" subsampling."""
    self.scales, self.subsample = tuple(float(s) for s in scales), mode
    down = [resize.shrink(patch_size, s, mode) for s in self.scales]
    up = [resize.enlarge(d.shape[0], s, patch_size) for d, s in zip(down, self.scales)]
    longest = max(d.shape[0] for d in down)
    self._down = np.stack([np.pad(d, ((0, longest - d.shape[0]), (0, 0))) for d in down])
    self._up = np.stack([np.pad(u, ((0, 0), (0, longest - u.shape[1]))) for u in up])
    self.least_size = min(d.shape[0] for d in down)  # side of the LR patches, at the largest scale

  def shrink(self, hr: Float[Array, "n p p c"], kernel: Float[Array, "k k"], scale_index=0, noise_std=0.0, key=None):
    """LR patches.

    Args:
      hr: (N, P, P, C) in [0, 1].
      kernel: (k, k).
      scale_index: which of the scales, may be traced.
      noise_std: standard deviation of the Gaussian noise added to the LR patches, in [0, 1] units.
      key: jax.random key of the noise; None for none.

    Returns:
      (N, Q, Q, C), clipped to [0, 1]; Q is ceil(P / s) of the smallest scale, and what lies beyond that of another is padding.
    """
    down = jnp.asarray(self._down)[scale_index]
    lr = resample(blur(hr, kernel), down, down)
    if key is not None:
      lr += noise_std * jax.random.normal(key, lr.shape)
    return jnp.clip(lr, 0, 1)

  def enlarge(self, lr: Float[Array, "n q q c"], scale_index=0) -> Float[Array, "n p p c"]:
    """Results of `shrink`, enlarged by bicubic to the size of the HR patches: the network's input."""
    up = jnp.asarray(self._up)[scale_index]
    return resample(lr, up, up)
