"""How noisy an image is, estimated from the image alone: white noise, and what JPEG has changed.

White noise after Chen, Zhu and Heng, "An Efficient Statistical Method for Image Noise Level Estimation" (ICCV 2015): what
patches of a photo show lies in few dimensions, and white noise in all of them, alike. So of the eigenvalues of the patches'
covariance the largest are left out, until the mean of the rest is no longer above their median; that mean is the variance of
the noise.
"""

import numpy as np
from jaxtyping import Float, UInt8

from mzsr_jax import images
from mzsr_jax.core import jpeg

_SIDE = 8  # pixels of a patch
_MOST = 30_000  # patches
_LEAST = 500  # patches: fewer do not determine a covariance of 64 numbers
_ROUNDING = (1 / 255) ** 2 / 12  # variance of what 8 bits take off
_BLOCK = 8  # pixels, side of what JPEG transforms
_BLOCKS = 10_000  # at most


def estimate(image: Float[np.ndarray, "h w c"]) -> float:
  """Standard deviation of an image's noise, in the units of the image, beyond that of rounding to 8 bits.

  It is the level of white noise: of noise that a camera or JPEG has smoothed, less is seen than is there. Textures finer than
  the pixels can tell look like noise: of a sharp image that was subsampled without blur, too much may be said. A photo of too
  few pixels to say (below 30x30) passes for clean.

  Args:
    image: in [0, 1], of any size.

  Returns:
    0 for a clean image; the root of the channels' mean variance.
  """
  if min(image.shape[:2]) < _SIDE:
    return 0.0
  # Channels one by one: in a gray photo they are all the same, and their patches would lie in a third of the dimensions.
  variances = [_variance(image[..., c]) for c in range(image.shape[-1])]
  return float(np.sqrt(max(np.mean(variances) - _ROUNDING, 0.0)))


def _variance(channel: Float[np.ndarray, "h w"]) -> float:
  """Of the noise and the rounding; 0 where the channel holds too little to say."""
  views = np.lib.stride_tricks.sliding_window_view(channel, (_SIDE, _SIDE))
  apart = int(np.ceil(np.sqrt(views.shape[0] * views.shape[1] / _MOST)))
  patches = views[::apart, ::apart].reshape(-1, _SIDE * _SIDE)
  # Clipping takes noise off: patches that hold more than the odd black or white pixel say too little.
  inside = patches[((patches > 0) & (patches < 1)).mean(-1) > 0.98]
  patches = inside if len(inside) >= 2 * _LEAST else patches
  # Frames and bars around a photo are flat and have no noise. Drawings, most of which is flat, have none anywhere.
  contrast = patches.var(-1)
  uneven = contrast > _ROUNDING / 4
  if 2 * uneven.sum() >= len(patches):
    patches, contrast = patches[uneven], contrast[uneven]
  # Fine texture fills all dimensions too, so that the smoothest tenth of the photo has to do. Where there is nothing but noise,
  # that is where it happens to be weaker, by a sixth to a quarter: the adaptation hardly feels that.
  patches = patches[np.argsort(contrast, kind="stable")[: max(len(patches) // 10, _LEAST)]]
  if len(patches) < _LEAST:
    return 0.0
  # In float64: float32's errors in a bright photo would be as large as what is looked for.
  variances = np.linalg.eigvalsh(np.cov(patches, rowvar=False, dtype=np.float64))
  means = np.cumsum(variances) / np.arange(1, len(variances) + 1)
  counts = range(len(means), 0, -1)
  return next(means[k - 1] for k in counts if means[k - 1] <= np.median(variances[:k]))  # of one, the mean is the median


def of_jpeg(image: UInt8[np.ndarray, "h w 3"], table: Float[np.ndarray, "8 8"]) -> float:
  """Standard deviation of what JPEG has changed in an image, in [0, 1] units.

  What a coefficient of the cosine transform may have been is known but for less than half a step of the quantisation; of those
  that became zero, how many did says how large they were, if their distribution is Laplace's. Of the luma alone: chroma is
  often worse.

  Coefficients of which none is left are given the size that is just not seen, which is several times too much where the image
  is smooth or small: the adaptation does best when it is told more than the true error (experiments/docs/notes.md).

  Args:
    image: as decoded, not turned.
    table: steps of the luma's quantisation, in levels of 8 bits, the constant first, rows of vertical frequencies.

  Returns:
    0 for an image without a whole block.
  """
  rows, columns = (length // _BLOCK for length in image.shape[:2])
  if not rows * columns:
    return 0.0
  blocks = image[: rows * _BLOCK, : columns * _BLOCK].reshape(rows, _BLOCK, columns, _BLOCK, 3).swapaxes(1, 2)
  apart = int(np.ceil(np.sqrt(rows * columns / _BLOCKS)))
  blocks = blocks[::apart, ::apart].reshape(-1, _BLOCK, _BLOCK, 3) @ np.array(images.LUMA)
  sizes = np.abs(jpeg.COSINES @ (blocks - 128) @ jpeg.COSINES.T)
  count, half = len(sizes), table / 2
  kept = np.clip((sizes > half).sum(0), 0.5, count - 0.5) / count
  # Of Laplace's density with P(|c| > half) = kept: the mean of c^2 where |c| < half, times the share of these.
  width = half / -np.log(kept)
  zeroed = 2 * width**2 - kept * (half**2 + 2 * half * width + 2 * width**2)
  return float(np.sqrt((kept * table**2 / 12 + zeroed).mean())) / 255
