"""Odd images and folders through `upscale`: each is handled, or is one line and exit code 2, and others are still done."""

import os
import pathlib
import stat
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image
from test_cli import assert_one_line
from test_upscale import _upscale, made, small  # noqa: F401  (small is a fixture)

from mzsr_jax import images
from mzsr_jax.errors import UserError
from mzsr_jax.photo import file as photo_file

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (12, 14, 3), dtype=np.uint8)


def png_header(width, height, bits=8, colour=2):
  """The beginning of a PNG file of any size, in a hundred bytes."""
  ihdr = b"IHDR" + struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
  idat = b"IDAT" + zlib.compress(bytes(20))
  chunk = lambda data: struct.pack(">I", len(data) - 4) + data + struct.pack(">I", zlib.crc32(data))
  return b"\x89PNG\r\n\x1a\n" + chunk(ihdr) + chunk(idat) + chunk(b"IEND")


def good(path):
  Image.fromarray(PIXELS).save(path)


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (2, 2), (3, 3)])
def test_tiny_images_are_enlarged(monkeypatch, small, tmp_path, shape):  # noqa: F811
  Image.fromarray(np.full((*shape, 3), 90, np.uint8)).save(tmp_path / "x.png")
  flags = ["-i", f"{tmp_path}/x.png", "-o", f"{tmp_path}/out.png", "--self_ensemble", "--back_projection=2"]
  assert _upscale(monkeypatch, small, *flags) == 0
  assert images.image_size(tmp_path / "out.png") == (2 * shape[0], 2 * shape[1])


def test_a_kernel_is_guessed_for_tiny_and_flat_images(monkeypatch, small, tmp_path):  # noqa: F811
  Image.new("RGB", (3, 2), (10, 200, 30)).save(tmp_path / "x.png")
  assert _upscale(monkeypatch, small, "-i", f"{tmp_path}/x.png", "-o", f"{tmp_path}/out", "--kernel=auto") == 0
  assert made(tmp_path / "out") == ["x.png", "x_kernel.mat", "x_kernel.png"]


BAD = {
    "bomb.png": png_header(10_000, 10_000),
    "larger_bomb.png": png_header(100_000, 100_000),
    "deep_bomb.png": png_header(10_000, 10_000, 16),
    "empty.png": b"",
    "text.jpg": b"no picture at all",
    "script.bmp": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n",
    "half.tif": b"II*\0\x08\0\0\0",
}


@pytest.mark.parametrize("name", BAD)
def test_files_that_are_no_pictures_are_one_line(monkeypatch, capsys, small, tmp_path, name):  # noqa: F811
  (tmp_path / name).write_bytes(BAD[name])
  with warnings.catch_warnings():
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)
    assert _upscale(monkeypatch, small, "-i", f"{tmp_path}/{name}", "-o", f"{tmp_path}/out.png") == 2
  assert_one_line(capsys, name)
  assert made(tmp_path) == [name]


def test_pixels_that_are_no_numbers_or_have_no_range_are_refused(tmp_path):
  import tifffile

  for name, dtype in (("nan", np.float32), ("wide", np.int32)):
    pixels = np.full((4, 4), np.nan if name == "nan" else 7, dtype)
    tifffile.imwrite(tmp_path / f"{name}.tif", pixels)
    for read in (photo_file.read, images.read_image):
      with pytest.raises(UserError, match=name):
        read(tmp_path / f"{name}.tif")


def test_a_folder_of_all_sorts_is_done_as_far_as_can_be(monkeypatch, capsys, small, tmp_path):  # noqa: F811
  """Good files among bad ones: names of other alphabets, long names, wrong extensions, animations, CMYK, links in a circle."""
  folder = tmp_path / "in"
  (folder / "deep" / "er").mkdir(parents=True)
  for name in ("plain.png", "ünïcödé 日本語.png", "with space.png", "a" * 200 + ".png", "deep/er/below.png"):
    good(folder / name)
  Image.fromarray(PIXELS).save(folder / "really_a_jpeg.png", "JPEG")
  Image.fromarray(PIXELS).convert("CMYK").save(folder / "cmyk.jpg")
  Image.fromarray(PIXELS[..., 0] > 99).save(folder / "bilevel.png")
  frames = [Image.fromarray(np.roll(PIXELS, i)) for i in range(3)]
  frames[0].save(folder / "animated.webp", save_all=True, append_images=frames[1:])
  frames[0].save(folder / "pages.tif", save_all=True, append_images=frames[1:])
  (folder / "deep" / "circle").symlink_to(folder)
  (folder / "broken_link.png").symlink_to(folder / "nothing.png")
  for name in ("empty.png", "text.jpg"):
    (folder / name).write_bytes(BAD[name])
  (folder / "._hidden.png").write_bytes(b"what macOS leaves behind")
  wanted = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file() and "circle" not in p.parts}
  wanted -= {"empty.png", "text.jpg", "._hidden.png"}
  assert _upscale(monkeypatch, small, "-i", str(folder), "-o", f"{tmp_path}/out", "--steps=0") == 2
  lines = capsys.readouterr().err.splitlines()
  assert {name for name in ("empty.png", "text.jpg") if any(name in line for line in lines)} == {"empty.png", "text.jpg"}
  assert lines[-1].startswith("error: 2 of ")
  assert wanted == {name for name in made(tmp_path / "out") if "circle" not in name}
  for name in wanted:
    assert images.image_size(tmp_path / "out" / name) == (24, 28), name


def test_an_output_is_never_an_input(monkeypatch, capsys, small, tmp_path):  # noqa: F811
  good(tmp_path / "x.png")
  (tmp_path / "link").symlink_to(tmp_path)
  before = (tmp_path / "x.png").read_bytes()
  for output in (f"{tmp_path}", f"{tmp_path}/x.png", f"{tmp_path}/link/x.png", f"{tmp_path}/link"):
    assert _upscale(monkeypatch, small, "-i", f"{tmp_path}/x.png", "-o", output, "--overwrite") == 2
    assert_one_line(capsys, "would replace")
  assert (tmp_path / "x.png").read_bytes() == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read and write everywhere")
def test_folders_without_rights_are_one_line(monkeypatch, capsys, small, tmp_path):  # noqa: F811
  locked = tmp_path / "locked"
  locked.mkdir()
  good(tmp_path / "x.png")
  locked.chmod(stat.S_IRUSR | stat.S_IXUSR)
  assert _upscale(monkeypatch, small, "-i", f"{tmp_path}/x.png", "-o", f"{locked}/out.png") == 2
  assert_one_line(capsys, "locked")
  locked.chmod(0)
  assert _upscale(monkeypatch, small, "-i", f"{locked}", "-o", f"{tmp_path}/out") == 2
  assert_one_line(capsys, "locked")
  locked.chmod(stat.S_IRWXU)


def test_names_that_are_too_long_are_one_line(monkeypatch, capsys, small, tmp_path):  # noqa: F811
  good(tmp_path / "x.png")
  assert _upscale(monkeypatch, small, "-i", f"{tmp_path}/x.png", "-o", f"{tmp_path}/{'y' * 300}.png") == 2
  assert_one_line(capsys)
  good(pathlib.Path(tmp_path) / ("z" * 250 + ".png"))
  assert _upscale(monkeypatch, small, "-i", f"{tmp_path}/{'z' * 250}.png", "-o", f"{tmp_path}/out", "--suffix=more") == 2
  assert_one_line(capsys)
