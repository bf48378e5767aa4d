"""ZSSR (Shocher, Cohen and Irani, CVPR 2018): a network trained from random parameters on one image alone. A peer of MZSR.

A random part of the image, turned, flipped and resized, is a father; degraded by the image's own kernel it gives a son; the
network learns son -> father by Adam. The learning rate falls when the error of making the image from its own son stops
falling. Settings are those of the authors' code; comments name each difference.
"""

import functools
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import scipy.ndimage
from jaxtyping import Array, Float

from mzsr_jax.core import adapt as adapt_lib
from mzsr_jax.core import kernels, model
from mzsr_jax.core.degradation import Factors, degrade, enlarge, per_axis
from mzsr_jax.core.kernels import Degradation
from mzsr_jax.core.model import NET, MZSRNet, Params
from mzsr_jax.errors import UserError
from mzsr_jax.photo import refine

_LEAST_SIDE = 16  # pixels, of the image
_OPTIMIZER = optax.scale_by_adam()


class Options(NamedTuple):
  """Settings of the authors' code.

  Attributes:
    factors: scale factors to reach one after another, each a (vertical, horizontal) pair; what one gives is learned from by
      the next. Empty: the one scale that is asked for.
    learning_rate: of Adam, at the start of each factor; it falls tenfold at a time.
    min_learning_rate: training ends when the rate falls below.
    max_steps: training of one factor ends at the latest.
    min_steps: between two changes of the rate.
    check_every: steps between two looks at the slope.
    test_every: steps between two measurements of the reconstruction error.
    slope_range: steps, the last of which the slope is fitted to.
    slope_ratio: the rate falls when the slope, times this, is less than its standard error.
    crop: side of a father, pixels; smaller where the image is.
    as_is: probability of a father without any change but its place.
    no_interpolation: probability of one that is but turned by right angles and flipped. All others go through a random
      affine map too.
    min_scale: of that map; its scale is uniform from here to 1, or to the largest factor done.
    axes_sigma: standard deviation of the difference between its two scales.
    shear_sigma: of its shears.
    rotate: turn and flip the fathers.
    noise_std: of Gaussian noise on the sons, in [0, 1] units; for images that have noise themselves.
    self_ensemble: the median over the flips and right-angled turns that leave the kernel as it is (all 8 of a symmetric one).
    back_projection: iterations of `refine.back_project`, for each result of the ensemble and for the median.
  """

  factors: tuple[tuple[float, float], ...] = ()
  learning_rate: float = 1e-3
  min_learning_rate: float = 9e-6
  max_steps: int = 3000
  min_steps: int = 256
  check_every: int = 60
  test_every: int = 50
  slope_range: int = 256
  slope_ratio: float = 1.5
  crop: int = 128
  as_is: float = 0.05
  no_interpolation: float = 0.45
  min_scale: float = 0.5
  axes_sigma: float = 0.25
  shear_sigma: float = 0.1
  rotate: bool = True
  noise_std: float = 0.0
  self_ensemble: bool = True
  back_projection: int = 10


DEFAULTS = Options()
# "Gradual" of the authors' code, for scale 2 and images without noise.
GRADUAL_X2 = ((1.0, 1.5), (1.5, 1.0), (1.5, 1.5), (1.5, 2.0), (2.0, 1.5), (2.0, 2.0))


class Progress(NamedTuple):
  """Where the training of one factor stands after a step."""

  params: Params
  step: int
  learning_rate: float
  error: float | None  # of the reconstruction, mean squared; None where it was not measured


def super_resolve(
    lr: Float[np.ndarray, "h w 3"],
    degradation: Degradation,
    scale: Factors = 2,
    seed: int = 0,
    options: Options = DEFAULTS,
    net: MZSRNet = NET,
) -> Float[np.ndarray, "p q 3"]:
  """Trains on an image, and enlarges it.

  Args:
    lr: RGB in [0, 1], both sides at least 16 pixels.
    degradation: its kernel and subsampling. At the smaller ones of `options.factors` the kernel is as much smaller.
    scale: scale factor, or a (vertical, horizontal) pair.
    seed: of the initial parameters, the fathers and the noise.
    options: see `Options`.
    net: the network.

  Returns:
    (ceil(H * scale), ceil(W * scale), 3) in [0, 1].

  Raises:
    UserError: the image is too small, an option is out of its range, or the training diverged.
  """
  check(options)
  if min(lr.shape[:2]) < _LEAST_SIDE:
    raise UserError(f"an image of {lr.shape[1]}x{lr.shape[0]} is too small for ZSSR: both sides need {_LEAST_SIDE} pixels")
  final = per_axis(scale)
  factors = options.factors or (final,)
  if tuple(factors[-1]) != final:
    raise UserError(f"ZSSR's factors end with {tuple(factors[-1])}: they must end with the scale, {final}")
  rng = np.random.default_rng(seed)
  params = _initial_params(seed, net)
  lr = np.asarray(lr, np.float32)
  sources = [lr]
  for number, factor in enumerate(factors):
    smaller = tuple((f - 1) / (s - 1) if s > 1 else 1.0 for f, s in zip(factor, final))
    degradation_now = degradation if tuple(factor) == final else kernels.at_smaller_factors(degradation, smaller)
    tops = (1.0, *(min(f) for f in factors[:number]))
    for progress in train(params, sources, tops, degradation_now, factor, rng, options, net):
      params = progress.params
    sources.append(_enlarged(params, lr, degradation_now, factor, options, net))
  return sources[-1]


def check(options: Options) -> None:
  """Raises UserError for the first option that no training can be run with."""
  probability = options.as_is + options.no_interpolation
  ranges = {
      "learning_rate": (0, 1), "min_learning_rate": (1e-30, 1), "max_steps": (1, 10**7), "min_steps": (0, 10**7),
      "check_every": (1, 10**7), "test_every": (1, 10**7), "slope_range": (1, 10**7), "slope_ratio": (0, 1e6),
      "crop": (_LEAST_SIDE, 4096), "as_is": (0, 1), "no_interpolation": (0, 1), "min_scale": (0.05, 1), "axes_sigma": (0, 1),
      "shear_sigma": (0, 0.5), "noise_std": (0, 1), "back_projection": (0, 1000),
  }  # fmt: skip
  for name, (low, high) in ranges.items():
    if not low <= (value := getattr(options, name)) <= high:
      raise UserError(f"ZSSR's option {name} is {value}: it must be a number from {low:g} to {high:g}")
  if probability > 1:
    raise UserError(f"ZSSR's options as_is and no_interpolation are probabilities of a whole, but sum to {probability:g}")
  if not all(1 <= f <= 8 for pair in options.factors for f in pair):
    raise UserError(f"ZSSR's factors are {options.factors}: all must be from 1 to 8")


def train(
    params: Params,
    sources: Sequence[Float[np.ndarray, "_ _ 3"]],
    base_scales: Sequence[float],
    degradation: Degradation,
    factor: tuple[float, float],
    rng: np.random.Generator,
    options: Options,
    net: MZSRNet = NET,
) -> Iterator[Progress]:
  """Training for one factor, until its learning rate or its steps run out.

  Args:
    params: to start from.
    sources: the image, and what is already known of it at larger scales.
    base_scales: of the sources, the first is 1.
    degradation: kernel and subsampling between son and father.
    factor: (vertical, horizontal) scale between them.
    rng: of fathers and noise.
    options: see `Options`.
    net: the network.

  Raises:
    UserError: the error is not finite.
  """
  lr = sources[0]
  crop = min(options.crop, *lr.shape[:2])
  state = _OPTIMIZER.init(params)
  rate, changed, errors = options.learning_rate, 0, []
  padded = degradation.replace(kernel=kernels.padded(degradation.kernel), noise_std=0.0)
  son_input = adapt_lib.lr_son(lr, padded, factor)
  for step in range(options.max_steps):
    father = random_father(rng, sources, base_scales, crop, options)
    noise = options.noise_std * rng.standard_normal(father.shape, np.float32) if options.noise_std else None
    params, state = _step(params, state, father, padded, noise, np.float32(rate), factor, net)
    error = None
    if step % options.test_every == 0:
      error = float(jnp.square(_network(params, son_input, net) - lr).mean())
      if not math.isfinite(error):
        raise UserError(f"ZSSR diverged at step {step + 1}: lower its learning_rate")
      errors.append((step, error))
    if (step + 1) % options.check_every == 0 and step - changed > options.min_steps:
      if stopped_falling(errors[-max(options.slope_range // options.test_every, 3) :], options.slope_ratio):
        rate, changed = rate / 10, step
    yield Progress(params, step + 1, rate, error)
    if rate < options.min_learning_rate:
      return


def stopped_falling(errors: Sequence[tuple[int, float]], ratio: float) -> bool:
  """Whether a line through (step, error) falls by less than its slope's standard error over `ratio`. Needs three or more."""
  (slope, _), covariance = np.polyfit(*zip(*errors), 1, cov=True)
  return bool(-ratio * slope < math.sqrt(covariance[0, 0]))


def random_father(
    rng: np.random.Generator,
    sources: Sequence[Float[np.ndarray, "_ _ 3"]],
    base_scales: Sequence[float],
    crop: int,
    options: Options,
) -> Float[np.ndarray, "crop crop 3"]:
  """A random square of one of the sources, turned, flipped, resized and sheared as `options` allow, in [0, 1].

  Unlike the authors', a father never shows what is not in the image: beyond the edge there is its mirror image, not black.
  """
  chance = rng.random()
  scale = 1.0 if chance < options.as_is else rng.uniform(options.min_scale, max(base_scales))
  number = next(i for i, base in enumerate(base_scales) if base > scale - 1e-6)
  source = sources[number]
  if chance < options.as_is + options.no_interpolation:
    top, left = (rng.integers(0, length - crop + 1) for length in source.shape[:2])
    father = source[top : top + crop, left : left + crop]
    if options.rotate and chance >= options.as_is:
      father = np.rot90(father, rng.integers(4))
      father = father[:, ::-1] if rng.random() < 0.5 else father
    return np.ascontiguousarray(father)
  return _affine_father(rng, source, scale / base_scales[number], crop, options)


def _affine_father(rng: np.random.Generator, source, scale: float, crop: int, options: Options):
  """A random square of a source that went through a random affine map with its fixed point at the middle of the square."""
  difference = rng.normal(0, options.axes_sigma)
  stretch = np.maximum(scale + np.array([-difference, difference]) / 2, options.min_scale / 2)
  linear = np.array([[1, rng.normal(0, options.shear_sigma)], [rng.normal(0, options.shear_sigma), 1]])
  if options.rotate:
    angle = rng.uniform(0, 2 * np.pi)
    linear = linear @ np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    stretch[1] *= rng.choice([-1, 1])
  inverse = np.linalg.inv(linear @ np.diag(stretch))  # from the father's pixels to the source's
  # The middle of the square lies where the square, were it not turned, would be inside the source.
  half = np.minimum(crop / np.abs(stretch), source.shape[:2]) / 2
  middle = rng.uniform(half, np.array(source.shape[:2]) - half) - 0.5
  offset = middle - inverse @ np.full(2, (crop - 1) / 2)
  warp = lambda channel: scipy.ndimage.affine_transform(channel, inverse, offset, (crop, crop), order=3, mode="reflect")
  return np.clip(np.stack([warp(source[..., c]) for c in range(3)], axis=-1), 0, 1)


def _initial_params(seed: int, net: MZSRNet) -> Params:
  """Normal weights of variance 0.1 / fan-in, for the network has to add but little to its input."""
  return jax.tree.map(lambda p: math.sqrt(0.1) * p, model.init(jax.random.key(seed), net))


@functools.partial(jax.jit, static_argnames=("factor", "net"), donate_argnums=(0, 1))
def _step(params, state, father, degradation: Degradation, noise, rate, factor, net):
  son = degrade(father, degradation.kernel, factor, degradation.subsample)
  if noise is not None:
    son += noise[: son.shape[0], : son.shape[1]]
  inputs = enlarge(jnp.clip(son, 0, 1), factor, father.shape[:2], degradation.offset)
  gradient = jax.grad(adapt_lib.l1)(params, inputs[None], father[None], net)
  # Without biases, as the authors' network: beside the small first activations, Adam's steps of them would kill whole layers.
  gradient = jax.tree.map(lambda g: g if g.ndim > 1 else jnp.zeros_like(g), gradient)
  with jax.numpy_dtype_promotion("standard"):  # optax raises floats to integer powers
    updates, state = _OPTIMIZER.update(gradient, state)
  return jax.tree.map(lambda p, u: p - rate * u, params, updates), state


@functools.partial(jax.jit, static_argnames="net")
def _network(params, inputs, net) -> Float[Array, "p q 3"]:
  return jnp.clip(net.reconstruct(params, inputs), 0, 1)


def _enlarged(params, lr, degradation: Degradation, factor, options: Options, net) -> Float[np.ndarray, "p q 3"]:
  """The image enlarged by a trained network, with the ensemble and the back-projection of `options`."""
  restore = lambda sr: refine.back_project(sr, lr, degradation, factor, options.back_projection)
  # The network apart from the enlargement, so that turns of one shape share a program.
  one = lambda image, of: _network(params, enlarge(image, factor, offset=of.offset), net)
  if options.self_ensemble:
    sr = refine.self_ensemble(one, lr, degradation, factor, restore)
  else:
    sr = restore(one(lr, degradation))
  return np.asarray(sr)
