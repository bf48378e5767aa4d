"""PSNR-Y and SSIM-Y against their formulas, written out."""

import math

import numpy as np
import pytest
import scipy.signal
from skimage.metrics import peak_signal_noise_ratio

from mzsr_jax.evaluation import metrics


def _pair(size=(40, 33), noise=20):
  rng = np.random.default_rng(0)
  gt = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
  sr = np.clip(gt + rng.normal(0, noise, gt.shape), 0, 255).astype(np.uint8)
  return sr, gt


def test_luma_range_and_rounding():
  colours = np.array([[[0, 0, 0], [255, 255, 255], [255, 0, 0], [128, 128, 128]]], np.uint8)
  np.testing.assert_array_equal(metrics.luma(colours), [[16, 235, 81, 126]])


@pytest.mark.parametrize("border", [0, 2, 4])
def test_psnr_is_its_formula(border):
  sr, gt = _pair()
  inner = (slice(border, 40 - border), slice(border, 33 - border))
  difference = metrics.luma(sr)[inner] - metrics.luma(gt)[inner]
  assert metrics.psnr_y(sr, gt, border) == pytest.approx(20 * math.log10(255 / np.sqrt((difference**2).mean())))


def test_psnr_of_rgb_and_of_full_range_luma_are_scikit_images():
  sr, gt = _pair()
  cut = (slice(2, -2), slice(2, -2))
  ours = metrics.psnr_rgb(sr, gt, 2), metrics.psnr_y_full(sr, gt, 2)
  grey = [np.round(np.asarray(image[cut], float) @ [0.299, 0.587, 0.114]) for image in (gt, sr)]
  theirs = peak_signal_noise_ratio(gt[cut], sr[cut]), peak_signal_noise_ratio(*grey, data_range=255)
  assert ours == pytest.approx(theirs)
  assert metrics.psnr_y(sr, gt, 2) - metrics.psnr_y_full(sr, gt, 2) == pytest.approx(20 * math.log10(255 / 219), abs=0.02)


def test_ssim_is_wang_et_al():
  sr, gt = _pair()
  x, y = metrics.luma(sr)[2:-2, 2:-2], metrics.luma(gt)[2:-2, 2:-2]
  taps = np.exp(-0.5 * (np.arange(-5, 6) / 1.5) ** 2)
  window = np.outer(taps, taps) / taps.sum() ** 2
  mean = lambda image: scipy.signal.convolve2d(image, window, mode="valid")
  mx, my = mean(x), mean(y)
  vx, vy, cov = mean(x * x) - mx**2, mean(y * y) - my**2, mean(x * y) - mx * my
  c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
  ssim = (2 * mx * my + c1) * (2 * cov + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))
  assert metrics.ssim_y(sr, gt, border=2) == pytest.approx(ssim.mean(), abs=1e-9)


def test_equal_images_are_perfect():
  _, gt = _pair()
  assert metrics.psnr_y(gt, gt, 2) == math.inf
  assert metrics.ssim_y(gt, gt, 2) == 1


def test_the_border_does_not_count():
  sr, gt = _pair(noise=0)
  sr[:2], sr[:, -2:] = 0, 0
  assert metrics.psnr_y(sr, gt, 2) == math.inf
  assert metrics.psnr_y(sr, gt, 1) < math.inf


@pytest.mark.usefixtures("unchecked")
def test_sizes_and_types_must_agree():
  sr, gt = _pair()
  for bad in (sr[:-1], sr / 255):
    with pytest.raises(ValueError, match="uint8"):
      metrics.psnr_y(bad, gt, 2)


def test_flip_is_zero_for_equal_images_grows_with_the_difference_and_leaves_out_the_border():
  pytest.importorskip("flip_evaluator", reason="FLIP is an optional metric: pip install '.[perceptual]'")
  (sr, gt), (worse, _) = _pair(noise=5), _pair(noise=40)
  assert metrics.flip(gt, gt, 2) == 0 < metrics.flip(sr, gt, 2) < metrics.flip(worse, gt, 2) < 1
  spoilt = sr.copy()
  spoilt[:2] = spoilt[:, -2:] = 255 - spoilt[0, 0]
  assert metrics.flip(spoilt, gt, 2) == metrics.flip(sr, gt, 2) < metrics.flip(spoilt, gt, 0)
  assert metrics.METRICS["flip"] is metrics.flip
