"""Validation: the values, at whole and fractional scales, are those of the plain functions."""

import jax
import numpy as np
import pytest
from test_train import tiny

import mzsr_jax as mz
from configs import meta_x2
from mzsr_jax import images
from mzsr_jax.core import degradation as degradation_lib
from mzsr_jax.evaluation import metrics
from mzsr_jax.training import data, validate
from mzsr_jax.training import step as step_lib


@pytest.mark.parametrize("scale", [2.0, 2.5])
def test_psnr_before_and_after_adaptation(scale):
  config = tiny(meta_x2, **{"degradation.scales": (scale,), "run.eval_size": 50, "run.eval_images": 1})
  params, net = step_lib.init_params(config), step_lib.network(config)
  params = jax.tree.map(lambda p: 0.3 * p, params)  # near bicubic, so that errors of place would be seen
  made = validate.make_validator(config)({"params": params})

  border = int(np.ceil(scale))
  truth = images.crop_to_multiple(images.center_crop(images.read_image(data.sample_photos()[0]), 50), border)
  degradation = mz.load_degradation("g20d")
  lr = degradation_lib.degrade(truth / np.float32(255), degradation.kernel, scale, degradation.subsample)
  lr = images.to_float(images.to_uint8(np.asarray(lr)))

  def psnr(sr):
    sr = images.to_uint8(np.asarray(sr)[: len(truth), : truth.shape[1]])
    return metrics.psnr_y(sr, truth, border)

  expected = {"psnr_bicubic": psnr(mz.enlarge(lr, scale))}
  for steps in {0, 1, config.meta.num_inner_steps}:
    adapted = mz.adapt(params, lr, degradation, scale, np.float32(config.meta_test.inner_lrs), steps, net)
    expected[f"psnr_{steps}_steps"] = psnr(mz.super_resolve(adapted, lr, scale, degradation, net))
  assert made.scalars.keys() == expected.keys()
  for name, value in expected.items():
    assert made.scalars[name] == pytest.approx(value, abs=0.02), name
  assert made.strip.shape == (len(truth), 3 * truth.shape[1], 3)
