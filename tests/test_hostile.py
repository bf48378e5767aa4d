"""Odd images and folders through `upscale`: each is handled, or is one line and exit code 2, and others are still done."""

import os
import pathlib
import stat
import struct
import subprocess
import sys
import warnings
import zlib

import numpy as np
import pytest
import test_metadata as metadata_tests
from PIL import Image
from test_cli import assert_one_line, errors
from test_upscale import _upscale, made, small  # noqa: F401  (small is a fixture)

from mzsr_jax import files, images, upscale
from mzsr_jax.errors import UserError
from mzsr_jax.photo import enhance
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
  path.parent.mkdir(exist_ok=True)
  Image.fromarray(PIXELS).save(path)


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (2, 2), (3, 3)])
def test_tiny_images_are_enlarged(monkeypatch, small, tmp_path, shape):  # noqa: F811
  Image.fromarray(np.full((*shape, 3), 90, np.uint8)).save(tmp_path / "x.png")
  flags = ["-i", f"{tmp_path}/x.png", "-o", f"{tmp_path}/out.png", "--self_ensemble", "--back_projection=2"]
  assert _upscale(monkeypatch, small, *flags) == 0
  assert images.image_size(tmp_path / "out.png") == (2 * shape[0], 2 * shape[1])


def test_a_kernel_is_guessed_for_tiny_and_flat_images(monkeypatch, small, tmp_path):  # noqa: F811
  Image.new("RGB", (3, 2), (10, 200, 30)).save(tmp_path / "x.png")
  assert _upscale(monkeypatch, small, "-i", f"{tmp_path}/x.png", "-o", f"{tmp_path}/out", "--kernel=auto", "--save_kernel") == 0
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
  assert "object at" not in assert_one_line(capsys, name)
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


def test_named_inputs_in_the_output_folder_are_neither_dropped_nor_replaced(tmp_path, caplog):
  for name in ("album/1.png", "album/2.png", "new/1.png", "new/9.png"):
    good(tmp_path / name)
  folder, sources = str(tmp_path / "album"), lambda jobs: [job.source.relative_to(tmp_path).as_posix() for job in jobs]
  named = [f"{folder}/1.png", f"{folder}/2.png", f"{tmp_path}/new/9.png"]
  assert sources(upscale.plan(named, folder, suffix="x2")) == ["album/1.png", "album/2.png", "new/9.png"]
  for inputs in ([f"{folder}/1.png", f"{tmp_path}/new/1.png"], [folder, f"{tmp_path}/new"]):
    for overwrite in (False, True):
      with pytest.raises(UserError, match="would replace the input"):
        upscale.plan(inputs, folder, overwrite=overwrite)
  good(tmp_path / "album" / "1_x2.png")
  assert sources(upscale.plan([*named, f"{folder}/1_x2.png"], folder, suffix="x2")) == ["album/2.png", "new/9.png"]
  assert "1 inputs are left out" in caplog.text and "1_x2.png" in caplog.text
  with pytest.raises(UserError, match="suffix"):
    upscale.plan(named, folder, suffix="x2/b")


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


def test_a_name_may_be_as_long_as_names_may_be(tmp_path):
  longest = tmp_path / ("y" * 251 + ".png")
  files.write_whole(longest, b"whole")
  assert longest.read_bytes() == b"whole" and made(tmp_path) == [longest.name]


def test_formats_are_known_before_any_work(monkeypatch, capsys, small, tmp_path):  # noqa: F811
  monkeypatch.setattr(photo_file, "read", lambda path: pytest.fail("read"))
  good(tmp_path / "x.png")
  for name in ("out.avif", "out.gif"):
    assert _upscale(monkeypatch, small, "-i", f"{tmp_path}/x.png", "-o", f"{tmp_path}/{name}") == 2
    assert_one_line(capsys, name, ".png")
  assert _upscale(monkeypatch, small, "-i", f"{tmp_path}/x.png", f"{small}/photos/a.png", "-o", f"{tmp_path}/out.png") == 2
  assert_one_line(capsys, "out.png", "name a folder")
  assert made(tmp_path) == ["x.png"]


@pytest.mark.parametrize("name,most", [("out.webp", 16383), ("out.jpg", 65500)])
def test_sides_that_a_format_has_no_room_for_are_refused_before_work(monkeypatch, capsys, small, tmp_path, name, most):  # noqa: F811
  monkeypatch.setattr(enhance, "run", lambda *_: pytest.fail("worked"))
  Image.new("RGB", (most // 2 + 1, 4)).save(tmp_path / "x.png")
  assert _upscale(monkeypatch, small, "-i", f"{tmp_path}/x.png", "-o", f"{tmp_path}/{name}") == 2
  assert_one_line(capsys, str(most), "choose png")


def test_other_extensions_become_results(monkeypatch, small, tmp_path):  # noqa: F811
  image = Image.fromarray(PIXELS)
  (tmp_path / "in").mkdir()
  image.save(tmp_path / "in" / "a.jfif", "JPEG")
  for name in ("b.avif", "c.gif"):
    image.save(tmp_path / "in" / name)
  assert _upscale(monkeypatch, small, "-i", f"{tmp_path}/in", "-o", f"{tmp_path}/out", "--steps=0") == 0
  assert made(tmp_path / "out") == ["a.jfif", "b.png", "c.png"]
  (tmp_path / "none").write_bytes((tmp_path / "in" / "a.jfif").read_bytes())
  assert _upscale(monkeypatch, small, "-i", f"{tmp_path}/none", "-o", f"{tmp_path}/out", "--steps=0") == 0
  assert images.image_size(tmp_path / "out" / "none.jpg") == (24, 28)


def test_a_fault_in_one_image_does_not_stop_the_others(monkeypatch, capsys, small, tmp_path):  # noqa: F811
  (tmp_path / "in").mkdir()
  for name in "abc":
    good(tmp_path / "in" / f"{name}.png")
  encode = photo_file.encode
  monkeypatch.setattr(photo_file, "encode", lambda *args: 1 / 0 if "b.png" in args[-1] else encode(*args))
  assert _upscale(monkeypatch, small, "-i", f"{tmp_path}/in", "-o", f"{tmp_path}/out", "--steps=0") == 1
  assert_one_line(capsys, "b.png", "a fault of the program", "ZeroDivisionError", "--verbosity=1")
  assert made(tmp_path / "out") == ["a.png", "c.png"]


def test_an_image_beyond_the_memory_limit_does_not_stop_the_others(monkeypatch, capsys, small, tmp_path):  # noqa: F811
  (tmp_path / "in").mkdir()
  good(tmp_path / "in" / "a.png")
  (tmp_path / "in" / "large.png").write_bytes(png_header(4000, 4000))
  args = ["-i", f"{tmp_path}/in", "-o", f"{tmp_path}/out", "--steps=0", "--memory_limit=0.8"]
  assert _upscale(monkeypatch, small, *args) == 2
  first, last = errors(capsys).splitlines()
  assert "large.png: --memory_limit=0.8 is too low" in first and "16.0 megapixels" in first and "1 of 2 images failed" in last
  assert made(tmp_path / "out") == ["a.png"]


def test_metadata_that_cannot_be_written_stop_nothing(monkeypatch, small, tmp_path):  # noqa: F811
  (tmp_path / "in").mkdir()
  for orientation, name in ((1, "a.jpg"), (6, "b.jpg")):
    exif = metadata_tests.exif([(0x0112, 3, 1, struct.pack("<H", orientation))], place=[(5, 2, 2, b"0\0")])
    metadata_tests.jpeg(tmp_path / "in" / name, exif)
  good(tmp_path / "in" / "c.png")
  assert _upscale(monkeypatch, small, "-i", f"{tmp_path}/in", "-o", f"{tmp_path}/out", "--steps=0") == 0
  sizes = [images.image_size(tmp_path / "out" / name) for name in ("a.jpg", "b.jpg", "c.png")]
  assert sizes == [(64, 80), (80, 64), (24, 28)]


def test_names_that_the_stream_cannot_print_are_replaced(small, tmp_path):  # noqa: F811
  (tmp_path / "in").mkdir()
  for name in ("ä日.png", "z.png"):
    good(tmp_path / "in" / name)
  flags = ["--kernel=g20d", f"--weights={small}/w.safetensors", "--steps=0", f"-i={tmp_path}/in", f"-o={tmp_path}/out"]
  env = os.environ | {"PYTHONIOENCODING": "ascii:strict"}
  done = subprocess.run([sys.executable, "-m", "mzsr_jax.upscale", *flags], env=env, capture_output=True, text=True)
  assert done.returncode == 0, done.stderr
  assert "\\u65e5" in done.stdout and made(tmp_path / "out") == ["z.png", "ä日.png"]


def test_a_folder_is_gone_on_with_and_results_are_no_inputs(monkeypatch, small, tmp_path):  # noqa: F811
  for name in ("a.png", "b.png"):
    good(tmp_path / name)
  run = lambda *flags: _upscale(monkeypatch, small, "-i", str(tmp_path), "-o", f"{tmp_path}/out", "--steps=0", *flags)
  assert run() == 0
  assert made(tmp_path) == ["a.png", "b.png", "out/a.png", "out/b.png"]
  (tmp_path / "out" / "b.png").unlink()
  (tmp_path / "out" / "a.png").write_bytes(b"mine")
  good(tmp_path / "k_kernel.png")
  (tmp_path / "k_kernel.mat").touch()
  assert run() == 0
  assert made(tmp_path / "out") == ["a.png", "b.png"] and (tmp_path / "out" / "a.png").read_bytes() == b"mine"
  assert run("--overwrite") == 0
  assert images.image_size(tmp_path / "out" / "a.png") == (24, 28)
  beside = ["-i", str(tmp_path / "out"), "-o", str(tmp_path / "out"), "--suffix=x2", "--steps=0"]
  for _ in range(2):
    assert _upscale(monkeypatch, small, *beside) == 0
    assert made(tmp_path / "out") == ["a.png", "a_x2.png", "b.png", "b_x2.png"]


def test_what_a_stopped_run_lacks_is_made_and_what_it_made_stays(monkeypatch, small, tmp_path):  # noqa: F811
  for name in ("a.png", "b.png"):
    good(tmp_path / "in" / name)
  out, compared = tmp_path / "out", tmp_path / "compared"
  run = lambda: _upscale(monkeypatch, small, "-i", f"{tmp_path}/in", "-o", str(out), "--steps=0", f"--comparison={compared}")
  assert run() == 0
  whole = (compared / "b.png").read_bytes()
  (out / "a.png").unlink()
  (compared / "a.png").write_bytes(b"mine")
  (out / "b.png").write_bytes(b"mine")
  (compared / "b.png").unlink()
  assert run() == 0
  assert (compared / "a.png").read_bytes() == (out / "b.png").read_bytes() == b"mine"
  assert images.image_size(out / "a.png") and (compared / "b.png").read_bytes() == whole
