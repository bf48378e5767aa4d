"""From the photo to the larger photo: what happens around the network, and what the `upscale` command and the demo share.

Scales that the network does not know are reached by further steps; transparency goes beside colour; self-ensemble and
back-projection refine.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import scipy.ndimage
from absl import logging
from jaxtyping import Float, PyTree

from mzsr_jax import weights
from mzsr_jax.core import kernels, resize
from mzsr_jax.core.kernels import Degradation
from mzsr_jax.core.model import Params
from mzsr_jax.errors import UserError
from mzsr_jax.inference.tiled import Solver, degrade
from mzsr_jax.photo import kernel_files, noise, refine
from mzsr_jax.photo.file import Photo

MIN_SCALE, MAX_SCALE = 1, 8
FURTHER = "pretrain_x2"  # enlarges what is already sharp
_DIVERGED = 1.5  # times the error at the start; long steps that do well in the end can pass by states a little worse than that
_MOST_NOISE = 0.4  # that is believed of a photo
_SHRINKING = kernel_files.load_degradation("bicubic")


class Recipe(NamedTuple):
  """What is done to a photo.

  Attributes:
    params: the network, before adaptation.
    inner_lrs: learning rates of the adaptation, see `Solver.adapt`.
    kind: how the photo came to be; its `noise_std` is that of the photo.
    net_scale: what the network enlarges by.
    scale: of the result, from 1 to 8: reached from `net_scale` by shrinking, or by `further` and shrinking.
    further: a network for x2 that takes sharp images, without adaptation; needed where scale > net_scale alone.
    via: scales, ascending and below net_scale, that the adaptation goes through ("gradual"): at each, what is known of the
      image at the last one is what the network is adapted to.
    self_ensemble: the mean over the turned images that the kernel does not tell apart.
    back_projection: iterations of `refine.back_project`.
  """

  params: Params
  inner_lrs: PyTree
  kind: Degradation
  net_scale: float
  scale: float
  further: Params | None = None
  via: tuple[float, ...] = ()
  self_ensemble: bool = False
  back_projection: int = 0


def choose_weights(scale: float, kernel: str, subsample: str) -> str:
  """The shipped weights for a scale, a kernel's name (see `kernel_files.load_degradation`) and its subsampling."""
  if kernel == "bicubic":
    return "pretrain_x4" if scale >= 4 else "pretrain_x2"
  if subsample == "bicubic":
    return "spectral:conditioned_x2_bicubic"
  if scale <= 2:
    return "spectral:conditioned_x2"
  # Beyond x3, the son is so small that spectral steps learn it by heart from the second on (experiments/README.md).
  return "spectral:conditioned_multiscale" if scale <= 3 else "conditioned_multiscale"


def gains_by_steps(name_or_path: str) -> bool:
  """Whether weights are meant to be adapted: those trained by the loss of stage 1 gain nothing by plain gradient steps."""
  metadata = weights.read_metadata(name_or_path)
  return metadata.get("stage") != "pretrain" or weights.inner_rule(metadata) != "gradient"


def network_scale(metadata: dict[str, str], scale: float) -> float:
  """The scale nearest to `scale` that weights were trained for; `scale` itself where they do not say.

  Raises:
    UserError: damaged metadata, or `scale` is not from 1 to 8.
  """
  if not MIN_SCALE <= scale <= MAX_SCALE:
    raise UserError(f"scale {scale:g}: it must be from {MIN_SCALE} to {MAX_SCALE}")
  known = weights.scales(metadata)
  return float(min(max(scale, min(known)), max(known))) if known else scale


def noise_std(photo: Photo) -> float:
  """Standard deviation of the noise that a photo seems to have and of what JPEG has changed, in [0, 1] units, at most 0.4."""
  # What is hidden holds colours that were made up, without noise: black is left out.
  rgb = photo.rgb if photo.alpha is None else photo.rgb * (photo.alpha > 0)[..., None]
  return float(min(np.hypot(noise.estimate(rgb), photo.jpeg_error), _MOST_NOISE))


def with_noise(kind: Degradation, photo: Photo, level: float | None) -> Degradation:
  """A degradation with the noise of a level, of 255; with that which the photo seems to have where it is None."""
  return kind._replace(noise_std=noise_std(photo) if level is None else level / 255)


def gradual(metadata: dict[str, str], net_scale: float) -> tuple[float, ...]:
  """Scales to go through up to `net_scale`: the smallest that the weights were trained for, and the middle.

  Raises:
    UserError: they were trained for none that is smaller.
  """
  known = weights.scales(metadata)
  if not known or min(known) >= net_scale:
    raise UserError(f"these weights know no scale below {net_scale:g} to go through: use multiscale, or leave out --gradual")
  middle = (min(known) + net_scale) / 2
  return (min(known), *((middle,) if middle > min(known) + 0.5 else ()))


def adapt(
    solver: Solver, lr: Float[np.ndarray, "h w 3"], recipe: Recipe, shown: Sequence[int]
) -> Iterator[Params]:
  """The parameters after several numbers of steps, ascending; each is made when it is asked for.

  Where the steps have made the network far worse on what it is adapted to, for they were too long, a warning is logged, and
  the parameters are the best of the steps before.
  """
  father, params, kind = lr, recipe.params, recipe.kind
  for scale in recipe.via:
    ratio = (scale - 1) / (recipe.net_scale - 1)
    smaller = kernels.at_smaller_factors(kind, (ratio, ratio))
    adapted = solver.adapt(params, father, smaller, scale, recipe.inner_lrs)
    father = solver.super_resolve(adapted, lr, scale, smaller.offset, np.float32)
  error = lambda params: solver.error(params, father, kind, recipe.net_scale)
  states = lambda counts: solver.stages(params, father, kind, counts, recipe.net_scale, recipe.inner_lrs)
  at_start = error(params) if shown[-1] else 0.0
  for steps, adapted in zip(shown, states(shown)):
    if steps and not error(adapted) <= _DIVERGED * at_start:  # which NaN is not either
      candidates = list(states(range(steps)))
      errors = np.nan_to_num([error(candidate) for candidate in candidates], nan=np.inf)
      best = int(np.argmin(errors))
      logging.warning(
          "The adaptation diverged: after %d steps, the error on the photo's own son is far above that before. Kept the state "
          "after %d; lower the learning rate (--inner_lr).", steps, best,
      )  # fmt: skip
      adapted = candidates[best]
    yield adapted


def enlarge(solver: Solver, params: Params | None, photo: Photo, recipe: Recipe) -> Photo:
  """The photo, enlarged by adapted parameters; by bicubic interpolation where they are None.

  Raises:
    UserError: the result holds NaN: the adaptation diverged.
  """
  rgb = _refined(solver, params, photo, recipe)
  alpha = None if photo.alpha is None else _enlarged_alpha(solver, params, photo.alpha, recipe)
  return photo._replace(rgb=rgb, alpha=alpha, jpeg_error=0.0)


def _refined(solver: Solver, params: Params | None, photo: Photo, recipe: Recipe) -> np.ndarray:
  """SR colours: float32, or already rounded where nothing is done to them, which takes a quarter of the memory."""
  lr, kind, scale = photo.rgb, recipe.kind, recipe.net_scale
  plain = not (params and (recipe.self_ensemble or recipe.back_projection)) and recipe.scale == scale
  dtype = (np.uint16 if photo.bits == 16 else np.uint8) if plain else np.float32
  one = lambda image, offset: solver.super_resolve(params, image, scale, offset, dtype)
  if params and recipe.self_ensemble:
    count = np.float32(len(list(refine.turns(kind, scale))))
    sr = sum(part / count for part in refine.each_turn(one, lr, kind, scale))
  else:
    sr = one(lr, _offset(params, recipe))
  if params and recipe.back_projection:
    sr = refine.back_project(sr, lr, kind, scale, recipe.back_projection)
  return _to_scale(solver, sr, lr.shape[:2], recipe, params)


def _offset(params: Params | None, recipe: Recipe) -> tuple[float, float]:
  """Of the image on its way into the network; plain bicubic knows no kernel."""
  return recipe.kind.offset if params else (0.0, 0.0)


def _to_scale(solver: Solver, sr: np.ndarray, size: tuple[int, int], recipe: Recipe, params: Params | None) -> np.ndarray:
  """What was enlarged by `net_scale`, at `scale`."""
  reached = recipe.net_scale
  while reached < recipe.scale:
    sr = solver.super_resolve(params and recipe.further, sr, 2, dtype=np.float32)
    reached *= 2
  if reached == recipe.scale:
    return sr
  height, width = (resize.enlarged_size(length, recipe.scale) for length in size)
  return np.clip(degrade(sr, _SHRINKING, reached / recipe.scale, device=solver.devices[0])[:height, :width], 0, 1)


def _enlarged_alpha(solver: Solver, params: Params | None, alpha: Float[np.ndarray, "h w"], recipe: Recipe):
  """Transparency as the network enlarges it, so that its edges stay on those of the colours, but within what is next to it:
  where all is opaque, or all is hidden, it stays so."""
  gray = np.repeat(alpha[..., None], 3, axis=-1)
  sr = solver.super_resolve(params, gray, recipe.net_scale, _offset(params, recipe), np.float32)
  sr = _to_scale(solver, sr, alpha.shape, recipe, params).mean(-1)
  nearest = np.ix_(*(np.minimum((np.arange(n) / recipe.scale).astype(int), m - 1) for n, m in zip(sr.shape, alpha.shape)))
  low, high = (f(alpha, 3, mode="nearest")[nearest] for f in (scipy.ndimage.minimum_filter, scipy.ndimage.maximum_filter))
  return np.clip(sr, low, high)

