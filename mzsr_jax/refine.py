"""What makes a super-resolved image better whatever made it: back-projection and the geometric self-ensemble."""

import functools
import itertools
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mzsr_jax import resize
from mzsr_jax.degradation import Factors, degrade, per_axis
from mzsr_jax.kernels import Degradation


def back_project(
    sr: Float[Array, "p q c"], lr: Float[Array, "h w c"], kind: Degradation, scale: Factors, iterations: int
) -> Float[Array, "p q c"]:
  """Makes an SR image agree with its LR image: sr + D'(lr - D sr) / |D D'|, again and again, D being the degradation.

  After Irani and Peleg, 1991, with the adjoint D' of the degradation in place of an enlargement, so that it converges for
  every kernel and both ways of subsampling.

  Args:
    sr: in [0, 1], as large as `degradation.enlarge` makes `lr`.
    lr: in [0, 1].
    kind: kernel and subsampling.
    scale: scale factor, or a (vertical, horizontal) pair.
    iterations: 0 returns `sr`.

  Returns:
    In [0, 1].
  """
  return _back_project(sr, lr, kind.kernel, kind.subsample, per_axis(scale), iterations) if iterations else jnp.asarray(sr)


@functools.partial(jax.jit, static_argnames=("subsample", "scale"))
def _back_project(sr, lr, kernel, subsample, scale, iterations):
  down = lambda x: degrade(x, kernel, scale, subsample)[: lr.shape[0], : lr.shape[1]]
  up = lambda y: jax.linear_transpose(down, sr)(y)[0]
  norm = down(up(jnp.ones_like(lr))).max()  # of D D', but for the small negative weights of bicubic subsampling
  return jax.lax.fori_loop(0, iterations, lambda _, x: jnp.clip(x + up(lr - down(x)) / norm, 0, 1), sr)


class Turn(NamedTuple):
  """One of the eight symmetries of a square: transposed, then flipped."""

  transposed: bool
  flipped: tuple[bool, bool]  # rows, columns

  def apply(self, image: Float[np.ndarray, "h w ..."]) -> np.ndarray:
    """The image turned."""
    image = image.swapaxes(0, 1) if self.transposed else image
    return image[tuple(slice(None, None, -1 if flip else 1) for flip in self.flipped)]

  def undo(self, image: Float[np.ndarray, "h w ..."]) -> np.ndarray:
    """The image that `apply` makes into this one."""
    image = image[tuple(slice(None, None, -1 if flip else 1) for flip in self.flipped)]
    return image.swapaxes(0, 1) if self.transposed else image


def turns(kind: Degradation, scale: Factors) -> Iterator[Turn]:
  """The symmetries that leave kernel and scale as they are: a network for this degradation is none for others."""
  factors = per_axis(scale)
  for transposed, *flipped in itertools.product((False, True), repeat=3):
    turn = Turn(transposed, tuple(flipped))
    same = np.abs(turn.apply(kind.kernel) - kind.kernel).max() <= 1e-3 * np.abs(kind.kernel).max()
    if same and (not transposed or factors[0] == factors[1]):
      yield turn


def turned_offset(turn: Turn, kind: Degradation, size: tuple[int, int], scale: Factors) -> tuple[float, float]:
  """Where a turned LR image lies on its turned HR image: what `degradation.enlarge` has to be told, HR pixels.

  Direct subsampling takes the first of every s pixels, so the last one of the flipped image.

  Args:
    turn: one of `turns`.
    kind: the degradation of the image before it was turned.
    size: of the LR image before it was turned.
    scale: scale factor, or a pair.
  """
  offsets = []
  for length, factor, offset in zip(size, per_axis(scale), kind.offset):
    beyond = resize.enlarged_size(length, factor) - factor * length
    aligned = factor - 1 if kind.subsample == "direct" else 0
    offsets.append((offset, beyond + aligned - offset))
  offsets = offsets[::-1] if turn.transposed else offsets
  return tuple(pair[flip] for pair, flip in zip(offsets, turn.flipped))


def self_ensemble(
    enlarge: Callable[[np.ndarray, tuple[float, float]], Array],
    lr: Float[np.ndarray, "h w c"],
    kind: Degradation,
    scale: Factors,
    restore: Callable[[Array], Array] = lambda sr: sr,
) -> Float[Array, "p q c"]:
  """The median of what a network makes of an image in all the ways to turn it that its kernel does not tell apart.

  After Timofte et al., 2016. A symmetric kernel gives eight images, an anisotropic Gaussian two, others one.

  Args:
    enlarge: (LR image, its offset, see `turned_offset`) -> SR image.
    lr: the LR image.
    kind: its degradation.
    scale: scale factor, or a pair.
    restore: done to each SR image, turned back, and to the median.
  """
  srs = []
  for turn in turns(kind, scale):
    sr = enlarge(np.ascontiguousarray(turn.apply(lr)), turned_offset(turn, kind, lr.shape[:2], scale))
    srs.append(restore(turn.undo(sr)))
  return restore(jnp.median(jnp.stack(srs), axis=0))
