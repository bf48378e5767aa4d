"""PSNR on held-out images while training goes on."""

import math
from typing import NamedTuple

import ml_collections
import numpy as np
from jaxtyping import PyTree

from mzsr_jax import images, weights
from mzsr_jax.core import adapt as adapt_lib
from mzsr_jax.core import degradation as degradation_lib
from mzsr_jax.core import inner_rules
from mzsr_jax.core.kernels import Degradation
from mzsr_jax.evaluation import metrics
from mzsr_jax.inference.tiled import make_lr
from mzsr_jax.photo import kernel_files
from mzsr_jax.training import data
from mzsr_jax.training.step import network


class Validation(NamedTuple):
  """Means over the images, and a picture of the first one.

  Attributes:
    scalars: "psnr_bicubic" and "psnr_<n>_steps", dB, on the luma.
    strip: uint8, bicubic enlargement | output after the last step | ground truth.
  """

  scalars: dict[str, float]
  strip: np.ndarray


def make_validator(config: ml_collections.ConfigDict):
  """Reads the validation images once and returns learned (see `step.TrainState`) -> Validation.

  The degradation is the training's own kind: none before bicubic shrinking in stage 1, else g^d_2.0 or g^b_1.3 for direct
  or bicubic subsampling. Stage 2 is judged after 0, 1 and all of its inner steps, with its learned rates where it has them.
  A PSNR is NaN where the adaptation diverges, as it may for a while when training begins.
  """
  degradation = _degradation(config)
  scale = 2.0 if config.degradation.kernels == "all" else config.degradation.scales[0]
  border = math.ceil(scale)
  steps = (0,) if config.stage == "pretrain" else tuple(sorted({0, 1, config.meta.num_inner_steps}))
  paths = images.find_images(config.run.eval_root) if config.run.eval_root else data.sample_photos()
  truths = [
      images.crop_to_multiple(images.center_crop(images.read_image(path), config.run.eval_size), border)
      for path in paths[: config.run.eval_images]
  ]
  inputs = [images.to_float(make_lr(truth, degradation, scale)) for truth in truths]
  bicubics = [degradation_lib.enlarge(lr, scale) for lr in inputs]
  net = network(config).clone(precision="float32")  # as the weights are used
  rates = weights.extend_schedule(config.meta_test.inner_lrs, max(steps))
  rule = config.meta.inner_rule if config.stage == "meta" else "gradient"

  def mean_psnr(srs) -> float:
    """Of float SR images, which at fractional scales may be larger than the truth by a row or column."""
    if not all(np.isfinite(sr).all() for sr in srs):
      return float("nan")
    pairs = ((images.to_uint8(sr)[: len(gt), : gt.shape[1]], gt) for sr, gt in zip(srs, truths))
    return float(np.mean([metrics.psnr_y(sr, gt, border) for sr, gt in pairs]))

  psnr_bicubic = mean_psnr(bicubics)

  def validate(learned: dict[str, PyTree]) -> Validation:
    inner_lrs = inner_rules.rates_of(rule, learned.get("inner_lrs", rates))
    adapted = lambda lr: adapt_lib.trajectory(learned["params"], lr, degradation, steps, scale, inner_lrs, net)
    results = [adapted(lr) for lr in inputs]
    scalars = {"psnr_bicubic": psnr_bicubic}
    scalars |= {f"psnr_{n}_steps": mean_psnr([srs[n] for srs in results]) for n in steps}
    shown = [images.to_uint8(np.nan_to_num(image)) for image in (bicubics[0], results[0][steps[-1]])]
    height, width = truths[0].shape[:2]
    return Validation(scalars, np.concatenate([*(image[:height, :width] for image in shown), truths[0]], axis=1))

  return validate


def _degradation(config: ml_collections.ConfigDict) -> Degradation:
  c = config.degradation
  if c.kernels == "bicubic":
    return kernel_files.load_degradation("bicubic", c.subsample)
  return kernel_files.load_degradation("g20d" if c.subsample == "direct" else "g13b")
