"""The noise of a photo, and what JPEG has changed in it, estimated from it alone."""

import numpy as np
import pytest
import skimage.data
from PIL import Image

from mzsr_jax import images
from mzsr_jax.core import degradation
from mzsr_jax.photo import enhance, kernel_files, noise
from mzsr_jax.photo import file as photo_file


@pytest.fixture(scope="module")
def smooth():
  """The middle of a photo, blurred and shrunk, which takes off what noise it has."""
  lr = degradation.degrade(images.to_float(skimage.data.astronaut()), kernel_files.load_degradation("g20d").kernel, 2, "direct")
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


@pytest.mark.parametrize("quality", [60, 75, 90, 95])
def test_what_jpeg_has_changed_is_told_by_its_table(smooth, quality, tmp_path):
  before = images.to_uint8(smooth)
  Image.fromarray(before).save(tmp_path / "a.jpg", quality=quality)
  photo = photo_file.read(tmp_path / "a.jpg")
  changed = (photo.rgb - images.to_float(before)) @ np.float32(images.LUMA)
  assert 0.8 * changed.std() < photo.jpeg_error < 2 * changed.std()
  # Turned by its EXIF orientation, in gray and without a whole block.
  turned = Image.Exif()
  turned[0x0112] = 6
  Image.fromarray(before).save(tmp_path / "turned.jpg", quality=quality, exif=turned)
  assert photo_file.read(tmp_path / "turned.jpg").jpeg_error == photo.jpeg_error
  Image.fromarray(before).convert("L").save(tmp_path / "gray.jpg", quality=quality)
  assert photo_file.read(tmp_path / "gray.jpg").jpeg_error == pytest.approx(photo.jpeg_error, rel=0.1)
  Image.fromarray(before[:7]).save(tmp_path / "small.jpg", quality=quality)
  assert photo_file.read(tmp_path / "small.jpg").jpeg_error == 0


def test_the_noise_of_a_photo_is_that_of_both(smooth, tmp_path):
  Image.fromarray(images.to_uint8(noisy(smooth, 10))).save(tmp_path / "a.jpg", quality=90)
  photo = photo_file.read(tmp_path / "a.jpg")
  assert enhance.noise_std(photo) == pytest.approx(np.hypot(noise.estimate(photo.rgb), photo.jpeg_error))
  assert 255 * enhance.noise_std(photo) == pytest.approx(10, rel=0.3)
  images.write_png(tmp_path / "a.png", images.to_uint8(photo.rgb))
  assert photo_file.read(tmp_path / "a.png").jpeg_error == 0


def test_what_is_no_photo_does_not_pass_for_clean(smooth):
  shaken = noisy(smooth, 8)
  whole = 255 * enhance.noise_std(photo_file.Photo(shaken))
  framed = np.pad(shaken, ((30, 30), (20, 20), (0, 0)), constant_values=0.94)
  assert 255 * enhance.noise_std(photo_file.Photo(framed)) == pytest.approx(whole, rel=0.15)
  alpha = np.ones(shaken.shape[:2], np.float32)
  alpha[:, :50] = 0
  hidden = np.where(alpha[..., None] > 0, shaken, shaken[:, 50:51])  # as `file.read` fills them
  assert 255 * enhance.noise_std(photo_file.Photo(hidden, alpha)) == pytest.approx(whole, rel=0.15)
  drawing = np.full((128, 128, 3), 0.8, np.float32)
  drawing[40:80:7, 30:90] = 0.1
  assert enhance.noise_std(photo_file.Photo(drawing)) == 0


def test_the_table_is_that_of_the_luma(smooth, tmp_path):
  pixels = Image.fromarray(images.to_uint8(smooth))
  fine, coarse = [1] * 64, [40] * 64
  pixels.save(tmp_path / "a.jpg", qtables=[fine, coarse], subsampling=0)
  pixels.save(tmp_path / "b.jpg", qtables=[coarse, fine], subsampling=0)
  a, b = (photo_file.read(tmp_path / name).jpeg_error for name in ("a.jpg", "b.jpg"))
  assert 255 * a < 1 and 255 * b > 3
  data = (tmp_path / "a.jpg").read_bytes()
  start = data.index(b"\xff\xc0")  # the frame header: its components say which table each has
  swapped = bytearray(data)
  swapped[start + 12], swapped[start + 15], swapped[start + 18] = 1, 0, 0
  (tmp_path / "c.jpg").write_bytes(bytes(swapped))
  assert 255 * photo_file.read(tmp_path / "c.jpg").jpeg_error > 3
