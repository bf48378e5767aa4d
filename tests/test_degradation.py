"""Blur, subsampling and enlargement against SciPy, against MATLAB's rules, and against the authors' own LR images."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.io
import scipy.ndimage

from mzsr_jax.core import degradation, kernels, resize
from mzsr_jax.photo import kernel_files


def random_image(*shape):
  return np.random.default_rng(0).random(shape, np.float32)


@pytest.mark.parametrize("shape", [(16, 23, 3), (4, 5, 3), (1, 1, 3)])  # smaller than the kernel, too
@pytest.mark.parametrize("size", [3, 15, 21])
def test_blur_is_scipys_correlation_with_repeated_edges(shape, size):
  image = random_image(*shape)
  kernel = np.random.default_rng(1).random((size, size), np.float32)
  kernel /= kernel.sum()
  expected = np.stack([scipy.ndimage.correlate(image[..., c], kernel, mode="reflect") for c in range(3)], -1)
  np.testing.assert_allclose(degradation.blur(jnp.asarray(image), jnp.asarray(kernel)), expected, atol=1e-6)


def matlab_cubic_row(in_size, out_index, factor):
  """One row of MATLAB's imresize, from its documentation: loops and 1-based indices."""
  cubic = lambda x: 1.5 * x**3 - 2.5 * x**2 + 1 if x <= 1 else -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2 if x < 2 else 0.0
  shrink = min(factor, 1.0)
  centre = (out_index + 1) / factor + 0.5 * (1 - 1 / factor)
  row = np.zeros(in_size)
  for pixel in range(int(centre - 3 / shrink) - 3, int(centre + 3 / shrink) + 4):
    reflected = (pixel - 1) % (2 * in_size)
    row[reflected if reflected < in_size else 2 * in_size - 1 - reflected] += cubic(shrink * abs(centre - pixel))
  return row / row.sum()


@pytest.mark.parametrize("in_size,factor", [(12, 2.0), (12, 0.5), (65, 0.5), (13, 0.25), (7, 4.0), (30, 2.2), (3, 1 / 3)])
def test_bicubic_matrix_is_imresize(in_size, factor):
  out_size = int(np.ceil(in_size * factor - 1e-9))
  expected = np.stack([matlab_cubic_row(in_size, i, factor) for i in range(out_size)])
  np.testing.assert_allclose(resize.bicubic(in_size, out_size, factor), expected, atol=1e-6)


@pytest.mark.parametrize("scale", [2.0, 2.2, 2.5, 3.0, 3.8, 4.0])
@pytest.mark.parametrize("mode", ["direct", "bicubic"])
def test_matrices_preserve_constants(scale, mode):
  down = resize.shrink(53, scale, mode)
  up = resize.enlarge(down.shape[0], scale, 53)
  assert down.shape == (int(np.ceil(53 / scale)), 53) and up.shape == (53, down.shape[0])
  np.testing.assert_allclose(down.sum(1), 1, atol=1e-6)
  np.testing.assert_allclose(up.sum(1), 1, atol=1e-6)


def test_direct_subsampling_keeps_every_second_pixel_from_the_first():
  image = random_image(9, 10, 3)
  np.testing.assert_array_equal(degradation.subsample(jnp.asarray(image), 2, "direct"), image[::2, ::2])


@pytest.mark.parametrize("mode", ["direct", "bicubic"])
def test_degrader_agrees_with_the_single_functions_at_every_scale(mode):
  scales = tuple(2 + i / 5 for i in range(11))
  hr = jnp.asarray(random_image(2, 32, 32, 3))
  kernel = kernels.gaussian(3.0, 1.5, 0.4, 15)
  degrader = degradation.Degrader(32, scales, mode)
  run = jax.jit(lambda hr, kernel, i: degrader.enlarge(degrader.shrink(hr, kernel, i), i))
  for i, scale in enumerate(scales):
    lr = jnp.clip(degradation.degrade(hr, kernel, scale, mode), 0, 1)
    np.testing.assert_allclose(run(hr, kernel, i), degradation.enlarge(lr, scale, (32, 32)), atol=2e-6)


def test_degrader_adds_noise_of_the_given_deviation():
  grey = jnp.full((4, 64, 64, 3), 0.5)
  degrader = degradation.Degrader(64, (2.0,), "direct")
  clean, noisy = (
      degrader.enlarge(degrader.shrink(grey, jnp.ones((1, 1)), 0, std, jax.random.key(0))) for std in (0.0, 0.1)
  )
  np.testing.assert_allclose(clean, 0.5, atol=1e-6)
  # The LR pixels come back at every second position only; there, interpolation shrinks the deviation a little.
  assert 0.06 < float(jnp.std(noisy)) < 0.1


def test_degradation_is_differentiable_in_image_and_kernel():
  image, kernel = jnp.asarray(random_image(8, 8, 3)), kernels.gaussian(1.0, 1.0, 0.0, 5)
  total = lambda image, kernel: jnp.sum(degradation.degrade(image, kernel, 2, "bicubic") ** 2)
  for argument in (0, 1):
    gradient = jax.grad(total, argument)(image, kernel)
    assert bool(jnp.isfinite(gradient).all()) and float(jnp.abs(gradient).max()) > 0


def gaussian_at(dy, dx, size=21, variance=2.0):
  """A Gaussian whose centre is moved from the middle."""
  y, x = np.mgrid[:size, :size] - size // 2
  kernel = np.exp(-((y - dy) ** 2 + (x - dx) ** 2) / 2 / variance)
  return (kernel / kernel.sum()).astype(np.float32)


def inside(image, border=20):
  return np.asarray(image)[border:-border, border:-border]


@pytest.mark.parametrize("mode", ["direct", "bicubic"])
@pytest.mark.parametrize("scale,offset", [(2, (2, -4)), (2, (-2, 0)), (4, (4, -4)), (3, (0, 3))])
def test_a_moved_kernel_and_its_offset_give_what_the_centred_kernel_gives(mode, scale, offset):
  """Exactly, where it moves by whole LR pixels: the LR image is then the same one, cut elsewhere."""
  hr = jnp.asarray(random_image(60, 72, 3))
  centred, moved = (degradation.degrade(hr, gaussian_at(*d), scale, mode) for d in ((0, 0), offset))
  expected = degradation.enlarge(centred, scale)
  np.testing.assert_allclose(inside(degradation.enlarge(moved, scale, offset=offset)), inside(expected), atol=2e-6)
  assert np.abs(inside(degradation.enlarge(moved, scale) - expected)).max() > 0.02


@pytest.mark.parametrize("mode", ["direct", "bicubic"])
@pytest.mark.parametrize("scale,offset", [(2, (1, -1)), (2, (0.5, 0.5)), (4, (1.5, 1.5)), (3, (0.75, -2))])
def test_parts_of_an_lr_pixel_are_made_up_for_as_well(mode, scale, offset):
  """As well as bicubic interpolation can: on an image that changes slowly, nearly all of the difference is gone."""
  y, x = np.mgrid[:80, :90]
  waves = [np.sin(y / 5 + x / 9), np.cos(x / 6 - y / 11), np.sin(x / 7) * np.cos(y / 8)]
  hr = jnp.asarray(np.stack(waves, -1) / 2 + 0.5, jnp.float32)
  centred, moved = (degradation.degrade(hr, gaussian_at(*d), scale, mode) for d in ((0, 0), offset))
  expected = degradation.enlarge(centred, scale)
  error = lambda offset: np.abs(inside(degradation.enlarge(moved, scale, offset=offset) - expected)).max()
  assert error(offset) < 0.1 * error((0, 0))


@pytest.mark.parametrize("shape", [(4, 4), (6, 6), (5, 5), (1, 4), (5, 2)])
@pytest.mark.parametrize("scale", [2, 3])
def test_kernel_files_of_even_and_unequal_sides_are_those_of_scipy(tmp_path, shape, scale):
  kernel, image = np.random.default_rng(1).random(shape), random_image(20, 23, 3)
  np.save(tmp_path / "k.npy", kernel)
  expected = np.stack([scipy.ndimage.correlate(image[..., c], kernel / kernel.sum(), mode="reflect") for c in range(3)], -1)
  made = degradation.degrade(jnp.asarray(image), kernel_files.read_kernel(tmp_path / "k.npy"), scale, "direct")
  np.testing.assert_allclose(made, expected[::scale, ::scale], atol=1e-6)


def test_named_kernel_equals_the_authors(data_dir):
  theirs = scipy.io.loadmat(data_dir / "Set5/g20_direct_x2/kernel.mat")
  (kernel,) = [v for k, v in theirs.items() if not k.startswith("__")]
  np.testing.assert_allclose(kernel_files.load_degradation("g20d").kernel, kernel, atol=1e-7)
