"""Resizing as a linear operator: one small matrix per axis, made in NumPy when a function is traced.

MATLAB's `imresize(..., 'bicubic')` and direct subsampling are both rows of weights; an image is resized by one matrix
product from the left (rows) and one from the right (columns).
"""

import math
from typing import NamedTuple

import numpy as np
import scipy.sparse
from jaxtyping import Float


def cubic(x, xp=np):
  """Keys' cubic convolution kernel with a = -0.5, of an array of the module `xp` (NumPy or jax.numpy)."""
  x = xp.abs(x)
  near = 1.5 * x**3 - 2.5 * x**2 + 1
  far = -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
  return xp.where(x <= 1, near, xp.where(x < 2, far, 0.0))


def shrunk_size(size: int, scale: float) -> int:
  """Side of an axis of `size` pixels after shrinking by `scale`: ceil(size / scale)."""
  # The tolerance keeps 66 / 2.2 at 30: the quotient is not exact in binary.
  return math.ceil(size / scale - 1e-9)


class Taps(NamedTuple):
  """Rows of a resize matrix, sparse: output pixel i of the axis is the sum over t of weight[i, t] * input[index[i, t]].

  Attributes:
    index: (out, taps) input pixels, inside the axis.
    weight: (out, taps) float64.
  """

  index: np.ndarray
  weight: np.ndarray


class Block(NamedTuple):
  """The part of a resize matrix that makes a range of output pixels.

  Attributes:
    start: first input pixel.
    matrix: (outputs, inputs) float32, applied to the inputs from `start` on.
  """

  start: int
  matrix: np.ndarray


def _bicubic_taps(in_size: int, factor: float, outputs: np.ndarray, offset: float = 0.0) -> Taps:
  antialias = min(factor, 1.0)
  width = 4 / antialias
  centre = (outputs + 1 - offset) / factor + 0.5 * (1 - 1 / factor)  # 1-based, as MATLAB's
  first = np.floor(centre - width / 2)
  index = first[:, None] + np.arange(math.ceil(width) + 2)
  weight = cubic(antialias * (centre[:, None] - index))
  weight /= weight.sum(axis=1, keepdims=True)
  return Taps(mirror(index.astype(np.int64) - 1, in_size), weight)


def mirror(index: np.ndarray, size: int) -> np.ndarray:
  """Pixel numbers beyond an axis to those inside that they stand for: the edge pixel is repeated (d c b a | a b c d)."""
  index = index % (2 * size)
  return np.where(index < size, index, 2 * size - 1 - index)


def _matrix(in_size: int, taps: Taps) -> Float[np.ndarray, "out in"]:
  matrix = np.zeros((len(taps.index), in_size))
  np.add.at(matrix, (np.arange(len(taps.index))[:, None], taps.index), taps.weight)
  return matrix.astype(np.float32)


def bicubic(in_size: int, out_size: int, factor: float, offset: float = 0.0) -> Float[np.ndarray, "out in"]:
  """Matrix of MATLAB's bicubic `imresize` along one axis.

  Antialiased when shrinking (the support is widened by 1 / factor), mirror boundary (the edge pixel is repeated), rows
  normalised to sum 1.

  Args:
    in_size: input length, pixels.
    out_size: output length; `imresize` itself takes ceil(in_size * factor), fewer rows give its leading part.
    factor: output pixels per input pixel, above 1 to enlarge.
    offset: output pixels that the result is moved by, towards its end; `imresize` knows 0 alone.

  Returns:
    (out_size, in_size) float32.
  """
  return _matrix(in_size, _bicubic_taps(in_size, factor, np.arange(out_size), offset))


def _direct_taps(in_size: int, scale: float, outputs: np.ndarray) -> Taps:
  # floor(x + 1/2), since NumPy rounds halves to even, which would make the stride of scale 2.5 uneven.
  kept = np.minimum(np.floor(scale * outputs + 0.5).astype(np.int64), in_size - 1)
  return Taps(kept[:, None], np.ones((len(kept), 1)))


def _shrink_taps(in_size: int, scale: float, subsample: str, outputs: np.ndarray) -> Taps:
  if subsample == "direct":
    return _direct_taps(in_size, scale, outputs)
  if subsample == "bicubic":
    return _bicubic_taps(in_size, 1 / scale, outputs)
  raise ValueError(f"subsample must be 'direct' or 'bicubic', not {subsample!r}")


def shrink(in_size: int, scale: float, subsample: str) -> Float[np.ndarray, "out in"]:
  """Matrix of the subsampling (direct or bicubic) by `scale` along one axis of `in_size` pixels."""
  return _matrix(in_size, _shrink_taps(in_size, scale, subsample, np.arange(shrunk_size(in_size, scale))))


def shrink_sparse(in_size: int, scale: float, subsample: str) -> scipy.sparse.csr_array:
  """`shrink` as a sparse matrix, float32."""
  return _sparse(in_size, _shrink_taps(in_size, scale, subsample, np.arange(shrunk_size(in_size, scale))))


def _sparse(in_size: int, taps: Taps) -> scipy.sparse.csr_array:
  rows = np.broadcast_to(np.arange(len(taps.index))[:, None], taps.index.shape)
  entries = taps.weight.ravel(), (rows.ravel(), taps.index.ravel())
  return scipy.sparse.csr_array(entries, (len(taps.index), in_size)).astype(np.float32)


def enlarged_size(size: int, scale: float) -> int:
  """Side of an axis of `size` pixels after enlarging by `scale`: ceil(size * scale)."""
  return math.ceil(size * scale - 1e-9)


def enlarge(
    in_size: int, scale: float, out_size: int | None = None, offset: float = 0.0
) -> Float[np.ndarray, "out in"]:
  """Matrix of the bicubic enlargement by `scale`; `out_size` keeps its leading rows only (default: all).

  An `offset` is that of the kernel that the input was made with, in output pixels: see `degradation.enlarge`.
  """
  return bicubic(in_size, enlarged_size(in_size, scale) if out_size is None else out_size, scale, offset)


def enlarge_sparse(in_size: int, scale: float) -> scipy.sparse.csr_array:
  """`enlarge` as a sparse matrix, float32."""
  return _sparse(in_size, _bicubic_taps(in_size, scale, np.arange(enlarged_size(in_size, scale))))


def shrink_block(in_size: int, scale: float, subsample: str, first: int, count: int, rows: int) -> Block:
  """The part of `shrink` for outputs `first` to `first + count`, padded with zero rows to `rows`.

  Its width depends on `rows`, `scale` and `subsample` alone, so that all blocks of an image, and of another, have one shape.
  """
  support = 4 * scale + 2 if subsample == "bicubic" else 1
  return _block(_shrink_taps(in_size, scale, subsample, np.arange(first, first + count)), rows, scale * (rows - 1) + support)


def enlarge_block(in_size: int, scale: float, first: int, count: int, rows: int, offset: float = 0.0) -> Block:
  """The part of `enlarge` for outputs `first` to `first + count`, padded with zero rows; its width is as of `shrink_block`."""
  return _block(_bicubic_taps(in_size, scale, np.arange(first, first + count), offset), rows, (rows - 1) / scale + 6)


def _block(taps: Taps, rows: int, width: float) -> Block:
  used = taps.index[taps.weight != 0]
  start = int(used.min())
  width = -(-math.ceil(width) // 8) * 8  # a multiple of 8 keeps the number of different shapes low
  index = np.where(taps.weight != 0, taps.index - start, 0)
  matrix = _matrix(width, Taps(index, taps.weight))
  return Block(start, np.pad(matrix, ((0, rows - len(matrix)), (0, 0))))
