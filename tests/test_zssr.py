"""ZSSR: fathers, the policy of its learning rate, and that it learns an image from itself."""

import jax
import numpy as np
import pytest
import skimage.data

from mzsr_jax import images
from mzsr_jax.core import degradation as degradation_lib
from mzsr_jax.core.model import MZSRNet
from mzsr_jax.errors import UserError
from mzsr_jax.evaluation import metrics, zssr
from mzsr_jax.photo import kernel_files

SMALL = MZSRNet(depth=3, features=16)
QUICK = zssr.DEFAULTS._replace(max_steps=3, crop=24, test_every=1)


@pytest.fixture(scope="module")
def photo():
  """(96, 96, 3) of a sample photo, in [0, 1]."""
  return images.to_float(skimage.data.astronaut()[:192:2, 160:352:2])


def _lr(photo, degradation, scale=2):
  return np.clip(np.asarray(degradation_lib.degrade(photo, degradation.kernel, scale, degradation.subsample)), 0, 1)


def test_fathers_come_from_the_image(photo):
  rng = np.random.default_rng(0)
  draw = lambda **options: zssr.random_father(rng, [photo], (1.0,), 32, zssr.DEFAULTS._replace(**options))
  plain = draw(as_is=1.0, no_interpolation=0.0)
  corners = ((i, j) for i in range(65) for j in range(65))
  assert any((photo[i : i + 32, j : j + 32] == plain).all() for i, j in corners)
  turned = [draw(as_is=0.0, no_interpolation=1.0) for _ in range(20)]
  assert {tuple(np.sort(father, axis=None)[::500]) for father in turned}  # values of the image, in another order
  assert all(np.isin(father, photo).all() for father in turned)
  affine = [draw(as_is=0.0, no_interpolation=0.0) for _ in range(20)]
  for father in affine:
    assert father.shape == (32, 32, 3) and father.dtype == np.float32 and 0 <= father.min() < father.max() <= 1
    assert father.min() >= photo.min() - 0.1 and father.std() > 0.005  # nothing black from beyond the edge


def test_a_map_that_changes_nothing_gives_a_part_of_the_image(photo):
  rng = np.random.default_rng(0)
  still = zssr.DEFAULTS._replace(as_is=0, no_interpolation=0, min_scale=1, axes_sigma=0, shear_sigma=0, rotate=False, crop=96)
  np.testing.assert_allclose(zssr.random_father(rng, [photo], (1.0,), 96, still), photo, atol=1e-5)


def test_scales_above_one_come_from_the_results_so_far(photo):
  rng = np.random.default_rng(0)
  large = np.ones((144, 144, 3), np.float32)
  options = zssr.DEFAULTS._replace(as_is=0.0, no_interpolation=0.5, min_scale=1.0)
  fathers = [zssr.random_father(rng, [photo, large], (1.0, 1.5), 32, options) for _ in range(20)]
  assert all(father.min() > 0.999 for father in fathers)


@pytest.mark.parametrize(
    "errors, stops",
    [
        ([1.0, 0.8, 0.6, 0.4, 0.2], False),
        ([1.0, 0.81, 0.58, 0.42, 0.2], False),
        ([1.0, 0.98, 1.01, 0.99, 1.0], True),
        ([0.2, 0.3, 0.4, 0.5, 0.61], True),
    ],
)
def test_the_rate_falls_when_the_error_does_not(errors, stops):
  assert zssr.stopped_falling([(50 * i, e) for i, e in enumerate(errors)], 1.5) == stops


def test_training_ends_at_the_floor_of_the_rate_or_at_its_last_step(photo):
  degradation = kernel_files.load_degradation("g20d")
  lr = _lr(photo, degradation)
  params = zssr._initial_params(0, SMALL)
  falls = QUICK._replace(max_steps=100, check_every=2, min_steps=4, slope_range=4, slope_ratio=0.0, learning_rate=1e-5)
  run = lambda options: list(
      zssr.train(jax.tree.map(np.copy, params), [lr], (1.0,), degradation, (2.0, 2.0), np.random.default_rng(0), options, SMALL)
  )
  rates = [progress.learning_rate for progress in run(falls._replace(min_learning_rate=2e-7))]
  assert rates[0] == 1e-5 and len(rates) < 40 and rates[-1] == pytest.approx(1e-7)
  changes = np.flatnonzero(np.diff(rates))
  assert len(changes) == 2 and np.diff(changes) > 4
  short = run(QUICK)
  assert [progress.step for progress in short] == [1, 2, 3]
  changed = jax.tree.map(lambda now, before: bool((now != before).any()), short[-1].params, params)
  assert all(layer == {"kernel": True, "bias": False} for layer in changed.values())
  params = jax.tree.map(lambda p: np.full(p.shape, np.nan, np.float32), params)
  with pytest.raises(UserError, match="diverged at step 1"):
    run(QUICK)


@pytest.mark.parametrize("name", ["g20d", "bicubic"])
@pytest.mark.slow
def test_it_learns_an_image_from_itself(photo, name):
  degradation = kernel_files.load_degradation(name)
  lr = _lr(photo, degradation)
  options = zssr.DEFAULTS._replace(max_steps=300, crop=48, learning_rate=3e-3)
  psnr = lambda sr: metrics.psnr_y(images.to_uint8(sr), images.to_uint8(photo), 2)
  bicubic = psnr(np.clip(np.asarray(degradation_lib.enlarge(lr, 2)), 0, 1))
  assert psnr(zssr.super_resolve(lr, degradation, 2, options=options, net=SMALL)) > bicubic + (2 if name == "g20d" else 0.3)


def test_same_seed_same_image(photo):
  degradation, lr = kernel_files.load_degradation("gani"), photo[:32, :40]
  noisy = QUICK._replace(noise_std=0.01)
  one, same, other, quiet = (
      zssr.super_resolve(lr, degradation, 2, seed, options, SMALL)
      for seed, options in ((0, noisy), (0, noisy), (1, noisy), (0, QUICK))
  )
  assert one.tobytes() == same.tobytes() and (one != other).any() and (one != quiet).any()


def test_factors_may_differ_by_axis_and_come_one_after_another(photo):
  scale = (1.5, 2.0)
  degradation, lr = kernel_files.load_degradation("g13b"), photo[:30, :40]
  vertical, horizontal = degradation_lib.per_axis(scale)
  gradual = QUICK._replace(factors=((1.0, 1.5), (vertical, horizontal)))
  sr = zssr.super_resolve(lr, degradation, scale, options=gradual, net=SMALL)
  assert sr.shape == (np.ceil(30 * vertical), np.ceil(40 * horizontal), 3) and 0 <= sr.min() <= sr.max() <= 1


@pytest.mark.parametrize(
    "side, options, words",
    [
        (15, {}, "15x15"),
        (32, {"factors": ((1.5, 1.5),)}, "end with the scale"),
        (32, {"factors": ((9.0, 1.0), (2.0, 2.0))}, "from 1 to 8"),
        (32, {"crop": 4}, "crop is 4"),
        (32, {"as_is": 0.6, "no_interpolation": 0.6}, "sum to 1.2"),
        (32, {"noise_std": float("nan")}, "noise_std is nan"),
    ],
)
def test_wrong_input(photo, side, options, words):
  with pytest.raises(UserError, match=words):
    zssr.super_resolve(photo[:side, :side], kernel_files.load_degradation("g20d"), 2, options=QUICK._replace(**options))
