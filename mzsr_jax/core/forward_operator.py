"""The degradation without its noise as a linear map A of images, exact at borders: y = A x.

A blurs by any kernel and subsamples by any factor. A kernel is a sum of products of a column and a row (its singular value
decomposition), so A is a sum of products of two small matrices, A x = sum_r R_r x C_r', and its adjoint is the sum of
R_r' y C_r. That is a handful of matrix products, exact for every kernel, border, scale and subsampling. Pure functions.
"""

import functools
import math
from collections.abc import Iterator
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int

from mzsr_jax.core import resize

_RANKS = 1, 2, 4, 6, 8, 12  # of kernels, see `numerically_separable`
_TOLERANCE = 1e-3  # of a kernel's terms, in parts of the first: what it changes of an LR image is less than rounding to 8 bits
_BLOCK = 64  # rows of a block: with fewer, programs take longer to compile; with more, more is multiplied that is 0


class Bands(NamedTuple):
  """Matrices whose rows are 0 but for a few neighbouring columns, in blocks of rows.

  Attributes:
    blocks: (r, n, b, l), of each of r matrices, n blocks of b rows in the l columns that they see.
    starts: the first of these columns.
    nonzero: which rows of the matrices have other values than 0; it tells how many rows there are, at most n b.
  """

  blocks: Float[Array, "r n b l"]
  starts: Int[ArrayLike, " n"]
  nonzero: Bool[Array, " p"]


class ForwardOperator(NamedTuple):
  """A: (H, W, C) -> (P, Q, C). Rows of zeros are LR pixels that are not known.

  Attributes:
    rows: R_r, blur by a column of the kernel, then subsampling, of the vertical axis.
    columns: C_r, the same of the horizontal axis.
    rows_transposed: R_r'.
    columns_transposed: C_r'.
  """

  rows: Bands
  columns: Bands
  rows_transposed: Bands
  columns_transposed: Bands


class Taps(NamedTuple):
  """A kernel as a sum of products of a column and a row.

  Attributes:
    columns: of each product, to be multiplied by the row of the same number.
    rows: of each product.
  """

  columns: Float[ArrayLike, "r k"]
  rows: Float[ArrayLike, "r k"]


class Axis(NamedTuple):
  """One axis of an image, or of a tile of it.

  Attributes:
    down: the subsampling: LR from blurred HR pixels. What reaches beyond the tile is a row of zeros.
    seen: for each HR pixel and each place of the kernel, the HR pixel that is seen there.
    hr_start: number of the tile's first HR pixel.
    lr_start: number of its first LR pixel.
    lr_length: LR pixels of the whole image.
    windows: (HR pixels that each block of `_BLOCK` LR pixels sees, (n, l); LR pixels that see each block of as many HR
      pixels, (m, k)), all of them neighbours; None where one block sees all.
  """

  down: Float[ArrayLike, "p h"]
  seen: Int[ArrayLike, "h k"]
  hr_start: Float[ArrayLike, ""] = np.float32(0)
  lr_start: Float[ArrayLike, ""] = np.float32(0)
  lr_length: Float[ArrayLike, ""] = np.float32(0)
  windows: tuple[Int[ArrayLike, "n l"], Int[ArrayLike, "m k"]] | None = None


def whole_axis(length: int, lr_length: int, scale: float, subsample: str, kernel_size: int) -> Axis:
  """The axis of a whole image of `length` HR pixels, of whose LR image the first `lr_length` are given."""
  return _axis(length, lr_length, scale, subsample, kernel_size, 0, length, lr_length)


def tile_axis(
    length: int, lr_length: int, scale: float, subsample: str, kernel_size: int, start: int, side: int, lr_side: int
) -> Axis:
  """The axis of a tile.

  Inside the image, the tile sees itself mirrored beyond its ends; there the operator is not that of the image.

  Args:
    length: of the image, HR pixels.
    lr_length: of its LR image.
    scale: scale factor.
    subsample: "direct" or "bicubic".
    kernel_size: k.
    start: first HR pixel of the tile.
    side: of the tile; it may reach beyond the end of the image.
    lr_side: LR pixels of the tile, which begins 2 before the first that is seen.
  """
  axis = _axis(length, lr_length, scale, subsample, kernel_size, start, side, lr_side)
  return axis._replace(windows=_windows(axis.down, axis.seen, scale, subsample))


def _axis(
    length: int, lr_length: int, scale: float, subsample: str, kernel_size: int, start: int, side: int, lr_side: int
) -> Axis:
  """`tile_axis`, as one block."""
  lr_start = max(int(start / scale) - 2, 0)
  count = min(lr_side, lr_length - lr_start)
  down = np.zeros((lr_side, side), np.float32)
  block = resize.shrink_block(length, scale, subsample, lr_start, count, count)
  for row, weights in zip(down, block.matrix):
    taps = np.flatnonzero(weights)
    place = block.start + taps - start
    if place[0] >= 0 and place[-1] < side:
      row[place] = weights[taps]
  place = np.arange(side)[:, None] + np.arange(kernel_size) - kernel_size // 2
  seen = resize.mirror(start + place, length) - start
  seen = np.where((seen >= 0) & (seen < side), seen, resize.mirror(place, side))
  return Axis(down, seen.astype(np.int32), *(np.float32(n) for n in (start, lr_start, lr_length)))


def _windows(down: Float[np.ndarray, "p h"], seen: Int[np.ndarray, "h k"], scale: float, subsample: str):
  """See `Axis.windows`. Their sizes do not depend on where a tile lies."""
  (lr_side, side), kernel_size = down.shape, seen.shape[1]
  first, last = np.full(lr_side, side), np.full(lr_side, -1)
  for i, row in enumerate(down):
    if len(places := seen[np.flatnonzero(row)]):
      first[i], last[i] = places.min(), places.max()
  reach = kernel_size + (4 * scale if subsample == "bicubic" else 0) + 2
  hr_length, lr_length = math.ceil(_BLOCK * scale + reach), math.ceil((_BLOCK + reach) / scale) + 2

  def window(begin: int, length: int, limit: int) -> np.ndarray:
    length = min(length, limit)
    return min(max(begin, 0), limit - length) + np.arange(length, dtype=np.int32)

  hr = [window(int(first[i : i + _BLOCK].min()), hr_length, side) for i in range(0, lr_side, _BLOCK)]
  seeing = lambda i: np.flatnonzero((first < i + _BLOCK) & (last >= i))
  lr = [window(int(min(seeing(i), default=0)), lr_length, lr_side) for i in range(0, side, _BLOCK)]
  return np.stack(hr), np.stack(lr)


def forward(a: ForwardOperator, x: Float[ArrayLike, "h w c"]) -> Float[Array, "p q c"]:
  """A x."""
  return _apply(a.rows, a.columns, x)


def adjoint(a: ForwardOperator, y: Float[ArrayLike, "p q c"]) -> Float[Array, "h w c"]:
  """A' y."""
  return _apply(a.rows_transposed, a.columns_transposed, y)


def _apply(rows: Bands, columns: Bands, x: Float[ArrayLike, "h w c"]) -> Float[Array, "p q c"]:
  """sum_r R_r x C_r'."""
  # Plain matrix products with one transposition between, several times as fast on a CPU as what einsum makes of it.
  (h, w, c), r, p, q = x.shape, len(rows.blocks), len(rows.nonzero), len(columns.nonzero)
  product = functools.partial(jnp.matmul, precision="highest")
  left = [product(block.reshape(-1, block.shape[-1]), seen) for block, seen in _pairs(rows, x.reshape(h, w * c), 0)]
  left = jnp.concatenate([part.reshape(r, -1, w, c) for part in left], 1)[:, :p]
  left = left.transpose(1, 3, 0, 2).reshape(p * c, r, w)
  out = [
      product(seen.reshape(p * c, -1), block.swapaxes(1, 2).reshape(-1, block.shape[1]))
      for block, seen in _pairs(columns, left, 2)
  ]
  return jnp.concatenate(out, 1)[:, :q].reshape(p, c, q).swapaxes(1, 2)


def _pairs(bands: Bands, x: Float[ArrayLike, "..."], axis: int) -> Iterator[tuple[Array, ArrayLike]]:
  """Each block, and the part of x along an axis that it sees."""
  _, count, _, length = bands.blocks.shape
  for i in range(count):
    yield bands.blocks[:, i], x if count == 1 else lax.dynamic_slice_in_dim(x, bands.starts[i], length, axis)


def known(a: ForwardOperator) -> tuple[Bool[Array, " p"], Bool[Array, " q"]]:
  """The rows and columns of LR pixels that are known."""
  return a.rows.nonzero, a.columns.nonzero


def on_known(a: ForwardOperator, y: Float[ArrayLike, "p q c"]) -> Float[Array, "p q c"]:
  """y, with 0 in the LR pixels that are not known."""
  rows, columns = known(a)
  return jnp.where(rows[:, None, None] & columns[None, :, None], y, 0)


def make(taps: Taps, rows: Axis, columns: Axis) -> ForwardOperator:
  """The operator of a blur and a subsampling.

  Args:
    taps: of the kernel, which is correlated with the image, whose edge pixels are repeated (d c b a | a b c d).
    rows: the vertical axis.
    columns: the horizontal axis.
  """
  matrices = [_blurred(t, axis) for t, axis in zip(taps, (rows, columns))]
  windows = [axis.windows or (None, None) for axis in (rows, columns)]
  own = [_bands(m, w[0]) for m, w in zip(matrices, windows)]
  transposed = [_bands(m.swapaxes(1, 2), w[1]) for m, w in zip(matrices, windows)]
  return ForwardOperator(*own, *transposed)


def _bands(matrices: Float[Array, "r p h"], windows: Int[ArrayLike, "n l"] | None) -> Bands:
  """Matrices in blocks of `_BLOCK` rows, of the columns in windows; as one block where those are None."""
  nonzero = jnp.any(matrices != 0, (0, 2))
  if windows is None:
    return Bands(matrices[:, None], np.zeros(1, np.int32), nonzero)
  count, length = windows.shape
  starts = jnp.asarray(windows)[:, 0]
  padded = jnp.pad(matrices, ((0, 0), (0, count * _BLOCK - matrices.shape[1]), (0, 0)))
  part = lambda i: lax.dynamic_slice(padded, (0, i * _BLOCK, starts[i]), (len(padded), _BLOCK, length))
  return Bands(jnp.stack([part(i) for i in range(count)], 1), starts, nonzero)


def separable(kernel: Float[ArrayLike, "k k"], rank: int | None = None, xp=jnp) -> Taps:
  """A kernel, or its best approximation of a rank, made to sum to 1; `xp` is jax.numpy, or NumPy for work on the host."""
  u, s, v = xp.linalg.svd(kernel, full_matrices=False)
  columns, rows = (u * s[None]).T[:rank], v[:rank]
  return Taps(columns / (columns.sum(1) * rows.sum(1)).sum(), rows)


def numerically_separable(kernel: Float[np.ndarray, "k k"]) -> Taps:
  """A kernel without its least terms, on the host; its rank is one of a few, so that kernels share programs."""
  values = np.linalg.svd(kernel.astype(np.float64), compute_uv=False)
  needed = int((values > _TOLERANCE * values[0]).sum())
  rank = min((r for r in _RANKS if r >= needed), default=len(kernel))
  taps = separable(kernel.astype(np.float64), rank, np)
  return Taps(*(np.pad(t, ((0, max(rank - len(t), 0)), (0, 0))).astype(np.float32) for t in taps))


def _blurred(taps: Float[ArrayLike, "r k"], axis: Axis) -> Float[Array, "r p h"]:
  """Blur of one axis by each row of taps, then subsampling."""
  down, seen = jnp.asarray(axis.down, taps.dtype), jnp.asarray(axis.seen)
  size = down.shape[1]
  blur = jnp.zeros((len(taps), size, size), taps.dtype).at[:, jnp.arange(size)[:, None], seen].add(taps[:, None])
  return jnp.einsum("ph,rhj->rpj", down, blur, precision="highest")
