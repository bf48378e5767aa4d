"""What makes a super-resolved image better whatever made it: back-projection and the geometric self-ensemble."""

import itertools
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float, Shaped

from mzsr_jax.core import checks, resize
from mzsr_jax.core.degradation import Factors, per_axis
from mzsr_jax.core.kernels import Degradation


def back_project(
    sr: Float[ArrayLike, "p q c"], lr: Float[ArrayLike, "h w c"], degradation: Degradation, scale: Factors, iterations: int
) -> Float[np.ndarray, "p q c"]:
  """Makes an SR image agree with its LR image: sr + D'(lr - D sr) / |D D'|, again and again, D being the degradation.

  After Irani and Peleg, 1991, with the adjoint D' of the degradation in place of an enlargement, so that it converges for
  every kernel and both ways of subsampling. It stops where the two differ by no more than the noise: what is left of a noisy
  image then is noise (Morozov's discrepancy principle). On the host, with sparse matrices, so that an image may be large.

  Args:
    sr: in [0, 1], as large as `degradation.enlarge` makes `lr`.
    lr: in [0, 1].
    degradation: kernel, subsampling and noise.
    scale: scale factor, or a (vertical, horizontal) pair.
    iterations: at most; 0 returns `sr`.

  Returns:
    In [0, 1], float32.

  Raises:
    ValueError: see `core.adapt.adapt`.
  """
  sr, lr, degradation = np.asarray(sr), np.asarray(lr), checks.checked(degradation)
  checks.check_image(sr, "the SR image")
  checks.check_image(lr, "the LR image")
  down, up = _operators(sr.shape[:2], lr.shape[:2], degradation, per_axis(scale))
  norm = down(up(np.ones(lr.shape[:2], np.float32))).max()  # of D D', but for the small negative weights of bicubic subsampling
  out = np.empty(sr.shape, np.float32)
  for c in range(sr.shape[-1]):  # one after another, for the memory's sake
    x = sr[..., c].astype(np.float32)
    for _ in range(iterations):
      difference = lr[..., c] - down(x)
      if (difference**2).mean() <= degradation.noise_std**2:
        break
      x = np.clip(x + up(difference) / norm, 0, 1)
    out[..., c] = x
  return out


def _operators(size: tuple[int, int], small: tuple[int, int], degradation: Degradation, factors: tuple[float, float]):
  """`degradation.degrade` of one channel, cut to the leading `small` pixels, and its adjoint."""
  import scipy.signal  # takes a quarter of the time that the command needs to start, and only back-projection needs it
  import scipy.sparse

  reach = len(degradation.kernel) // 2
  pads, shrinks = [], []
  for length, count, factor in zip(size, small, factors):
    inside = resize.mirror(np.arange(-reach, length + reach), length)
    ones = np.ones(len(inside), np.float32)
    pads.append(scipy.sparse.csr_array((ones, (np.arange(len(inside)), inside)), (len(inside), length)))
    shrinks.append(resize.shrink_sparse(length, factor, degradation.subsample)[:count])
  both = lambda matrices, x: matrices[0] @ (matrices[1] @ x.T).T
  transposed = lambda matrices: [m.T.tocsr() for m in matrices]
  unpads, spreads = transposed(pads), transposed(shrinks)
  flipped = degradation.kernel[::-1, ::-1]
  down = lambda x: both(shrinks, scipy.signal.oaconvolve(both(pads, x), flipped, "valid"))
  up = lambda y: both(unpads, scipy.signal.oaconvolve(both(spreads, y), degradation.kernel, "full"))
  return down, up


class Turn(NamedTuple):
  """One of the eight symmetries of a square: transposed, then flipped."""

  transposed: bool
  flipped: tuple[bool, bool]  # rows, columns

  def turned(self, image: Shaped[ArrayLike, "h w *c"]) -> Shaped[ArrayLike, "_ _ *c"]:
    """The image turned."""
    image = image.swapaxes(0, 1) if self.transposed else image
    return image[tuple(slice(None, None, -1 if flip else 1) for flip in self.flipped)]

  def undo(self, image: Shaped[ArrayLike, "h w *c"]) -> Shaped[ArrayLike, "_ _ *c"]:
    """The image that `turned` makes into this one."""
    image = image[tuple(slice(None, None, -1 if flip else 1) for flip in self.flipped)]
    return image.swapaxes(0, 1) if self.transposed else image


def turned(
    degradation: Degradation, size: tuple[int, int], scale: Factors, is_told_kernel: bool
) -> Iterator[tuple[Turn, Degradation]]:
  """The symmetries that a network may enlarge an image by, each with the degradation of the turned image.

  Direct subsampling takes the first of every s pixels, so the last one of a flipped image: s - 1 pixels further. A network
  that is told the kernel is told the turned one, moved by that, which must be whole pixels. Any other was adapted to one
  kernel, which must be the same turned, and is told by the offset where the LR image lies.

  Args:
    degradation: of the image before it is turned.
    size: of the LR image before it is turned.
    scale: scale factor, or a pair.
    is_told_kernel: see `network.Network`.
  """
  factors = per_axis(scale)
  for transposed, *flipped in itertools.product((False, True), repeat=3):
    turn = Turn(transposed, tuple(flipped))
    kernel = np.ascontiguousarray(turn.turned(np.asarray(degradation.kernel)))
    offset, moves = _moved(turn, degradation, size, factors)
    whole = [round(move) for move in moves]
    same = np.abs(kernel - degradation.kernel).max() <= 1e-3 * np.abs(degradation.kernel).max()
    fits = np.allclose(moves, whole, atol=1e-6) if is_told_kernel else same
    if not fits or (transposed and factors[0] != factors[1]):
      continue
    if is_told_kernel:
      moved = np.roll(np.pad(kernel, max(map(abs, whole))), whole, (0, 1))
      yield turn, degradation.replace(kernel=moved, offset=offset)
    else:
      yield turn, degradation.replace(offset=offset)


def _moved(turn: Turn, degradation: Degradation, size: tuple[int, int], factors: tuple[float, float]):
  """(offset of a turned degradation, how far flips move the kernel), each (vertical, horizontal), HR pixels."""
  order = -1 if turn.transposed else 1
  offsets, moves = [], []
  for length, factor, offset, flip in zip(size, factors, degradation.offset, turn.flipped[::order]):
    beyond = resize.enlarged_size(length, factor) - factor * length
    aligned = factor - 1 if degradation.subsample == "direct" else 0
    moves.append(beyond + aligned if flip else 0.0)
    offsets.append(moves[-1] + (-offset if flip else offset))
  return tuple(offsets[::order]), tuple(moves[::order])


def self_ensemble(
    enlarge: Callable[[np.ndarray, Degradation], ArrayLike],
    lr: Float[np.ndarray, "h w c"],
    degradation: Degradation,
    scale: Factors,
    restore: Callable[[ArrayLike], ArrayLike] = lambda sr: sr,
) -> Float[ArrayLike, "p q c"]:
  """The median of what a network makes of an image in all the ways to turn it that its kernel does not tell apart.

  After Timofte et al., 2016. A symmetric kernel gives eight images, an anisotropic Gaussian two, others one.

  Args:
    enlarge: (LR image, its degradation) -> SR image, by a network that is not told the kernel.
    lr: the LR image.
    degradation: its degradation.
    scale: scale factor, or a pair.
    restore: done to each SR image, turned back, and to the median.
  """
  srs = [restore(sr) for sr in each_turn(enlarge, lr, degradation, scale)]
  return restore(jnp.median(jnp.stack(srs), axis=0))


def each_turn(
    enlarge: Callable[[np.ndarray, Degradation], ArrayLike],
    lr: Float[np.ndarray, "h w c"],
    degradation: Degradation,
    scale: Factors,
    is_told_kernel: bool = False,
) -> Iterator[Float[ArrayLike, "p q c"]]:
  """What a network makes of each of the turned images, turned back. Args: see `self_ensemble` and `turned`."""
  for turn, of in turned(degradation, lr.shape[:2], scale, is_told_kernel):
    yield turn.undo(enlarge(np.ascontiguousarray(turn.turned(lr)), of))
