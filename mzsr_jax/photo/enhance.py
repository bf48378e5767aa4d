"""From the photo to the larger photo: what happens around the network, and what the `upscale` command and the demo share.

Scales that the network does not know are reached by further steps; transparency goes beside colour; self-ensemble and
back-projection refine.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import scipy.ndimage
from absl import logging
from jaxtyping import Float, PyTree

from mzsr_jax import images, weights
from mzsr_jax.core import networks, resize
from mzsr_jax.core.kernels import Degradation
from mzsr_jax.core.model import Params
from mzsr_jax.errors import UserError
from mzsr_jax.inference import plain as plain_lib
from mzsr_jax.inference.tiled import TiledAdapter, degrade
from mzsr_jax.photo import blind, kernel_files, noise, refine, trust
from mzsr_jax.photo import file as photo_file
from mzsr_jax.photo.file import Photo

MIN_SCALE, MAX_SCALE = 1, 8
SECOND_STAGE = "pretrain_x2"  # enlarges what is already sharp
_DIVERGED = 1.5  # times the error at the start; long steps that do well in the end can pass by states a little worse than that
_STEPS = 10  # of weights that gain by adaptation
_MAX_NOISE = 0.4  # that is believed of a photo
_BLENDED_ROWS = 256  # at a time: in float32 they take several times the memory of the picture
_SHRINKING = kernel_files.load_degradation("bicubic")


class Recipe(NamedTuple):
  """What is done to a photo.

  Attributes:
    params: the network, before adaptation.
    inner_lrs: learning rates of the adaptation, see `TiledAdapter.adapt`.
    degradation: how the photo came to be, `noise_std` included; with a kernel of None, the kernel is estimated.
    net_scale: what the network enlarges by.
    scale: of the result, from 1 to 8: reached from `net_scale` by shrinking, or by `second_stage` and shrinking.
    second_stage: a network for x2 that takes sharp images, without adaptation; needed where scale > net_scale alone.
    self_ensemble: the mean over the turned images, see `refine.turned`.
    back_projection: iterations of `refine.back_project`.
    noise_level: of the photo, of 255; None has it estimated.
    strength: from 0, the plain enlargement, to 1, that of the network; between them, a mean of both.
    trusted: share of what the network adds that is kept, see `trust`; 1 where the kernel was given.
  """

  params: Params
  inner_lrs: PyTree
  degradation: Degradation
  net_scale: float
  scale: float
  second_stage: Params | None = None
  self_ensemble: bool = False
  back_projection: int = 0
  noise_level: float | None = None
  strength: float = 1.0
  trusted: float = 1.0


class Estimated(NamedTuple):
  """The degradation is known: `recipe` holds it, and `estimate` what was estimated of the kernel, if it was."""

  recipe: Recipe
  estimate: blind.Estimate | None


class Adapted(NamedTuple):
  """The network is adapted by so many steps."""

  step: int
  params: Params


class Enlarged(NamedTuple):
  """The result."""

  photo: Photo


def make_recipe(
    loaded: weights.Weights, degradation: Degradation, scale: float, num_steps: int, **options: Any
) -> Recipe:
  """The recipe of weights, a degradation, a scale and a number of steps.

  Args:
    loaded: the weights.
    degradation: see `Recipe`.
    scale: of the result.
    num_steps: of the adaptation.
    options: `self_ensemble`, `back_projection`, `noise_level` and `strength` of `Recipe`.

  Raises:
    UserError: damaged metadata, or `scale` is not from 1 to 8.
  """
  net_scale = network_scale(loaded, scale)
  if degradation.kernel is None:
    net_scale = max(net_scale, blind.MIN_SCALE)
  second_stage = weights.load(SECOND_STAGE).params if scale > net_scale else None
  return Recipe(loaded.params, loaded.inner_lrs(num_steps), degradation, net_scale, scale, second_stage, **options)


def run(adapter: TiledAdapter, photo: Photo, recipe: Recipe, shown: Sequence[int]) -> Iterator[Estimated | Adapted | Enlarged]:
  """All that is done to a photo, as it is done: `Estimated`, `Adapted` for each of `shown`, `Enlarged`.

  Args:
    adapter: with the recipe's network.
    photo: see `file.Photo`.
    recipe: see `Recipe`.
    shown: numbers of steps, ascending; the last is that of the result.

  Raises:
    UserError: the kernel cannot be estimated at this scale, or the adaptation diverged.
  """
  estimated = estimate(photo, recipe)
  yield estimated
  recipe = estimated.recipe
  for step, params in zip(shown, adapt(adapter, photo.rgb, recipe, shown)):
    yield Adapted(step, params)
  yield Enlarged(enlarge(adapter, params, photo, recipe))


def estimate(photo: Photo, recipe: Recipe) -> Estimated:
  """What is known of a photo before anything is done to it: its kernel and its noise, estimated where the recipe has none.

  With the recipe that is returned, nothing is estimated again: parts of a photo can be worked on as the whole would be.

  Raises:
    UserError: the kernel cannot be estimated at this scale.
  """
  degradation, found, trusted = recipe.degradation, None, recipe.trusted
  level = noise_std(photo) if recipe.noise_level is None else recipe.noise_level / 255
  if degradation.kernel is None:
    if degradation.subsample == "direct":
      found = blind.estimate_photo(photo.rgb, recipe.net_scale)
      trusted = trust.share(found.trusted, level, found.fine)
    else:
      found = blind.estimate(photo.rgb, recipe.net_scale, degradation.subsample)
    centre = kernel_files.cell_centre(recipe.net_scale, degradation.subsample)
    degradation = degradation.replace(kernel=found.kernel, offset=centre)
  degradation = degradation.replace(noise_std=level)
  return Estimated(recipe._replace(degradation=degradation, noise_level=255 * level, trusted=trusted), found)


def default_steps(loaded: weights.Weights) -> int:
  """How many steps to take where nobody says: the one place that decides, for commands, demo and scripts.

  Ten of meta-trained weights gain, at every scale, on clean images and more so on noisy ones and JPEG files
  (`experiments/presets.py` measures it). Weights trained by the loss of stage 1, as `universal`, gain nothing by plain gradient
  steps, and take none.
  """
  adapts = loaded.metadata.get("stage") != "pretrain" or loaded.inner_rule != "gradient"
  return _STEPS if adapts else 0


def network_scale(loaded: weights.Weights, scale: float) -> float:
  """The scale nearest to `scale` that weights were trained for; `scale` itself where they do not say.

  Raises:
    UserError: damaged metadata, or `scale` is not from 1 to 8.
  """
  if not MIN_SCALE <= scale <= MAX_SCALE:
    raise UserError(f"scale {scale:g}: it must be from {MIN_SCALE} to {MAX_SCALE}")
  known = loaded.scales
  return float(min(max(scale, min(known)), max(known))) if known else scale


def noise_std(photo: Photo) -> float:
  """Standard deviation of the noise that a photo seems to have and of what JPEG has changed, in [0, 1] units, at most 0.4."""
  # What is hidden holds colours that were made up, without noise: black is left out.
  rgb = photo.rgb if photo.alpha is None else photo.rgb * (photo.alpha > 0)[..., None]
  return float(min(np.hypot(noise.estimate(rgb), photo.jpeg_error), _MAX_NOISE))


def adapt(
    adapter: TiledAdapter, lr: Float[np.ndarray, "h w 3"], recipe: Recipe, shown: Sequence[int]
) -> Iterator[Params]:
  """The parameters after several numbers of steps, ascending; each is made when it is asked for.

  Where the steps have made the network far worse on what it is adapted to, for they were too long, a warning is logged, and
  the parameters are the best of the steps before.
  """
  best, best_step, lowest, at_start = recipe.params, 0, np.inf, None
  for step, (adapted, loss) in enumerate(_with_losses(adapter, lr, recipe, shown[-1])):
    at_start = loss if at_start is None else at_start
    if step and not loss <= _DIVERGED * at_start:  # which NaN is not either
      if step in shown:
        logging.warning(
            "The adaptation diverged: after %d steps, the error on the photo's own son is far above that before. Kept the "
            "state after %d; lower the learning rate (--inner_lr).", step, best_step,
        )  # fmt: skip
        adapted = best
    elif loss < lowest or not step:
      best, lowest, best_step = adapted, loss, step
    if step in shown:
      yield adapted


def _with_losses(adapter: TiledAdapter, lr, recipe: Recipe, steps: int) -> Iterator[tuple[Params, float]]:
  """The parameters before the first step and after each, with their loss: which the next step knows, and one pass more tells
  of the last. Without any step, it is 0."""
  before = None
  for state, loss in adapter.iterate(recipe.params, lr, recipe.degradation, recipe.net_scale, recipe.inner_lrs, steps):
    if before is not None:
      yield before, float(loss)
    before = state
  yield before, adapter.error(before, lr, recipe.degradation, recipe.net_scale) if steps else 0.0


def enlarge_plainly(photo: Photo, scale: float) -> Photo:
  """The photo, enlarged by bicubic interpolation."""
  rgb, alpha = plain_lib.enlarge(photo.rgb, scale, _pixels(photo)), photo.alpha
  if alpha is not None:
    alpha = _within(alpha, plain_lib.enlarge(alpha[..., None], scale, np.float32)[..., 0], scale)
  return photo._replace(rgb=rgb, alpha=alpha, jpeg_error=0.0)


def enlarge(adapter: TiledAdapter, params: Params, photo: Photo, recipe: Recipe) -> Photo:
  """The photo, enlarged by adapted parameters at the recipe's strength.

  Raises:
    UserError: the result holds NaN: the adaptation diverged.
  """
  share = kept(photo, recipe)
  if np.all(share == 1):
    return _enlarged(adapter, params, photo, recipe)
  plain = enlarge_plainly(photo, recipe.scale)
  if not np.any(share):
    return plain
  made = _enlarged(adapter, params, photo, recipe)
  if recipe.trusted == 1:
    return blend(plain, made, share)
  return blend(plain, made, share, trust.limits(photo.rgb), trust.beyond(recipe.trusted))


def kept(photo: Photo, recipe: Recipe) -> float | Float[np.ndarray, "h w"]:
  """The share of what the network adds that is kept: the strength, less where the kernel was estimated."""
  if recipe.trusted == 1:
    return recipe.strength
  return recipe.strength * trust.trust(photo.rgb, recipe.degradation.noise_std, recipe.trusted)


def blend(
    plain: Photo,
    made: Photo,
    share: float | Float[np.ndarray, "h w"],
    limits: tuple[Float[np.ndarray, "h w 3"], Float[np.ndarray, "h w 3"]] | None = None,
    beyond: float = 1.0,
) -> Photo:
  """The mean of the plain enlargement and the network's.

  Args:
    plain, made: the two, of the same size.
    share: of the latter, or that at each LR pixel, in [0, 1].
    limits: at each LR pixel, that `trust.limited` holds the latter to.
    beyond: share that stands of what lies beyond these.
  """
  share = np.atleast_2d(np.float32(share))
  rgb, alpha = np.empty_like(made.rgb), None if made.alpha is None else np.empty_like(made.alpha)
  of_lr = lambda i, lr, axis: i * lr.shape[axis] // rgb.shape[axis]
  at = lambda lr, rows: lr[of_lr(np.arange(len(rgb))[rows], lr, 0)][:, of_lr(np.arange(rgb.shape[1]), lr, 1)]
  mean = lambda a, b, own: a + own * (b - a)
  for first in range(0, len(rgb), _BLENDED_ROWS):
    rows = slice(first, first + _BLENDED_ROWS)
    own = at(share, rows)
    start, end = (photo_file.as_float(part.rgb[rows]) for part in (plain, made))
    if limits:
      end = trust.limited(end, start, *(at(limit, rows) for limit in limits), beyond)
    rgb[rows] = images.quantize(mean(start, end, own[..., None]), rgb.dtype)
    if alpha is not None:
      alpha[rows] = mean(plain.alpha[rows], made.alpha[rows], own)
  return made._replace(rgb=rgb, alpha=alpha)


def _enlarged(adapter: TiledAdapter, params: Params, photo: Photo, recipe: Recipe) -> Photo:
  rgb = _refined(adapter, params, photo, recipe)
  alpha = None if photo.alpha is None else _enlarged_alpha(adapter, params, photo.alpha, recipe)
  return photo._replace(rgb=rgb, alpha=alpha, jpeg_error=0.0)


def _refined(adapter: TiledAdapter, params: Params, photo: Photo, recipe: Recipe) -> np.ndarray:
  """SR colours: float32, or already rounded where nothing is done to them, which takes a quarter of the memory."""
  lr, degradation, scale = photo.rgb, recipe.degradation, recipe.net_scale
  last = not (recipe.self_ensemble or recipe.back_projection) and recipe.scale == scale
  dtype = _pixels(photo) if last else np.float32
  if recipe.self_ensemble:
    one = lambda image, of: adapter.super_resolve(params, image, scale, of, dtype)
    parts = refine.each_turn(one, lr, degradation, scale, networks.of(params).is_told_kernel)
    count = np.float32(num_turns(recipe, lr.shape[:2]))
    sr = sum(part / count for part in parts)
  else:
    sr = adapter.super_resolve(params, lr, scale, degradation, dtype)
  if recipe.back_projection:
    sr = refine.back_project(sr, lr, degradation, scale, recipe.back_projection)
  return _to_scale(adapter, sr, lr.shape[:2], recipe)


def _pixels(photo: Photo) -> type:
  """The type of pixels that a photo's result has."""
  return np.uint16 if photo.bits == 16 else np.uint8


def num_turns(recipe: Recipe, size: tuple[int, int]) -> int:
  """How many turned images of an LR size the self-ensemble is the mean over; 1 without it."""
  if not recipe.self_ensemble:
    return 1
  told = networks.of(recipe.params).is_told_kernel
  return len(list(refine.turned(recipe.degradation, size, recipe.net_scale, told)))


def _to_scale(adapter: TiledAdapter, sr: np.ndarray, size: tuple[int, int], recipe: Recipe) -> np.ndarray:
  """What was enlarged by `net_scale`, at `scale`."""
  reached = recipe.net_scale
  while reached < recipe.scale:
    sr = adapter.super_resolve(recipe.second_stage, sr, 2, dtype=np.float32)
    reached *= 2
  if reached == recipe.scale:
    return sr
  height, width = (resize.enlarged_size(length, recipe.scale) for length in size)
  return np.clip(degrade(sr, _SHRINKING, reached / recipe.scale, device=adapter.devices[0])[:height, :width], 0, 1)


def _enlarged_alpha(adapter: TiledAdapter, params: Params, alpha: Float[np.ndarray, "h w"], recipe: Recipe):
  """Transparency as the network enlarges it, so that its edges stay on those of the colours, but within what is next to it:
  where all is opaque, or all is hidden, it stays so."""
  gray = np.repeat(alpha[..., None], 3, axis=-1)
  sr = adapter.super_resolve(params, gray, recipe.net_scale, recipe.degradation, np.float32)
  return _within(alpha, _to_scale(adapter, sr, alpha.shape, recipe).mean(-1), recipe.scale)


def _within(alpha: Float[np.ndarray, "h w"], sr: Float[np.ndarray, "p q"], scale: float) -> Float[np.ndarray, "p q"]:
  """An enlargement, no less and no more than the nine LR pixels around."""
  nearest = np.ix_(*(np.minimum((np.arange(n) / scale).astype(int), m - 1) for n, m in zip(sr.shape, alpha.shape)))
  low, high = (f(alpha, 3, mode="nearest")[nearest] for f in (scipy.ndimage.minimum_filter, scipy.ndimage.maximum_filter))
  return np.clip(sr, low, high)

