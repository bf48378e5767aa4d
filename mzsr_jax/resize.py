"""Resizing as a linear operator: one small matrix per axis, made in NumPy when a function is traced.

MATLAB's `imresize(..., 'bicubic')` and direct subsampling are both rows of weights; an image is resized by one matrix
product from the left (rows) and one from the right (columns).
"""

import math

import numpy as np
from jaxtyping import Float


def _cubic(x: np.ndarray) -> np.ndarray:
  """Keys' cubic convolution kernel with a = -0.5."""
  x = np.abs(x)
  near = 1.5 * x**3 - 2.5 * x**2 + 1
  far = -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
  return np.where(x <= 1, near, np.where(x < 2, far, 0.0))


def shrunk_size(size: int, scale: float) -> int:
  """Side of an axis of `size` pixels after shrinking by `scale`: ceil(size / scale)."""
  # The tolerance keeps 66 / 2.2 at 30: the quotient is not exact in binary.
  return math.ceil(size / scale - 1e-9)


def bicubic(in_size: int, out_size: int, factor: float) -> Float[np.ndarray, "out in"]:
  """Matrix of MATLAB's bicubic `imresize` along one axis.

  Antialiased when shrinking (the support is widened by 1 / factor), mirror boundary (the edge pixel is repeated), rows
  normalised to sum 1.

  Args:
    in_size: input length, pixels.
    out_size: output length; `imresize` itself takes ceil(in_size * factor), fewer rows give its leading part.
    factor: output pixels per input pixel, above 1 to enlarge.

  Returns:
    (out_size, in_size) float32.
  """
  antialias = min(factor, 1.0)
  width = 4 / antialias
  centre = np.arange(1, out_size + 1) / factor + 0.5 * (1 - 1 / factor)  # 1-based, as MATLAB's
  first = np.floor(centre - width / 2)
  index = first[:, None] + np.arange(math.ceil(width) + 2)
  weight = _cubic(antialias * (centre[:, None] - index))
  weight /= weight.sum(axis=1, keepdims=True)
  mirrored = (index.astype(np.int64) - 1) % (2 * in_size)
  mirrored = np.where(mirrored < in_size, mirrored, 2 * in_size - 1 - mirrored)
  matrix = np.zeros((out_size, in_size))
  np.add.at(matrix, (np.arange(out_size)[:, None], mirrored), weight)
  return matrix.astype(np.float32)


def direct(in_size: int, scale: float) -> Float[np.ndarray, "out in"]:
  """Matrix that keeps the pixels round(scale * i), i = 0, 1, ...: every s-th one where the scale is an integer."""
  out_size = shrunk_size(in_size, scale)
  # floor(x + 1/2), since NumPy rounds halves to even, which would make the stride of scale 2.5 uneven.
  kept = np.minimum(np.floor(scale * np.arange(out_size) + 0.5).astype(np.int64), in_size - 1)
  return np.eye(in_size, dtype=np.float32)[kept]


def shrink(in_size: int, scale: float, subsample: str) -> Float[np.ndarray, "out in"]:
  """Matrix of the subsampling (direct or bicubic) by `scale` along one axis of `in_size` pixels."""
  if subsample == "direct":
    return direct(in_size, scale)
  if subsample == "bicubic":
    return bicubic(in_size, shrunk_size(in_size, scale), 1 / scale)
  raise ValueError(f"subsample must be 'direct' or 'bicubic', not {subsample!r}")


def enlarge(in_size: int, scale: float, out_size: int | None = None) -> Float[np.ndarray, "out in"]:
  """Matrix of the bicubic enlargement by `scale`; `out_size` keeps its leading rows only (default: all)."""
  full = math.ceil(in_size * scale - 1e-9)
  return bicubic(in_size, full if out_size is None else out_size, scale)
