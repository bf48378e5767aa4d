"""The test bed of photos: files are made as they say, the same each time, and what is scored is what it is called."""

import json

import numpy as np
import pytest
from PIL import Image
from test_cli import run_entry

from experiments import pipelines
from mzsr_jax import images
from mzsr_jax.evaluation import metrics
from mzsr_jax.training import data

HR = images.center_crop(images.read_image(data.sample_photos()[1]), 96)


def made(name, hr=HR, seed=0):
  return pipelines.photo_of(hr, pipelines.PIPELINES[name], 2, np.random.default_rng(seed))


def test_area_averages_cells():
  cells = HR.reshape(48, 2, 48, 2, 3).mean((1, 3))
  assert np.abs(255 * made("area").rgb - cells).max() <= 1 + 1e-3  # Pillow rounds after each axis


@pytest.mark.parametrize("name", pipelines.PIPELINES)
def test_every_pipeline_shrinks_in_place_and_the_same_each_time(name):
  photo, again, other = made(name), made(name), made(name, seed=1)
  np.testing.assert_array_equal(photo.rgb, again.rgb)
  random = name not in ("area", "Lanczos", "bicubic")
  assert photo.rgb.shape == (48, 48, 3) and (photo.rgb != other.rgb).any() == random
  assert (photo.jpeg_error > 0) == ("JPEG" in name)
  blurred = lambda x: np.asarray(Image.fromarray(images.to_uint8(x)).resize((8, 8), Image.Resampling.BOX), np.float64)
  assert np.abs(blurred(photo.rgb) - blurred(HR / 255)).mean() < 3


def test_noise_and_sharpening_are_as_strong_as_they_say():
  gray = np.full((512, 512, 3), 188, np.uint8)
  noisy = pipelines.photo_of(gray, pipelines.Pipeline("optics", noise=(4, 4)), 2, np.random.default_rng(0)).rgb
  assert 255 * noisy.std() == pytest.approx(4, abs=0.4)
  edge = np.full((64, 64, 3), 100, np.uint8)
  edge[:, 32:] = 150
  sharp = pipelines.photo_of(edge, pipelines.Pipeline("area", amount=(100, 100)), 2, np.random.default_rng(0)).rgb
  assert 10 < 255 * sharp.max() - 150 < 25 and 10 < 100 - 255 * sharp.min() < 25


def test_overshoot_is_what_lies_beyond_the_truth_at_edges():
  gt = np.full((64, 64, 3), 50, np.uint8)
  gt[:, 32:] = 200
  assert pipelines.overshoot(gt, gt) == 0
  blurred, halo = gt.copy(), gt.copy()
  blurred[:, 30:34] = 120
  halo[:, 33] = 220
  far = gt.copy()
  far[:, 60] = 255
  assert pipelines.overshoot(blurred, gt) == 0 and pipelines.overshoot(far, gt) == 0
  brighter = metrics.luma(np.uint8([[[220] * 3]])) - metrics.luma(np.uint8([[[200] * 3]]))
  assert pipelines.overshoot(halo, gt) == pytest.approx(brighter.item() / 8)  # of eight columns near the edge, one


def test_a_summary_is_of_its_pairs():
  scored = lambda psnr, overshoot: {"psnr": psnr, "ssim": 0.5, "overshoot": overshoot}
  rows = [{"pipeline": "a", "bicubic": scored(30, 1), "default": scored(*own)} for own in ((31, 2), (29.5, 1))]
  found = pipelines.summary(rows)
  assert (found["pairs"], found["gain"], found["better"], found["worst"]) == (2, 0.25, 0.5, -0.5)
  assert "| a | 2 | +0.25 | 50% | -0.50 | +0.0000 | 1.50 (bicubic 1.00) |" in pipelines.markdown(rows)
  assert "| a | 2 | +0.25 → +0.25 | 50% → 50% |" in pipelines.markdown(rows, rows)


def test_the_bed_runs(monkeypatch, tmp_path):
  hr = [("photo", images.center_crop(HR, 64))]
  monkeypatch.setattr(pipelines, "truths", lambda folder, side: hr)
  kept = ("area", "camera, sharpened, JPEG twice")
  monkeypatch.setattr(pipelines, "PIPELINES", {name: pipelines.PIPELINES[name] for name in kept})
  out = tmp_path / "bed.json"
  flags = f"--out={out}", "--side=64", "--compilation_cache="
  assert run_entry(monkeypatch, pipelines.main, pipelines.define_flags, *flags) == 0
  rows = json.loads(out.read_text())["pairs"]
  assert [row["pipeline"] for row in rows] == list(kept) and "contrast" in rows[0]["about"]
  assert rows[0]["default"]["psnr"] != rows[0]["bicubic"]["psnr"] > 20
  assert out.with_suffix(".md").read_text() == pipelines.markdown(rows)
