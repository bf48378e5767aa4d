"""What must hold for any input: properties tried on examples that hypothesis looks for, the same ones in every run."""

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
import skimage.metrics
from hypothesis import strategies as st

from mzsr_jax.core import adapt as adapt_lib
from mzsr_jax.core import degradation as degradation_lib
from mzsr_jax.core import kernels, model, resize
from mzsr_jax.core.kernels import Degradation
from mzsr_jax.evaluation import metrics
from mzsr_jax.inference.tiled import TiledAdapter
from mzsr_jax.photo import enhance, kernel_files, refine
from mzsr_jax.photo import file as photo_file

NET = model.MZSRNet(depth=2, features=4)
RATES = np.float32([0.03, 0.02])

hypothesis.settings.register_profile("here", max_examples=25, deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("here")
examples = hypothesis.given

# Few sizes, since each is compiled: odd, even, smaller than a kernel, not divided by a scale.
sizes = st.tuples(st.sampled_from([5, 12, 17]), st.sampled_from([8, 13]))
scales = st.sampled_from([2.0, 2.5, 3.0])
subsamplings = st.sampled_from(kernels.SUBSAMPLINGS)
seeds = st.integers(0, 2**32 - 1)


def image_of(kind, size, seed):
  """Random and adversarial images, float64 in [0, 1]."""
  rng, (height, width) = np.random.default_rng(seed), size
  image = np.zeros((height, width, 3))
  if kind == "noise":
    image = rng.random(image.shape)
  elif kind == "flat":
    image += rng.random(3)
  elif kind == "saturated":
    image = (rng.random(image.shape) > 0.5).astype(float)
  elif kind == "checkerboard":
    image[(np.add.outer(np.arange(height), np.arange(width)) % 2).astype(bool)] = 1
  elif kind == "pixel":
    image[rng.integers(height), rng.integers(width)] = 1
  return image


image_kinds = st.sampled_from(["noise", "flat", "saturated", "checkerboard", "pixel"])


def kernel_of(seed, symmetric=False):
  """A kernel of any shape, 7x7, sum 1."""
  kernel = np.random.default_rng(seed).random((7, 7)) ** 4
  kernel = kernel + kernel[::-1] + kernel[:, ::-1] + kernel[::-1, ::-1] if symmetric else kernel
  return kernel / kernel.sum()


def reference_resize(image, factor, subsample, size):
  """Rows of weights in float64, written down from the definition of MATLAB's imresize; `size` of the result."""
  for axis, count in enumerate(size):
    length, rows = image.shape[axis], np.zeros((count, image.shape[axis]))
    for i in range(count):
      if subsample == "direct":
        rows[i, min(int(np.floor(i / factor + 0.5)), length - 1)] = 1
        continue
      centre, stretch = (i + 1) / factor + 0.5 * (1 - 1 / factor), min(factor, 1)
      for j in range(int(np.floor(centre - 2 / stretch)) - 2, int(np.ceil(centre + 2 / stretch)) + 3):
        x = abs(stretch * (centre - j))
        cubic = 1.5 * x**3 - 2.5 * x**2 + 1 if x <= 1 else -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2 if x < 2 else 0
        inside = (j - 1) % (2 * length)
        rows[i, inside if inside < length else 2 * length - 1 - inside] += cubic
      rows[i] /= rows[i].sum()
    image = np.moveaxis(np.tensordot(rows, image, (1, axis)), 0, axis)
  return image


def reference_degrade(image, kernel, scale, subsample):
  blurred = np.stack([scipy.ndimage.correlate(image[..., c], kernel, mode="reflect") for c in range(3)], -1)
  return reference_resize(blurred, 1 / scale, subsample, [int(np.ceil(n / scale - 1e-9)) for n in image.shape[:2]])


def reference_network(params, image):
  """Correlations with zeros around, float64."""
  x = image
  for i in range(1, NET.depth + 1):
    kernel, bias = (np.asarray(params[f"conv{i}"][name], np.float64) for name in ("kernel", "bias"))
    taps = np.lib.stride_tricks.sliding_window_view(np.pad(x, ((1, 1), (1, 1), (0, 0))), (3, 3), (0, 1))
    x = np.einsum("hwcij,ijco->hwo", taps, kernel) + bias
    x = np.maximum(x, 0) if i < NET.depth else x
  return image + x


@examples(image_kinds, sizes, scales, subsamplings, seeds)
@pytest.mark.slow
def test_degradation_enlargement_and_network_equal_a_float64_reference(kind, size, scale, subsample, seed):
  image, kernel = image_of(kind, size, seed), kernel_of(seed)
  lr = degradation_lib.degrade(image.astype(np.float32), kernel.astype(np.float32), scale, subsample)
  expected = reference_degrade(image, kernel, scale, subsample)
  np.testing.assert_allclose(lr, expected, atol=2e-6)
  large = degradation_lib.enlarge(expected.astype(np.float32), scale)
  enlarged = reference_resize(expected, scale, "bicubic", large.shape[:2])
  np.testing.assert_allclose(large, enlarged, atol=5e-6)
  params = model.init(jax.random.key(seed % 1000), NET)
  out = NET.reconstruct(params, enlarged.astype(np.float32))
  np.testing.assert_allclose(out, reference_network(params, enlarged), atol=2e-5)


@examples(image_kinds, seeds)
@hypothesis.settings(max_examples=8)
def test_a_step_of_the_adaptation_equals_a_float64_reference(kind, seed):
  """Its gradient by differences of the float64 loss, along the gradient itself."""
  image = image_of(kind, (12, 13), seed) * 0.9 + 0.05
  params, kernel = model.init(jax.random.key(seed % 1000), NET), kernel_of(seed)
  son = np.clip(reference_degrade(image, kernel, 2, "direct"), 0, 1)
  son = reference_resize(son, 2, "bicubic", image.shape[:2])
  loss = lambda p: np.abs(reference_network(p, son) - image).mean()
  lr, rate = image.astype(np.float32), 1e-3
  adapted = adapt_lib.adapt(params, lr, kernel.astype(np.float32), 2, np.float32([rate]), model=NET)
  moved = jax.tree.map(lambda a, b: (np.float64(b) - np.float64(a)) / rate, params, adapted)  # minus the gradient
  squared = sum((m**2).sum() for m in jax.tree.leaves(moved))
  step = 1e-5
  ahead, behind = (jax.tree.map(lambda p, m, s=s: np.float64(p) + s * step * m, params, moved) for s in (1, -1))
  slope = (loss(ahead) - loss(behind)) / (2 * step)
  np.testing.assert_allclose(-slope, squared, rtol=0.03, atol=1e-7)  # the loss has kinks


@examples(sizes, scales, subsamplings, seeds)
def test_degradation_is_linear_and_keeps_constants(size, scale, subsample, seed):
  rng, kernel = np.random.default_rng(seed), kernel_of(seed).astype(np.float32)
  a, b = rng.random((2, *size, 3), np.float32)
  degrade = lambda x: np.asarray(degradation_lib.degrade(x, kernel, scale, subsample))
  np.testing.assert_allclose(degrade(a - 2 * b), degrade(a) - 2 * degrade(b), atol=1e-5)
  np.testing.assert_allclose(degrade(np.full((*size, 3), 0.7, np.float32)), 0.7, atol=1e-6)


@examples(st.integers(1, 70), st.floats(1, 8), subsamplings, st.floats(-3, 3))
def test_rows_of_resize_matrices_sum_to_one(length, scale, subsample, offset):
  for matrix in (resize.shrink(length, scale, subsample), resize.enlarge(length, scale, None, offset)):
    np.testing.assert_allclose(matrix.sum(1), 1, atol=1e-5)
  dense = resize.shrink(length, scale, subsample)
  np.testing.assert_array_equal(resize.shrink_sparse(length, scale, subsample).toarray(), dense)


@examples(sizes, seeds, st.booleans())
def test_flips_commute_with_symmetric_blur_and_bicubic_resizing(size, seed, rows):
  image, kernel = image_of("noise", size, seed).astype(np.float32), kernel_of(seed, symmetric=True).astype(np.float32)
  flip = (lambda x: x[::-1]) if rows else (lambda x: x[:, ::-1])
  np.testing.assert_allclose(degradation_lib.blur(flip(image), kernel), flip(degradation_lib.blur(image, kernel)), atol=1e-5)
  np.testing.assert_allclose(degradation_lib.enlarge(flip(image), 2), flip(degradation_lib.enlarge(image, 2)), atol=1e-5)
  even = image[:4, :8]
  shrink = lambda x: degradation_lib.subsample(x, 2, "bicubic")
  np.testing.assert_allclose(shrink(flip(even)), flip(shrink(even)), atol=1e-5)


@examples(sizes, subsamplings, seeds)
@hypothesis.settings(max_examples=6)
def test_a_self_ensemble_commutes_with_flips_of_the_image(size, subsample, seed):
  image, degradation = image_of("noise", size, seed).astype(np.float32), Degradation(np.float32([[1]]), "bicubic")
  params = model.init(jax.random.key(0), NET)

  def one(lr, of):
    return adapt_lib.super_resolve(params, lr, 2, of, NET)

  mean = lambda lr: np.mean(list(refine.each_turn(one, lr, degradation, 2)), axis=0)
  np.testing.assert_allclose(mean(image[:, ::-1].copy()), mean(image)[:, ::-1], atol=1e-5)


@pytest.mark.parametrize("limit", [64, 100])
@examples(st.sampled_from([(70, 65), (131, 90), (64, 200)]), scales, seeds)
@hypothesis.settings(max_examples=4)
def test_adaptation_in_windows_equals_that_on_the_whole(limit, size, scale, seed):
  lr, degradation = image_of("noise", size, seed).astype(np.float32), kernel_files.load_degradation("gani")
  params = model.init(jax.random.key(1), NET)
  adapter = TiledAdapter()
  adapter.limit_tiles(limit)
  adapted = adapter.adapt(params, lr, degradation, scale, RATES)
  expected = adapt_lib.adapt(params, lr, degradation, scale, RATES, model=NET)
  for a, b in zip(jax.tree.leaves(adapted), jax.tree.leaves(expected)):
    np.testing.assert_allclose(a, b, atol=1e-6)


@examples(st.integers(11, 40), st.integers(11, 40), st.integers(0, 2), seeds)
def test_psnr_and_ssim_are_scikit_images(height, width, border, seed):
  rng = np.random.default_rng(seed)
  a = rng.integers(0, 256, (height + 4, width + 4, 3), np.uint8)
  b = np.clip(a + rng.integers(-20, 21, a.shape), 0, 255).astype(np.uint8)
  cut = lambda x: metrics.luma(x)[border : x.shape[0] - border, border : x.shape[1] - border]
  psnr = skimage.metrics.peak_signal_noise_ratio(cut(a), cut(b), data_range=255)
  assert metrics.psnr_y(a, b, border) == pytest.approx(psnr, abs=1e-6)
  ssim = skimage.metrics.structural_similarity(
      cut(a), cut(b), data_range=255, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
  )
  assert metrics.ssim_y(a, b, border) == pytest.approx(ssim, abs=1e-6)


@examples(image_kinds, st.sampled_from([1e-3, 1.0, 1e4, 1e30]), seeds)
@hypothesis.settings(max_examples=10)
def test_no_image_and_no_rate_make_the_output_anything_but_numbers(kind, rate, seed):
  lr = image_of(kind, (12, 13), seed).astype(np.float32)
  params, degraded = model.init(jax.random.key(2), NET), kernel_files.load_degradation("g20d")
  adapter = TiledAdapter()
  recipe = enhance.Recipe(params, np.float32([rate, rate]), degraded, 2.0, 2.0)
  for adapted in enhance.adapt(adapter, lr, recipe, [0, 2]):
    made = enhance.enlarge(adapter, adapted, photo_file.Photo(lr, bits=16), recipe).rgb
    assert made.shape == (24, 26, 3) and made.dtype == np.uint16  # NaN would have been refused
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(adapted))


@examples(seeds)
@hypothesis.settings(max_examples=3)
def test_same_input_same_bytes(seed):
  lr = image_of("noise", (12, 13), seed).astype(np.float32)
  degradation = kernel_files.load_degradation("g20d").replace(noise_std=0.02)
  params = model.init(jax.random.key(3), NET)
  recipe = enhance.Recipe(params, RATES, degradation, 2.0, 2.0, self_ensemble=True, back_projection=2)

  def run():
    adapter = TiledAdapter()
    (params,) = enhance.adapt(adapter, lr, recipe, [2])
    return photo_file.encode(enhance.enlarge(adapter, params, photo_file.Photo(lr), recipe), "PNG")

  assert run() == run()
