"""The degradation without its noise as a linear map A of images, exact at borders: y = A x.

A blurs by any kernel and subsamples by any factor. A kernel is a sum of products of a column and a row (its singular value
decomposition), so A is a sum of products of two small matrices, A x = sum_r R_r x C_r', and its adjoint is the sum of
R_r' y C_r. That is a handful of matrix products, exact for every kernel, border, scale and subsampling. Pure functions.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int

from mzsr_jax.core import resize

_RANKS = 1, 2, 4, 8, 12  # of kernels, see `numerically_separable`


class ForwardOperator(NamedTuple):
  """A: (H, W, C) -> (P, Q, C). Rows of zeros are LR pixels that are not known.

  Attributes:
    rows: R_r, blur by a column of the kernel, then subsampling, of the vertical axis.
    columns: C_r, the same of the horizontal axis.
  """

  rows: Float[Array, "r p h"]
  columns: Float[Array, "r q w"]


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
  """

  down: Float[ArrayLike, "p h"]
  seen: Int[ArrayLike, "h k"]
  hr_start: Float[ArrayLike, ""] = np.float32(0)
  lr_start: Float[ArrayLike, ""] = np.float32(0)
  lr_length: Float[ArrayLike, ""] = np.float32(0)


def whole_axis(length: int, lr_length: int, scale: float, subsample: str, kernel_size: int) -> Axis:
  """The axis of a whole image of `length` HR pixels, of whose LR image the first `lr_length` are given."""
  return tile_axis(length, lr_length, scale, subsample, kernel_size, 0, length, lr_length)


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


def forward(a: ForwardOperator, x: Float[ArrayLike, "h w c"]) -> Float[Array, "p q c"]:
  """A x."""
  (r, p, _), (_, q, w), c = a.rows.shape, a.columns.shape, x.shape[-1]
  # Two plain matrix products with one transposition between, several times as fast on a CPU as what einsum makes of it.
  left = jnp.matmul(a.rows.reshape(r * p, -1), x.reshape(-1, w * c), precision="highest")
  left = left.reshape(r, p, w, c).transpose(1, 3, 0, 2).reshape(p * c, r * w)
  out = jnp.matmul(left, a.columns.swapaxes(1, 2).reshape(r * w, q), precision="highest")
  return out.reshape(p, c, q).swapaxes(1, 2)


def adjoint(a: ForwardOperator, y: Float[ArrayLike, "p q c"]) -> Float[Array, "h w c"]:
  """A' y."""
  return forward(ForwardOperator(a.rows.swapaxes(1, 2), a.columns.swapaxes(1, 2)), y)


def known(a: ForwardOperator) -> tuple[Bool[Array, " p"], Bool[Array, " q"]]:
  """The rows and columns of LR pixels that are known."""
  return jnp.any(a.rows != 0, (0, 2)), jnp.any(a.columns != 0, (0, 2))


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
  return ForwardOperator(*(_blurred(t, axis) for t, axis in zip(taps, (rows, columns))))


def separable(kernel: Float[ArrayLike, "k k"], rank: int | None = None, xp=jnp) -> Taps:
  """A kernel, or its best approximation of a rank, made to sum to 1; `xp` is jax.numpy, or NumPy for work on the host."""
  u, s, v = xp.linalg.svd(kernel, full_matrices=False)
  columns, rows = (u * s[None]).T[:rank], v[:rank]
  return Taps(columns / (columns.sum(1) * rows.sum(1)).sum(), rows)


def numerically_separable(kernel: Float[np.ndarray, "k k"]) -> Taps:
  """A kernel to a relative error of 1e-5, on the host; its rank is one of a few, so that kernels share programs."""
  values = np.linalg.svd(kernel.astype(np.float64), compute_uv=False)
  needed = int((values > 1e-5 * values[0]).sum())
  rank = min((r for r in _RANKS if r >= needed), default=len(kernel))
  taps = separable(kernel.astype(np.float64), rank, np)
  return Taps(*(np.pad(t, ((0, max(rank - len(t), 0)), (0, 0))).astype(np.float32) for t in taps))


def _blurred(taps: Float[ArrayLike, "r k"], axis: Axis) -> Float[Array, "r p h"]:
  """Blur of one axis by each row of taps, then subsampling."""
  down, seen = jnp.asarray(axis.down, taps.dtype), jnp.asarray(axis.seen)
  size = down.shape[1]
  blur = jnp.zeros((len(taps), size, size), taps.dtype).at[:, jnp.arange(size)[:, None], seen].add(taps[:, None])
  return jnp.einsum("ph,rhj->rpj", down, blur, precision="highest")
