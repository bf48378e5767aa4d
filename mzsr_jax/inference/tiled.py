"""Meta-test (Algorithm 2) for images of any size, many sizes and several devices: what the commands run.

The same functions as in `core.adapt`, run on tiles of few sizes (see `tiles`), so that images of different sizes share
compiled programs and a large image never lies on a device as a whole. Kernel, number of steps, learning rates and scale are
values, not parts of a program. Results equal those of `core.adapt` but for rounding, for terms of a kernel that change less
than rounding to 8 bits, and for what a network says of its `reach`: padding is masked after each layer, and the L1 gradient is
summed over tiles.
"""

import collections
import functools
import itertools
import operator
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, Float, Int, PyTree, Shaped, UInt8

from mzsr_jax import devices as devices_lib
from mzsr_jax import images
from mzsr_jax.core import checks, degradation, inner_rules, kernels, maml, networks, resize, sharding
from mzsr_jax.core.inner_rules import Rates, Spectral
from mzsr_jax.core.kernels import EVALUATION_SIZE, Degradation
from mzsr_jax.core.model import NET
from mzsr_jax.core.network import Network, Params
from mzsr_jax.errors import UserError
from mzsr_jax.inference import tiles
from mzsr_jax.inference.tiles import Size, Span

ANY_RATES = np.zeros(1, np.float32)  # of a gradient step
_AXIS = "tiles"
_BYTES_PER_PIXEL = 4200  # of a tile in a gradient step, with 64 channels: activations, their gradients and copies
_BYTES_PER_ENLARGED_PIXEL = 800  # of a tile that is enlarged: 740 at most, measured, by `universal_large`
_MIN_TILE = 64  # pixels, side
_MAX_TILE = 2**15
_DEGRADED_AREA = 256 * 256  # pixels that are degraded at a time


class _Batch(NamedTuple):
  """One tile for each device, stacked on the leading axis.

  Attributes:
    image: what is enlarged: the LR son (to adapt) or the LR image (to enlarge).
    rows: the vertical axis, see `network.Network.tile_axis`.
    columns: the horizontal one.
    told: of the degradation, see `network.Network.tell`.
    inside: which rows and columns of the tile lie inside the image.
    core: (d, 4) first and last row, first and last column of the core, relative to the tile; empty for an idle device.
  """

  image: Float[Array, "d h w 3"]
  rows: PyTree[Array]
  columns: PyTree[Array]
  told: PyTree[Array]
  inside: tuple[Bool[Array, "d p"], Bool[Array, "d q"]]
  core: Int[Array, "d 4"]


class _Strip(NamedTuple):
  """A tile along one axis.

  Attributes:
    span: where it lies.
    lr_start: first LR pixel that it needs.
    lr_side: how many.
    axis: what the network needs of the axis.
  """

  span: Span
  lr_start: int
  lr_side: int
  axis: PyTree[np.ndarray]


class _Plan(NamedTuple):
  """How the enlargement of an image is cut into tiles.

  Attributes:
    full: size of the enlargement.
    size: of a tile.
    rows: vertically.
    columns: horizontally.
    told: of the degradation, see `network.Network.tell`.
  """

  full: Size
  size: Size
  rows: tuple[_Strip, ...]
  columns: tuple[_Strip, ...]
  told: PyTree[np.ndarray]

  @property
  def tiles(self) -> list[tuple[_Strip, _Strip]]:
    """(vertical, horizontal) of each tile, row by row."""
    return list(itertools.product(self.rows, self.columns))


class _Support(NamedTuple):
  """LR son -> LR image, in tiles.

  Attributes:
    groups: (batch of the son, tiles of the LR image), each of as many tiles as there are devices.
    weight: 1 / (number of values in the LR image).
    zeros: an error of 0 and a gradient of 0, on the devices: where sums begin.
  """

  groups: list[tuple[_Batch, Float[Array, "d p q 3"]]]
  weight: np.float32
  zeros: tuple[Float[Array, ""], Params]


def _plan(net: Network, lr_size: Size, full: Size, of: Degradation, scale: float, size: Size) -> _Plan:
  """The tiles, at most of `size`, of the enlargement of an image of `lr_size` to `full`."""

  def strips(axis: int) -> tuple[_Strip, ...]:
    spans = tiles.spans(full[axis], size[axis], net.reach(scale), net.cell(scale))
    make = lambda span: net.tile_axis(of, scale, axis, lr_size[axis], full[axis], span.start, size[axis])
    return tuple(_Strip(span, *make(span)) for span in spans)

  return _Plan(full, size, strips(0), strips(1), net.tell(of, scale))


def _inside(size: Size, bounds: Int[Array, " 4"]) -> Bool[Array, "h w 1"]:
  """True from row bounds[0] to bounds[1] and column bounds[2] to bounds[3]."""
  row, column = jnp.arange(size[0])[:, None, None], jnp.arange(size[1])[None, :, None]
  return (row >= bounds[0]) & (row < bounds[1]) & (column >= bounds[2]) & (column < bounds[3])


def _reconstruct(params: Params, batch: _Batch, net: Network) -> Float[Array, "p q c"]:
  """The network's output on the one tile of a device."""
  one = jax.tree.map(operator.itemgetter(0), batch)
  rows, columns = one.inside
  mask = (rows[:, None, None] & columns[None, :, None]).astype(one.image.dtype)
  return net.reconstruct(params, net.observe_tile(one.image, one.rows, one.columns, one.told), mask)


def _share(params: Params, batch: _Batch, targets: Float[Array, "1 p q 3"], weight, net: Network) -> Float[Array, ""]:
  """The share of a batch of tiles in the mean absolute error; `weight` is 1 / (number of values in the image)."""
  error = jnp.abs(_reconstruct(sharding.vary(params, _AXIS), batch, net) - targets[0])
  return lax.psum(jnp.where(_inside(error.shape[:2], batch.core[0]), error, 0).sum() * weight, _AXIS)


_ON_EACH, _ON_ALL = PartitionSpec(_AXIS), PartitionSpec()


def _compiled(function: Callable) -> Callable:
  """`function`, compiled for its mesh and network as the platform and the precision ask for."""

  @functools.cache
  def jitted(*of: str):
    return jax.jit(function, static_argnames=("mesh", "net"), compiler_options=devices_lib.compiler_options(*of))

  @functools.wraps(function)
  def call(*args, mesh: Mesh, net: Network):
    return jitted(mesh.devices.flat[0].platform, net.precision)(*args, mesh=mesh, net=net)

  call.jitted = jitted
  return call


@_compiled
def _add(total, params, batch, targets, weight, *, mesh: Mesh, net: Network):
  """Adds a batch of tiles to `total`, the mean absolute error and its gradient; `weight` is 1 / (number of values)."""

  def local(total, params, batch, targets, weight):
    return jax.tree.map(jnp.add, total, jax.value_and_grad(_share)(params, batch, targets, weight, net))

  specs = (_ON_ALL, _ON_ALL, _ON_EACH, _ON_EACH, _ON_ALL)
  return jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=_ON_ALL)(total, params, batch, targets, weight)


@_compiled
def _error(params, batch, targets, weight, *, mesh: Mesh, net: Network):
  """`_share` of tiles that lie on the devices."""
  local = functools.partial(_share, net=net)
  specs = (_ON_ALL, _ON_EACH, _ON_EACH, _ON_ALL)
  return jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=_ON_ALL)(params, batch, targets, weight)


@functools.partial(jax.jit, static_argnames="optimizer")
def _update(params, state, gradient, *, optimizer: optax.GradientTransformation):
  with jax.numpy_dtype_promotion("standard"):  # optax raises floats to integer powers
    updates, state = optimizer.update(gradient, state, params)
  return optax.apply_updates(params, updates), state


@_compiled
def _run(params, batch, *, mesh: Mesh, net: Network):
  """SR tiles (d, p, q, 3) in [0, 1]."""
  local = lambda params, batch: jnp.clip(_reconstruct(sharding.vary(params, _AXIS), batch, net), 0, 1)[None]
  return jax.shard_map(local, mesh=mesh, in_specs=(_ON_ALL, _ON_EACH), out_specs=_ON_EACH)(params, batch)


@jax.jit
def _degrade(tile, kernel, rows, columns):
  return degradation.resample(degradation.correlate(tile, kernel), rows, columns)


def degrade(
    image: Float[np.ndarray, "h w 3"],
    of: Degradation,
    scale: float,
    bucket: Size | None = None,
    dtype: type = np.float32,
    device: jax.Device | None = None,
) -> Float[np.ndarray, "p q 3"]:
  """`degradation.degrade` by tiles: the noise-free LR image, unclipped, ceil(H / s) x ceil(W / s), on the host.

  Args:
    image: in [0, 1].
    of: kernel and subsampling.
    scale: scale factor.
    bucket: the size that the result is treated as, see `TiledAdapter.bucket`; default: its own.
    dtype: np.float32, or np.float64 for results that are rounded to 8 bits like others' (about five values in 10^5 differ).
    device: to compute on; default: JAX's own.
  """
  small = tuple(resize.shrunk_size(length, scale) for length in image.shape[:2])
  size = tiles.fit(bucket or small, _DEGRADED_AREA, 0, step=8)
  kernel = kernels.padded(of.kernel).astype(dtype)
  reach = kernel.shape[0] // 2
  out = np.empty((*small, 3), dtype)
  with jax.enable_x64(dtype == np.float64), jax.default_device(device):
    for spans in tiles.grid(small, size, 0):
      blocks = [
          resize.shrink_block(length, scale, of.subsample, s.first, s.stop - s.first, side)
          for length, s, side in zip(image.shape, spans, size)
      ]
      taken = [
          resize.mirror(np.arange(b.start - reach, b.start + b.matrix.shape[1] + reach), length)
          for b, length in zip(blocks, image.shape)
      ]
      tile = image[np.ix_(*taken)].astype(dtype)
      made = _degrade(tile, kernel, *(b.matrix.astype(dtype) for b in blocks))
      (top, bottom), (left, right) = ((s.first, s.stop) for s in spans)
      out[top:bottom, left:right] = np.asarray(made)[: bottom - top, : right - left]
  return out


def make_lr(
    gt: images.Pixels, of: Degradation, scale: float, bucket: Size | None = None, device: jax.Device | None = None
) -> UInt8[np.ndarray, "p q 3"]:
  """The LR image of a ground truth whose sides the scale divides: blurred, subsampled, clipped, rounded to 8 bits.

  Args: see `degrade`.
  """
  # In float64: in float32 a few values in 100,000 fall on the other side of a rounding.
  return images.to_uint8(degrade(gt / 255, of, scale, bucket, np.float64, device))


def default_memory(devices: Sequence[jax.Device]) -> float:
  """Bytes to use where the user names none: half of what the accelerators have, 2 GiB on a CPU."""
  stats = [device.memory_stats() or {} for device in devices]
  if all("bytes_limit" in s for s in stats):
    return 0.5 * sum(s["bytes_limit"] for s in stats)
  return 2 * 2**30


def network_passes(steps: int, enlargements: int, scale: float) -> float:
  """Work in passes of the network over the LR image: three a step (forward, two gradients), and one over the SR image."""
  return 3 * steps + enlargements * scale**2


class TiledAdapter:
  """Adapts and enlarges images, all devices at work on one image.

  Attributes:
    devices: that tiles are spread over, no more of those given than the memory limit has room for.
    precision: of the network, as it is computed in.
    on_progress: called after each batch of tiles with the work that it was, see `network_passes`; for progress bars.
  """

  def __init__(
      self,
      devices: Sequence[jax.Device] | None = None,
      memory_limit: float | None = None,
      sizes: Sequence[Size] = (),
      max_buckets: int = 4,
      precision: str = "float32",
  ):
    """Makes an adapter.

    Args:
      devices: default: all local ones.
      memory_limit: bytes for what lies on the devices, all together (default: 2 GiB, or half of an accelerator's memory).
        Smaller limits give smaller tiles.
      sizes: heights and widths of the LR images to come, where they are known. Their tiles then have at most `max_buckets`
        sizes; else sides are rounded up.
      max_buckets: see `sizes`.
      precision: one of `conv.PRECISIONS`, see `devices.computed_precision`.

    Raises:
      UserError: the limit is too low for the smallest tiles.
    """
    devices = list(devices or jax.local_devices())
    limit = default_memory(devices) if memory_limit is None else memory_limit
    least = _MIN_TILE**2 * _bytes_per_pixel(NET)
    if limit < least:
      missing = (least - limit) / 2**20
      raise UserError(f"the memory limit leaves no room for the smallest tiles: it must be {missing:.0f} MiB higher")
    self.devices = devices[: int(limit // least)]
    self.precision = devices_lib.computed_precision(devices[0].platform, precision)
    self.on_progress: Callable[[float], None] = lambda passes: None
    self._mesh = Mesh(np.array(self.devices), (_AXIS,))
    self._buckets = tiles.buckets(sizes, max_buckets) if sizes else {}
    self._warm: set[tuple] = set()
    self._bytes_per_device = limit / len(self.devices)
    self._max_side = _MAX_TILE

  def adapt(
      self,
      params: Params,
      lr: Float[np.ndarray, "h w 3"],
      degradation: Degradation | Float[np.ndarray, "k k"],
      scale: float = 2,
      inner_lrs: float | Rates | Spectral = 0.01,
      num_steps: int | None = None,
  ) -> Params:
    """Gradient steps on LR son -> LR image: `core.adapt.adapt`, with the same arguments; the image lies on the host."""
    return collections.deque(self.iterate(params, lr, degradation, scale, inner_lrs, num_steps), maxlen=1).pop()[0]

  def iterate(
      self, params: Params, lr, degradation, scale: float = 2, inner_lrs=0.01, num_steps: int | None = None
  ) -> Iterator[tuple[Params, float | None]]:
    """The parameters before the first step and after each, made as they are asked for, with the loss at those before.

    Args: see `adapt`.

    Yields:
      (parameters, mean absolute error of LR son -> LR image before the step that made them); at first, None for that.
    """
    checks.check_image(lr)
    degradation = checks.checked(degradation)
    yield params, None
    rates = inner_rules.schedule(inner_lrs, num_steps, params)
    if not (steps := len(jax.tree.leaves(rates)[0])):
      return
    rates = jax.tree.map(lambda lrs: np.asarray(lrs, np.float32), rates)
    support = self._support(params, lr, degradation, scale)
    loss, gradient = (functools.partial(f, support=support) for f in (self._error, self._gradient))
    state = self._replicate((params, inner_rules.init_state(rates, params)))
    for i in range(steps):
      own = jax.tree.map(operator.itemgetter(i), rates)
      state, value = maml.step(loss, own, state, value_and_grad=gradient)
      yield state[0], value

  def error(self, params: Params, lr: Float[np.ndarray, "h w 3"], degradation: Degradation, scale: float) -> float:
    """The mean absolute error of LR son -> LR image, which `adapt` lowers. Args: see `adapt`."""
    checks.check_image(lr)
    support = self._support(params, lr, checks.checked(degradation), scale)
    return float(self._error(self._replicate(params), support))

  def fine_tune(
      self,
      params: Params,
      lr: Float[np.ndarray, "h w 3"],
      degradation: Degradation,
      scale: float,
      optimizer: optax.GradientTransformation,
  ) -> Iterator[Params]:
    """As `adapt`, by any optimizer: for networks that were not trained for plain gradient steps of known rates (Figure 3).

    Args:
      optimizer: a part of the compiled program: give each call the same object, or each compiles anew.
      others: see `adapt`.

    Yields:
      The parameters after each step, without end.
    """
    checks.check_image(lr)
    support = self._support(params, lr, checks.checked(degradation), scale)
    params = self._replicate(params)
    state = optimizer.init(params)
    while True:
      _, gradient = self._gradient(params, support)
      params, state = _update(params, state, gradient, optimizer=optimizer)
      yield params

  def _support(self, params: Params, lr, of: Degradation, scale: float) -> _Support:
    """What the network is adapted to."""
    bucket = self.bucket(lr.shape[:2])
    son = degrade(lr, of, scale, tuple(resize.shrunk_size(length, scale) for length in bucket), device=self.devices[0])
    if of.noise_std:
      son += np.float32(of.noise_std) * degradation.son_noise(son.shape)
    net = self._network(params)
    plan = _plan(net, son.shape[:2], lr.shape[:2], of, scale, self._tile_size(net.reach(scale), bucket, _bytes_per_pixel(net)))
    groups = [
        (batch, self._stack([_cut(lr, (v.span.start, h.span.start), plan.size) for v, h in some]))
        for some, batch in self._batches(np.clip(son, 0, 1), plan)
    ]
    if len(groups) == 1:  # kept on the devices from step to step
      groups = [self._shard(groups[0])]
    zeros = self._replicate((np.float32(0), jax.tree.map(lambda p: np.zeros(p.shape, np.float32), params)))
    return _Support(groups, np.float32(1 / lr.size), zeros)

  def _gradient(self, params: Params, support: _Support) -> tuple[Float[Array, ""], Params]:
    """The mean absolute error over all tiles, and its gradient."""
    total = support.zeros
    for group in support.groups:
      total = _add(total, params, *self._shard(group), support.weight, mesh=self._mesh, net=self._network(params))
      if len(support.groups) > 1:
        jax.block_until_ready(total)  # no more than one batch lies on the devices
      self.on_progress(network_passes(1, 0, 1) / len(support.groups))
    return total

  def _error(self, params: Params, support: _Support) -> np.float32:
    """The mean absolute error over all tiles."""
    # Each is fetched before the next is sent: no more than one batch of tiles lies on the devices.
    net = self._network(params)
    error = lambda group: float(_error(params, *self._shard(group), support.weight, mesh=self._mesh, net=net))
    return np.float32(sum(map(error, support.groups)))

  def enlarge(
      self,
      params: Params,
      lr: Float[np.ndarray, "h w 3"],
      scale: float,
      degradation: Degradation | None = None,
  ) -> Iterator[tuple]:
    """SR tiles one after another: `core.adapt.super_resolve`.

    Args: see `core.adapt.super_resolve`.

    Yields:
      (rows, columns, tile): slices into the SR image, and its float32 values there, in [0, 1].
    """
    checks.check_image(lr)
    net = self._network(params)
    of = Degradation(np.ones((1, 1), np.float32)) if degradation is None else degradation
    full, bucket = (tuple(resize.enlarged_size(n, scale) for n in size) for size in (lr.shape[:2], self.bucket(lr.shape[:2])))
    plan = _plan(net, lr.shape[:2], full, of, scale, self._tile_size(net.reach(scale), bucket, _BYTES_PER_ENLARGED_PIXEL))
    params = self._replicate(params)
    for some, batch in self._batches(lr, plan):  # made as needed: of a large image they take much memory
      sr = np.asarray(_run(params, self._shard(batch), mesh=self._mesh, net=net))
      for (vertical, horizontal), tile in zip(some, sr):
        v, h = vertical.span, horizontal.span
        core = tile[v.first - v.start : v.stop - v.start, h.first - h.start : h.stop - h.start]
        yield slice(v.first, v.stop), slice(h.first, h.stop), core
      self.on_progress(network_passes(0, 1, scale) * len(some) / len(plan.tiles))

  def super_resolve(
      self,
      params: Params,
      lr: Float[np.ndarray, "h w 3"],
      scale: float,
      degradation: Degradation | None = None,
      dtype: type = np.uint8,
  ) -> Shaped[np.ndarray, "p q 3"]:
    """The enlarged image.

    Args:
      dtype: of the pixels, see `images.quantize`.
      others: see `core.adapt.super_resolve`.

    Raises:
      UserError: the result holds NaN: the adaptation diverged.
    """
    out = np.empty((*(resize.enlarged_size(length, scale) for length in lr.shape[:2]), 3), dtype)
    for rows, columns, tile in self.enlarge(params, lr, scale, degradation):
      out[rows, columns] = images.quantize(tile, dtype)
    return out

  def trajectory(
      self,
      params: Params,
      lr: Float[np.ndarray, "h w 3"],
      degradation: Degradation,
      shown: Sequence[int],
      scale: float,
      inner_lrs: float | Rates | Spectral,
  ) -> dict[int, UInt8[np.ndarray, "p q 3"]]:
    """SR images after several numbers of steps, in one pass of the adaptation: `core.adapt.trajectory`, to 8 bits."""
    states = self.iterate(params, lr, degradation, scale, inner_lrs, shown[-1])
    return {i: self.super_resolve(state, lr, scale, degradation) for i, (state, _) in enumerate(states) if i in shown}

  def bucket(self, size: Size) -> Size:
    """The size that LR images of `size` are treated as: their own where no sizes were announced."""
    return self._buckets.get(size, size)

  def warm_up(
      self, params: Params, size: Size, degradation: Degradation, scale: float, inner_lrs: PyTree = ANY_RATES
  ) -> None:
    """Compiles what LR images of `size` and a degradation need, where it is not yet.

    Of the rates, only the rule matters: gradient steps or `Spectral`.
    """
    side = max(len(degradation.kernel), EVALUATION_SIZE)
    net = self._network(params)
    told = tuple(map(np.shape, jax.tree.leaves(net.tell(degradation, scale))))
    key = (net, told, self.bucket(size), degradation.subsample, side, scale, isinstance(inner_lrs, Spectral))
    if key not in self._warm:
      self._warm.add(key)
      lr = np.zeros((*size, 3), np.float32)
      steps = min(1, np.size(jax.tree.leaves(inner_lrs)[0]))
      params = self.adapt(params, lr, degradation, scale, inner_lrs, steps)
      collections.deque(self.enlarge(params, lr, scale, degradation), maxlen=0)

  def limit_tiles(self, side: int) -> None:
    """Makes tiles no larger than squares of about `side` pixels; at least their halo, and what is then left, is kept."""
    self._max_side = min(self._max_side, max(side, _MIN_TILE))

  def _network(self, params: Params) -> Network:
    return networks.of(params).clone(precision=self.precision)

  def _tile_size(self, halo: int, bucket: Size, bytes_per_pixel: float) -> Size:
    """The tile size for a bucket."""
    area = int(min(self._bytes_per_device / bytes_per_pixel, (self._max_side + 2 * halo) ** 2))
    return tiles.fit(bucket, area, halo, len(self.devices), step=8 if self._buckets else 32)

  def _batches(self, image: np.ndarray, plan: _Plan) -> Iterator[tuple[list[tuple[_Strip, _Strip]], _Batch]]:
    """Tiles of the enlargement of `image`, as many at a time as there are devices."""
    for i in range(0, len(plan.tiles), len(self.devices)):
      some = plan.tiles[i : i + len(self.devices)]
      batch = self._stack([_tile(image, plan, *pair) for pair in some])
      batch.core[len(some) :] = 0
      yield some, batch

  def _stack(self, per_device: list[PyTree]) -> PyTree:
    """Stacks one entry per device. An idle one repeats the first: a tile of zeros is of scale 0, and its gradient is NaN."""
    per_device = per_device + (len(self.devices) - len(per_device)) * per_device[:1]
    return jax.tree.map(lambda *leaves: np.stack(leaves), *per_device)

  def _shard(self, tree: PyTree) -> PyTree:
    return jax.device_put(tree, NamedSharding(self._mesh, _ON_EACH))

  def _replicate(self, tree: PyTree) -> PyTree:
    return jax.device_put(tree, NamedSharding(self._mesh, _ON_ALL))


def _cut(image: np.ndarray, start: tuple[int, int], size: Size) -> np.ndarray:
  """A part of an image, with zeros beyond it."""
  part = image[start[0] : start[0] + size[0], start[1] : start[1] + size[1]]
  return np.pad(part, ((0, size[0] - part.shape[0]), (0, size[1] - part.shape[1]), (0, 0)))


def _tile(image: np.ndarray, plan: _Plan, vertical: _Strip, horizontal: _Strip) -> _Batch:
  """One tile of the enlargement of `image`, without the axis of devices."""
  pair = vertical, horizontal
  part = _cut(image, tuple(strip.lr_start for strip in pair), tuple(strip.lr_side for strip in pair))
  inside = tuple(np.arange(side) < length - strip.span.start for side, length, strip in zip(plan.size, plan.full, pair))
  core = [bound - strip.span.start for strip in pair for bound in (strip.span.first, strip.span.stop)]
  return _Batch(part, vertical.axis, horizontal.axis, plan.told, inside, np.array(core, np.int32))


def _bytes_per_pixel(net: Network) -> float:
  return _BYTES_PER_PIXEL * net.activations / NET.activations
