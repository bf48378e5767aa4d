"""Back-projection and self-ensemble: what they promise for every kernel and both ways of subsampling."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mzsr_jax.core import degradation as degradation_lib
from mzsr_jax.core import kernels
from mzsr_jax.core.kernels import Degradation
from mzsr_jax.photo import kernel_files, refine

DELTA = Degradation(np.float32([[1]]), "direct")


def _kind(name):
  return DELTA if name == "delta" else kernel_files.load_degradation(name)


def _photo(height=40, width=44):
  """Smooth structures and edges, in [0.1, 0.9]."""
  y, x = np.mgrid[:height, :width] / 8
  image = np.stack([np.sin(x * y), np.sign(np.sin(x + 2 * y)), np.cos(3 * x)], axis=-1)
  return (0.5 + 0.4 * image).astype(np.float32)


@pytest.mark.parametrize("name", ["delta", "g02d", "g20d", "gani", "bicubic", "g13b"])
@pytest.mark.parametrize("scale", [2, (1.5, 2.0)])
def test_back_projection_makes_the_image_agree_with_its_lr_image(name, scale):
  degradation, hr = _kind(name), _photo(42, 40)
  lr = jnp.clip(degradation_lib.degrade(hr, degradation.kernel, scale, degradation.subsample), 0, 1)
  error = lambda sr: float(jnp.abs(degradation_lib.degrade(sr, degradation.kernel, scale, degradation.subsample) - lr).mean())
  before = degradation_lib.enlarge(lr, scale)
  errors = [error(refine.back_project(jnp.clip(before, 0, 1), lr, degradation, scale, n)) for n in (0, 10, 100)]
  assert errors[1] < 0.5 * errors[0] and errors[2] <= max(0.5 * errors[1], 1e-6)
  np.testing.assert_allclose(refine.back_project(hr, lr, degradation, scale, 10), hr, atol=1e-5)  # the truth is left as it is


@pytest.mark.parametrize("name", ["delta", "gani", "g13b"])
@pytest.mark.parametrize("size, scale", [((30, 33), (2.0, 2.0)), ((6, 41), (1.5, 3.0))])
def test_its_operators_are_the_degradation_and_its_adjoint(name, size, scale):
  degradation, rng = _kind(name), np.random.default_rng(0)
  reference = lambda x: degradation_lib.degrade(x[..., None], degradation.kernel, scale, degradation.subsample)[..., 0]
  x = rng.random(size, np.float32)
  small = reference(x).shape
  down, up = refine._operators(size, small, degradation, scale)
  np.testing.assert_allclose(down(x), reference(x), atol=1e-5)
  y = rng.random(small, np.float32)
  np.testing.assert_allclose(up(y), jax.linear_transpose(reference, x)(y)[0], atol=1e-5)


def test_back_projection_takes_an_image_nearer_to_the_truth():
  degradation, hr = kernel_files.load_degradation("g20d"), _photo()
  lr = degradation_lib.degrade(hr, degradation.kernel, 2, degradation.subsample)
  aligned = jnp.clip(degradation_lib.enlarge(lr, 2) + 0.1, 0, 1)  # of the right shape but too bright
  made = refine.back_project(aligned, lr, degradation, 2, 20)
  assert jnp.abs(made - hr).mean() < 0.7 * jnp.abs(aligned - hr).mean()


def test_back_projection_does_not_fit_noise():
  degradation, hr = kernel_files.load_degradation("g20d"), _photo()
  lr = np.asarray(degradation_lib.degrade(hr, degradation.kernel, 2, degradation.subsample))
  noisy = lr + np.random.default_rng(0).normal(0, 0.03, lr.shape).astype(np.float32)
  told = lambda sr, std: np.asarray(refine.back_project(sr, noisy, degradation.replace(noise_std=std), 2, 20))
  np.testing.assert_array_equal(told(hr, 0.031), hr)  # they differ by noise alone
  assert np.abs(told(hr, 0.0) - hr).mean() > 0.01
  wrong = np.clip(hr + 0.2, 0, 1)
  off, fitted, stopped = (np.abs(sr - hr).mean() for sr in (wrong, told(wrong, 0.0), told(wrong, 0.03)))
  assert stopped < 0.5 * off and stopped < fitted


def test_turns_are_those_that_the_kernel_does_not_tell_apart():
  count = lambda kernel, scale=2: len(list(refine.turned(Degradation(kernel, "direct"), (8, 8), scale, False)))
  assert count(np.asarray(kernels.gaussian(2, 2, 0, 15))) == 8
  assert count(np.asarray(kernels.gaussian(4, 1, -0.5, 15))) == 2
  assert count(np.asarray(kernels.gaussian(4, 1, 0, 15))) == 4
  assert count(np.float32([[1, 0, 0], [0, 2, 0], [0, 0, 0]])) == 2  # the identity, and the transposition
  assert count(np.float32([[0, 1, 0], [0, 0, 2], [0, 0, 0]])) == 1
  assert count(np.ones((3, 3), np.float32), (1.5, 2.0)) == 4


@pytest.mark.parametrize("subsample", ["direct", "bicubic"])
@pytest.mark.parametrize("scale, count", [(2, 8), (3, 8), (4, 8), ((2.0, 3.0), 4)])
def test_a_told_kernel_makes_turned_lr_images_of_turned_hr_images(subsample, scale, count):
  """Whatever the kernel: this one has no symmetry, and its centre is off the middle."""
  kernel = np.random.default_rng(0).uniform(size=(7, 7)).astype(np.float32)
  degradation, hr = Degradation(kernel / kernel.sum(), subsample), _photo(24, 36)
  shrunk = lambda image, of, scale: np.asarray(degradation_lib.degrade(image, of.kernel, scale, of.subsample))
  lr = shrunk(hr, degradation, scale)
  turns = list(refine.turned(degradation, lr.shape[:2], scale, True))
  assert len(turns) == count
  for turn, of in turns:
    np.testing.assert_allclose(shrunk(turn.turned(hr), of, scale), turn.turned(lr), atol=1e-5)


def test_turns_are_undone():
  image = np.arange(24).reshape(4, 6)
  turns = [turn for turn, _ in refine.turned(DELTA, (4, 6), 2, False)]
  results = [turn.turned(image).tobytes() + bytes(turn.turned(image).shape) for turn in turns]
  assert len(set(results)) == 8
  for turn in turns:
    assert (turn.undo(turn.turned(image)) == image).all()


@pytest.mark.parametrize("degradation", [DELTA, kernel_files.load_degradation("bicubic")], ids=lambda d: d.subsample)
@pytest.mark.parametrize("scale, size", [(2, (24, 28)), (3, (24, 27)), ((2.0, 3.0), (24, 27)), (1.5, (25, 29))])
def test_turned_images_lie_on_the_enlarged_grid_as_the_image_did(degradation, scale, size):
  """On a slope, what a network gets differs from the truth by a shift that it has learned: the same for all turns."""
  hr = np.broadcast_to((0.01 * np.mgrid[: size[0], : size[1]]).sum(0)[..., None], (*size, 3)).astype(np.float32)
  if degradation.subsample == "direct" and scale == 1.5:
    pytest.skip("direct subsampling by 1.5 has no even stride")
  lr = np.asarray(degradation_lib.degrade(hr, degradation.kernel, scale, degradation.subsample))
  factors = degradation_lib.per_axis(scale)
  for turn, of in refine.turned(degradation, lr.shape[:2], scale, False):
    full = degradation_lib.enlarge(turn.turned(lr), scale, offset=of.offset)
    truth = turn.turned(np.pad(hr, [(0, 0)] * 3))[: full.shape[0], : full.shape[1]]
    slopes = [-0.01 if flip else 0.01 for flip in turn.flipped]
    shift = sum(slope * -(factor - 1) / 2 for slope, factor in zip(slopes, factors)) if degradation.subsample == "direct" else 0
    inside = (slice(9, -9), slice(9, -9))
    if truth.shape == full.shape:  # else the enlarged image is larger than the HR image, and turned it begins elsewhere
      np.testing.assert_allclose((np.asarray(full) - truth)[inside], shift, atol=1e-5)


def test_the_ensemble_of_a_network_that_does_nothing_is_its_input_without_any_shift_of_its_own():
  degradation, lr = kernel_files.load_degradation("bicubic"), _photo(20, 22)
  enlarge = lambda image, of: degradation_lib.enlarge(image, 2, offset=of.offset)
  np.testing.assert_allclose(refine.self_ensemble(enlarge, lr, degradation, 2), degradation_lib.enlarge(lr, 2), atol=1e-5)


def test_the_ensemble_is_a_median_of_restored_images():
  lr, seen = _photo(20, 22), []

  def enlarge(image, of):
    seen.append(of.offset)
    return jnp.full((2 * image.shape[0], 2 * image.shape[1], 3), float(len(seen)))

  made = refine.self_ensemble(enlarge, lr, kernel_files.load_degradation("g20d"), 2, restore=lambda sr: sr + 10)
  assert made.shape == (40, 44, 3)
  np.testing.assert_allclose(made, np.median(np.arange(1, 9) + 10) + 10)
  assert sorted(set(seen)) == [(0, 0), (0, 1), (1, 0), (1, 1)]
