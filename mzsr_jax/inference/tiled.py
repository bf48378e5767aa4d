"""Meta-test (Algorithm 2) for images of any size, many sizes and several devices: what the commands run.

The same functions as in `core.adapt`, run on windows of few sizes (see `tiles`), so that images of different sizes share
compiled programs and a large image never lies on a device as a whole. Kernel, number of steps, learning rates and scale are
values, not parts of a program. Results equal those of `core.adapt` but for rounding: padding is masked after each layer, and
the L1 gradient is summed over windows.
"""

import collections
import functools
import operator
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, Float, Int, PyTree, Shaped

from mzsr_jax import images
from mzsr_jax.core import conditioning, degradation, inner_rules, kernels, model, resize, sharding
from mzsr_jax.core.kernels import EVALUATION_SIZE, Degradation
from mzsr_jax.core.model import NET, MZSRNet, Params
from mzsr_jax.errors import UserError
from mzsr_jax.inference import tiles
from mzsr_jax.inference.tiles import Size, Span

ANY_RATES = np.zeros(1, np.float32)  # of a gradient step
_AXIS = "windows"
_BYTES_PER_PIXEL = 4200  # of a window in a gradient step, with 64 channels: activations, their gradients and copies
_LEAST_WINDOW = 64  # pixels, side
_DEGRADED_AREA = 256 * 256  # pixels that are degraded at a time


class _Batch(NamedTuple):
  """One window for each device, stacked on the leading axis.

  Attributes:
    image: what is enlarged: the LR son (to adapt) or the LR image (to enlarge).
    rows: matrix of the enlargement, vertically; zero beyond the image.
    columns: horizontally.
    valid: (d, 2) height and width of what lies inside the image, from the window's top left.
    core: (d, 4) first and last row, first and last column of the core, relative to the window; empty for an idle device.
  """

  image: Float[Array, "d h w 3"]
  rows: Float[Array, "d p h"]
  columns: Float[Array, "d q w"]
  valid: Int[Array, "d 2"]
  core: Int[Array, "d 4"]


class _Support(NamedTuple):
  """LR son -> LR image, in windows.

  Attributes:
    groups: (batch of the son, windows of the LR image), each of as many windows as there are devices.
    weight: 1 / (number of values in the LR image).
    zeros: an error of 0 and a gradient of 0, on the devices: where sums begin.
  """

  groups: list[tuple[_Batch, Float[Array, "d p q 3"]]]
  weight: np.float32
  zeros: tuple[Float[Array, ""], Params]


def _inside(size: Size, bounds: Int[Array, " 4"]) -> Bool[Array, "h w 1"]:
  """True from row bounds[0] to bounds[1] and column bounds[2] to bounds[3]."""
  row, column = jnp.arange(size[0])[:, None, None], jnp.arange(size[1])[None, :, None]
  return (row >= bounds[0]) & (row < bounds[1]) & (column >= bounds[2]) & (column < bounds[3])


def _network(params: Params, batch: _Batch, net: MZSRNet) -> Float[Array, "p q 3"]:
  """The network's output on the one window of a device."""
  x = degradation.apply(batch.image[0], batch.rows[0], batch.columns[0])
  zero = jnp.zeros_like(batch.valid[0, 0])
  mask = _inside(x.shape[:2], jnp.stack([zero, batch.valid[0, 0], zero, batch.valid[0, 1]])).astype(x.dtype)
  return model.apply(params, x[None], net, mask[None])[0]


def _share(params: Params, batch: _Batch, targets: Float[Array, "1 p q 3"], weight, net: MZSRNet) -> Float[Array, ""]:
  """The share of a batch of windows in the mean absolute error; `weight` is 1 / (number of values in the image)."""
  error = jnp.abs(_network(sharding.vary(params, _AXIS), batch, net) - targets[0])
  return lax.psum(jnp.where(_inside(error.shape[:2], batch.core[0]), error, 0).sum() * weight, _AXIS)


_ON_EACH, _ON_ALL = PartitionSpec(_AXIS), PartitionSpec()


@functools.partial(jax.jit, static_argnames=("mesh", "net"))
def _add(total, params, batch, targets, weight, *, mesh: Mesh, net: MZSRNet):
  """Adds a batch of windows to `total`, the mean absolute error and its gradient; `weight` is 1 / (number of values)."""

  def local(total, params, batch, targets, weight):
    return jax.tree.map(jnp.add, total, jax.value_and_grad(_share)(params, batch, targets, weight, net))

  specs = (_ON_ALL, _ON_ALL, _ON_EACH, _ON_EACH, _ON_ALL)
  return jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=_ON_ALL)(total, params, batch, targets, weight)


@functools.partial(jax.jit, static_argnames=("mesh", "net"))
def _error(params, batch, targets, weight, *, mesh: Mesh, net: MZSRNet):
  """`_share` of windows that lie on the devices."""
  local = functools.partial(_share, net=net)
  specs = (_ON_ALL, _ON_EACH, _ON_EACH, _ON_ALL)
  return jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=_ON_ALL)(params, batch, targets, weight)


@functools.partial(jax.jit, static_argnames="optimizer")
def _update(params, state, gradient, *, optimizer: optax.GradientTransformation):
  with jax.numpy_dtype_promotion("standard"):  # optax raises floats to integer powers
    updates, state = optimizer.update(gradient, state, params)
  return optax.apply_updates(params, updates), state


@functools.partial(jax.jit, static_argnames=("mesh", "net"))
def _run(params, batch, *, mesh: Mesh, net: MZSRNet):
  """SR windows (d, p, q, 3) in [0, 1]; with `net` None, their bicubic enlargements."""

  def local(params, batch):
    if net is None:
      sr = degradation.apply(batch.image[0], batch.rows[0], batch.columns[0])
    else:
      sr = _network(sharding.vary(params, _AXIS), batch, net)
    return jnp.clip(sr, 0, 1)[None]

  return jax.shard_map(local, mesh=mesh, in_specs=(_ON_ALL, _ON_EACH), out_specs=_ON_EACH)(params, batch)


@jax.jit
def _degrade(window, kernel, rows, columns):
  return degradation.apply(degradation.correlate(window, kernel), rows, columns)


def degrade(
    image: Float[np.ndarray, "h w 3"],
    kind: Degradation,
    scale: float,
    bucket: Size | None = None,
    dtype: type = np.float32,
    device: jax.Device | None = None,
) -> Float[np.ndarray, "p q 3"]:
  """`degradation.degrade` by windows: the noise-free LR image, unclipped, ceil(H / s) x ceil(W / s), on the host.

  Args:
    image: in [0, 1].
    kind: kernel and subsampling.
    scale: scale factor.
    bucket: the size that the result is treated as, see `Solver.bucket`; default: its own.
    dtype: np.float32, or np.float64 for results that are rounded to 8 bits like others' (about five values in 10^5 differ).
    device: to compute on; default: JAX's own.
  """
  small = tuple(resize.shrunk_size(length, scale) for length in image.shape[:2])
  size = tiles.fit(bucket or small, _DEGRADED_AREA, 0, step=8)
  kernel = kernels.padded(kind.kernel).astype(dtype)
  reach = kernel.shape[0] // 2
  out = np.empty((*small, 3), dtype)
  with jax.enable_x64(dtype == np.float64), jax.default_device(device):
    for spans in tiles.grid(small, size, 0):
      blocks = [
          resize.shrink_block(length, scale, kind.subsample, s.first, s.last - s.first, side)
          for length, s, side in zip(image.shape, spans, size)
      ]
      taken = [
          resize.mirror(np.arange(b.start - reach, b.start + b.matrix.shape[1] + reach), length)
          for b, length in zip(blocks, image.shape)
      ]
      window = image[np.ix_(*taken)].astype(dtype)
      made = _degrade(window, kernel, *(b.matrix.astype(dtype) for b in blocks))
      (top, bottom), (left, right) = ((s.first, s.last) for s in spans)
      out[top:bottom, left:right] = np.asarray(made)[: bottom - top, : right - left]
  return out


def make_lr(gt: images.Pixels, kind: Degradation, scale: int, bucket: Size | None = None, device=None) -> images.Pixels:
  """The LR image of a ground truth whose sides the scale divides: blurred, subsampled, clipped, rounded to 8 bits.

  Args: see `degrade`.
  """
  # In float64: in float32 a few values in 100,000 fall on the other side of a rounding.
  return images.to_uint8(degrade(gt / 255, kind, scale, bucket, np.float64, device))


def default_memory(devices: Sequence[jax.Device]) -> float:
  """Bytes to use where the user names none: half of what the accelerators have, 2 GiB on a CPU."""
  stats = [device.memory_stats() or {} for device in devices]
  if all("bytes_limit" in s for s in stats):
    return 0.5 * sum(s["bytes_limit"] for s in stats)
  return 2 * 2**30


def work(steps: int, enlargements: int, scale: float) -> float:
  """Work in passes of the network over the LR image: three a step (forward, two gradients), and one over the SR image."""
  return 3 * steps + enlargements * scale**2


class Solver:
  """Adapts and enlarges images, all devices at work on one image.

  Attributes:
    devices: that windows are spread over, no more of those given than the memory limit has room for.
    done: called after each batch of windows with the work that it was, see `work`; for progress bars.
  """

  def __init__(
      self,
      devices: Sequence[jax.Device] | None = None,
      memory_limit: float | None = None,
      sizes: Sequence[Size] = (),
      net: MZSRNet = NET,
      max_buckets: int = 4,
  ):
    """Makes a solver.

    Args:
      devices: default: all local ones.
      memory_limit: bytes for what lies on the devices, all together (default: 2 GiB, or half of an accelerator's memory).
        Smaller limits give smaller windows.
      sizes: heights and widths of the LR images to come, where they are known. Their windows then have at most
        `max_buckets` sizes; else sides are rounded up.
      net: the network.
      max_buckets: see `sizes`.

    Raises:
      UserError: the limit is too low for the smallest windows.
    """
    devices = list(devices or jax.local_devices())
    limit = default_memory(devices) if memory_limit is None else memory_limit
    least = _LEAST_WINDOW**2 * _BYTES_PER_PIXEL * net.features / 64
    if limit < least:
      missing = (least - limit) / 2**20
      raise UserError(f"the memory limit leaves no room for the smallest windows: it must be {missing:.0f} MiB higher")
    self.devices = devices[: int(limit // least)]
    self.done: Callable[[float], None] = lambda passes: None
    self._net, self._halo = net, net.depth
    self._mesh = Mesh(np.array(self.devices), (_AXIS,))
    self._buckets = tiles.buckets(sizes, max_buckets) if sizes else {}
    self._warm: set[tuple] = set()
    self._max_area = int(limit / len(self.devices) / (_BYTES_PER_PIXEL * net.features / 64))

  def adapt(
      self, params: Params, lr: Float[np.ndarray, "h w 3"], kind: Degradation, scale: float, inner_lrs: PyTree
  ) -> Params:
    """Gradient steps on LR son -> LR image: `adapt.adapt`.

    Args:
      params: meta-learned parameters; conditioned ones begin at what they are for `kind`.
      lr: LR image, RGB float in [0, 1], on the host.
      kind: its kernel, subsampling, offset and noise.
      scale: scale factor.
      inner_lrs: (n,) rates of the n steps, or a tree shaped like `params` with (n,) for each leaf; either may be `Spectral`.
    """
    return collections.deque(self._states(params, lr, kind, scale, inner_lrs), maxlen=1).pop()

  def _states(self, params: Params, lr, kind: Degradation, scale: float, inner_lrs: PyTree) -> Iterator[Params]:
    """The parameters before the first step and after each, made as they are asked for. Args: see `adapt`."""
    params = _start(params, kind, scale)
    yield params
    rates = jax.tree.map(lambda rates: np.asarray(rates, np.float32), inner_rules.per_leaf(inner_lrs, params))
    if not (steps := len(jax.tree.leaves(rates)[0])):
      return
    support = self._support(params, lr, kind, scale)
    loss = lambda params: np.float32(self._error(params, support))
    params, memory = self._replicate((params, inner_rules.begin(rates, params)))
    for i in range(steps):
      own = jax.tree.map(operator.itemgetter(i), rates)
      change, memory = inner_rules.change(own, loss, params, *self._gradient(params, support), memory)
      params = inner_rules.subtract(params, change)
      yield params

  def error(self, params: Params, lr: Float[np.ndarray, "h w 3"], kind: Degradation, scale: float) -> float:
    """The mean absolute error of LR son -> LR image, which `adapt` lowers. Args: see `adapt`."""
    params = _start(params, kind, scale)
    return self._error(self._replicate(params), self._support(params, lr, kind, scale))

  def fine_tune(
      self,
      params: Params,
      lr: Float[np.ndarray, "h w 3"],
      kind: Degradation,
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
    params = _start(params, kind, scale)
    support = self._support(params, lr, kind, scale)
    params = self._replicate(params)
    state = optimizer.init(params)
    while True:
      _, gradient = self._gradient(params, support)
      params, state = _update(params, state, gradient, optimizer=optimizer)
      yield params

  def _support(self, params: Params, lr, kind: Degradation, scale: float) -> _Support:
    """What the network is adapted to."""
    son_bucket = tuple(resize.shrunk_size(length, scale) for length in self.bucket(lr.shape[:2]))
    son = degrade(lr, kind, scale, son_bucket, device=self.devices[0])
    if kind.noise_std:  # the same at every call, so that an adaptation in parts is one in a whole
      son += np.float32(kind.noise_std) * np.random.default_rng(0).standard_normal(son.shape, np.float32)
    son = np.clip(son, 0, 1)
    size = self._window(self.bucket(lr.shape[:2]))
    groups = [
        (batch, self._stack([_cut(lr, (v.start, h.start), size) for v, h in spans]))
        for spans, batch in self._batches(son, lr.shape[:2], scale, size, kind.offset)
    ]
    if len(groups) == 1:  # kept on the devices from step to step
      groups = [self._shard(groups[0])]
    zeros = self._replicate((np.float32(0), jax.tree.map(lambda p: np.zeros(p.shape, np.float32), params)))
    return _Support(groups, np.float32(1 / lr.size), zeros)

  def _gradient(self, params: Params, support: _Support) -> tuple[Float[Array, ""], Params]:
    """The mean absolute error over all windows, and its gradient."""
    total = support.zeros
    for group in support.groups:
      total = _add(total, params, *self._shard(group), support.weight, mesh=self._mesh, net=self._net)
      if len(support.groups) > 1:
        jax.block_until_ready(total)  # no more than one batch lies on the devices
      self.done(work(1, 0, 1) / len(support.groups))
    return total

  def _error(self, params: Params, support: _Support) -> float:
    """The mean absolute error over all windows."""
    # Each is fetched before the next is sent: no more than one batch of windows lies on the devices.
    return sum(float(_error(params, *self._shard(g), support.weight, mesh=self._mesh, net=self._net)) for g in support.groups)

  def enlarge(
      self,
      params: Params | None,
      lr: Float[np.ndarray, "h w 3"],
      scale: float,
      offset: tuple[float, float] = (0.0, 0.0),
  ) -> Iterator[tuple]:
    """SR windows one after another: `adapt.super_resolve`, or its bicubic part where `params` is None.

    Args: see `adapt.super_resolve`.

    Yields:
      (rows, columns, window): slices into the SR image, and its float32 values there, in [0, 1].
    """
    net = None if params is None else self._net
    full = tuple(resize.enlarged_size(length, scale) for length in lr.shape[:2])
    size = self._window(tuple(resize.enlarged_size(length, scale) for length in self.bucket(lr.shape[:2])))
    params = self._replicate({} if params is None else params)
    count = len(tiles.grid(full, size, self._halo))
    for spans, batch in self._batches(lr, full, scale, size, offset):  # made as needed: of a large image they take much memory
      sr = np.asarray(_run(params, self._shard(batch), mesh=self._mesh, net=net))
      for (v, h), window in zip(spans, sr):
        core = window[v.first - v.start : v.last - v.start, h.first - h.start : h.last - h.start]
        yield slice(v.first, v.last), slice(h.first, h.last), core
      self.done(work(0, 1, scale) * len(spans) / count if net else 0)

  def super_resolve(
      self,
      params: Params | None,
      lr: Float[np.ndarray, "h w 3"],
      scale: float,
      offset: tuple[float, float] = (0.0, 0.0),
      dtype: type = np.uint8,
  ) -> Shaped[np.ndarray, "p q 3"]:
    """The enlarged image; bicubic where `params` is None.

    Args:
      dtype: of the pixels, see `images.quantize`.
      others: see `adapt.super_resolve`.

    Raises:
      UserError: the result holds NaN: the adaptation diverged.
    """
    out = np.empty((*(resize.enlarged_size(length, scale) for length in lr.shape[:2]), 3), dtype)
    for rows, columns, window in self.enlarge(params, lr, scale, offset):
      out[rows, columns] = images.quantize(window, dtype)
    return out

  def trajectory(
      self,
      params: Params,
      lr: Float[np.ndarray, "h w 3"],
      kind: Degradation,
      shown: Sequence[int],
      scale: float,
      inner_lrs: PyTree,
  ) -> dict[int, images.Pixels]:
    """SR images after several numbers of steps, in one pass of the adaptation: `adapt.trajectory`, to 8 bits.

    Args:
      shown: numbers of steps, ascending.
      inner_lrs: as in `adapt`, of as many steps as the last of `shown`, or more.
      others: see `adapt`.
    """
    states = self.stages(params, lr, kind, shown, scale, inner_lrs)
    return {steps: self.super_resolve(state, lr, scale, kind.offset) for steps, state in zip(shown, states)}

  def stages(self, params: Params, lr, kind: Degradation, shown: Sequence[int], scale, inner_lrs) -> Iterator[Params]:
    """The parameters after several numbers of steps, each adapted when it is asked for. Args: see `trajectory`."""
    first = jax.tree.map(operator.itemgetter(slice(shown[-1])), inner_lrs)
    return (state for i, state in enumerate(self._states(params, lr, kind, scale, first)) if i in shown)

  def bucket(self, size: Size) -> Size:
    """The size that LR images of `size` are treated as: their own where no sizes were announced."""
    return self._buckets.get(size, size)

  def warm_up(
      self, params: Params | None, size: Size, kind: Degradation, scale: float, inner_lrs: PyTree = ANY_RATES
  ) -> None:
    """Compiles what LR images of `size` and `kind` need, where it is not compiled yet; without `params`, to enlarge alone.

    Of the rates it matters only which kind of step they ask for.
    """
    first = jax.tree.map(operator.itemgetter(slice(1)), inner_lrs)
    shape = max(len(kind.kernel), EVALUATION_SIZE)
    key = (params is None, self.bucket(size), kind.subsample, shape, scale, isinstance(inner_lrs, inner_rules.Spectral))
    if key not in self._warm:
      self._warm.add(key)
      lr = np.zeros((*size, 3), np.float32)
      if params is not None:
        params = self.adapt(params, lr, kind, scale, first)
      collections.deque(self.enlarge(params, lr, scale), maxlen=0)

  def limit_windows(self, side: int) -> None:
    """Makes windows no larger than squares of about `side` pixels; at least their halo, and what is then left, is kept."""
    self._max_area = min(self._max_area, (max(side, _LEAST_WINDOW) + 2 * self._halo) ** 2)

  def _window(self, bucket: Size) -> Size:
    """The window size for a bucket."""
    return tiles.fit(bucket, self._max_area, self._halo, len(self.devices), step=8 if self._buckets else 32)

  def _batches(
      self, image: np.ndarray, full: Size, scale: float, size: Size, offset: tuple[float, float]
  ) -> Iterator[tuple[list[tuple[Span, Span]], _Batch]]:
    """Windows of the enlargement of `image` to `full`, as many at a time as there are devices."""
    todo = tiles.grid(full, size, self._halo)
    for i in range(0, len(todo), len(self.devices)):
      spans = todo[i : i + len(self.devices)]
      yield spans, self._stack([_window_of(image, full, scale, size, offset, pair) for pair in spans])

  def _stack(self, per_device: list[PyTree]) -> PyTree:
    """Stacks one entry per device; what is missing are zeros, an empty window."""
    missing = len(self.devices) - len(per_device)
    per_device = per_device + missing * [jax.tree.map(np.zeros_like, per_device[0])]
    return jax.tree.map(lambda *leaves: np.stack(leaves), *per_device)

  def _shard(self, tree: PyTree) -> PyTree:
    return jax.device_put(tree, NamedSharding(self._mesh, _ON_EACH))

  def _replicate(self, tree: PyTree) -> PyTree:
    return jax.device_put(tree, NamedSharding(self._mesh, _ON_ALL))


def _start(params: Params, kind: Degradation, scale: float) -> Params:
  return conditioning.start(params, kernels.padded(kind.kernel), scale, kind.noise_std)


def _cut(image: np.ndarray, start: tuple[int, int], size: Size) -> np.ndarray:
  """A window of an image, with zeros beyond it."""
  part = image[start[0] : start[0] + size[0], start[1] : start[1] + size[1]]
  return np.pad(part, ((0, size[0] - part.shape[0]), (0, size[1] - part.shape[1]), (0, 0)))


def _window_of(
    image: np.ndarray, full: Size, scale: float, size: Size, offset: tuple[float, float], spans: tuple[Span, Span]
) -> _Batch:
  """One window of the enlargement of `image`, without the axis of devices."""
  counts = [min(side, length - s.start) for side, length, s in zip(size, full, spans)]
  rows, columns = (
      resize.enlarge_block(length, scale, s.start, count, side, moved)
      for length, s, count, side, moved in zip(image.shape, spans, counts, size, offset)
  )
  part = _cut(image, (rows.start, columns.start), (rows.matrix.shape[1], columns.matrix.shape[1]))
  core = [bound - s.start for s in spans for bound in (s.first, s.last)]
  return _Batch(part, rows.matrix, columns.matrix, np.array(counts, np.int32), np.array(core, np.int32))
