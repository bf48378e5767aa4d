"""Kernels are found from LR images alone; what cannot be found is said to be unsure."""

import jax
import numpy as np
import pytest
import scipy.ndimage
from PIL import Image, ImageFilter

from experiments import train_kernel_estimator, train_photo_estimator
from mzsr_jax import images, weights
from mzsr_jax.core import degradation, kernels
from mzsr_jax.errors import UserError
from mzsr_jax.photo import blind, kernel_files, kernel_net, response
from mzsr_jax.photo.kernel_net import Gaussian
from mzsr_jax.training import data

RNG = np.random.default_rng(0)


def photo(i: int, side: int = 384) -> np.ndarray:
  return images.to_float(images.center_crop(images.read_image(data.sample_photos()[i]), side))


def shrunk(hr, shape, scale=2, subsample="direct"):
  lr = degradation.degrade(hr, kernel_net.kernel(Gaussian(*shape)), scale, subsample)
  return images.to_float(images.to_uint8(lr))


# The codes of kernels.


@pytest.mark.parametrize("scale", [2.0, 3.0, 4.0])
def test_codes_are_of_the_kernels_that_they_come_from(scale):
  shapes = kernel_net.draw(RNG, scale, 50)
  back = kernel_net.decode(kernel_net.encode(shapes, scale), scale)
  for given, found in zip(shapes, back):
    np.testing.assert_allclose(found, given, rtol=1e-6)


def moments(kernel):
  """The Gaussian of a kernel's second moments about its middle pixel."""
  axis = np.arange(len(kernel)) - len(kernel) // 2
  xx, yy, xy = kernel.sum(0) @ axis**2, kernel.sum(1) @ axis**2, axis @ kernel @ axis
  half = np.hypot((xx - yy) / 2, xy)
  return (xx + yy) / 2 + half, (xx + yy) / 2 - half, np.arctan2(2 * xy, xx - yy) / 2 % np.pi


def test_draws_span_what_kernels_sample_draws_from():
  scale, least, size = 3.0, 1.0, 41
  ours = kernel_net.draw(RNG, scale, 400, least)
  theirs = jax.vmap(lambda key: kernels.sample(key, scale, least, size))(jax.random.split(jax.random.key(0), 400))
  theirs = Gaussian(*map(np.array, zip(*(moments(np.asarray(k)) for k in theirs))))
  for a, b in zip(ours, theirs):
    for quantile in (0.0, 0.5, 1.0):
      assert np.quantile(a, quantile) == pytest.approx(np.quantile(b, quantile), abs=0.1 * np.ptp(b))


# The network.


@pytest.mark.parametrize("shape,count", [((64, 64), 1), ((96, 97), 6), ((1, 5), 1), ((200, 30), 6), ((64, 5000), 32)])
def test_patches_reach_all_borders_and_small_images_are_mirrored(shape, count):
  image = RNG.random(shape, np.float32)
  cut = kernel_net.patches(image)
  assert cut.shape == (count, 64, 64)
  assert cut[-1][-1, -1] == image[-1, -1] if min(shape) >= 64 else cut.min() >= image.min()


def test_patches_without_edges_are_left_out_and_the_best_of_many_kept():
  image = np.full((256, 256), 0.5, np.float32)
  assert len(kernel_net.patches(image)) == 0
  image[:64, :64] += RNG.random((64, 64), np.float32) / 4
  image[128, 128] = 1
  assert len(kernel_net.patches(image)) == 8  # four hold a part of the noise, four the point
  np.testing.assert_array_equal(kernel_net.patches(image, most=1)[0], image[:64, :64])


def test_patches_are_combined_by_inverse_variance():
  mean, variance = kernel_net.combine(np.float64([[1, 2, 3], [3, 2, 0]]), np.float64([[1, 1, 1], [3, 1, 0.5]]))
  np.testing.assert_allclose(mean, [1.5, 2, 1])
  np.testing.assert_allclose(variance, [0.75, 0.5, 1 / 3])


@pytest.mark.parametrize("scale,group", [(2, 2), (3, 1)])
def test_training_patches_are_degraded_as_all_images_are(scale, group):
  hr, side = RNG.integers(0, 256, (2, 288, 288, 3), np.uint8), 64 * scale
  gaussians = np.stack([kernel_net.kernel(Gaussian(3.0, 1.0, 0.7)), kernel_net.kernel(Gaussian(5.0, 0.3, 2.0))])
  args = hr, gaussians, np.zeros(2, np.float32), np.full((2, 8, 8), 1e-3, np.float32), jax.random.key(0)
  made = np.asarray(train_kernel_estimator.make_patches(*args, scale=scale))
  assert made.shape == (2, group, 64, 64)
  for i, mode in enumerate(kernels.SUBSAMPLINGS):
    luma = kernel_net.luma(images.to_float(hr[i]))[..., None]
    inside = degradation.blur(luma, gaussians[i])[16 : 16 + side, 16 : 16 + group * side]
    lr = np.asarray(degradation.subsample(inside, scale, mode))[..., 0]
    expected = np.stack(np.split(lr, group, axis=1))
    np.testing.assert_allclose(made[i], expected, atol=0.51 / 255)  # rounded


@pytest.mark.parametrize("quality", [30, 75, 95])
def test_training_patches_are_compressed_as_jpeg_files_are(quality, tmp_path):
  gray = images.to_uint8(photo(0)[:72, :80] @ np.float32(images.LUMA))
  Image.fromarray(gray).save(tmp_path / "a.jpg", quality=quality)
  with Image.open(tmp_path / "a.jpg") as image:
    expected = np.asarray(image)
    table = train_kernel_estimator.jpeg_tables(np.array([quality]))
    np.testing.assert_array_equal(table[0], np.reshape(image.quantization[0], (8, 8)))
  luma = lambda pixels: images.to_float(pixels)[None]
  made = train_kernel_estimator.compress(luma(gray), np.float32(table), np.array([0, 0]))[0]
  off = np.abs(255 * np.clip(made, 0, 1) - expected)  # where a coefficient lies between two steps, either may be taken
  assert off.mean() < 0.6 and off.max() < 2 + 0.1 * table.max()
  moved = train_kernel_estimator.compress(luma(gray[5:69, 3:75]), np.float32(table), np.array([5, 3]))[0]
  np.testing.assert_allclose(moved[3:-5, 5:-3], made[8:-8, 8:-8], atol=1e-5)  # blocks that lie inside both


@pytest.mark.parametrize("scale,subsample", [(2, "direct"), (3, "bicubic"), (4, "direct")])
def test_known_kernels_are_found_better_than_by_the_middle_of_all(scale, subsample):
  middle = np.sqrt(kernel_net.decode(kernel_net.prior(scale).mean, scale)[:2])
  errors, of_middle, angles = [], [], []
  for i, factors in enumerate([(2.2, 0.6, 0.6), (0.3, 0.2, 0.0), (2.0, 1.9, 0.0)]):
    shape = (factors[0] * scale, factors[1] * scale, factors[2])
    found = blind.estimate(shrunk(photo(i), shape, scale, subsample), scale, subsample)
    errors.append(np.abs(found.sigmas - np.sqrt(shape[:2])))
    of_middle.append(np.abs(middle - np.sqrt(shape[:2])))
    angles.append(found.theta)
    assert found.kernel.shape == (21, 21) and found.kernel.sum() == pytest.approx(1, abs=1e-5)
  assert np.mean(errors) < 0.12 * scale
  assert np.mean(errors) < 0.5 * np.mean(of_middle)
  assert abs(angles[0] - 0.6) < 0.3


def test_noise_makes_it_less_sure():
  lr = shrunk(photo(0), (2.0, 2.0, 0.0))
  noisy = np.clip(lr + 0.05 * RNG.standard_normal(lr.shape, np.float32), 0, 1)
  assert (blind.estimate(noisy, 2).uncertainty > blind.estimate(lr, 2).uncertainty).all()


def test_flat_images_give_the_middle_and_say_so():
  found = blind.estimate(np.full((40, 90, 3), 0.3, np.float32), 2)
  middle = kernel_net.decode(kernel_net.prior(2).mean, 2)
  np.testing.assert_allclose(found.sigmas, np.sqrt(middle[:2]), rtol=1e-5)
  assert "no edges" in found.text and "unsure" in found.text and "\n" not in found.text
  sure = blind.estimate(shrunk(photo(0), (2.0, 2.0, 0.0)), 2)
  assert (found.uncertainty > 2 * sure.uncertainty).all() and "unsure" not in sure.text


@pytest.mark.parametrize("size", [(1, 1), (3, 70), (64, 65)])
def test_tiny_images_do_no_harm(size):
  found = blind.estimate(RNG.random((*size, 3), np.float32), 2)
  assert np.isfinite(found.kernel).all() and np.isfinite(found.uncertainty).all()


def test_an_estimate_is_the_same_each_time():
  lr = shrunk(photo(1), (3.0, 1.0, 1.0))
  first, second = blind.estimate(lr, 2), blind.estimate(lr, 2)
  np.testing.assert_array_equal(first.kernel, second.kernel)
  assert first.text == second.text


# Photos.


def as_photo(truth, method, *, amount=0, radius=1.0):
  """A photo's half by Pillow, sharpened."""
  half = Image.fromarray(images.to_uint8(truth)).resize((truth.shape[1] // 2, truth.shape[0] // 2), method)
  return images.to_float(np.asarray(half.filter(ImageFilter.UnsharpMask(radius, amount, 0)) if amount else half))


@pytest.mark.parametrize("scale", [2.0, 2.5, 3.0, 4.0])
def test_a_sharpened_kernel_is_the_unsharp_mask_of_a_blur(scale):
  blur = response.Blur(0.16, (0.05, 0.03), 0.8, 1.0)
  plain, wide = (response.kernel(blur._replace(variance=v, amount=0.0), scale).astype(np.float64) for v in (0.16, 1.16))
  sharp = response.kernel(blur, scale)
  np.testing.assert_allclose(sharp, 1.8 * plain - 0.8 * wide, atol=1e-6)
  assert sharp.sum() == pytest.approx(1, abs=1e-5)
  np.testing.assert_allclose(kernels.centre_of_mass(plain), ((scale - 1) / 2,) * 2, atol=0.02)


@pytest.mark.parametrize("scale", [2.0, 4.0])
def test_codes_of_blurs_are_decoded_to_them(scale):
  blurs = [response.Blur(0.25, (0.1, -0.05), 0.0, 0.5), response.Blur(0.36, (0.0, 0.0), 1.0, 1.0)]
  for blur in blurs:
    f = response.FREQUENCIES
    gaussian = lambda v, f=f: np.exp(-(f**2) * v / 2)
    own = (1 + blur.amount) * gaussian(blur.variance) - blur.amount * gaussian(blur.variance + blur.radius**2)
    (found,) = response.decode(response.encode(own, np.array(blur.anisotropy))[None], np.full(8, 0.01), scale)
    assert found.variance == pytest.approx(blur.variance, abs=0.03) and found.amount == pytest.approx(blur.amount, abs=0.15)
    np.testing.assert_allclose(found.anisotropy, blur.anisotropy, atol=1e-6)


def test_caution_never_makes_a_response_smaller():
  found = response.cautious(response.prior())
  assert (found.mean[:6] > response.prior().mean[:6]).all() and (found.mean[6:] == response.prior().mean[6:]).all()


def test_sharpening_is_seen_and_responses_are_near_the_true_ones():
  f = response.FREQUENCIES[:5]

  def seen(found):
    place = np.arange(len(found.kernel)) - len(found.kernel) // 2 - 0.5
    return np.cos(np.outer(f / 2, place)) @ found.kernel.sum(0)

  errors = []
  for i in range(4):
    plain, sharp = (blind.estimate_photo(as_photo(photo(i), Image.Resampling.BOX, amount=a), 2) for a in (0, 100))
    assert (seen(sharp) > seen(plain))[1:].all()
    area = np.cos(f / 4)
    errors.append([seen(plain) - area, seen(sharp) - area * (2 - np.exp(-(f**2) / 2))])
  assert np.abs(np.mean(errors, 0)).mean() < 0.2
  assert "sharpened" in sharp.text and "sharpened" not in plain.text


def test_a_photo_without_edges_gets_the_kernel_of_area_shrinking():
  found = blind.estimate_photo(np.full((40, 90, 3), 0.3, np.float32), 2)
  assert "no edges" in found.text and "unsure" in found.text
  np.testing.assert_allclose(found.kernel[10:12, 10:12], 0.25, atol=0.03)  # the four pixels of a cell, nearly alone


def test_simulated_photos_are_what_pillow_makes():
  draws = train_photo_estimator.draw(np.random.default_rng(0), 3)
  zeros = np.zeros(3, np.float32)
  plain = draws._replace(
      which=np.array([1, 2, 3]), sigma=np.zeros((3, 3), np.float32), gamma=zeros + 1, noise=zeros, smooth=zeros + 0.5,
      amount=np.float32([0, 0, 0.8]), tables=np.full((2, 3, 8, 8), 1e-3, np.float32),
  )  # fmt: skip
  hr = kernel_net.luma(photo(0, 288))
  made = train_photo_estimator.make_patches(np.stack([hr] * 3), plain, jax.random.key(0), scale=2)
  gray = Image.fromarray(images.to_uint8(hr))
  for i, method in enumerate((Image.Resampling.BOX, Image.Resampling.BICUBIC, Image.Resampling.LANCZOS)):
    half = gray.resize((144, 144), method)
    half = np.asarray(half, np.float64)
    if i == 2:
      half = half + 0.8 * (half - scipy.ndimage.gaussian_filter(half, plain.radius[2]))
    expected = np.clip(half[8:72, 8:136], 0, 255)
    assert np.abs(255 * np.concatenate(list(made[i]), 1) - expected).mean() < 1


# What users meet.


def test_a_kernel_that_was_saved_is_read_and_not_replaced(tmp_path):
  found = blind.estimate(shrunk(photo(1), (3.0, 1.0, 1.0)), 2)
  blind.save(found, tmp_path / "a.b")
  np.testing.assert_allclose(kernel_files.read_kernel(tmp_path / "a.b.mat"), found.kernel, atol=1e-7)
  picture = images.read_image(tmp_path / "a.b.png")
  assert picture.shape == (210, 210, 3) and picture.max() == 255 and picture[105, 105].min() == 255
  with pytest.raises(UserError, match="--overwrite"):
    blind.save(found, tmp_path / "a.b")
  (tmp_path / "a.b.mat").unlink()
  with pytest.raises(UserError, match="a.b.png"):  # and so the .mat file is not written either
    blind.save(found, tmp_path / "a.b")
  assert [path.name for path in tmp_path.iterdir()] == ["a.b.png"]
  blind.save(found, tmp_path / "a.b", overwrite=True)


@pytest.mark.parametrize("scale", [2.0, 3.0, 4.0])
def test_a_photo_s_kernel_is_read_as_it_was_estimated_without_a_warning(tmp_path, caplog, scale):
  found = blind.estimate_photo(shrunk(photo(1), (3.0, 1.0, 1.0)), scale)
  blind.save(found, tmp_path / "k")
  read = kernel_files.load_degradation(f"{tmp_path}/k.mat", photo_scale=scale)
  assert read.offset == kernel_files.cell_centre(scale, "direct") and "kernel_shift" not in caplog.text
  np.testing.assert_allclose(read.kernel, found.kernel, atol=1e-7)
  kernel_files.load_degradation(f"{tmp_path}/k.mat")  # on the grid of the benchmarks, it moves the image
  assert "kernel_shift" in caplog.text


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    "lr,args,words",
    [
        (np.zeros((8, 8), np.float32), (2,), "H, W, 3"),
        (np.full((8, 8, 3), np.nan, np.float32), (2,), "finite"),
        (np.zeros((8, 8, 3), np.float32), (8,), "scale 8"),
        (np.zeros((8, 8, 3), np.float32), (2, "nearest"), "nearest"),
    ],
)
def test_wrong_input(lr, args, words):
  with pytest.raises(UserError, match=words) as e:
    blind.estimate(lr, *args)
  assert "\n" not in str(e.value)


@pytest.mark.parametrize("name", [weights.KERNEL_ESTIMATOR, weights.PHOTO_ESTIMATOR])
def test_the_estimators_are_shipped_but_are_no_sr_networks(name):
  assert name not in weights.names()
  metadata = weights._read(weights.resolve(name))[1]
  assert metadata["stage"] == "kernel_estimator" and int(metadata["steps"]) > 0 and metadata["data"]
  with pytest.raises(UserError, match="do not hold"):
    weights.load(name)
