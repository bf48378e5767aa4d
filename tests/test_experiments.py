"""The scripts of tables and figures run on a folder of small images and write what they say."""

import json
import subprocess
import sys

import pytest
from PIL import Image

from mzsr_jax import images
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
  assert [row["picture"] for row in rows] == ["bicubic", *(f"told {k}" for k in ("g02d", "g20d", "gani", "gani5")), "truth"]
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
