"""What the unrolled network is trained on: HR patches in, observations of every kind of degradation out. Pure, on device.

Each patch is a task of its own. Scale, kernel, grid, subsampling and noise are drawn for it. The LR patch is clipped and
rounded to 8 bits, as files are. The image is thought to go on periodically, so that few iterations of a data step are exact.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt8

from mzsr_jax.core import forward_operator, jpeg, kernel_families, resize, unrolled
from mzsr_jax.core.forward_operator import Axis, Taps
from mzsr_jax.core.unrolled import Observation, Told

MAX_NOISE = 25 / 255
# Which group of `mixture` the patches are of in turn: those of one have about as many LR pixels, and are worked on apart.
_TURNS = np.array([0, 1, 3, 1, 2, 1, 3, 1])
_BICUBIC = 0.42  # share of bicubic subsampling
# Where the kernel's centre lies: on the LR pixel's own place, as in benchmarks; where LR pixels are the middles of the cells
# that they stand for, as in photos; or within a pixel of its own place.
_OWN, _CELL = 0.65, 0.2
_FAMILIES = np.float32((0.1, 0.5, 0.08, 0.08, 0.08, 0.08, 0.08))  # shares of `kernel_families.FAMILIES`
_SHRUNK = 0.5  # share of bicubic subsampling whose images are not blurred besides
_WRONG, _ERROR = 0.2, 0.25  # share of patches told a wrong kernel, and how wrong: standard deviation of its log-variance
_SMOOTH = 0.25  # share of noise that is correlated, as cameras leave it
_JPEG, _QUALITY = 0.15, (50.0, 98.0)  # share of patches compressed, and how
_RANK = 6  # of kernels in training; a kernel is what is left of it then


class Scales(NamedTuple):
  """Scales that are drawn together, and the subsampling of HR patches by each.

  Attributes:
    values: scale factors.
    shares: how often each is drawn.
    down: matrices of the subsamplings, direct and bicubic, of each scale; rows of zeros are beyond ceil(P / s).
  """

  values: Float[np.ndarray, " s"]
  shares: Float[np.ndarray, " s"]
  down: Float[np.ndarray, "s 2 q p"]


def mixture(patch_size: int) -> tuple[Scales, ...]:
  """The degradations of HR patches of a side, in pixels: scales below 2 (1 is blur alone), and those about 2, 3 and 4.

  Those of a group have cells of one side, see `unrolled.cell_side`.
  """
  shares = []  # each tenth of a scale, and one of the group that is drawn more often
  for first, last, main, share in ((10, 19, 1.0, 0.06), (20, 24, 2.0, 0.5), (25, 34, 3.0, 0.1), (35, 40, 4.0, 0.2)):
    shares.append(dict.fromkeys((np.arange(first, last + 1) / 10).tolist(), 0.01) | {main: share})
  return tuple(_scales(patch_size, own) for own in shares)


def _scales(patch_size: int, shares: dict[float, float]) -> Scales:
  down = [[resize.shrink(patch_size, s, mode) for mode in ("direct", "bicubic")] for s in shares]
  most = max(len(d[0]) for d in down)
  padded = [[np.pad(m, ((0, most - len(m)), (0, 0))) for m in d] for d in down]
  values, weights = (np.array(list(x), np.float32) for x in (shares.keys(), shares.values()))
  return Scales(values, weights / weights.sum(), np.array(padded, np.float32))


def sample(
    key, patches: UInt8[Array, "n p p 3"], drawn_from: tuple[Scales, ...], numbers: Int[Array, " n"]
) -> tuple[tuple[Observation, ...], Float[Array, "n p p 3"]]:
  """Observations of patches, and the patches in the same order, in [0, 1].

  Args:
    key: jax.random key.
    patches: HR patches.
    drawn_from: see `mixture`.
    numbers: of the patches: what is drawn for one depends on the key and its number alone.
  """
  hr = patches.astype(jnp.float32) / 255
  turns = _TURNS[np.arange(len(patches)) % len(_TURNS)]
  groups, targets = [], []
  for group, scales in enumerate(drawn_from):
    chosen = np.flatnonzero(turns == group)
    if len(chosen):
      keys = jax.vmap(lambda number: jax.random.fold_in(key, number))(numbers[chosen])
      groups.append(jax.vmap(lambda key, hr, scales=scales: _observe(key, hr, scales))(keys, hr[chosen]))
      targets.append(hr[chosen])
  return tuple(groups), jnp.concatenate(targets)


def _observe(key, hr: Float[Array, "p p 3"], scales: Scales) -> Observation:
  """A patch under a random degradation."""
  keys = jax.random.split(key, 9)
  index = jax.random.choice(keys[0], len(scales.values), p=jnp.asarray(scales.shares))
  scale = jnp.asarray(scales.values)[index]
  is_bicubic = jax.random.bernoulli(keys[1], _BICUBIC)
  centre = _centre(keys[2:4], scale, is_bicubic)
  unblurred = np.eye(len(_FAMILIES), dtype=np.float32)[kernel_families.FAMILIES.index("none")]
  shares = jnp.where(is_bicubic, (1 - _SHRUNK) * _FAMILIES + _SHRUNK * unblurred, _FAMILIES)
  # What is told may be the kernel of a slightly larger or smaller scale, but for that the same: as wrong as an estimate.
  error = jnp.where(jax.random.bernoulli(keys[8], _WRONG), _ERROR * jax.random.normal(keys[7]), 0)
  scales_of_kernels = jnp.stack([scale, scale * jnp.exp(error)])
  taps, told_taps = _kernels(keys[4], scales_of_kernels, centre, shares)
  axis = _periodic_axis(hr.shape[0], jnp.asarray(scales.down)[index, is_bicubic.astype(jnp.int32)])
  operator = forward_operator.make(taps, axis, axis)
  lr, noise_std = _taken(keys[5:7], forward_operator.forward(operator, hr), axis.lr_length)
  lr = forward_operator.on_known(operator, lr)
  told_kernel = jnp.matmul(told_taps.columns.T, told_taps.rows, precision="highest")
  places = unrolled.cell_places(float(scales.values[0]))
  told = Told(told_kernel, told_taps, scale, is_bicubic.astype(jnp.float32), noise_std, places)
  return jax.lax.stop_gradient(unrolled.observe(lr, axis, axis, told))


def _kernels(key, scales: Float[Array, " 2"], centre, shares) -> tuple[Taps, Taps]:
  """One random kernel at two scales, of low rank."""
  kernels = jax.vmap(lambda scale: kernel_families.sample(key, scale, centre, shares))(scales)
  both = jax.vmap(lambda kernel: forward_operator.separable(kernel, _RANK))(kernels)
  return tuple(Taps(both.columns[i], both.rows[i]) for i in (0, 1))


def _periodic_axis(size: int, down: Float[Array, "q p"]) -> Axis:
  """The axis of a patch that goes on periodically."""
  seen = (np.arange(size)[:, None] + np.arange(kernel_families.SIZE) - kernel_families.SIZE // 2) % size
  return Axis(down, seen, lr_length=jnp.any(down != 0, 1).sum().astype(jnp.float32))


def _taken(keys, lr: Float[Array, "q q 3"], length) -> tuple[Float[Array, "q q 3"], Float[Array, ""]]:
  """What a camera makes of an LR patch, of which the first `length` rows and columns are known: noise, perhaps JPEG, 8 bits.

  Returns:
    The patch, and the standard deviation that is told of both.
  """
  noise_key, jpeg_key = (jax.random.split(key, 4) for key in keys)
  level = jnp.maximum(jax.random.uniform(noise_key[0], minval=-1), 0)  # 0 for half of the patches
  noise_std = MAX_NOISE * level**2
  white = jax.random.normal(noise_key[1], lr.shape)
  smooth = sum(jnp.roll(white, (i, j), (0, 1)) for i in (0, 1) for j in (0, 1)) / 2
  lr += noise_std * jnp.where(jax.random.bernoulli(noise_key[2], _SMOOTH), smooth, white)
  clean = _to_8_bits(lr)

  place = np.arange(-(-lr.shape[0] // jpeg.BLOCK) * jpeg.BLOCK) % length.astype(jnp.int32)
  compressed = jpeg.compress(clean[place][:, place], jax.random.uniform(jpeg_key[0], minval=_QUALITY[0], maxval=_QUALITY[1]))
  compressed = _to_8_bits(compressed[: lr.shape[0], : lr.shape[1]])
  # What is told of JPEG is that of a whole photo's luma, and rather too much (`photo.noise.of_jpeg`).
  luma_change = jnp.matmul(compressed - clean, np.float32(jpeg.LUMA), precision="highest")
  change = jnp.sqrt((luma_change**2).mean()) * jnp.exp(jax.random.uniform(jpeg_key[1], minval=-0.3, maxval=0.7))
  is_jpeg = jax.random.bernoulli(jpeg_key[2], _JPEG)
  return jnp.where(is_jpeg, compressed, clean), jnp.where(is_jpeg, jnp.hypot(noise_std, change), noise_std)


def _to_8_bits(image: Float[Array, "*n"]) -> Float[Array, "*n"]:
  """Clipped and rounded as in a file."""
  return jnp.round(jnp.clip(image, 0, 1) * 255) / 255


def _centre(keys, scale, is_bicubic) -> Float[Array, " 2"]:
  """Where a kernel's centre lies from its middle."""
  which = jax.random.uniform(keys[0])
  anywhere = jax.random.uniform(keys[1], (2,), minval=-1.0)
  middle_of_cell = jnp.where(is_bicubic, 0.0, (scale - 1) / 2)
  return jnp.where(which < _OWN, 0.0, jnp.where(which < _OWN + _CELL, middle_of_cell, anywhere))
