"""PSNR on held-out images while training goes on."""

from typing import NamedTuple

import ml_collections
import numpy as np

from mzsr_jax import baselines, benchmark, data, images, kernels, meta_test, metrics, weights
from mzsr_jax.kernels import Degradation
from mzsr_jax.learner import network
from mzsr_jax.model import Params


class Validation(NamedTuple):
  """Means over the images, and a picture of the first one.

  Attributes:
    scalars: "psnr_bicubic" and "psnr_<n>_steps", dB, on the luma.
    strip: uint8, bicubic enlargement | output after the last step | ground truth.
  """

  scalars: dict[str, float]
  strip: np.ndarray


def make_validator(config: ml_collections.ConfigDict):
  """Reads the validation images once and returns params -> Validation.

  The degradation is the training's own kind: none before bicubic shrinking in stage 1, else g^d_2.0 or g^b_1.3 for direct
  or bicubic subsampling. Stage 2 is judged after 0, 1 and all of its inner steps.
  """
  kind = _degradation(config)
  scale = round(config.degradation.scales[0])
  steps = (0,) if config.stage == "pretrain" else tuple(sorted({0, 1, config.meta.num_inner_steps}))
  paths = images.find_images(config.run.eval_root) if config.run.eval_root else data.sample_photos()
  truths = [_middle(images.read_image(path), config.run.eval_size, scale) for path in paths[: config.run.eval_images]]
  inputs = [images.to_float(benchmark.make_lr(truth, kind, scale)) for truth in truths]
  bicubics = [images.to_uint8(baselines.bicubic(lr, scale)) for lr in inputs]
  net = network(config)

  rates = weights.extend_schedule(config.meta_test.inner_lrs, max(steps))

  def validate(params: Params) -> Validation:
    results = []
    for lr in inputs:
      srs = meta_test.trajectory(params, lr, kind.kernel, steps, scale, rates, kind.subsample, net)
      results.append([images.to_uint8(sr) for sr in srs.values()])
    psnr = lambda srs: float(np.mean([metrics.psnr_y(sr, gt, scale) for sr, gt in zip(srs, truths)]))
    scalars = {"psnr_bicubic": psnr(bicubics)}
    scalars |= {f"psnr_{n}_steps": psnr([srs[i] for srs in results]) for i, n in enumerate(steps)}
    return Validation(scalars, np.concatenate([bicubics[0], results[0][-1], truths[0]], axis=1))

  return validate


def _degradation(config: ml_collections.ConfigDict) -> Degradation:
  c = config.degradation
  if c.kernels == "bicubic":
    return kernels.load_degradation("bicubic", c.subsample)
  return kernels.load_degradation("g20d" if c.subsample == "direct" else "g13b")


def _middle(image: images.Pixels, size: int, scale: int) -> images.Pixels:
  """The middle of an image, at most size x size, sides divisible by the scale."""
  height, width = image.shape[:2]
  top, left = max(height - size, 0) // 2, max(width - size, 0) // 2
  return images.crop_to_multiple(image[top : top + size, left : left + size], scale)
