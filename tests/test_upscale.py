"""The entry for photos: files in, files out, and one bad file does not stop the others."""

import os
import subprocess
import sys

import jax
import numpy as np
import pytest
from test_cli import assert_one_line, run_entry

from mzsr_jax import degradation, images, kernels, meta_test, model, upscale, weights

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
  return run_entry(monkeypatch, upscale.main, upscale.define_flags, *defaults, *args)


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
  for shift in kernels.SHIFTS:
    flags = [f"--output={tmp_path}/{shift}.png", f"--comparison={tmp_path}/{shift}_side.png", f"--kernel={tmp_path}/moved.npy"]
    flags += [] if shift == "ignore" else [f"--kernel_shift={shift}"]  # the default
    assert _upscale(monkeypatch, small, photo, *flags) == 0
  read = lambda name: images.read_image(tmp_path / f"{name}.png")
  lr = images.to_float(images.read_image(small / "photos" / "a.png"))
  params, kernel = weights.load_weights(small / "w.safetensors"), kernels.read_kernel(tmp_path / "moved.npy")
  for shift, offset in {"ignore": (0.0, 0.0), "centre_of_mass": (0.5, -0.5)}.items():
    adapted = meta_test.adapt(params, lr, kernel, 2, 2, np.float32([0.02, 0.01]), offset=offset)
    expected = np.asarray(meta_test.super_resolve(adapted, lr, 2, offset=offset)) * 255
    assert np.abs(read(shift) - expected).max() < 0.51
  left = slice(-24, None), slice(28)
  np.testing.assert_array_equal(read("ignore_side")[left], read("centre_of_mass_side")[left])  # bicubic knows no kernel


def test_a_folder_with_a_broken_file(monkeypatch, capsys, small, tmp_path):
  assert _upscale(monkeypatch, small, f"--input={small}/photos", f"--output={tmp_path}/out") == 2
  first, last = capsys.readouterr().err.splitlines()
  assert first.startswith("error: ") and "broken.jpg" in first
  assert "1 of 3" in last
  assert sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*.png")) == ["out/a.png", "out/sub/b.png"]


@pytest.mark.parametrize(
    "args, words",
    [
        ("--input=DIR/none.png --output=TMP/out.png", ["none.png"]),
        ("--input=DIR/photos/broken.jpg --output=TMP/out.png", ["broken.jpg"]),
        ("--input=DIR/photos/a.png", ["--output"]),
        ("--input=DIR/photos/a.png --output=TMP/out.jpg", ["out.jpg", "PNG"]),
        ("--input=DIR/photos/a.png --output=DIR/photos/a.png --overwrite", ["would replace"]),
        ("--input=DIR/photos/a.png --output=TMP/out.png --comparison=TMP/out.png", ["would replace"]),
        ("--input=DIR/photos/a.png --output=DIR/w.safetensors/out.png", ["w.safetensors"]),
        ("--input=DIR/photos/a.png --output=TMP/out.png --scale=3", ["scale", "3"]),
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
  with pytest.raises(ValueError, match="would replace"):
    upscale.plan(str(tmp_path / "in"), str(tmp_path / "out"), None, overwrite=True)


def test_a_second_process_finds_the_programs_compiled(small, tmp_path):
  def run(name, *cache):
    flags = [f"--input={small}/photos/a.png", "--kernel=g20d", f"--weights={small}/w.safetensors", "--steps=1"]
    command = [sys.executable, "-m", "mzsr_jax.upscale", *flags, f"--output={tmp_path}/{name}.png", *cache]
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")})
    return {path.name for path in (tmp_path / "cache").rglob("*") if path.is_file()}

  assert not run("without", "--compilation_cache=")
  kept = run("first")
  assert any("_step" in name for name in kept)
  assert run("second") == kept  # what is compiled is written: nothing was
  pictures = [images.read_image(tmp_path / f"{name}.png") for name in ("without", "first", "second")]
  np.testing.assert_array_equal(pictures[0], pictures[1])
  np.testing.assert_array_equal(pictures[0], pictures[2])


def test_a_small_limit_and_many_windows_make_the_same_picture(monkeypatch, small, tmp_path):
  photo = tmp_path / "large.png"
  images.write_png(photo, RNG.integers(0, 256, (190, 200, 3), dtype=np.uint8))
  assert _upscale(monkeypatch, small, f"--input={photo}", f"--output={tmp_path}/whole.png", "--steps=1") == 0
  limited = [f"--output={tmp_path}/windows.png", "--steps=1", "--memory_limit=0.75"]
  assert _upscale(monkeypatch, small, f"--input={photo}", *limited) == 0
  whole, windows = (images.read_image(tmp_path / f"{name}.png").astype(int) for name in ("whole", "windows"))
  difference = np.abs(whole - windows)
  assert difference.max() <= 1 and (difference > 0).mean() < 1e-3  # roundings that fall the other way
