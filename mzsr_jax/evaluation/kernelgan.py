"""KernelGAN (Bell-Kligler, Shocher and Irani, NeurIPS 2019): the blur kernel under which an image, shrunk, looks like itself.

Patches of a photo recur across scales, and most so under the kernel that made it. A generator without nonlinearities shrinks
crops of the LR image; a discriminator that sees 7x7 pixels learns to tell the result from the LR image's own pixels; what
the generator has become, once they are alike, is the kernel.

Being linear, the generator is collapsed to its one kernel before it is used: crops never pass through its 64 channels, and its
layers get the same gradients, which is what the depth is for. All layers correlate, as `degradation.blur` does.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jaxtyping import Array, Float, PyTree

from mzsr_jax.core import degradation, kernels, resize
from mzsr_jax.photo import blind, kernel_net
from mzsr_jax.photo.blind import Estimate
from mzsr_jax.photo.kernel_net import Gaussian, Prediction

# Of its kernels on Set14, mean square of the errors of their codes: it has no notion of its own error.
_VARIANCE = np.array([0.33, 0.06, 0.06])

ITERATIONS = 1500  # half of the authors': once the rate has fallen, at 750, the kernel hardly moves
SIZE = 13  # of the kernel
CROP = 64  # LR pixels that the generator shrinks, side
_CHANNELS = 64
_SIDES = (7, 5, 3, 1, 1, 1)  # of the generator's layers
_REACH = 7  # of the discriminator
_HIDDEN = 5  # its 1x1 layers between the first and the last
_PER_CALL = 250  # iterations of one compiled loop
_BICUBIC_UNTIL = 250  # iterations that lead the kernel to bicubic's, so that no other minimum is met first
_KEPT = 40  # pixels of the kernel: the smaller ones are what the training left of noise
_NOISE = 1 / 127.5  # on what the discriminator sees, which is in [-1, 1]: a level of 8 bits


class _State(NamedTuple):
  """Both networks and their optimizers; `direction`: of the spectral norm of each hidden layer."""

  generator: list[Float[Array, "k k c d"]]
  discriminator: PyTree
  direction: Float[Array, "l c"]
  generator_optimizer: PyTree
  discriminator_optimizer: PyTree


_rate = optax.piecewise_constant_schedule(2e-4, dict.fromkeys(range(750, ITERATIONS, 750), 0.1))
_optimizer = optax.adam(_rate, b1=0.5)


def _draw(rng: np.random.Generator, *shape: int) -> Float[np.ndarray, "..."]:
  """Weights (..., in, out), as large as Glorot's. By NumPy: JAX would compile its generator for seconds."""
  fans = np.prod(shape[-4:-2], dtype=int) * np.array(shape[-2:])
  return np.float32(rng.standard_normal(shape) / np.sqrt(fans.mean()))


def init_generator(rng: np.random.Generator) -> list[Float[np.ndarray, "k k c d"]]:
  """Weights of the generator's layers, (k, k, in, out)."""
  channels = (1, *[_CHANNELS] * (len(_SIDES) - 1), 1)
  return [_draw(rng, side, side, *pair) for side, pair in zip(_SIDES, zip(channels, channels[1:]))]


def collapse(layers: list[Float[Array, "k k c d"]]) -> Float[Array, "n n"]:
  """The one kernel that does what all layers do one after another, (13, 13) for the generator's.

  From the last to the first: the kernel from a layer's input is its weights, spread by the kernel from its output.
  """
  kernel = jnp.ones((1, 1, 1, 1), layers[0].dtype)  # (1, k, k, channels)
  for w in reversed(layers):
    pad = (w.shape[0] - 1,) * 2
    kernel = lax.conv_general_dilated(
        kernel, jnp.swapaxes(w[::-1, ::-1], 2, 3), (1, 1), (pad, pad), dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision="highest",
    )  # fmt: skip
  return kernel[0, :, :, 0]


def _init(rng: np.random.Generator) -> _State:
  generator = init_generator(rng)
  discriminator = {
      "first": _draw(rng, _REACH**2 * 3, _CHANNELS),
      "hidden": np.stack([_draw(rng, _CHANNELS, _CHANNELS) for _ in range(_HIDDEN)]),
      "gain": np.ones((_HIDDEN, _CHANNELS), np.float32),
      "shift": np.zeros((_HIDDEN, _CHANNELS), np.float32),
      "last": _draw(rng, _CHANNELS, 1),
  }
  direction = np.float32(rng.standard_normal((_HIDDEN, _CHANNELS)))
  return _State(generator, discriminator, direction, _optimizer.init(generator), _optimizer.init(discriminator))


def _spectral(w, direction):
  """One power iteration for each hidden layer: (largest singular values, new directions)."""
  unit = lambda v: v / (jnp.linalg.norm(v, axis=-1, keepdims=True) + 1e-12)
  left = unit(jnp.einsum("lcd,ld->lc", lax.stop_gradient(w), direction))
  right = unit(jnp.einsum("lcd,lc->ld", lax.stop_gradient(w), left))
  return jnp.einsum("lc,lcd,ld->l", left, w, right), right


def _discriminate(params, norms, image: Float[Array, "h w 3"]) -> Float[Array, " n"]:
  """How real each 7x7 patch looks, 0 to 1."""
  height, width = (length - _REACH + 1 for length in image.shape[:2])
  # All pixels of a patch as channels: 7 rows of each column, then 7 columns of those.
  x = jnp.concatenate([image[i : i + height] for i in range(_REACH)], -1)
  x = jnp.concatenate([x[:, i : i + width] for i in range(_REACH)], -1).reshape(height * width, -1) @ params["first"]

  def hidden(x, layer):
    w, norm, gain, shift = layer
    x = x @ (w / norm)
    x = (x - x.mean(0, keepdims=True)) * lax.rsqrt(x.var(0, keepdims=True) + 1e-5)
    return jax.nn.relu(x * gain[None] + shift[None]), None

  x, _ = lax.scan(hidden, x, (params["hidden"], norms, params["gain"], params["shift"]))
  return jax.nn.sigmoid((x @ params["last"])[:, 0])


def bicubic_kernel(scale: float) -> Float[np.ndarray, "13 13"]:
  """Of antialiased bicubic shrinking, with its centre on a pixel."""
  middle = 2 * SIZE
  # The offset has the one output pixel look at that pixel.
  taps = resize.bicubic(2 * middle + 1, 1, 1 / scale, 1 - (middle + 1 - (1 - scale) / 2) / scale)[0]
  taps = taps[middle - SIZE // 2 :][:SIZE] / taps[middle - SIZE // 2 :][:SIZE].sum()
  return np.float32(np.outer(taps, taps))


def _regularizers(kernel, late):
  """Sum to one and small at the borders from the start; few pixels and a centred mass once the kernel is bicubic's."""
  axis = np.arange(SIZE, dtype=np.float32) - SIZE // 2
  border = 15 * (1 - np.exp(-(axis[:, None] ** 2 + axis[None] ** 2) / 2 / SIZE**2))
  border[2:-2, 2:-2] = 0
  total = kernel.sum()
  centre = jnp.stack([(kernel.sum(1 - i) * axis).sum() for i in range(2)]) / (total + 1e-5)
  sparse = ((jnp.abs(kernel) + 1e-4) ** 0.2).mean()
  always = 0.5 * jnp.abs(1 - total) + jnp.abs(kernel * border).mean()
  return always + late * (5 * sparse + 0.5 * (centre**2).mean())


@functools.partial(jax.jit, static_argnames=("scale", "subsample"))
def _run(state: _State, start, crops, real, noise, *, scale: float, subsample: str):
  """One iteration for each crop: discriminator and generator take a step each. `noise`: (n, 2, ...) on real and generated."""
  side = CROP - SIZE + 1
  shrink = resize.shrink(side, scale, subsample)
  target = bicubic_kernel(scale) if subsample == "direct" else np.pad(np.ones((1, 1), np.float32), SIZE // 2)

  def generate(kernel, crop):
    if subsample == "direct" and scale == int(scale):
      step = int(scale)
      out = lax.conv_general_dilated(
          crop.transpose(2, 0, 1)[..., None], kernel[:, :, None, None], (step, step), "VALID",
          dimension_numbers=("NHWC", "HWIO", "NHWC"), precision="highest",
      )  # fmt: skip
      return out[..., 0].transpose(1, 2, 0)
    return degradation.resample(degradation.correlate(crop, kernel), shrink, shrink)

  def iterate(state: _State, given):
    number, crop, real, noise = given
    norms_of = lambda d: _spectral(d["hidden"], state.direction)
    early = (number < _BICUBIC_UNTIL).astype(crop.dtype)

    def generator_loss(layers):
      kernel = collapse(layers)
      fake = generate(kernel, crop)
      norms, _ = norms_of(state.discriminator)
      adversarial = ((_discriminate(state.discriminator, norms, fake) - 1) ** 2).mean()
      bicubic = ((fake - generate(jnp.asarray(target), crop)) ** 2).mean()
      return adversarial + 5 * early * bicubic + _regularizers(kernel, 1 - early), fake

    (_, fake), gradient = jax.value_and_grad(generator_loss, has_aux=True)(state.generator)

    def discriminator_loss(params):
      norms, direction = norms_of(params)
      of_real = _discriminate(params, norms, real + noise[0])
      of_fake = _discriminate(params, norms, fake + noise[1])
      return ((of_real - 1) ** 2).mean() + (of_fake**2).mean(), direction

    (_, direction), d_gradient = jax.value_and_grad(discriminator_loss, has_aux=True)(state.discriminator)
    with jax.numpy_dtype_promotion("standard"):  # optax raises floats to integer powers
      updates, g_state = _optimizer.update(gradient, state.generator_optimizer)
      d_updates, d_state = _optimizer.update(d_gradient, state.discriminator_optimizer)
    state = _State(
        optax.apply_updates(state.generator, updates), optax.apply_updates(state.discriminator, d_updates), direction,
        g_state, d_state,
    )  # fmt: skip
    return state, None

  numbers = start + jnp.arange(len(crops))
  state, _ = lax.scan(iterate, state, (numbers, crops, real, noise))
  return state, collapse(state.generator)


def _corners(image: Float[np.ndarray, "h w 3"], side: int, count: int, rng: np.random.Generator):
  """Top left corners of crops, drawn the more often the more edges a crop holds."""
  edges = np.hypot(*np.gradient(image.mean(-1))).astype(np.float64)
  total = np.pad(edges, ((1, 0), (1, 0))).cumsum(0).cumsum(1)
  inside = total[side:, side:] - total[:-side, side:] - total[side:, :-side] + total[:-side, :-side]
  inside = np.maximum(inside, 0) + 1e-9
  return np.unravel_index(rng.choice(inside.size, count, p=(inside / inside.sum()).ravel()), inside.shape)


def estimate(lr: Float[np.ndarray, "h w 3"], scale: float, subsample: str = "direct", seed: int = 0) -> Estimate:
  """`learn`, described like what `blind.estimate` gives; its uncertainty is its usual one, whatever the image."""
  kernel = learn(lr, scale, subsample, seed)
  shape = _moments(kernel)
  return blind.describe(kernel, shape, Prediction(kernel_net.encode(shape, scale), _VARIANCE), scale)


def _moments(kernel: np.ndarray) -> Gaussian:
  """The Gaussian of a kernel's second moments about its middle pixel."""
  axis = np.arange(len(kernel)) - len(kernel) // 2
  mass = kernel.astype(np.float64)
  xx, yy, xy = mass.sum(0) @ axis**2, mass.sum(1) @ axis**2, axis @ mass @ axis
  half = np.hypot((xx - yy) / 2, xy)
  return Gaussian((xx + yy) / 2 + half, max((xx + yy) / 2 - half, 0.0), np.arctan2(2 * xy, xx - yy) / 2 % np.pi)


def learn(
    lr: Float[np.ndarray, "h w 3"], scale: float, subsample: str, seed: int, iterations: int = ITERATIONS
) -> Float[np.ndarray, "k k"]:
  """The kernel of an image, cleaned up: 13x13, for x4 37x37.

  Args:
    lr: in [0, 1]; one of fewer than `CROP` pixels is mirrored at its borders.
    scale: scale factor; for 4, that of 2 is learned, and taken twice.
    subsample: "direct" or "bicubic", which comes after the kernel.
    seed: of everything random.
    iterations: of the training; fewer than 250, or a multiple.
  """
  if scale == 4:
    return _twice(learn(lr, 2, subsample, seed, iterations))
  padding = [*((0, max(CROP - length, 0)) for length in lr.shape[:2]), (0, 0)]
  image = np.pad(np.float32(lr) * 2 - 1, padding, mode="symmetric")
  side = resize.shrunk_size(CROP - SIZE + 1, scale)  # of what the generator makes
  rng = np.random.default_rng(seed)
  state, kernel = _init(rng), None
  views = {n: np.lib.stride_tricks.sliding_window_view(image, (n, n), (0, 1)) for n in (CROP, side)}
  per_call = min(_PER_CALL, iterations)
  cut = lambda n: views[n][_corners(image, n, per_call, rng)].transpose(0, 2, 3, 1)
  for start in range(0, iterations, per_call):
    crops, real = cut(CROP), cut(side)
    noise = np.float32(_NOISE) * rng.standard_normal((per_call, 2, side, side, 3), np.float32)
    state, kernel = _run(state, np.int32(start), crops, real, noise, scale=scale, subsample=subsample)
  return _clean(np.asarray(kernel))


def _clean(kernel: Float[np.ndarray, "k k"]) -> Float[np.ndarray, "k k"]:
  """Small and negative values cut away, the centre of mass moved to the middle pixel, sum 1."""
  import scipy.ndimage  # takes a moment, which nothing else here needs

  least = np.sort(kernel, axis=None)[-_KEPT]
  kept = np.where(kernel >= max(least, 0), kernel, 0).astype(np.float64)
  offset = kernels.centre_of_mass(kept)
  moved = np.maximum(scipy.ndimage.shift(kept, [-d for d in offset], order=1), 0)
  return np.float32(moved / moved.sum())


def _twice(kernel: Float[np.ndarray, "k k"]) -> Float[np.ndarray, "n n"]:
  """The x4 kernel that shrinking by 2 twice with this kernel comes to: itself, spread by itself at double distance."""
  size = len(kernel)
  made = np.zeros((3 * size - 2,) * 2)
  for i, j in np.ndindex(size, size):
    made[2 * i : 2 * i + size, 2 * j : 2 * j + size] += kernel[i, j] * kernel
  return np.float32(made)
