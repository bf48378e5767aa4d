"""The unrolled network: data steps and passes of a small CNN in turn (beyond the paper). Pure: parameters in, image out.

The degradation is known and linear, so what it leaves of the image is put right in closed form (`data_step`), and the CNN has
to know natural images alone. One set of parameters serves every kernel, scale, subsampling and noise.
"""

import itertools
import math
from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Key, PyTree

from mzsr_jax.core import conv, forward_operator, resize
from mzsr_jax.core.data_step import data_step, preconditioner
from mzsr_jax.core.forward_operator import Axis, ForwardOperator, Taps
from mzsr_jax.core.kernels import Degradation, first_moments, padded
from mzsr_jax.core.network import Params

_FREQUENCIES = (np.pi * np.arange(-4, 5) / 4).astype(np.float32)  # radians per HR pixel, of `describe`
_DILATION = 4  # pixels, of the layer that looks further
_CELL = 4  # places of a cell along an axis, which the coarse pass takes for one pixel
_HIDDEN = 32  # of the layer between a degradation and the biases
_INITIAL_MU = 2e-3, 200.0  # without noise, and times its variance


class Observation(NamedTuple):
  """What the network is told of an image, or, with one more axis, of each of several.

  Attributes:
    lr: LR image, RGB in [0, 1].
    operator: how it came from the HR image.
    spectrum: `data_step.preconditioner` of that.
    start: the LR image enlarged by bicubic, put where the operator has it.
    coverage: how much of the LR image each HR pixel is seen in, about 1.
    code: see `describe`.
    noise_std: in [0, 1] units.
    places: see `Told`.
  """

  lr: Float[Array, "*n p q 3"]
  operator: ForwardOperator
  spectrum: Float[Array, "*n p f"]
  start: Float[Array, "*n h w 3"]
  coverage: Float[Array, "*n h w 1"]
  code: Float[Array, "*n d"]
  noise_std: Float[Array, "*n"]
  places: Float[Array, "*n c a"]


class Told(NamedTuple):
  """A degradation as arrays.

  Attributes:
    kernel: (k, k).
    taps: of the kernel.
    scale: s.
    is_bicubic: 1 where the subsampling is bicubic, 0 where it is direct.
    noise_std: in [0, 1] units.
    places: see `cell_places`.
  """

  kernel: Float[ArrayLike, "k k"]
  taps: Taps
  scale: Float[ArrayLike, ""]
  is_bicubic: Float[ArrayLike, ""]
  noise_std: Float[ArrayLike, ""]
  places: Float[ArrayLike, "c a"]


def cell_side(scale: float) -> int:
  """HR pixels of a cell along an axis: about what an LR pixel covers, from 2 to `_CELL`."""
  return min(max(math.floor(scale + 0.5), 2), _CELL)


def cell_places(scale: float) -> Float[np.ndarray, "c a"]:
  """How much of each of the `_CELL` places of a cell its pixels cover, c along an axis: so cells of all sides share weights."""
  side = cell_side(scale)
  return np.repeat(np.eye(side, dtype=np.float32), _CELL, axis=1).reshape(side, _CELL, side).mean(2)


def observe(lr: Float[Array, "p q 3"], rows: Axis, columns: Axis, told: Told) -> Observation:
  """The observation of one image, or of a tile of it, by its axes. All arguments may be traced."""
  operator = forward_operator.make(told.taps, rows, columns)
  ones = jnp.ones((*lr.shape[:2], 1), lr.dtype)
  coverage = told.scale * jnp.sqrt(jnp.maximum(forward_operator.adjoint(operator, ones), 0))
  # Direct subsampling keeps the first pixel of each cell, not its middle.
  shift = (1 - told.is_bicubic) * (told.scale - 1) / 2
  centre = first_moments(jnp.asarray(told.kernel))
  up = [_enlargement(axis, told.scale, c - shift) for axis, c in zip((rows, columns), centre)]
  start = jnp.einsum("hp,pqc,wq->hwc", up[0], lr, up[1], precision="highest")
  noise_std, places = jnp.asarray(told.noise_std, lr.dtype), jnp.asarray(told.places)
  return Observation(lr, operator, preconditioner(operator), start, coverage, describe(told), noise_std, places)


def _enlargement(axis: Axis, scale, offset) -> Float[Array, "h p"]:
  """Bicubic enlargement of an axis to HR pixels that are `offset` further: as `resize.enlarge`, of traced arguments."""
  (p, h), count = axis.down.shape, axis.lr_length
  u = (axis.hr_start + jnp.arange(h, dtype=jnp.float32) + 0.5 - offset) / scale - 0.5
  u = jnp.clip(u, -1.5, count + 0.5)[:, None]
  i = axis.lr_start + jnp.arange(p, dtype=jnp.float32)
  weights = sum(resize.cubic(u - m[None], jnp) for m in (i, -1 - i, 2 * count - 1 - i))
  weights = jnp.where((i < count)[None], weights, 0)
  return weights / jnp.maximum(weights.sum(1, keepdims=True), 1e-6)


def describe(told: Told) -> Float[Array, " d"]:
  """A degradation in numbers of about 1: the kernel's absolute response at a grid of frequencies, scale, subsampling, noise."""
  kernel = jnp.asarray(told.kernel)
  axis = jnp.arange(kernel.shape[0], dtype=kernel.dtype) - kernel.shape[0] // 2
  phase = _FREQUENCIES[:, None] * axis[None]
  waves = jax.lax.complex(jnp.cos(phase), jnp.sin(phase))
  kernel = kernel.astype(waves.dtype)
  response = jnp.abs(jnp.matmul(jnp.matmul(waves[4:], kernel, precision="highest"), waves.T, precision="highest")).ravel()
  level = jnp.asarray(told.noise_std, response.dtype) * 255
  others = [jnp.log2(told.scale), told.is_bicubic, level / 25, jnp.log(level + 0.3) / 3]
  return jnp.concatenate([response - 0.5, jnp.stack([jnp.asarray(x, response.dtype) for x in others])])


class UnrolledNet(nn.Module):
  """A data step, then passes of a CNN, with a data step after each.

  Before the passes there may be a coarse one, whose pixels are cells of HR pixels, about as large as LR pixels. So it sees
  further, and takes less time. After it comes a data step too.

  Attributes:
    passes: of the CNN at full resolution, with weights of their own.
    rounds: how often these are gone through.
    features: channels of the CNN.
    blocks: residual blocks of two convolutions in a pass.
    coarse_features: channels of the coarse pass.
    coarse_blocks: its residual blocks; 0 for no coarse pass.
    coarse_rounds: how often it is gone through.
    iterations: of each data step, see `data_step`.
    most_iterations: where these are too few, as for fractions with direct subsampling.
    precision: of the convolutions between the first and the last of a pass, "float32" or "bfloat16"; all else is float32.
  """

  passes: int = 4
  rounds: int = 1
  features: int = 32
  blocks: int = 2
  coarse_features: int = 48
  coarse_blocks: int = 0
  coarse_rounds: int = 1
  iterations: int = 6
  most_iterations: int = 30
  precision: str = "float32"

  @nn.compact
  def __call__(
      self, groups: tuple[Observation, ...], mask: Float[Array, "n h w 1"] | None = None
  ) -> Float[Array, "n h w 3"]:
    """Runs the network.

    Args:
      groups: observations of several images each. All HR images have one size, and the LR images of a group.
      mask: see `MZSRNet.__call__`.

    Returns:
      HR images of all groups, not clipped.
    """
    join = lambda field: jnp.concatenate([getattr(group, field) for group in groups])
    apart = lambda x: jnp.split(x, np.cumsum([len(group.lr) for group in groups])[:-1])
    level = self.param("log_mu", _initial_log_mu, self._turns + 1)
    code, coverage = join("code"), join("coverage")

    def data_steps(z, level):
      parts = []
      for group, own in zip(groups, apart(z)):
        mu = jnp.exp(level[0]) + jnp.exp(level[1]) * group.noise_std**2
        step = lambda z, y, a, mu, spectrum: data_step(z, y, a, mu, self.iterations, spectrum, self.most_iterations)
        parts.append(_each(step, own, group.lr, group.operator, mu, group.spectrum))
      return jnp.concatenate(parts)

    cnn = _Pass(self.features, self.blocks, self.precision, parent=None)

    def one_pass(carried, own):
      (z, memory), (params, bias, level) = carried, own
      change, memory = cnn.apply({"params": params}, z, coverage, bias, memory, mask)
      return (data_steps(z + change, level), memory), None

    def given(name):
      init = lambda key: cnn.init(key, z, coverage, bias[:, 0], memory, mask)["params"]
      return self.get_variable("params", name) if self.has_variable("params", name) else self.param(name, init)

    z = data_steps(join("start"), level[0])
    if self.coarse_blocks:
      masks = [None] * len(groups) if mask is None else apart(mask)
      coarse = _CoarsePass(self.coarse_features, self.coarse_blocks, self.coarse_rounds, self.precision, name="coarse")
      memories = [None] * len(groups)
      for i in range(self.coarse_rounds):
        changes, levels, memories = zip(*(coarse(*own, i) for own in zip(groups, apart(z), memories, masks)))
        z = data_steps(z + jnp.concatenate(changes), levels[0])
    if not self._turns:
      return z
    bias = _bias(code, self._turns, self.features)
    # Zeros that differ from device to device as coverage does: under shard_map, what a scan carries keeps its type.
    memory = jnp.broadcast_to(0 * coverage, (*coverage.shape[:3], self.features)).astype(_inside(self.precision))
    each = self.rounds * [given(f"pass{i + 1}") for i in range(self.passes)]
    params = jax.tree.map(lambda *own: jnp.stack(own), *each)
    # One trace for all passes, though the program has each: tracing is much of what a command waits for.
    (z, _), _ = jax.lax.scan(one_pass, (z, memory), (params, jnp.moveaxis(bias, 1, 0), level[1:]), unroll=True)
    return z

  # The interface `network.Network`.

  @nn.nowrap
  def reach(self, scale: float) -> int:
    """HR pixels: so far from its ends, a tile is as the image is, to 1e-4, but for data steps that have not converged.

    The layers see as far as this: in each pass, two for a block, `_DILATION` for the layer that looks further, three for the
    first and the last two; in the coarse pass, two cells for a block and two for the first and the last. Trained weights see
    less far: with those that ship, nothing changes by more than 1e-4 beyond two thirds (measured at x1.5 to x4). What they see
    grows with the square root of the rounds of the coarse pass (the effective receptive field: Luo et al., NeurIPS 2016).
    """
    coarse = self._coarse_layers * math.sqrt(self.coarse_rounds)
    layers = self._turns * (2 * self.blocks + _DILATION + 3) + 4 + self.cell(scale) * coarse
    return math.ceil(2 * layers / 3)

  @nn.nowrap
  def cell(self, scale: float) -> int:
    """See `network.Network`."""
    return cell_side(scale) if self.coarse_blocks else 1

  @property
  def activations(self) -> int:
    """Numbers kept for an HR pixel."""
    coarse = self.coarse_rounds * self._coarse_layers * self.coarse_features / cell_side(1) ** 2
    return self._turns * (2 * self.blocks + 4) * self.features + math.ceil(coarse)

  @property
  def _turns(self) -> int:
    """Passes at full resolution, in all rounds."""
    return self.passes * self.rounds

  @property
  def _coarse_layers(self) -> int:
    """In one round."""
    return 2 * self.coarse_blocks + 2 if self.coarse_blocks else 0

  @property
  def is_told_kernel(self) -> bool:
    """See `network.Network`."""
    return True

  @nn.nowrap
  def init_params(self, key: Key[Array, ""]) -> Params:
    """Random parameters: variance scaling; the first result is that of the data steps, nearly."""
    observation = self.observe(jnp.zeros((8, 8, 3)), Degradation(jnp.ones((1, 1))), 1)
    return self.init(key, (jax.tree.map(lambda x: x[None], observation),))["params"]

  @nn.nowrap
  def observe(
      self, lr: Float[Array, "*n p q 3"], of: Degradation, scale: float, size: tuple[int, int] | None = None
  ) -> Observation:
    """See `network.Network`. The kernel's own centre counts, not the offset of the degradation."""
    if lr.ndim > 3:
      return jax.vmap(lambda lr: self.observe(lr, of, scale, size))(lr)
    size = size or tuple(resize.enlarged_size(length, scale) for length in lr.shape[:2])
    kernel = jnp.asarray(of.kernel, lr.dtype)
    told = Told(kernel, forward_operator.separable(kernel), *_numbers(of, scale))
    whole = lambda length, given: forward_operator.whole_axis(length, given, scale, of.subsample, kernel.shape[-1])
    return observe(lr, *(whole(*lengths) for lengths in zip(size, lr.shape)), told)

  @nn.nowrap
  def reconstruct(
      self, params: Params, observation: Observation, mask: Float[Array, "*n h w 1"] | None = None
  ) -> Float[Array, "*n h w 3"]:
    """See `network.Network`."""
    if observation.lr.ndim > 3:
      return self.apply({"params": params}, (observation,), mask)
    one = lambda tree: jax.tree.map(lambda x: x[None], tree)
    return self.apply({"params": params}, (one(observation),), one(mask))[0]

  @nn.nowrap
  def tell(self, of: Degradation, scale: float) -> Told:
    """See `network.Network`."""
    kernel = padded(np.asarray(of.kernel, np.float32))
    return Told(kernel, forward_operator.numerically_separable(kernel), *_numbers(of, scale))

  @nn.nowrap
  def tile_axis(
      self, of: Degradation, scale: float, axis: int, lr_length: int, length: int, start: int, side: int
  ) -> tuple[int, int, Axis]:
    """See `network.Network`."""
    lr_side = _fast_length(math.ceil(side / scale) + 6)
    kernel_size = padded(np.asarray(of.kernel)).shape[axis]
    made = forward_operator.tile_axis(length, lr_length, scale, of.subsample, kernel_size, start, side, lr_side)
    return int(made.lr_start), lr_side, made

  @nn.nowrap
  def observe_tile(self, lr: Float[Array, "p q 3"], rows: Axis, columns: Axis, told: Told) -> Observation:
    """See `network.Network`."""
    return observe(lr, rows, columns, told)


def _numbers(of: Degradation, scale: float) -> tuple:
  """Scale, kind of subsampling, noise and places of `Told`."""
  return np.float32(scale), np.float32(of.subsample == "bicubic"), jnp.asarray(of.noise_std, jnp.float32), cell_places(scale)


def _fast_length(least: int) -> int:
  """The first length from `least` on whose prime factors are 2, 3 and 5: the FFT of others can take several times as long."""
  return next(length for length in itertools.count(least) if 30**20 % length == 0)


def _initial_log_mu(key: Key[Array, ""], steps: int) -> Float[Array, "s 2"]:
  """Logarithms of mu without noise, and of how it grows with the variance of the noise."""
  del key
  return jnp.tile(jnp.log(jnp.array(_INITIAL_MU)), (steps, 1))


def _each(function: Callable[..., Array], *args: PyTree) -> Array:
  """`function` of each image: not by jax.vmap where there is one, since slices at batched places are slow on a CPU."""
  if len(args[0]) > 1:
    return jax.vmap(function)(*args)
  return function(*jax.tree.map(lambda x: x[0], args))[None]


def _inside(precision: str) -> type:
  """The type of what lies between the first and the last convolution of a pass."""
  return jnp.bfloat16 if precision == "bfloat16" else jnp.float32


def _bias(code: Float[Array, "n d"], turns: int, features: int) -> Float[Array, "n t 1 1 f"]:
  """What a degradation adds to features in each turn: two layers of the module that calls."""
  hidden = nn.tanh(nn.Dense(_HIDDEN, name="code")(code))
  bias = nn.Dense(turns * features, kernel_init=nn.initializers.zeros, name="bias")(hidden)
  return bias.reshape(-1, turns, 1, 1, features)


def _init(scale: float) -> nn.initializers.Initializer:
  """Variance scaling; zeros for 0."""
  return nn.initializers.variance_scaling(scale, "fan_in", "truncated_normal") if scale else nn.initializers.zeros


def _convolve(module: nn.Module, x: Array, mask: Array | None, features: int, name: str, dtype, scale, dilation=1) -> Array:
  """A convolution by 3x3 weights of a module, in `dtype`; of what pads the image, it sees zeros."""
  weights = module.param(name, _init(scale), (3, 3, x.shape[-1], features)).astype(dtype)
  x = x.astype(dtype)
  # What pads the image is 0 for each layer, as what lies beyond its edge is. The layers have no biases, but for that of
  # the degradation: on a CPU, their gradients would cost half as much as the convolutions.
  x = x if mask is None else x * mask.astype(dtype)
  return conv.dilated(x, weights, dilation)


def _mix(module: nn.Module, x: Array, features: int, name: str, scale) -> Array:
  """The channels of each pixel mixed by weights of a module, in the type of `x`."""
  weights = module.param(name, _init(scale), (x.shape[-1], features))
  return jnp.matmul(x, weights.astype(x.dtype))


class _Pass(nn.Module):
  """What a CNN changes of z, and its features, which the pass after is given."""

  features: int
  blocks: int
  precision: str

  @nn.compact
  def __call__(self, z, coverage, bias, memory, mask):
    inside = _inside(self.precision)

    def convolve(x, features, name, dtype=inside, scale=1.0, dilation=1):
      return _convolve(self, x, mask, features, name, dtype, scale, dilation)

    first = convolve(jnp.concatenate([z - 0.5, coverage], -1), self.features, "first", jnp.float32) + bias
    h = first.astype(inside) + _mix(self, memory, self.features, "carried", 0.25)
    # What lies further away, as far as a kernel of 9 pixels sees: of half the channels, which costs little.
    context = conv.relu(_mix(self, conv.relu(h), self.features // 2, "context_in", 2.0))
    context = conv.relu(convolve(context, self.features // 2, "context", scale=2.0, dilation=_DILATION))
    h = h + _mix(self, context, self.features, "context_out", 0.0)
    for i in range(self.blocks):
      inner = conv.relu(convolve(conv.relu(h), self.features, f"block{i + 1}a", scale=2.0))
      h = h + convolve(inner, self.features, f"block{i + 1}b", scale=0.5)
    last = conv.relu(convolve(conv.relu(h), self.features, "last", scale=2.0))
    return convolve(last, z.shape[-1], "out", jnp.float32, scale=0.02), h


class _CoarsePass(nn.Module):
  """What a CNN on cells of pixels changes of z, and the logarithms of mu for the data step after it."""

  features: int
  blocks: int
  rounds: int
  precision: str

  @nn.compact
  def __call__(self, group, z, memory, mask, i):
    inside, (height, width), places = _inside(self.precision), z.shape[1:3], group.places[0]
    level = self.param("log_mu", _initial_log_mu, self.rounds)[i]
    x = jnp.concatenate([z - 0.5, group.coverage], -1)
    x = _to_cells(x if mask is None else x * mask, places)
    seen = None if mask is None else _to_cells(mask, places).max(-1, keepdims=True)
    convolve = lambda x, features, name, scale: _convolve(self, x, seen, features, name, inside, scale)

    bias = _bias(group.code, self.rounds, self.features)[:, i]
    h = convolve(x, self.features, "first", 1.0) + bias.astype(inside)
    if self.rounds > 1:
      h += _mix(self, jnp.zeros_like(h) if memory is None else memory, self.features, "carried", 0.0)
    self.sow("intermediates", "carried", h)
    for j in range(self.blocks):
      inner = conv.relu(convolve(h, self.features, f"block{j + 1}a", 2.0))
      h = h + convolve(inner, self.features, f"block{j + 1}b", 0.1)
      self.sow("intermediates", "inner", inner)
      self.sow("intermediates", "carried", h)
    out = convolve(h, _CELL**2 * z.shape[-1], "out", 0.0)  # changes nothing at first
    return _from_cells(out.astype(z.dtype), places)[:, :height, :width], level, h


def _to_cells(x: Float[Array, "n h w d"], places: Float[Array, "c a"]) -> Float[Array, "n p q e"]:
  """Each cell of pixels as one pixel, with as many more channels as it has places; zeros fill the cells at the ends."""
  side = len(places)
  x = jnp.pad(x, ((0, 0), (0, -x.shape[1] % side), (0, -x.shape[2] % side), (0, 0)))
  n, h, w, d = x.shape
  cells = x.reshape(n, h // side, side, w // side, side, d)
  cells = jnp.einsum("npcqed,ca,eb->npqabd", cells, places, places, precision="highest")
  return cells.reshape(*cells.shape[:3], -1)


def _from_cells(x: Float[Array, "n p q e"], places: Float[Array, "c a"]) -> Float[Array, "n h w d"]:
  """The inverse of `_to_cells`; a pixel at several places gets their mean."""
  n, p, q, _ = x.shape
  means = places / places.sum(1, keepdims=True)
  cells = x.reshape(n, p, q, _CELL, _CELL, -1)
  pixels = jnp.einsum("npqabd,ca,eb->npcqed", cells, means, means, precision="highest")
  return pixels.reshape(n, p * len(places), q * len(places), -1)
