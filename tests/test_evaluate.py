"""The benchmark: the published bicubic numbers, the JSON report, and every kind of wrong input."""

import functools
import json
import math

import jax
import numpy as np
import pytest
import scipy.io
import scipy.ndimage
from test_cli import assert_one_line, run_entry

from mzsr_jax import evaluate, images, weights
from mzsr_jax.core import degradation, kernels, model
from mzsr_jax.errors import UserError
from mzsr_jax.evaluation import benchmark, methods, metrics
from mzsr_jax.inference import plain, tiled
from mzsr_jax.photo import kernel_files
from mzsr_jax.training import data

# PSNR-Y and SSIM-Y of bicubic enlargement on Set5, which the paper's tables agree with.
BICUBIC_SET5 = [
    (2, "bicubic", 33.65, 0.9295),
    (2, "g02d", 30.24, 0.8975),
    (2, "g20d", 28.73, 0.8448),
    (2, "gani", 28.15, 0.8264),
    (2, "g13b", 30.54, 0.8772),
    (4, "g20d", 24.74, 0.7321),
]


@pytest.mark.parametrize("scale", [2, 4])
@pytest.mark.slow
def test_bicubic_on_set5_is_as_published(data_dir, optimised, scale):
  expected = {kernel: (psnr, ssim) for s, kernel, psnr, ssim in BICUBIC_SET5 if s == scale}
  samples = benchmark.load_hr(data_dir / "Set5" / "GT", scale)
  degradations = {name: kernel_files.load_degradation(name) for name in expected}
  scores = benchmark.run(samples, degradations, [methods.bicubic()], scale)
  for result in benchmark.summarise(scores, scale):
    psnr, ssim = expected[result["kernel"]]
    assert result["psnr"] == pytest.approx(psnr, abs=0.01), result["kernel"]
    assert result["ssim"] == pytest.approx(ssim, abs=0.0005), result["kernel"]


def test_degradation_reproduces_the_published_lr_images(data_dir, optimised):
  lr_dir = data_dir / "Set5" / "g20_direct_x2"
  degradation = kernel_files.load_degradation(str(lr_dir / "kernel.mat"))
  samples = benchmark.load_pairs(lr_dir, data_dir / "Set5" / "GT", 2)
  assert len(samples) == 5
  assert sum(int((benchmark.make_lr(s.gt, degradation, 2) != s.lr).sum()) for s in samples) <= 1


@pytest.fixture(scope="module")
def small(tmp_path_factory):
  """A folder with two small HR images, their LR images at scale 2, a kernel, and untrained weights."""
  root = tmp_path_factory.mktemp("set")
  rng = np.random.default_rng(0)
  for name, size in {"a": (37, 41), "b": (32, 32)}.items():
    hr = images.crop_to_multiple(rng.integers(0, 256, (*size, 3), dtype=np.uint8), 2)
    images.write_png(root / "gt" / f"{name}_GT.png", hr)
    images.write_png(root / "lr" / f"{name}.png", hr[::2, ::2])
  images.write_png(root / "one" / "a_x2_SR.png", np.zeros((36, 40, 3), np.uint8))
  np.save(root / "delta.npy", np.pad([[1.0]], 1))
  metadata = {"stage": "meta", "scales": "[2.0]", "subsample": "direct", "inner_lrs": "[0.02, 0.01]"}
  weights.save_weights(root / "w.safetensors", model.init(jax.random.key(0)), metadata)
  return root


def _evaluate(monkeypatch, *args):
  return run_entry(monkeypatch, evaluate.main, evaluate.define_flags, *args)


def test_report_of_hr_images(monkeypatch, capsys, small, tmp_path):
  out = tmp_path / "new" / "report.json"
  given = [f"--weights={small}/w.safetensors", f"--hr_dir={small}/gt", "--kernels=g20d,gani", "--steps=0,1"]
  given += ["--compare_with=bicubic"]
  assert _evaluate(monkeypatch, *given, f"--out={out}") == 0
  stdout, stderr = capsys.readouterr()
  assert "g20d" in stdout and "mzsr (1)" in stdout and "2/2 b" in stderr
  report = json.loads(out.read_text())
  assert set(report) == {"results", "differences", "settings", "versions", "weights_sha256"}
  assert [(d["label"], d["kernel"]) for d in report["differences"]] == [
      ("mzsr (0)", "g20d"), ("mzsr (1)", "g20d"), ("mzsr (0)", "gani"), ("mzsr (1)", "gani")
  ]  # fmt: skip
  assert "psnr, difference to bicubic" in stdout
  assert report["weights_sha256"] == weights.load(small / "w.safetensors").digest
  assert report["settings"]["inner_lrs"] == pytest.approx([0.02])
  lines = [(r["method"], r["steps"], r["kernel"]) for r in report["results"]]
  methods = [("bicubic", 0), ("mzsr", 0), ("mzsr", 1)]
  assert lines == [(*method, kernel) for kernel in ("g20d", "gani") for method in methods]
  for result in report["results"]:
    assert set(result) == {"method", "kernel", "scale", "steps", "seconds", "images", *metrics.METRICS}
    assert [set(i) for i in result["images"]] == [{"name", *metrics.METRICS}] * 2
    assert [i["name"] for i in result["images"]] == ["a", "b"] and result["scale"] == 2 and result["seconds"] > 0
    for key in metrics.METRICS:
      assert result[key] == pytest.approx(np.mean([i[key] for i in result["images"]]))
  by_line = {(r["method"], r["steps"], r["kernel"]): r["psnr"] for r in report["results"]}
  assert by_line["mzsr", 0, "g20d"] != by_line["mzsr", 1, "g20d"]


def test_report_of_lr_images_needs_no_weights_for_bicubic(monkeypatch, capsys, small, tmp_path):
  given = [f"--lr_dir={small}/lr", f"--gt_dir={small}/gt", f"--kernel_path={small}/delta.npy", "--methods=bicubic"]
  assert _evaluate(monkeypatch, *given, f"--out={tmp_path}/lr.json") == 0
  made = [f"--hr_dir={small}/gt", f"--kernels={small}/delta.npy", "--methods=bicubic"]
  assert _evaluate(monkeypatch, *made, f"--out={tmp_path}/hr.json") == 0
  capsys.readouterr()
  by_lr, by_hr = (json.loads((tmp_path / name).read_text()) for name in ("lr.json", "hr.json"))
  assert by_lr["weights_sha256"] is None and by_lr["settings"]["weights"] is None
  for result in (*by_lr["results"], *by_hr["results"]):
    del result["seconds"]
  assert by_lr["results"] == by_hr["results"]  # the given LR images are what a delta kernel makes of the HR images
  before = (tmp_path / "lr.json").read_bytes()
  assert _evaluate(monkeypatch, *given, f"--out={tmp_path}/lr.json") == 2
  assert_one_line(capsys, "lr.json", "--overwrite")
  assert (tmp_path / "lr.json").read_bytes() == before


def test_gaussians_by_their_parameters_stand_in_lists_of_kernels_and_in_names_of_folders(monkeypatch, capsys, small, tmp_path):
  names = ["g20d", "gaussian:2", "gaussian:4x1x-0.5"]
  for sample in benchmark.load_hr(small / "gt", 2):
    for name in names:
      images.write_png(tmp_path / name / f"{sample.name}.png", sample.gt)
  given = [f"--hr_dir={small}/gt", f"--kernels={','.join(names)}", f"--methods=bicubic,folder:Other={tmp_path}/{{kernel}}"]
  assert _evaluate(monkeypatch, *given, f"--out={tmp_path}/out.json") == 0
  assert capsys.readouterr().out.splitlines()[0].split() == ["psnr/ssim", *names]
  results = {(r["method"], r["kernel"]): r["images"] for r in json.loads((tmp_path / "out.json").read_text())["results"]}
  assert results["bicubic", "g20d"] == results["bicubic", "gaussian:2"] != results["bicubic", "gaussian:4x1x-0.5"]
  assert len(results) == 6


def test_a_shift_of_the_kernel_counts_where_asked_and_for_the_network_alone(monkeypatch, capsys, small, tmp_path):
  np.save(tmp_path / "even.npy", np.ones((4, 4)))
  made = [f"--hr_dir={small}/gt", f"--kernels={tmp_path}/even.npy,g02d", f"--weights={small}/w.safetensors", "--steps=1"]
  reports = {}
  for shift in kernel_files.SHIFTS:
    assert _evaluate(monkeypatch, *made, f"--kernel_shift={shift}", f"--out={tmp_path}/{shift}.json") == 0
    reports[shift] = json.loads((tmp_path / f"{shift}.json").read_text())
    assert reports[shift]["settings"]["kernel_shift"] == shift
  capsys.readouterr()
  pairs = list(zip(*(report["results"] for report in reports.values())))
  changed = {(a["method"], a["kernel"].split("/")[-1]) for a, b in pairs if a["images"] != b["images"]}
  assert len(pairs) == 4 and changed == {("mzsr", "even.npy")}


def test_a_kernel_of_a_tool_that_convolves_is_turned_where_asked(monkeypatch, capsys, tmp_path):
  path, kernel = tmp_path / "kernels.mat", np.zeros((15, 15))
  kernel[7, 7:], kernel[7:, 7] = np.arange(8, 0, -1), np.arange(8, 0, -1)  # as a corner is: its turn is quite another
  kernel /= kernel.sum()
  scipy.io.savemat(path, {"kernels": np.stack([np.eye(15), np.ones((15, 15)), kernel], -1), "scale": 2.0})
  hr = images.read_image(data.sample_photos()[0])[:96, :96]
  lr = scipy.ndimage.convolve(hr.astype(np.float64), kernel[..., None], mode="reflect")[::2, ::2]
  images.write_png(tmp_path / "gt" / "a.png", hr)
  images.write_png(tmp_path / "lr" / "a.png", images.to_uint8(lr / 255))
  given = [f"--lr_dir={tmp_path}/lr", f"--gt_dir={tmp_path}/gt", f"--kernel_path={path}:3", "--methods=mzsr", "--steps=0"]
  psnr = {}
  for flag in ("--flip_kernel", "--noflip_kernel"):
    assert _evaluate(monkeypatch, *given, flag, f"--out={tmp_path}/{flag}.json") == 0
    report = json.loads((tmp_path / f"{flag}.json").read_text())
    psnr[flag] = report["results"][0]["psnr"]
    assert report["settings"]["flip_kernel"] == (flag == "--flip_kernel")
  capsys.readouterr()
  assert psnr["--flip_kernel"] > psnr["--noflip_kernel"] + 5


@pytest.fixture(scope="module")
def own_kernels(tmp_path_factory):
  """Images named and degraded as in DIV2KRK: each by a kernel of its own, moved to align the grids."""
  root, rng = tmp_path_factory.mktemp("DIV2KRK"), np.random.default_rng(0)
  for number, size in {1: (40, 36), 2: (32, 32), 10: (32, 40)}.items():
    hr, kernel = rng.integers(0, 256, (*size, 3), dtype=np.uint8), rng.random((6, 6))
    (root / "gt_k_x2").mkdir(exist_ok=True)
    scipy.io.savemat(root / "gt_k_x2" / f"kernel_{number}.mat", {"Kernel": kernel})
    degradation = kernel_files.load_degradation(str(root / "gt_k_x2" / f"kernel_{number}.mat"))
    images.write_png(root / "gt" / f"img_{number}_gt.png", hr)
    images.write_png(root / "lr_x2" / f"im_{number}.png", benchmark.make_lr(hr, degradation, 2))
  return root


def test_each_image_has_the_kernel_of_its_number(own_kernels):
  samples = benchmark.load_pairs(own_kernels / "lr_x2", own_kernels / "gt", 2)
  load = functools.partial(kernel_files.load_degradation, shift="centre_of_mass")
  samples = benchmark.with_own_kernels(samples, own_kernels / "gt_k_x2", load)
  assert [sample.name for sample in samples] == ["im_1", "im_10", "im_2"]
  for sample in samples:
    np.testing.assert_array_equal(benchmark.make_lr(sample.gt, sample.degradation, 2), sample.lr)
    assert sample.degradation.offset == kernels.centre_of_mass(sample.degradation.kernel) != (0, 0)
  seen = []
  observe = lambda sample, case, name, result: seen.append((sample.name, case.degradation, name, result.steps, result.sr.shape))
  list(benchmark.run(samples[:1], {"gt_k_x2": None}, [methods.bicubic()], 2, observe=observe))
  assert seen == [("im_1", samples[0].degradation, "bicubic", 0, samples[0].gt.shape)] and seen[0][1] is samples[0].degradation


def test_a_folder_of_kernels_is_one_column(monkeypatch, capsys, small, own_kernels, tmp_path):
  given = [f"--lr_dir={own_kernels}/lr_x2", f"--gt_dir={own_kernels}/gt", f"--kernel_path={own_kernels}/gt_k_x2/"]
  given += [f"--weights={small}/w.safetensors", "--steps=1", "--kernel_shift=centre_of_mass", f"--out={tmp_path}/out.json"]
  assert _evaluate(monkeypatch, *given) == 0
  header, bicubic, mzsr = capsys.readouterr().out.splitlines()
  assert header.split() == ["psnr/ssim", "gt_k_x2"] and bicubic.startswith("bicubic") and mzsr.startswith("mzsr (1)")
  report = json.loads((tmp_path / "out.json").read_text())
  assert report["settings"]["subsample"] == {"gt_k_x2": "direct"}
  samples = benchmark.load_pairs(own_kernels / "lr_x2", own_kernels / "gt", 2)
  names = ["kernel_1", "kernel_10", "kernel_2"]
  params = weights.load(small / "w.safetensors").params
  for sample, name, found in zip(samples, names, report["results"][1]["images"], strict=True):
    degradation = kernel_files.load_degradation(f"{own_kernels}/gt_k_x2/{name}.mat", shift="centre_of_mass")
    sr = tiled.TiledAdapter().trajectory(params, images.to_float(sample.lr), degradation, [1], 2, np.float32([0.02]))[1]
    assert found["name"] == sample.name and found["psnr"] == pytest.approx(metrics.psnr_y(sr, sample.gt, 2), abs=0.01)


@pytest.mark.parametrize(
    "ours,theirs,expected",
    [
        (["a", "b"], ["b", "a"], {"a": "a", "b": "b"}),
        (["im_1", "im_10"], ["k_010", "k_001"], {"im_1": "k_001", "im_10": "k_010"}),
        (["0801x2", "0802x2"], ["0801", "0802"], {"0801x2": "0801", "0802x2": "0802"}),
        (["set5/im_1"], ["kernel_1"], {"set5/im_1": "kernel_1"}),
        (["im_1", "im_2"], ["k_1", "k_3"], ["im_2 (A only)", "k_3 (B only)"]),
        (["babyx2", "birdx2"], ["bird", "baby"], {"babyx2": "baby", "birdx2": "bird"}),
        (["a", "a_2", "b"], ["a_2_out", "a_out", "b"], {"a": "a_out", "a_2": "a_2_out", "b": "b"}),
        (["img_003x4"], ["img_003"], {"img_003x4": "img_003"}),
        (["a_1", "a_2"], ["a_1_SwinIR", "a_2_SwinIR"], {"a_1": "a_1_SwinIR", "a_2": "a_2_SwinIR"}),
        (["a"], ["a_rlt"], {"a": "a_rlt"}),
        (["bird"], ["birdhouse"], ["bird (A only)", "birdhouse (B only)"]),
        (["a", "b"], ["a_out", "a_SwinIR"], ["b (A only)"]),
        (["a"], ["a_out", "a_SwinIR"], ["a (A only)"]),
        (["im_1", "im_2"], ["im_1", "k_2"], ["im_2 (A only)", "k_2 (B only)"]),  # some names are equal: the others should be
        (["im_1", "im_2"], ["k_1_2", "k_1_3"], ["im_1 (A only)", "k_1_3 (B only)"]),  # one number twice
        (["im_1", "photo"], ["k_1", "k_2"], ["photo (A only)"]),
    ],
)
def test_names_match_or_their_beginnings_or_else_their_first_numbers_do(ours, theirs, expected):
  if isinstance(expected, dict):
    assert benchmark._match(ours, theirs, ("A", "B"), "files") == expected
    return
  with pytest.raises(UserError, match="files do not match") as e:
    benchmark._match(ours, theirs, ("A", "B"), "files")
  assert all(words in str(e.value) for words in expected)


# Benchmarks as EDSR names them, results as BasicSR and SwinIR do; sides that the scale does not divide.
@pytest.mark.parametrize("sides", [(40, 48), (41, 49), (40, 49)], ids=str)
def test_usual_layouts_of_benchmarks_are_scored(monkeypatch, capsys, caplog, tmp_path, sides):
  rng = np.random.default_rng(0)
  for name in ("baby", "bird"):
    hr = rng.integers(0, 256, (81, 97, 3), dtype=np.uint8)
    lr = hr[::2, ::2][: sides[0], : sides[1]]
    images.write_png(tmp_path / "HR" / f"{name}.png", hr)
    images.write_png(tmp_path / "LR_bicubic" / "X2" / f"{name}x2.png", lr)
    images.write_png(tmp_path / "whole" / f"{name}_SwinIR.png", hr[:80, :96])
    enlarged = images.to_uint8(degradation.enlarge(images.to_float(lr), 2))
    images.write_png(tmp_path / "rounded" / f"{name}_out.png", enlarged)
  np.save(tmp_path / "delta.npy", np.ones((1, 1)))
  given = [f"--lr_dir={tmp_path}/LR_bicubic/X2", f"--gt_dir={tmp_path}/HR", f"--kernel_path={tmp_path}/delta.npy"]
  given += [f"--methods=bicubic,folder:SwinIR={tmp_path}/whole,folder:Rounded={tmp_path}/rounded", f"--out={tmp_path}/out.json"]
  with caplog.at_level("WARNING"):
    assert _evaluate(monkeypatch, *given) == 0
  capsys.readouterr()
  said = [record.getMessage() for record in caplog.records]
  assert len(said) == 4 and sum("'babyx2' with 'baby', 'birdx2' with 'bird'" in line for line in said) == 1
  assert sum("cropped" in line for line in said) == 1
  results = {r["method"]: r for r in json.loads((tmp_path / "out.json").read_text())["results"]}
  for number, name in enumerate(("baby", "bird")):
    hr = images.read_image(tmp_path / "HR" / f"{name}.png")[:80, :96]
    bicubic = images.to_uint8(degradation.enlarge(images.to_float(hr[::2, ::2]), 2))
    rounded = images.read_image(tmp_path / "rounded" / f"{name}_out.png")[:80, :96]
    for method, sr in {"bicubic": bicubic, "Rounded": rounded}.items():
      found = results[method]["images"][number]
      assert found["name"] == name and found["psnr"] == pytest.approx(metrics.psnr_y(sr, hr, 2), abs=0.01)
    assert results["SwinIR"]["images"][number]["psnr"] is None  # without any error


@pytest.mark.parametrize(
    "args, words",
    [
        ("--hr_dir=SET/gt --weights=SET/none.safetensors", ["none.safetensors"]),
        ("--hr_dir=SET/gt --weights=SET/w.safetensors --scale=4", ["scale", "4"]),
        ("--hr_dir=SET/gt --scale=1", ["scale"]),
        ("--hr_dir=SET/gt --steps=", ["--steps"]),
        ("--hr_dir=SET/gt --steps=ten", ["steps", "ten"]),
        ("--hr_dir=SET/gt --inner_lr=nan", ["inner_lr"]),
        ("--hr_dir=SET/gt --methods=bicubic,zsr", ["zsr", "mzsr"]),
        ("--hr_dir=SET/gt --methods=", ["--methods", "zssr"]),
        ("--hr_dir=SET/gt --methods=adam", ["adam", "adam:WEIGHTS"]),
        ("--hr_dir=SET/gt --methods=adam:SET/none.safetensors", ["none.safetensors"]),
        ("--hr_dir=SET/gt --methods=sgd:SET/w.safetensors --scale=4", ["scale", "4"]),
        ("--hr_dir=SET/gt --methods=zssr:speed=9", ["speed=9", "max_steps=3000"]),
        ("--hr_dir=SET/gt --methods=zssr:max_steps=many", ["max_steps=many"]),
        ("--hr_dir=SET/gt --methods=zssr:max_steps=0", ["max_steps", "0"]),
        ("--hr_dir=SET/gt --methods=zssr:factors=1x2 --kernels=g20d", ["end with the scale"]),
        ("--hr_dir=SET/gt --methods=bicubic --metrics=psnr,vmaf", ["vmaf", "psnr_rgb"]),
        ("--hr_dir=SET/gt --methods=bicubic --compare_with=zssr", ["zssr", "bicubic"]),
        ("--hr_dir=SET/gt --methods=folder:A=SET/gt,folder:A=SET/gt/ --kernels=g02d", ["called A"]),
        ("--hr_dir=SET/gt --methods=folder:RCAN", ["folder:NAME=PATH"]),
        ("--hr_dir=SET/gt --methods=folder:mzsr=SET/gt", ["folder:NAME=PATH"]),
        ("--hr_dir=SET/gt --methods=folder:RCAN=SET/gt --kernels=g02d,g20d", ["RCAN", "{kernel}"]),
        ("--hr_dir=SET/gt --methods=folder:RCAN=SET/none --kernels=g02d", ["none"]),
        ("--hr_dir=SET/gt --methods=folder:RCAN=SET/lr --kernels=g02d", ["a.png", "20x18", "40x36"]),
        ("--hr_dir=SET/gt --methods=folder:RCAN=SET/one --kernels=g02d", ["do not match", "b (in the set only)"]),
        ("--hr_dir=SET/gt --methods=bicubic --kernels=g20", ["g20", "g20d"]),
        ("--hr_dir=SET/gt --methods=bicubic --kernels=none.npy", ["none.npy"]),
        ("--hr_dir=SET/gt --methods=bicubic --kernels=gaussian:2x1", ["gaussian:2x1", "gaussian:4x1x-0.5"]),
        ("--hr_dir=SET/gt --methods=bicubic --kernels=gaussian:99", ["gaussian:99", "at most 11.1"]),
        ("--hr_dir=SET/gt --methods=bicubic --subsample=nearest", ["nearest", "direct"]),
        ("--hr_dir=SET/gt --methods=bicubic --kernel_shift=auto", ["kernel_shift", "centre_of_mass"]),
        ("--hr_dir=SET/none --methods=bicubic", ["none"]),
        ("--hr_dir=EMPTY --methods=bicubic", ["no image"]),
        ("--hr_dir=SET/gt --methods=bicubic --scale=16", ["too small"]),
        ("--methods=bicubic", ["--hr_dir", "--lr_dir"]),
        ("--hr_dir=SET/gt --lr_dir=SET/lr --methods=bicubic", ["--hr_dir", "--lr_dir"]),
        ("--lr_dir=SET/lr --gt_dir=SET/gt --methods=bicubic", ["--kernel_path"]),
        ("--lr_dir=SET/lr --gt_dir=SET/gt --kernel_path=SET/delta.npy --methods=bicubic --scale=4", ["at scale 4"]),
        ("--lr_dir=SET/lr --gt_dir=SET/gt --kernel_path=EMPTY --methods=bicubic", ["empty", "no kernel"]),
        ("--lr_dir=SET/lr --gt_dir=SET/gt --kernel_path=SET --methods=bicubic", ["do not match", "delta (kernel only)"]),
        ("--lr_dir=SET/lr --gt_dir=SET --kernel_path=SET/delta.npy --methods=bicubic", ["do not match", "a (LR only)"]),
    ],
)
def test_wrong_input(monkeypatch, capsys, small, tmp_path, args, words):
  (tmp_path / "empty").mkdir()
  args = args.replace("SET", str(small)).replace("EMPTY", str(tmp_path / "empty")).split()
  assert _evaluate(monkeypatch, *args, f"--out={tmp_path}/out.json") == 2
  assert_one_line(capsys, *words)
  assert not (tmp_path / "out.json").exists()


def test_wrong_kernel_files(monkeypatch, capsys, small, tmp_path):
  bad = {"nan": np.full((3, 3), np.nan), "zero": np.zeros((3, 3)), "cube": np.ones((3, 3, 3))}
  for name, array in bad.items():
    scipy.io.savemat(tmp_path / f"{name}.mat", {"kernel": array})
    given = [f"--hr_dir={small}/gt", f"--kernels={tmp_path}/{name}.mat", "--methods=bicubic"]
    assert _evaluate(monkeypatch, *given, f"--out={tmp_path}/out.json") == 2
    assert_one_line(capsys, f"{name}.mat")


def _results(method, steps, psnrs):
  scores = [benchmark.Score(method, steps, "g20d", str(i), {"psnr": p, "ssim": 0.9}, 0.1) for i, p in enumerate(psnrs)]
  return benchmark.summarise(scores, 2)


def test_differences_between_methods_come_with_their_intervals():
  rng = np.random.default_rng(0)
  reference = rng.normal(30, 3, 40)  # images differ far more than methods do
  results = _results("bicubic", 0, reference) + _results("mzsr", 10, reference + rng.normal(0.5, 0.2, 40))
  results += _results("mzsr", 0, reference + 1)
  ten, none = benchmark.differences(results, "bicubic", "psnr")
  assert ten["label"] == "mzsr (10)" and 0.4 < ten["low"] < ten["mean"] < ten["high"] < 0.65
  # About 1.96 standard errors on each side.
  assert ten["high"] - ten["low"] == pytest.approx(2 * 1.96 * 0.2 / np.sqrt(40), rel=0.3)
  assert [none[key] for key in ("low", "mean", "high")] == pytest.approx([1, 1, 1])
  assert "+0." in benchmark.differences_table([ten]) and "[" in benchmark.differences_table([ten])


def test_what_cannot_be_compared_is_left_open():
  results = _results("bicubic", 0, [30.0, 31.0]) + _results("mzsr", 1, [math.inf, 31.0])
  (infinite,) = benchmark.differences(results, "bicubic", "psnr")
  assert infinite["mean"] is None and infinite["low"] is None
  (one,) = benchmark.differences(_results("bicubic", 0, [30.0]) + _results("mzsr", 1, [31.0]), "bicubic", "psnr")
  assert one["mean"] == 1 and one["low"] is None and "+1.00 [?, ?]" in benchmark.differences_table([one])


def test_images_of_another_program_are_scored_like_ours(monkeypatch, capsys, small, tmp_path):
  """Bicubic enlargements, written as files under others' names, score as bicubic does."""
  degradation = kernel_files.load_degradation("g20d")
  for sample in benchmark.load_hr(small / "gt", 2):
    lr = images.to_float(benchmark.make_lr(sample.gt, degradation, 2))
    images.write_png(tmp_path / "g20d" / f"{sample.name}_x2_SR.png", plain.enlarge(lr, 2))
    images.write_png(tmp_path / "gani" / f"{sample.name}.png", sample.gt)
  out = tmp_path / "report.json"
  compared = f"--methods=folder:Other={tmp_path}/{{kernel}},bicubic"
  given = [f"--hr_dir={small}/gt", "--kernels=g20d,gani", compared, "--metrics=psnr_rgb,ssim", f"--out={out}"]
  assert _evaluate(monkeypatch, *given) == 0
  stdout = capsys.readouterr().out
  results = {(r["method"], r["kernel"]): r for r in json.loads(out.read_text())["results"]}
  other, bicubic = results["Other", "g20d"], results["bicubic", "g20d"]
  assert other["images"] == bicubic["images"] and other["seconds"] is None and bicubic["seconds"] > 0
  assert results["Other", "gani"]["ssim"] == 1 and results["Other", "gani"]["psnr"] is None
  assert f"{bicubic['psnr_rgb']:.2f}/{bicubic['ssim']:.4f}" in stdout and "inf/1.0000" in stdout


def test_scores_before_a_failure_are_shown(monkeypatch, capsys, small, tmp_path):
  run = benchmark.run

  def failing(*args):
    scores = list(run(*args))
    yield from [score for score in scores if score.image == scores[0].image]
    raise UserError("bicubic on 'b' diverged")

  monkeypatch.setattr(benchmark, "run", failing)
  given = [f"--hr_dir={small}/gt", "--kernels=g20d", "--methods=bicubic", f"--out={tmp_path}/out.json"]
  assert _evaluate(monkeypatch, *given) == 2
  printed = capsys.readouterr()
  assert "g20d" in printed.out and "bicubic" in printed.out
  assert "diverged" in printed.err and "1 images before" in printed.err and not (tmp_path / "out.json").exists()


def test_a_diverged_adaptation_is_named(monkeypatch, capsys, small, tmp_path):
  flags = [f"--weights={small}/w.safetensors", f"--hr_dir={small}/gt", "--kernels=g20d", "--methods=mzsr", "--steps=4"]
  assert _evaluate(monkeypatch, *flags, "--inner_lr=1e30", f"--out={tmp_path}/out.json") == 2
  assert_one_line(capsys, "diverged", "'a'", "4 steps")
  assert not (tmp_path / "out.json").exists()


def test_perfect_results_stay_valid_json():
  def score(image, psnr):
    return benchmark.Score("mzsr", 1, "g20d", image, {"psnr": psnr, "ssim": 1.0}, 0.5)

  (result,) = benchmark.summarise([score("a", math.inf), score("b", 30.0)], scale=2)
  assert result["psnr"] is None and [i["psnr"] for i in result["images"]] == [None, 30.0]
  json.dumps(result, allow_nan=False)
  head, line = benchmark.table([result]).splitlines()
  assert head.split() == ["psnr/ssim", "g20d"] and line.split()[-1] == "inf/1.0000"


def test_programs_are_shared_between_kernels_of_a_size(small):
  degradations = {name: kernel_files.load_degradation(name) for name in ("g02d", "g20d", "gani", "bicubic")}
  run = tiled._run.jitted("cpu", "float32")
  before = run._cache_size()
  scores = list(benchmark.run(benchmark.load_hr(small / "gt", 2), degradations, [methods.bicubic()], 2))
  assert len(scores) == 8 and run._cache_size() - before <= 2  # once for each image size
