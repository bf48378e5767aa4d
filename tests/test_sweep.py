"""Sweeps: what a file stands for, that a run goes on where it was stopped, and that wrong input is said."""

import json
import pathlib

import jax
import pytest
from PIL import Image
from test_cli import assert_one_line, run_entry

from experiments import sweep
from mzsr_jax import images, weights
from mzsr_jax.core import model
from mzsr_jax.errors import UserError
from mzsr_jax.training import data

SHIPPED = sorted((pathlib.Path(sweep.__file__).parent / "sweeps").glob("*.json"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """Two small HR images in hr/, untrained weights, and a sweep of four cells."""
  root = tmp_path_factory.mktemp("sweep")
  (root / "hr").mkdir()
  for path in data.sample_photos()[:2]:
    Image.fromarray(images.read_image(path)[100:140, 100:148]).save(root / "hr" / f"{path.stem}.png")
  weights.save_weights(root / "w.safetensors", model.init(jax.random.key(0)), {"scales": "[2.0]", "inner_lrs": "[0.01]"})
  cells = [{"method": ["bicubic", f"mzsr:{root}/w.safetensors"]}, {"method": "paper"}]
  base = {"set": "Set5", "kernel": ["g20d", "g02d"], "steps": [0, 2], "images": 1}
  (root / "sweep.json").write_text(json.dumps({"base": base, "cells": cells}))
  return root


def _sweep(monkeypatch, folder, out, *args):
  given = [f"--sweep={folder}/sweep.json", f"--sets=Set5={folder}/hr", f"--out={out}", "--crop=16", *args]
  return run_entry(monkeypatch, sweep.main, sweep.define_flags, *given)


def test_lists_stand_for_all_their_combinations_once():
  cells = sweep.expand({
      "base": {"set": "A", "steps": [0, 1]},
      "cells": [{"kernel": ["g02d", "g20d"], "method": ["bicubic", "zssr"]}, {"kernel": "g20d", "method": "zssr"}],
  })  # fmt: skip
  assert [(c["kernel"], c["method"]) for c in cells] == [
      ("g02d", "bicubic"), ("g20d", "bicubic"), ("g02d", "zssr"), ("g20d", "zssr")
  ]  # fmt: skip
  assert all(c["steps"] == [0, 1] and c["scale"] == 2 and c["images"] is None for c in cells)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_sweeps_are_sweeps_of_what_there_is(path):
  cells = sweep.expand(json.loads(path.read_text()))
  assert len(sweep._identified(cells)) == len(cells) > 5


@pytest.mark.parametrize(
    "given, words",
    [
        ([], "must be"),
        ({"cells": {}}, "must be"),
        ({"cells": [3]}, "must be an object"),
        ({"cells": [{"sett": "A"}]}, "no field sett"),
        ({"cells": [{"set": "A", "method": "bicubic"}]}, "kernel null"),
        ({"cells": [{"set": "A", "method": "bicubic", "kernel": "g20d", "scale": 1}]}, "scale 1"),
        ({"cells": [{"set": "A", "method": "bicubic", "kernel": "g20d", "steps": [0.5]}]}, "steps"),
        ({"cells": [{"set": "A", "method": "bicubic", "kernel": "g20d", "images": True}]}, "images true"),
    ],
)
def test_what_is_no_sweep(given, words):
  with pytest.raises(UserError, match=words):
    sweep.expand(given)


def test_a_run_that_was_killed_goes_on_and_a_finished_one_has_nothing_to_do(monkeypatch, capsys, folder, tmp_path):
  out = tmp_path / "runs" / "results.jsonl"
  assert _sweep(monkeypatch, folder, out) == 0
  assert "6 cells, 6 to do" in capsys.readouterr().out
  lines = [json.loads(line) for line in out.read_text().splitlines()]
  measured = [line for line in lines if not line["quoted"]]
  assert len(lines) == 6 and len(measured) == 4
  adapted = next(line for line in measured if line["cell"]["method"].startswith("mzsr") and line["cell"]["kernel"] == "g20d")
  none, two = adapted["results"]
  assert (none["steps"], two["steps"]) == (0, 2) and none["psnr"] != two["psnr"]
  (image,) = two["images"]
  assert (image["height"], image["width"]) == (20, 24) and image["seconds"] > 0 and image["psnr"] == two["psnr"]
  assert [c["steps"] for c in adapted["crops"]] == [0, None, 2]
  assert all(Image.open(out.parent / crop["path"]).size == (16, 16) for crop in adapted["crops"])
  quoted = next(line for line in lines if line["quoted"] and line["cell"]["kernel"] == "g20d")
  printed = {r["method"]: r["psnr"] for r in quoted["results"]}
  assert {"ZSSR": 34.9, "MZSR (1)": 35.2, "MZSR (10)": 36.05}.items() <= printed.items() and "bicubic" not in printed

  whole = out.read_text()
  out.write_text("".join(line + "\n" for line in whole.splitlines()[:4]) + whole.splitlines()[4][:50])
  assert _sweep(monkeypatch, folder, out) == 0
  assert "6 cells, 2 to do" in capsys.readouterr().out
  strip = lambda text: [{k: v for k, v in json.loads(line).items() if k in ("cell", "crops")} for line in text.splitlines()]
  assert strip(out.read_text()) == strip(whole)
  assert _sweep(monkeypatch, folder, out) == 0
  assert "6 cells, 0 to do" in capsys.readouterr().out


def test_cells_of_weights_that_changed_are_done_anew(folder, tmp_path):
  cell = sweep.expand({"cells": [{"set": "A", "kernel": "g20d", "method": f"mzsr:{tmp_path}/w.safetensors"}]})[0]
  names = []
  for seed in range(2):
    weights.save_weights(tmp_path / "w.safetensors", model.init(jax.random.key(seed)), {})
    names.append(sweep.identity(cell))
  assert names[0] != names[1]


def test_wrong_input(monkeypatch, capsys, folder, tmp_path):
  out = tmp_path / "out.jsonl"
  given = [f"--sweep={folder}/sweep.json", f"--out={out}"]
  run = lambda *args: run_entry(monkeypatch, sweep.main, sweep.define_flags, *args)
  (folder / "list.json").write_text("[1, 2]")
  (folder / "step.json").write_text('{"cells": [{"set": "Set5", "method": "bicubic", "kernel": "g20d", "steps": 3}]}')
  for args, words in (
      ((*given,), ["--sets=Set5=FOLDER"]),
      ((*given, "--sets=Set5"), ["NAME=FOLDER"]),
      ((*given, f"--sets=Set5={folder}/none"), ["none"]),
      ((f"--sweep={folder}/none.json", f"--out={out}"), ["none.json"]),
      ((f"--sweep={folder}/w.safetensors", f"--out={out}"), ["w.safetensors", "is not JSON"]),
      ((f"--sweep={folder}/list.json", f"--out={out}"), ["list.json': a sweep must be {"]),
      ((f"--sweep={folder}/step.json", f"--out={out}"), ["step.json': a sweep's cell has steps 3"]),
  ):
    assert run(*args) == 2
    assert_one_line(capsys, *words)
  out.write_text('{"identity": "x"}\n{"other": 1}\n')
  assert run(*given, f"--sets=Set5={folder}/hr") == 2
  assert_one_line(capsys, "line 2", "--out")
  assert out.read_text().count("\n") == 2
