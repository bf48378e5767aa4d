"""What the unrolled network is trained on: HR patches in, observations of every kind of degradation out. Pure, on device.

Each patch is a task of its own. Scale, kernel, grid, subsampling and noise are drawn for it. The LR patch is clipped and
rounded to 8 bits, as files are. The image is thought to go on periodically, so that few iterations of a data step are exact.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt8

from mzsr_jax.core import forward_operator, kernel_families, resize, unrolled
from mzsr_jax.core.forward_operator import Axis
from mzsr_jax.core.unrolled import Observation, Told

MAX_NOISE = 25 / 255
_LOW_EVERY = 8  # one patch of so many has a scale below 2: it has more LR pixels, and is worked on apart
_BICUBIC = 0.35  # share of bicubic subsampling
# Where the kernel's centre lies: on the LR pixel's own place, as in benchmarks; where LR pixels are the middles of the cells
# that they stand for, as in photos; or within a pixel of its own place.
_OWN, _CELL = 0.65, 0.2
_FAMILIES = np.float32((0.1, 0.6, 0.1, 0.1, 0.1))  # shares of `kernel_families.FAMILIES`
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


class Mixture(NamedTuple):
  """All degradations.

  Attributes:
    main: scales from 2 to 4, half of the draws being 2.
    low: scales from 1 (blur alone) to 2.
  """

  main: Scales
  low: Scales


def mixture(patch_size: int) -> Mixture:
  """All degradations of HR patches of a side."""
  main = dict.fromkeys(np.round(np.arange(2.0, 4.01, 0.1), 1).tolist(), 0.2 / 18) | {2.0: 0.5, 3.0: 0.1, 4.0: 0.2}
  low = dict.fromkeys(np.round(np.arange(1.0, 1.91, 0.1), 1).tolist(), 0.6 / 9) | {1.0: 0.4}
  return Mixture(*(_scales(patch_size, shares) for shares in (main, low)))


def _scales(patch_size: int, shares: dict[float, float]) -> Scales:
  down = [[resize.shrink(patch_size, s, mode) for mode in ("direct", "bicubic")] for s in shares]
  most = max(len(d[0]) for d in down)
  padded = [[np.pad(m, ((0, most - len(m)), (0, 0))) for m in d] for d in down]
  values, weights = (np.array(list(x), np.float32) for x in (shares.keys(), shares.values()))
  return Scales(values, weights / weights.sum(), np.array(padded, np.float32))


def sample(
    key, patches: UInt8[Array, "n p p 3"], drawn_from: Mixture, numbers: Int[Array, " n"]
) -> tuple[tuple[Observation, ...], Float[Array, "n p p 3"]]:
  """Observations of patches, and the patches in the same order, in [0, 1].

  Args:
    key: jax.random key.
    patches: HR patches.
    drawn_from: see `mixture`.
    numbers: of the patches: what is drawn for one depends on the key and its number alone.
  """
  hr = patches.astype(jnp.float32) / 255
  low = np.arange(len(patches)) % _LOW_EVERY == _LOW_EVERY - 1
  groups, targets = [], []
  for scales, chosen in ((drawn_from.main, np.flatnonzero(~low)), (drawn_from.low, np.flatnonzero(low))):
    if len(chosen):
      keys = jax.vmap(lambda number: jax.random.fold_in(key, number))(numbers[chosen])
      groups.append(jax.vmap(lambda key, hr, scales=scales: _observe(key, hr, scales))(keys, hr[chosen]))
      targets.append(hr[chosen])
  return tuple(groups), jnp.concatenate(targets)


def _observe(key, hr: Float[Array, "p p 3"], scales: Scales) -> Observation:
  """A patch under a random degradation."""
  keys = jax.random.split(key, 7)
  index = jax.random.choice(keys[0], len(scales.values), p=jnp.asarray(scales.shares))
  scale = jnp.asarray(scales.values)[index]
  is_bicubic = jax.random.bernoulli(keys[1], _BICUBIC)
  kernel = kernel_families.sample(keys[4], scale, _centre(keys[2:4], scale, is_bicubic), _FAMILIES)
  taps = forward_operator.separable(kernel, _RANK)
  kernel = jnp.matmul(taps.columns.T, taps.rows, precision="highest")
  level = jnp.maximum(jax.random.uniform(keys[5], minval=-1), 0)  # 0 for half of the patches
  noise_std = MAX_NOISE * level**2

  size = hr.shape[0]
  seen = (np.arange(size)[:, None] + np.arange(len(kernel)) - len(kernel) // 2) % size
  down = jnp.asarray(scales.down)[index, is_bicubic.astype(jnp.int32)]
  axis = Axis(down, seen, lr_length=jnp.any(down != 0, 1).sum().astype(jnp.float32))
  operator = forward_operator.make(taps, axis, axis)
  lr = forward_operator.apply(operator, hr)
  lr += noise_std * jax.random.normal(keys[6], lr.shape)
  known = forward_operator.known(operator)[0]
  lr = jnp.where(known[:, None, None] & known[None, :, None], jnp.round(jnp.clip(lr, 0, 1) * 255) / 255, 0)
  told = Told(kernel, taps, scale, is_bicubic.astype(jnp.float32), noise_std)
  return jax.lax.stop_gradient(unrolled.observe(lr, axis, axis, told))


def _centre(keys, scale, is_bicubic) -> Float[Array, " 2"]:
  """Where a kernel's centre lies from its middle."""
  which = jax.random.uniform(keys[0])
  anywhere = jax.random.uniform(keys[1], (2,), minval=-1.0)
  middle_of_cell = jnp.where(is_bicubic, 0.0, (scale - 1) / 2)
  return jnp.where(which < _OWN, 0.0, jnp.where(which < _OWN + _CELL, middle_of_cell, anywhere))
