"""The scripts of tables and figures run on a folder of small images and write what they say."""

import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from experiments import gains, shrink
from mzsr_jax import images, weights
from mzsr_jax.core import networks
from mzsr_jax.core.unrolled import UnrolledNet
from mzsr_jax.inference.tiled import make_lr
from mzsr_jax.photo import kernel_files
from mzsr_jax.training import data


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  root = tmp_path_factory.mktemp("hr")
  for path in data.sample_photos()[:2]:
    Image.fromarray(images.read_image(path)[100:164, 100:172]).save(root / f"{path.stem}.png")
  return root


def run(module, folder, out, *args):
  command = [sys.executable, "-m", f"experiments.{module}", f"--hr_dir={folder}", f"--out={out}", *args]
  return subprocess.run(command, capture_output=True, text=True)


@pytest.mark.slow
def test_a_table_stands_beside_the_papers(folder, tmp_path):
  out = tmp_path / "table.json"
  done = run("tables", folder, out, "--table=5", "--set=Set5")
  assert done.returncode == 0, done.stderr
  report = json.loads(out.read_text())
  lines = [(r["method"], r["steps"]) for r in report["results"]]
  assert {("bicubic", 0), ("x4_direct", 1), ("spectral:multiscale", 10), ("universal", 0)} <= set(lines)
  assert all(len(r["images"]) == 2 for r in report["results"])
  table = out.with_suffix(".md").read_text()
  assert "| paper: MZSR (10) | 30.50 / 0.8704 |" in table
  assert all(f"{r['psnr']:.2f} / {r['ssim']:.4f}" in table for r in report["results"])
  again = run("tables", folder, out, "--table=5")
  assert again.returncode == 2 and "--overwrite" in again.stderr


@pytest.mark.slow
def test_a_picture_for_wrong_kernels(folder, tmp_path):
  out = tmp_path / "figure.json"
  done = run("figures", folder, out, "--figure=6", "--steps=2", "--crop=32")
  assert done.returncode == 0, done.stderr
  rows = json.loads(out.read_text())["rows"]
  assert [row["picture"] for row in rows] == [
      name for method in ("MZSR", "universal")
      for name in ("bicubic", *(f"{method} told {k}" for k in ("g02d", "g20d", "gani", "gani5")), "truth")
  ]
  psnrs = {row["picture"]: row["psnr"] for row in rows}
  assert psnrs["universal told g20d"] == max(psnr for name, psnr in psnrs.items() if name.startswith("universal"))
  assert images.read_image(out.with_suffix(".png")).shape[1] == 6 * 64 + 5 * 2
  bad = run("figures", folder, tmp_path / "other.json", "--figure=4", "--image=nobody")
  assert bad.returncode == 2 and "nobody" in bad.stderr and "Traceback" not in bad.stderr


@pytest.mark.slow
def test_blind_kernels_beside_the_true_one(folder, tmp_path):
  out = tmp_path / "blind.json"
  done = run("blind", folder, out, "--methods=bicubic,middle,regression,true", "--steps=1", "--kernels_per_image=2")
  assert done.returncode == 0, done.stderr
  report = json.loads(out.read_text())
  assert [r["method"] for r in report["results"]] == ["bicubic", "middle", "regression", "true"]
  assert [len(r["images"]) for r in report["results"]] == [4] * 4 and len(report["estimates"]) == 8
  assert all(1 <= row["true"][1] <= row["true"][0] <= 5 and row["kernel error"] > 0 for row in report["estimates"])
  table = out.with_suffix(".md").read_text().splitlines()
  assert len(table) == 2 + 4 and f"{report['results'][3]['psnr']:.2f}" in table[5]
  bad = run("blind", folder, tmp_path / "other.json", "--methods=guess")
  assert bad.returncode == 2 and "guess" in bad.stderr and "Traceback" not in bad.stderr


@pytest.mark.slow
def test_options_of_upscale_beside_each_other(folder, tmp_path):
  out = tmp_path / "presets.json"
  done = run("presets", folder, out, "--images=1", "--kernels=g20d", "--noise=5", "--noise_levels=0,auto")
  assert done.returncode == 0, done.stderr
  rows = json.loads(out.read_text())["images"]
  assert {(row["steps"], row["noise_level"]) for row in rows} == {(n, level) for n in (0, 1, 10) for level in ("0", "auto")}
  told = lambda level: {row["noise_told"] for row in rows if row["noise_level"] == level}
  assert told("0") == {0} and min(told("auto")) > 0


@pytest.mark.slow
def test_gains_by_steps_with_kernels_that_are_too_narrow(folder, tmp_path):
  out = tmp_path / "rates.json"
  options = ["--weights=x2_direct", "--kernels=g20d", "--widths=0.8,1", "--noise=5", "--noise_level=2", "--side=48"]
  done = run("rates", folder, out, *options, "--factors=1", "--steps=0,1")
  assert done.returncode == 0, done.stderr
  rows = json.loads(out.read_text())["rows"]
  assert [row["told"] for row in rows] == ["x0.8, noise 2", "true, noise 2"] and all(row["noise"] == 5 for row in rows)
  assert all(len(row["bicubic"]) == len(row["psnr"]["0"]) == len(row["psnr"]["1"]) == 2 for row in rows)
  assert rows[0]["psnr"] != rows[1]["psnr"] and rows[0]["bicubic"] == rows[1]["bicubic"]
  bad = run("rates", folder, out, "--weights=x2_bicubic", "--kernels=bicubic", "--widths=0.8")
  assert bad.returncode == 2 and "no Gaussian" in bad.stderr and "Traceback" not in bad.stderr


@pytest.mark.parametrize("module,options", [
    ("rates", ["--weights=x2_direct", "--hr_dir=."]), ("shrink", ["--weights=universal_large"]),
    ("bench.sizes", []), ("bench.megapixels", []),
])  # fmt: skip
def test_results_that_are_there_are_not_overwritten_without_a_flag(tmp_path, module, options):
  out = tmp_path / "there.json"
  out.write_text("{}")
  command = [sys.executable, "-m", f"experiments.{module}", *options, f"--out={out}"]
  done = subprocess.run(command, capture_output=True, text=True)
  assert done.returncode == 2 and "--overwrite" in done.stderr and done.stderr.count("\n") == 1, done.stderr
  assert out.read_text() == "{}"


def test_a_variant_that_a_benchmark_has_not_is_one_line():
  done = subprocess.run([sys.executable, "-m", "experiments.bench.meta_step", "--only=magic"], capture_output=True, text=True)
  assert done.returncode == 2 and "magic" in done.stderr and done.stderr.count("\n") == 1, done.stderr


def test_a_line_of_gains_has_means_over_images_and_the_worst():
  row = {"kernel": "g20d", "scale": 2, "told": "x0.8", "noise": 0.0, "jpeg": 75, "factor": "10", "bicubic": [26.0, 28.0]}
  line = gains.line(row | {"psnr": {"0": [27.0, 31.0], "1": [27.5, 31.5]}})
  assert line["0 steps"] == "29.00" and line["over bicubic"] == "+2.00 [+1.00, +3.00]" and line["worst"] == "+1.00"
  assert line["gain, 1 step"] == "+0.500 [+0.500, +0.500]" and line["noise"] == "0, JPEG 75"
  assert gains.line(row | {"bicubic": [26.0], "psnr": {"0": [27.0]}})["over bicubic"] == "+1.00 [?, ?]"


@pytest.mark.slow
def test_another_program_enlarges_our_lr_images(folder, tmp_path):
  peer = tmp_path / "nearest.py"
  peer.write_text("def enlarge(lr, kernel, subsample, scale):\n"
                  "  return lr.repeat(scale, 0).repeat(scale, 1) if subsample == 'direct' else None\n")  # fmt: skip
  out = tmp_path / "peers"
  options = ["--kernels=bicubic,g20d", "--methods=bicubic", f"--peers=Nearest={peer}"]
  done = run("peers", folder, out, *options)
  assert done.returncode == 0, done.stderr
  rows = json.loads((out / "seconds.json").read_text())["rows"]
  assert [(row["method"], row["kernel"]) for row in rows] == [("bicubic", "bicubic"), ("bicubic", "g20d"), ("Nearest", "g20d")]
  for path in sorted(folder.iterdir()):
    hr, sr = images.read_image(path), images.read_image(out / "Nearest" / "g20d" / path.name)
    degradation = kernel_files.load_degradation("g20d")
    np.testing.assert_array_equal(sr, make_lr(hr, degradation, 2).repeat(2, 0).repeat(2, 1))
  again = run("peers", folder, out, *options)
  assert again.returncode == 2 and "--overwrite" in again.stderr
  bad = run("peers", folder, tmp_path / "other", "--peers=Nearest=nowhere.py")
  assert bad.returncode == 2 and "nowhere.py" in bad.stderr and "Traceback" not in bad.stderr


def test_the_benchmark_of_accelerators_leaves_out_what_there_is_no_time_for():
  script = """
import json, time
from absl import flags
from experiments.bench import accelerator

flags.FLAGS(["accelerator", "--repeats=100000"])
makers = {"product, float32": lambda: lambda: time.sleep(0.01)}
makers |= {f"pass, {i}, float32": lambda: time.sleep(1) or (lambda: None) for i in range(3)}
start = time.monotonic()
rows, left_out = accelerator.timings(makers, start + 2)
print(json.dumps([[row["what"] for row in rows], left_out, list(makers), time.monotonic() - start]))
"""
  timed, left_out, names, seconds = json.loads(subprocess.check_output([sys.executable, "-c", script], text=True))
  assert timed[0] == "product, float32" and left_out[-1] == "pass, 2, float32"
  assert timed + left_out == names
  assert 2 <= seconds < 20


@pytest.mark.slow
@pytest.mark.parametrize("rounds", [1, 2])
def test_a_smaller_network_is_made_of_a_larger(rounds):
  """What is left out is what matters least: a block that does nothing, channels that none uses."""
  net = UnrolledNet(passes=2, features=8, blocks=1, coarse_features=10, coarse_blocks=3, coarse_rounds=rounds)
  params = _perturbed_params(net)
  coarse = params["coarse"] | {"block2b": jnp.zeros((3, 3, 10, 10))}
  for name in ("block1", "block3"):
    coarse |= {f"{name}a": coarse[f"{name}a"].at[..., :2].set(0), f"{name}b": coarse[f"{name}b"].at[..., 8:].set(0)}
  unused = lambda x: x.reshape(*x.shape[:-1], -1, 10).at[..., 8:].set(0).reshape(x.shape)
  coarse |= {name: jax.tree.map(unused, coarse[name]) for name in ("first", "bias", "carried") if name in coarse}
  params |= {"coarse": coarse}
  groups = shrink.observations(params)[5:7]
  smaller = shrink.with_passes(shrink.coarse_smaller(params, 8, 2, groups), 2, 1)
  assert networks.of(smaller) == net.clone(coarse_features=8, coarse_blocks=2)
  made, expected = (networks.of(p).apply({"params": p}, groups) for p in (smaller, params))
  np.testing.assert_allclose(made, expected, atol=1e-4)


@pytest.mark.slow
def test_halves_of_a_network_are_gone_through_again():
  net = UnrolledNet(passes=2, features=8, blocks=1, coarse_features=10, coarse_blocks=3)
  params = _perturbed_params(net)
  groups = shrink.observations(params)[5:7]
  assert networks.of(shrink.with_passes(params, 1, 3)) == net.clone(passes=1, rounds=3)
  again = shrink.with_coarse_rounds(params, 2)
  assert networks.of(again) == net.clone(coarse_rounds=2)
  made, once = (networks.of(p).apply({"params": p}, groups) for p in (again, params))
  assert jnp.abs(made - once).max() > 1e-3


def _perturbed_params(net):
  """Random parameters, none of them all zeros."""
  noise = lambda p: 0.05 * jax.random.normal(jax.random.key(p.size), p.shape)
  return jax.tree.map(lambda p: p + noise(p), net.init_params(jax.random.key(0)))


@pytest.mark.slow
def test_the_halves_of_a_network_are_it_together(tmp_path):
  def half(*options):
    name = tmp_path / "half.safetensors"
    command = [sys.executable, "-m", "experiments.shrink", "--weights=universal", f"--out={name}", "--overwrite", *options]
    return subprocess.run(command, capture_output=True, text=True), name

  whole, together = weights.load("universal").params, {}
  for option in ("--passes=0", "--blocks=0"):
    done, name = half(option)
    assert done.returncode == 0, done.stderr
    together |= weights.load(name).params
  jax.tree.map(np.testing.assert_array_equal, together, whole)
  for options in (["--passes=0", "--blocks=0"], ["--rounds=2"], ["--passes=2"]):
    bad, _ = half(*options)
    assert bad.returncode == 2 and bad.stderr.count("\n") == 1, bad.stderr
