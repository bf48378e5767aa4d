"""The entry for photos: files in, files out, and one bad file does not stop the others."""

import os
import pathlib
import re
import subprocess
import sys

import jax
import numpy as np
import pytest
from PIL import Image
from test_cli import assert_one_line, errors, run_entry

from mzsr_jax import images, upscale, weights
from mzsr_jax.core import adapt as adapt_lib
from mzsr_jax.core import degradation, model
from mzsr_jax.core.kernels import Degradation
from mzsr_jax.evaluation import benchmark, metrics
from mzsr_jax.inference.tiled import make_lr
from mzsr_jax.photo import blind, kernel_files, noise
from mzsr_jax.photo import file as photo_file

RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
  """Two photos, one of them in a subfolder, a broken one, and weights for scale 2."""
  root = tmp_path_factory.mktemp("upscale")
  for name in ("photos/a.png", "photos/sub/b.png"):
    images.write_png(root / name, RNG.integers(0, 256, (12, 14, 3), dtype=np.uint8))
  (root / "photos" / "broken.jpg").write_text("not a picture")
  metadata = {"stage": "meta", "scales": "[2.0]", "subsample": "direct", "inner_lrs": "[0.02, 0.01]"}
  weights.save_weights(root / "w.safetensors", model.init(jax.random.key(0)), metadata)
  return root


def _upscale(monkeypatch, small, *args):
  defaults = ["--kernel=g20d", f"--weights={small}/w.safetensors", "--steps=2"]
  return run_entry(monkeypatch, upscale.main, upscale.define_flags, *defaults, *args, arguments=10**6)


def test_one_photo_with_comparison(monkeypatch, capsys, small, tmp_path):
  photo = small / "photos" / "a.png"
  outputs = [f"--output={tmp_path}/out.png", f"--comparison={tmp_path}/side.png"]
  assert _upscale(monkeypatch, small, f"--input={photo}", *outputs) == 0
  assert "14x12 -> 28x24" in capsys.readouterr().out
  sr, side = images.read_image(tmp_path / "out.png"), images.read_image(tmp_path / "side.png")
  assert sr.shape == (24, 28, 3)
  panels = [side[-24:, left : left + 28] for left in range(0, side.shape[1], 30)]  # bicubic, steps 0, 1 and 2
  assert len(panels) == 4
  bicubic = degradation.enlarge(images.to_float(images.read_image(photo)), 2)
  np.testing.assert_array_equal(panels[0], images.to_uint8(bicubic))
  np.testing.assert_array_equal(panels[3], sr)
  assert (panels[1] != panels[2]).any() and (panels[2] != panels[3]).any()
  assert _upscale(monkeypatch, small, f"--input={photo}", f"--output={tmp_path}/out.png") == 2
  assert_one_line(capsys, "out.png", "--overwrite")
  assert sorted(os.listdir(tmp_path)) == ["out.png", "side.png"]


def test_the_shift_of_the_kernel_is_made_up_for_where_asked(monkeypatch, small, tmp_path):
  photo = f"--input={small}/photos/a.png"
  np.save(tmp_path / "moved.npy", np.pad(np.ones((4, 4)), ((1, 0), (0, 0))))  # centre 0.5 below, 0.5 left of its middle
  for shift in kernel_files.SHIFTS:
    flags = [f"--output={tmp_path}/{shift}.png", f"--comparison={tmp_path}/{shift}_side.png", f"--kernel={tmp_path}/moved.npy"]
    flags += [] if shift == "ignore" else [f"--kernel_shift={shift}"]  # the default
    assert _upscale(monkeypatch, small, photo, *flags) == 0
  read = lambda name: images.read_image(tmp_path / f"{name}.png")
  lr = images.to_float(images.read_image(small / "photos" / "a.png"))
  params, kernel = weights.load(small / "w.safetensors").params, kernel_files.read_kernel(tmp_path / "moved.npy")
  for shift, offset in {"ignore": (0.0, 0.0), "centre_of_mass": (0.5, -0.5)}.items():
    degradation = Degradation(kernel, offset=offset)
    adapted = adapt_lib.adapt(params, lr, degradation, 2, np.float32([0.02, 0.01]))
    expected = np.asarray(adapt_lib.super_resolve(adapted, lr, 2, degradation)) * 255
    assert np.abs(read(shift) - expected).max() < 0.51
  left = slice(-24, None), slice(28)
  np.testing.assert_array_equal(read("ignore_side")[left], read("centre_of_mass_side")[left])  # bicubic knows no kernel


def test_the_default_command_restores_what_was_blurred(monkeypatch, capsys, data_dir, tmp_path, optimised):
  """Kernel and noise estimated, weights and steps by default."""
  (gt,) = (s.gt for s in benchmark.load_hr(data_dir / "Set5" / "GT", 2) if s.name == "butterfly")
  gt = images.center_crop(gt, 192)
  lr = make_lr(gt, kernel_files.load_degradation("g20d", photo_scale=2), 2)  # on the grid that photos have
  images.write_png(tmp_path / "photo.png", lr)
  args = ["-i", tmp_path / "photo.png", "-o", tmp_path / "out.png"]
  assert run_entry(monkeypatch, upscale.main, upscale.define_flags, *args, arguments=10**6) == 0
  assert "no steps" in capsys.readouterr().out
  psnr = metrics.psnr_y(images.read_image(tmp_path / "out.png"), gt, 2)
  bicubic = metrics.psnr_y(images.to_uint8(np.asarray(degradation.enlarge(images.to_float(lr), 2))), gt, 2)
  assert psnr > 30 and psnr > bicubic + 6


def test_what_will_be_done_is_said_first_and_what_was_done_last(monkeypatch, capsys, small, tmp_path):
  flags = ["-i", f"{small}/photos/a.png", "-o", f"{tmp_path}/a.png", "--kernel=photo", "--strength=0.5", "--preset=real"]
  assert _upscale(monkeypatch, small, *flags) == 0
  first, second, last = capsys.readouterr().out.splitlines()
  how = f"; 2 steps; 10 iterations of back-projection; strength 0.5; preset real; weights {small}/w.safetensors"
  assert first == f"1 image, x2; kernel to be estimated; noise to be estimated{how}"
  assert re.fullmatch(r"kernel estimated: .+sure; noise \d+\.\d of 255; keeps \d+% of what the network adds", second)
  assert re.fullmatch(rf"{re.escape(f'{tmp_path}/a.png: 14x12 -> 28x24, ')}\d+\.\d s; {re.escape(second + how)}", last)


def test_a_folder_with_a_broken_file(monkeypatch, capsys, small, tmp_path):
  assert _upscale(monkeypatch, small, f"--input={small}/photos", f"--output={tmp_path}/out") == 2
  first, last = errors(capsys).splitlines()
  assert first.startswith("error: ") and "broken.jpg" in first
  assert "1 of 3" in last
  assert made(tmp_path) == ["out/a.png", "out/sub/b.png"]


def made(folder):
  return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def test_names_formats_and_patterns(monkeypatch, small, tmp_path):
  """Short flags, words of an expanded pattern, suffixes, and the input's own format where none is named."""
  (tmp_path / "in").mkdir()
  pixels = RNG.integers(0, 256, (12, 14, 3), dtype=np.uint8)
  for name in ("a.jpg", "b.webp", "c.TIF", "d.bmp", "notes.txt"):
    (tmp_path / "in" / name).touch()
    if name != "notes.txt":
      Image.fromarray(pixels).save(tmp_path / "in" / name)
  run = lambda out, *args: _upscale(monkeypatch, small, "-o", str(tmp_path / out), "--steps=0", *args)
  assert run("all", "-i", f"{tmp_path}/in/*") == 0
  assert made(tmp_path / "all") == ["a.jpg", "b.webp", "c.tif", "d.bmp"]
  for name, file_format in {"a.jpg": "JPEG", "b.webp": "WEBP", "c.tif": "TIFF", "d.bmp": "BMP"}.items():
    with Image.open(tmp_path / "all" / name) as image:
      assert image.format == file_format and image.size == (28, 24)
  words = [f"{tmp_path}/in/a.jpg", f"{tmp_path}/in/b.webp"]
  assert run("some", "-i", *words, "-s", "1.5", "--suffix=x", "--ext=png") == 0
  assert made(tmp_path / "some") == ["a_x.png", "b_x.png"]
  assert images.read_image(tmp_path / "some" / "a_x.png").shape == (18, 21, 3)
  assert run("twice", "-i", words[0], "-i", words[1], "-i", words[0]) == 0
  assert made(tmp_path / "twice") == ["a.jpg", "b.webp"]
  assert run("one.tiff", "-i", words[0]) == 0
  assert images.image_size(tmp_path / "one.tiff") == (24, 28)


def test_depth_transparency_and_metadata_come_out_as_they_went_in(monkeypatch, capsys, small, tmp_path):
  deep = np.linspace(0, 1, 12 * 14 * 3, dtype=np.float32).reshape(12, 14, 3)
  told = photo_file.Metadata(dpi=(300.0, 300.0), texts=(("Title", "night"),))
  alpha = np.ones((12, 14), np.float32)
  alpha[:, :4] = 0
  (tmp_path / "deep.png").write_bytes(photo_file.encode(photo_file.Photo(deep, alpha, bits=16, metadata=told), "PNG"))
  (tmp_path / "gray.png").write_bytes(photo_file.encode(photo_file.Photo(deep, gray=True), "PNG"))
  flags = ["--self_ensemble", "--back_projection=2", "--noise_level=3"]
  assert _upscale(monkeypatch, small, "-i", f"{tmp_path}/*.png", "-o", f"{tmp_path}/out", *flags) == 0
  sr = photo_file.read(tmp_path / "out" / "deep.png")
  assert sr.bits == 16 and sr.rgb.shape == (24, 28, 3) and sr.alpha.shape == (24, 28)
  assert (sr.alpha[:, :5] == 0).all() and (sr.alpha[:, 11:] == 1).all() and len(np.unique(sr.rgb)) > 256
  assert sr.metadata.texts == told.texts and sr.metadata.dpi == pytest.approx((300, 300), rel=1e-3)
  gray = photo_file.read(tmp_path / "out" / "gray.png")
  assert gray.gray and gray.bits == 8
  capsys.readouterr()
  assert _upscale(monkeypatch, small, "-i", f"{tmp_path}/deep.png", "-o", f"{tmp_path}/out.jpg") == 2
  assert_one_line(capsys, "transparency", "JPEG", "png")
  assert not (tmp_path / "out.jpg").exists()


@pytest.mark.slow
def test_the_kernel_is_estimated_and_kept_where_none_is_given(monkeypatch, capsys, tmp_path):
  photo = tmp_path / "photo.png"
  images.write_png(photo, RNG.integers(0, 256, (40, 44, 3), dtype=np.uint8))
  run = lambda *args: run_entry(monkeypatch, upscale.main, upscale.define_flags, "-i", str(photo), "--steps=1", *args)
  assert run(f"--output={tmp_path}/plain", "--kernel=photo") == 0
  assert made(tmp_path / "plain") == ["photo.png"]
  assert run(f"--output={tmp_path}/out", "--save_kernel") == 0
  assert made(tmp_path / "out") == ["photo.png", "photo_kernel.mat", "photo_kernel.png"]
  np.testing.assert_array_equal(*(images.read_image(tmp_path / folder / "photo.png") for folder in ("plain", "out")))
  assert images.image_size(tmp_path / "out" / "photo.png") == (80, 88)
  assert "kernel" in capsys.readouterr().out
  kernel = kernel_files.read_kernel(tmp_path / "out" / "photo_kernel.mat")
  assert run(f"--output={tmp_path}/again.png", f"--kernel={tmp_path}/out/photo_kernel.mat") == 0
  np.testing.assert_allclose(kernel, blind.estimate_photo(photo_file.read(photo).rgb, 2.0).kernel, atol=1e-6)
  assert abs(kernel.sum() - 1) < 1e-5
  capsys.readouterr()
  (tmp_path / "out" / "photo.png").unlink()
  assert run(f"--output={tmp_path}/out", "--save_kernel") == 2
  assert_one_line(capsys, "photo_kernel.mat", "--overwrite")
  assert run(f"--output={tmp_path}/picture.png", f"--kernel={tmp_path}/out/photo_kernel.png") == 2
  assert_one_line(capsys, "photo_kernel.mat")
  assert run(f"--output={tmp_path}/given.png", "--kernel=g20d", "--save_kernel") == 2
  assert_one_line(capsys, "--save_kernel")


def test_without_flags_the_usage_is_shown(monkeypatch, capsys):
  assert run_entry(monkeypatch, upscale.main, upscale.define_flags) == 2
  assert "upscale -i photo.jpg" in capsys.readouterr().err


def test_a_single_output_that_is_no_image_makes_no_folder(monkeypatch, capsys, small, tmp_path):
  assert _upscale(monkeypatch, small, "-i", f"{small}/photos/a.png", "-o", f"{tmp_path}/z.xyz") == 2
  assert_one_line(capsys, ".xyz", "folder")
  assert not os.listdir(tmp_path)


def test_strength_goes_from_the_plain_enlargement_to_the_networks(monkeypatch, capsys, small, tmp_path):
  photo = small / "photos" / "a.png"
  for strength in (0, 0.5, 1):
    output = f"{tmp_path}/{strength}.png"
    assert _upscale(monkeypatch, small, "-i", f"{photo}", "-o", output, f"--strength={strength}", "--steps=1") == 0
    assert "1 step;" in capsys.readouterr().out
  plain, half, full = (images.read_image(tmp_path / f"{strength}.png").astype(float) for strength in (0, 0.5, 1))
  np.testing.assert_array_equal(plain, images.to_uint8(degradation.enlarge(images.to_float(images.read_image(photo)), 2)))
  assert (plain != full).any() and np.abs(half - (plain + full) / 2).max() <= 0.5
  assert _upscale(monkeypatch, small, "-i", f"{photo}", "-o", f"{tmp_path}/more.png", "--strength=1.1") == 2
  assert_one_line(capsys, "strength")


def test_noise_is_estimated_where_no_level_is_given(monkeypatch, capsys, small, tmp_path):
  y, x = np.mgrid[:64, :64] / 20
  rgb = np.stack([np.sin(x + y), np.cos(x), np.sin(y)], -1) / 4 + 0.5 + RNG.normal(0, 8 / 255, (64, 64, 3))
  photo = tmp_path / "noisy.png"
  images.write_png(photo, images.to_uint8(rgb))
  level = 255 * noise.estimate(images.to_float(images.read_image(photo)))
  assert 6 < level < 9
  flags = {"auto": [], "same": [f"--noise_level={level!r}"], "none": ["--noise_level=0"]}
  for name, given in flags.items():
    assert _upscale(monkeypatch, small, "-i", str(photo), "-o", f"{tmp_path}/{name}.png", *given) == 0
    assert f"noise {0 if name == 'none' else level:.1f} of 255" in capsys.readouterr().out
  auto, same, none = (images.read_image(tmp_path / f"{name}.png") for name in flags)
  np.testing.assert_array_equal(auto, same)
  assert (auto != none).any()


@pytest.mark.slow
def test_what_is_not_blurred_is_enlarged_without_steps(monkeypatch, capsys, small, tmp_path):
  flags = ["-i", f"{small}/photos/a.png", "-o", f"{tmp_path}/a.png", "--kernel=bicubic"]
  assert run_entry(monkeypatch, upscale.main, upscale.define_flags, *flags) == 0
  assert "no steps" in capsys.readouterr().out
  assert run_entry(monkeypatch, upscale.main, upscale.define_flags, *flags, "--steps=1", "--overwrite") == 0
  assert "1 step;" in capsys.readouterr().out


@pytest.mark.parametrize("preset", [name for name in upscale.PRESETS if name])
def test_presets_are_settings_that_flags_override(monkeypatch, capsys, small, tmp_path, preset):
  photo = f"--input={small}/photos/a.png"
  settings = upscale.PRESETS[preset]
  assert _upscale(monkeypatch, small, photo, f"-o={tmp_path}/a.png", f"--preset={preset}") == 0  # with --steps=2
  assert "2 steps" in capsys.readouterr().out
  flags = [photo, "--kernel=g20d", f"--weights={small}/w.safetensors", f"-o={tmp_path}/c.png", f"--preset={preset}"]
  assert run_entry(monkeypatch, upscale.main, upscale.define_flags, *flags) == 0
  told, steps = capsys.readouterr().out, settings.get("steps", 10)
  assert f"; {steps} step{'s' if steps > 1 else ''}; " in told and f"preset {preset}" in told
  spelled = [f"--{name}={value}" for name, value in settings.items() if name != "steps"]
  assert _upscale(monkeypatch, small, photo, f"-o={tmp_path}/b.png", *spelled) == 0
  assert pathlib.Path(tmp_path / "a.png").read_bytes() == pathlib.Path(tmp_path / "b.png").read_bytes()


@pytest.mark.parametrize(
    "args, words",
    [
        ("--input=DIR/none.png --output=TMP/out.png", ["none.png"]),
        ("--input=DIR/photos/broken.jpg --output=TMP/out.png", ["broken.jpg"]),
        ("--output=TMP/out.png", ["no input"]),
        ("--input=DIR/*.gif --output=TMP/out.png", ["*.gif", "does not exist"]),
        ("--input=DIR/*.safetensors --output=TMP/out", ["holds no image"]),
        ("--input=DIR/photos/a.png --output=TMP/out.png --ext=gif", ["ext", "png"]),
        ("--input=DIR/photos/a.png --output=TMP/out.png --preset=finest", ["preset", "real"]),
        ("--input=DIR/photos/a.png --output=TMP/out.png --noise_level=-1", ["noise_level", "0 to 100"]),
        ("--input=DIR/photos/a.png --output=TMP/out.png --noise_level=nan", ["noise_level", "auto"]),
        ("--input=DIR/photos/a.png --output=DIR/photos/a.png --overwrite", ["would replace"]),
        ("--input=DIR/photos/a.png --output=TMP/out.png --comparison=TMP/out.png", ["would replace"]),
        ("--input=DIR/photos/a.png --output=DIR/w.safetensors/out.png", ["w.safetensors"]),
        ("--input=DIR/photos/a.png --output=TMP/out.png --scale=9", ["scale", "from 1 to 8"]),
        ("--input=DIR/photos/a.png --output=TMP/out.png --steps=-1", ["steps"]),
        ("--input=DIR/photos/a.png --output=TMP/out.png --kernel=gauss", ["gauss", "g20d"]),
        ("--input=DIR/photos/a.png --output=TMP/out.png --weights=nothing", ["nothing"]),
        ("--input=DIR/photos/a.png --output=TMP/out.png --inner_lr=-0.1", ["inner_lr"]),
        ("--input=DIR/photos/a.png --output=TMP/out.png --memory_limit=0.1", ["memory_limit", "GiB"]),
        ("--input=DIR/photos/a.png --output=TMP/out.png --memory_limit=inf", ["memory_limit", "above 0"]),
        ("--input=DIR/photos/a.png --output=TMP/out.png --memory_limit=0.69", ["memory limit", "MiB higher"]),
    ],
)
def test_wrong_input(monkeypatch, capsys, small, tmp_path, args, words):
  args = args.replace("DIR", str(small)).replace("TMP", str(tmp_path)).split()
  assert _upscale(monkeypatch, small, *args) == 2
  assert_one_line(capsys, *words)
  assert not os.listdir(tmp_path)


def test_two_photos_for_one_output(tmp_path):
  for name in ("a.png", "a.jpg"):
    (tmp_path / "in" / name).parent.mkdir(exist_ok=True)
    (tmp_path / "in" / name).touch()
  with pytest.raises(ValueError, match="in/a.png' would replace another output, of '.*in/a.jpg': name another"):
    upscale.plan([str(tmp_path / "in")], str(tmp_path / "out"), ext="png", overwrite=True)
  assert len(upscale.plan([str(tmp_path / "in")], str(tmp_path / "out"))) == 2  # each in its own format


@pytest.mark.slow
def test_a_second_process_finds_the_programs_compiled(small, tmp_path):
  def run(name, *cache):
    flags = [f"--input={small}/photos/a.png", "--kernel=g20d", f"--weights={small}/w.safetensors", "--steps=1"]
    command = [sys.executable, "-m", "mzsr_jax.upscale", *flags, f"--output={tmp_path}/{name}.png", *cache]
    env = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
    subprocess.run(command, check=True, capture_output=True, env=env | {"XDG_CACHE_HOME": str(tmp_path / "cache")})
    return {path.name for path in (tmp_path / "cache").rglob("*") if path.is_file()}

  assert not run("without", "--compilation_cache=")
  kept = run("first")
  assert any("_add" in name for name in kept)  # the gradient
  assert run("second") == kept  # what is compiled is written: nothing was
  pictures = [images.read_image(tmp_path / f"{name}.png") for name in ("without", "first", "second")]
  np.testing.assert_array_equal(pictures[0], pictures[1])
  np.testing.assert_array_equal(pictures[0], pictures[2])


@pytest.mark.slow
def test_a_small_limit_and_many_windows_make_the_same_picture(monkeypatch, small, tmp_path):
  photo = tmp_path / "large.png"
  images.write_png(photo, RNG.integers(0, 256, (190, 200, 3), dtype=np.uint8))
  assert _upscale(monkeypatch, small, f"--input={photo}", f"--output={tmp_path}/whole.png", "--steps=1") == 0
  limited = [f"--output={tmp_path}/windows.png", "--steps=1", "--memory_limit=0.75"]
  assert _upscale(monkeypatch, small, f"--input={photo}", *limited) == 0
  whole, windows = (images.read_image(tmp_path / f"{name}.png").astype(int) for name in ("whole", "windows"))
  difference = np.abs(whole - windows)
  assert difference.max() <= 1 and (difference > 0).mean() < 1e-3  # roundings that fall the other way
