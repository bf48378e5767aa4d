"""Image files in and out: every pixel format becomes 8-bit RGB, and outputs are whole or absent."""

import os

import numpy as np
import pytest
from PIL import Image

from mzsr_jax import files, images
from mzsr_jax.errors import UserError

GRAY = np.arange(12 * 9, dtype=np.uint8).reshape(12, 9)
RGB = np.stack([GRAY, GRAY[::-1], 255 - GRAY], axis=-1)


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.tif", "a.TIFF", "a.webp"])
def test_lossless_formats_are_read_exactly(tmp_path, name):
  Image.fromarray(RGB).save(tmp_path / name, **({"lossless": True} if "webp" in name else {}))
  np.testing.assert_array_equal(images.read_image(tmp_path / name), RGB)


def test_every_pixel_format_becomes_rgb(tmp_path):
  gray = np.stack([GRAY] * 3, axis=-1)
  rgb, alpha = Image.fromarray(RGB), Image.fromarray(np.where(GRAY < 50, 0, 255).astype(np.uint8))
  transparent = rgb.copy()
  transparent.putalpha(alpha)
  palette = Image.fromarray(GRAY).convert("P")
  cases = {
      "gray": (Image.fromarray(GRAY), gray),
      "gray16": (Image.fromarray(GRAY.astype(np.uint16) * 257), gray),
      "palette": (palette, gray),
      "bilevel": (Image.fromarray(GRAY > 50), np.stack([(GRAY > 50) * 255] * 3, axis=-1)),
      "alpha over white": (transparent, np.where(GRAY[..., None] < 50, 255, RGB)),
  }
  for name, (image, expected) in cases.items():
    image.save(tmp_path / "x.png")
    pixels = images.read_image(tmp_path / "x.png")
    assert pixels.dtype == np.uint8, name
    np.testing.assert_array_equal(pixels, expected, err_msg=name)


def test_exif_orientation_is_applied(tmp_path):
  exif = Image.Exif()
  exif[0x0112] = 6  # turn by 90 degrees clockwise to view
  Image.fromarray(RGB).save(tmp_path / "x.png", exif=exif)
  np.testing.assert_array_equal(images.read_image(tmp_path / "x.png"), np.rot90(RGB, -1))


def test_undecodable_files_are_named(tmp_path):
  truncated = tmp_path / "truncated.png"
  noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
  Image.fromarray(noise).save(truncated)
  truncated.write_bytes(truncated.read_bytes()[:5000])
  (tmp_path / "text.jpg").write_text("not a picture")
  Image.fromarray(GRAY.astype(np.float32)).save(tmp_path / "float.tif")
  for name in ("truncated.png", "text.jpg", "float.tif", "missing.png"):
    with pytest.raises(UserError, match=name) as error:
      images.read_image(tmp_path / name)
    assert "\n" not in str(error.value)


def test_find_images(tmp_path):
  with pytest.raises(UserError, match="does not exist"):
    images.find_images(tmp_path / "none")
  with pytest.raises(UserError, match="holds no image"):
    images.find_images(tmp_path)
  wanted = ["a.PNG", "sub/b.Jpeg", "sub/c.tiff"]
  for name in [*wanted, "._a.png", "notes.txt"]:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).touch()
  assert images.find_images(str(tmp_path)) == [tmp_path / name for name in wanted]


def test_png_round_trip_and_no_silent_overwrite(tmp_path):
  path = tmp_path / "new" / "x.png"
  images.write_png(path, RGB)
  np.testing.assert_array_equal(images.read_image(path), RGB)
  with pytest.raises(UserError, match="--overwrite"):
    images.write_png(path, RGB[::-1])
  images.write_png(path, images.to_float(RGB[::-1]), overwrite=True)
  np.testing.assert_array_equal(images.read_image(path), RGB[::-1])
  assert os.listdir(path.parent) == ["x.png"]


def test_a_failed_write_leaves_nothing_and_keeps_the_old(tmp_path, monkeypatch):
  path = tmp_path / "x.png"
  images.write_png(path, RGB)

  def full_disk(*_):
    raise OSError(28, "No space left on device")

  monkeypatch.setattr(os, "replace", full_disk)
  with pytest.raises(UserError, match="No space left"):
    images.write_png(path, RGB[::-1], overwrite=True)
  assert os.listdir(tmp_path) == ["x.png"]
  np.testing.assert_array_equal(images.read_image(path), RGB)


def test_outputs_that_cannot_be_are_refused_before_work(tmp_path):
  (tmp_path / "file").touch()
  for path in (tmp_path, tmp_path / "file", tmp_path / "file" / "below.png"):
    with pytest.raises(UserError, match="output"):
      files.check_writable(path, overwrite=False)
  files.check_writable(tmp_path / "new" / "deep.png", overwrite=False)
  assert not (tmp_path / "new").exists()


def test_float_and_back():
  every = np.arange(256, dtype=np.uint8)
  assert images.to_float(every).dtype == np.float32
  np.testing.assert_array_equal(images.to_uint8(images.to_float(every)), every)
  np.testing.assert_array_equal(images.to_uint8(np.float32([-1, 0.4 / 255, 0.6 / 255, 2, np.inf])), [0, 0, 1, 255, 255])
  with pytest.raises(UserError, match="NaN"):
    images.to_uint8(np.float32([np.nan]))


def test_crop_to_multiple():
  assert images.crop_to_multiple(RGB, 4).shape == (12, 8, 3)
  np.testing.assert_array_equal(images.crop_to_multiple(RGB, 2), RGB[:, :8])


def test_side_by_side_keeps_the_pixels():
  big = np.tile(RGB, (8, 8, 1))
  height, width = big.shape[:2]
  strip = images.side_by_side([big, big[::-1], 255 - big], ["bicubic", "step 0", "a caption far wider than its image"])
  assert strip.shape[1] == 3 * width + 4
  np.testing.assert_array_equal(strip[-height:, :width], big)
  np.testing.assert_array_equal(strip[-height:, width + 2 : 2 * width + 2], big[::-1])
  np.testing.assert_array_equal(strip[-height:, 2 * width + 4 :], 255 - big)
  captions = strip[:-height]
  assert (captions[:, width : width + 2] == 255).all() and captions.min() < 100  # written, and not into the gap
