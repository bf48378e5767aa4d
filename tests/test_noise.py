"""The noise of a photo, estimated from it alone."""

import numpy as np
import pytest
import skimage.data

from mzsr_jax import degradation, images, kernels, noise


@pytest.fixture(scope="module")
def smooth():
  """The middle of a photo, blurred and shrunk, which takes off what noise it has."""
  lr = degradation.degrade(images.to_float(skimage.data.astronaut()), kernels.load_degradation("g20d").kernel, 2, "direct")
  return np.asarray(lr)[64:192, 64:192]


def noisy(image, level, bits=8):
  """Rounded as files have it."""
  shaken = image + np.random.default_rng(0).normal(0, level / 255, image.shape)
  return (np.round(np.clip(shaken, 0, 1) * (2**bits - 1)) / (2**bits - 1)).astype(np.float32)


@pytest.mark.parametrize("bits", [8, 16])
def test_it_is_the_noise_that_was_added(smooth, bits):
  clean = 255 * noise.estimate(noisy(smooth, 0, bits))
  assert clean < 0.5
  for level in (1, 3, 10, 30):
    assert 255 * noise.estimate(noisy(smooth, level, bits)) == pytest.approx(np.hypot(level, clean), rel=0.2)


def test_clipped_parts_do_not_pass_for_clean_ones(smooth):
  image = smooth.copy()
  image[:, :32] = 0.0
  assert 255 * noise.estimate(noisy(image, 5)) == pytest.approx(5, rel=0.1)


@pytest.mark.parametrize("size", [(1, 1), (7, 200), (20, 30), (64, 64), (3, 3)])
@pytest.mark.parametrize("value", [0.0, 0.4, 1.0])
def test_flat_and_small_images_are_clean(size, value):
  assert noise.estimate(np.full((*size, 3), value, np.float32)) == 0


def test_gray_photos_have_the_noise_of_a_channel(smooth):
  gray = np.repeat(smooth.mean(-1, keepdims=True), 3, axis=-1)
  gray = gray + np.random.default_rng(0).normal(0, 4 / 255, (128, 128, 1)).astype(np.float32)
  assert 255 * noise.estimate(gray) == pytest.approx(4, rel=0.1)
