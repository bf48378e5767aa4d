"""Benchmarks many methods on many kernels and sets, as a list of cells in a file says; goes on where it was stopped.

    python -m experiments.sweep --sweep=experiments/sweeps/peers.json --sets=Set5=Set5/GT --out=runs/peers.jsonl
    python -m experiments.report --results=runs/peers.jsonl --out=runs/peers

A sweep is a JSON file: {"base": CELL, "cells": [CELL, CELL, ...]}, each cell being what differs from the base. A field that is
a list (but for "steps") stands for as many cells. The fields:

    set      name of a set, whose folder of HR images --sets says; for "paper" also of a set that the paper has
    method   see mzsr_jax/evaluation/methods.py; or "paper": what the paper prints for that set, kernel and scale
    kernel   name, or path of a kernel file
    scale    2 or another whole number (default 2)
    steps    numbers of adaptation steps (default [1, 10])
    images   only that many, the first by name (default: all)

Each finished cell is a line of the output file at once, so that the same command goes on with those that are missing. A cell is
done anew when the weights that it names have changed.
"""

import datetime
import functools
import hashlib
import itertools
import json
import os
import pathlib
from typing import Any

import jax
from absl import flags

from mzsr_jax import cli, files, images, progress, provenance, weights
from mzsr_jax.errors import UserError
from mzsr_jax.evaluation import benchmark, methods
from mzsr_jax.inference import pool
from mzsr_jax.inference.tiled import TiledAdapter
from mzsr_jax.photo import kernel_files

_PAPER = pathlib.Path(__file__).with_name("paper.json")
_DEFAULTS = {"set": None, "method": None, "kernel": None, "scale": 2, "steps": [1, 10], "images": None}
_TYPES = {"set": str, "method": str, "kernel": str, "scale": int, "steps": list, "images": int}


def define_flags() -> None:
  """Defines the flags of this script."""
  flags.DEFINE_string("sweep", None, "JSON file that lists the cells", required=True)
  flags.DEFINE_list("sets", [], "NAME=FOLDER of each set of HR images")
  flags.DEFINE_string("out", None, "JSON-lines file, begun or gone on with", required=True)
  flags.DEFINE_integer("crop", 96, "side of the square from the middle of each SR image that is kept, pixels; 0 for none")
  cli.define_cache_flag()


def expand(sweep: Any) -> list[dict[str, Any]]:
  """All cells of a sweep, each with all of its fields, none twice.

  Raises:
    UserError: it is not what the top of this file says.
  """
  if not isinstance(sweep, dict) or not set(sweep) <= {"base", "cells"} or not isinstance(sweep.get("cells"), list):
    raise UserError('a sweep must be {"base": CELL, "cells": [CELL, ...]}')
  cells = []
  for given in sweep["cells"]:
    if not isinstance(given, dict) or not isinstance(sweep.get("base", {}), dict):
      raise UserError(f"a cell of a sweep must be an object, not {json.dumps(given)[:80]}")
    cell = _DEFAULTS | sweep.get("base", {}) | given
    if unknown := sorted(cell.keys() - _DEFAULTS.keys()):
      raise UserError(f"a sweep's cell has no field {', '.join(unknown)}: there are {', '.join(_DEFAULTS)}")
    values = [[cell[name]] if name == "steps" or not isinstance(cell[name], list) else cell[name] for name in _DEFAULTS]
    cells += [dict(zip(_DEFAULTS, each)) for each in itertools.product(*values)]
  for cell in cells:
    _check(cell)
  return list({json.dumps(cell): cell for cell in cells}.values())


def _check(cell: dict[str, Any]) -> None:
  for name, value in cell.items():
    least = {"scale": 2, "images": 1}.get(name)
    good = isinstance(value, _TYPES[name]) and not isinstance(value, bool) and (least is None or value >= least)
    if name == "steps" and good:
      good = bool(value) and all(type(n) is int and n >= 0 for n in value)
    if not good and not (name == "images" and value is None):
      raise UserError(f"a sweep's cell has {name} {json.dumps(value)}: see the top of experiments/sweep.py")


def identity(cell: dict[str, Any]) -> str:
  """What a finished line must say for the cell to be done: its fields, and the hash of its weights."""
  name = methods.weights_of(cell["method"])
  return json.dumps([cell, weights.load(name).digest if name else None])


def read_done(out: pathlib.Path) -> tuple[set[str], bytes]:
  """The identities of an output file's whole lines, and those lines: a last one that is not whole is left out.

  Raises:
    UserError: a line is not one of a sweep.
  """
  if not out.exists():
    return set(), b""
  content = out.read_bytes()
  whole = content[: content.rfind(b"\n") + 1]
  done = set()
  for number, line in enumerate(whole.split(b"\n")[:-1], 1):
    try:
      done.add(json.loads(line)["identity"])
    except (ValueError, KeyError, TypeError) as e:
      raise UserError(f"'{out}', line {number}, is not of a sweep: choose another --out") from e
  return done, whole


def run(cell: dict[str, Any], folders: dict[str, str], keep_crop) -> dict[str, Any]:
  """The line of a cell, without its identity. `keep_crop`: see `benchmark.run`."""
  line = {"cell": {name: cell[name] for name in ("set", "method", "kernel", "scale")}}
  if cell["method"] == "paper":
    rows = [r for r in json.loads(_PAPER.read_text()) if all(r[key] == cell[key] for key in ("set", "kernel", "scale"))]
    unique = {row["method"]: {**row, "steps": 0} for row in rows if row["method"] != "bicubic"}
    return line | {"quoted": True, "results": list(unique.values())}
  scale, degradation = cell["scale"], kernel_files.load_degradation(cell["kernel"])
  samples, adapters = _samples_and_adapters(folders[cell["set"]], scale, cell["images"])
  method = methods.parse(cell["method"], cell["steps"], scale)
  scores = list(benchmark.run(samples, {cell["kernel"]: degradation}, [method], scale, adapters, keep_crop))
  results = benchmark.summarise(scores, scale)
  sizes = {sample.name: size for sample, size in zip(samples, benchmark.lr_sizes(samples, scale))}
  seconds = {(score.steps, score.image): score.seconds for score in scores}
  for result in results:
    for image in result["images"]:
      height, width = sizes[image["name"]]
      image |= {"seconds": seconds[result["steps"], image["name"]], "height": height, "width": width}
  return line | {"quoted": False, "results": results}


@functools.lru_cache(maxsize=1)  # cells of a set follow one another: it is read, and adapters are warmed up, once
def _samples_and_adapters(folder: str, scale: int, count: int | None) -> tuple[list[benchmark.Sample], list[TiledAdapter]]:
  samples = benchmark.load_hr(folder, scale)[:count]
  return samples, pool.make_adapters(len(samples), sizes=benchmark.lr_sizes(samples, scale))


def crops_folder(out: pathlib.Path) -> pathlib.Path:
  """The folder of the pictures of an output file."""
  return out.with_name(f"{out.stem}_crops")


class Crops:
  """Keeps the middle of SR images and of their truths as PNG files in a folder beside the output file."""

  def __init__(self, out: pathlib.Path, side: int):
    self._folder, self._side = crops_folder(out), side
    self._made: dict[tuple, str] = {}

  def __call__(self, sample: benchmark.Sample, case: methods.Case, method: str, result: methods.Result) -> None:
    """See `benchmark.run`."""
    if self._side:
      self._keep(sample.name, result.steps, result.sr)
      self._keep(sample.name, None, sample.gt)

  def _keep(self, image: str, steps: int | None, pixels: images.Pixels) -> None:
    png = images.encode_png(images.center_crop(pixels, self._side))
    name = f"{hashlib.sha256(png).hexdigest()[:16]}.png"  # equal pictures are one file
    files.write_whole(self._folder / name, png, overwrite=True)
    self._made[image, steps] = f"{self._folder.name}/{name}"

  def entries(self) -> list[dict[str, Any]]:
    """What was kept: image, steps (None: the truth) and path from the output file."""
    return [{"image": image, "steps": steps, "path": path} for (image, steps), path in self._made.items()]


def _read_sweep(path: str) -> list[dict[str, Any]]:
  try:
    return expand(json.loads(pathlib.Path(path).read_text()))
  except UserError as e:
    raise UserError(f"'{path}': {e}") from e
  except ValueError as e:
    raise UserError(f"sweep '{path}' is not JSON: {e}") from e


def _folders(cells: list[dict[str, Any]]) -> dict[str, str]:
  """Folders of --sets, by name; all that the cells need."""
  pairs = [item.partition("=") for item in flags.FLAGS.sets]
  if bad := [name for name, _, folder in pairs if not name or not folder]:
    raise UserError(f"--sets={bad[0]}: write NAME=FOLDER")
  folders = {name: folder for name, _, folder in pairs}
  if missing := sorted({cell["set"] for cell in cells if cell["method"] != "paper"} - folders.keys()):
    raise UserError(f"the sweep needs --sets={','.join(f'{name}=FOLDER' for name in missing)}")
  return folders


def _identified(cells: list[dict[str, Any]]) -> list[tuple[dict[str, Any], str]]:
  """Cells with their identities. Raises UserError for a method, weights or a kernel that there is not."""
  for cell in cells:
    if cell["method"] != "paper":
      methods.parse(cell["method"], cell["steps"], cell["scale"])
      kernel_files.load_degradation(cell["kernel"])
  return [(cell, identity(cell)) for cell in cells]


def main(argv: list[str]) -> None:
  """Runs what is missing of a sweep."""
  del argv
  args = flags.FLAGS
  cli.start_jax()
  out = pathlib.Path(args.out)
  files.check_writable(out, overwrite=True)
  cells = _read_sweep(args.sweep)
  folders = _folders(cells)
  wanted = _identified(cells)  # a wrong name stops it before anything is made
  crops_folder(out).mkdir(parents=True, exist_ok=True)
  with files.lock(crops_folder(out)):
    done, whole = read_done(out)
    if out.exists() and out.stat().st_size > len(whole):  # of a run that was killed in mid-line
      files.write_whole(out, whole, overwrite=True)
    todo = [(cell, name) for cell, name in wanted if name not in done]
    print(f"{len(cells)} cells, {len(todo)} to do")
    for cell, name in progress.track(todo, len(todo), "cell"):
      crops = Crops(out, args.crop)
      line = run(cell, folders, crops)
      line |= {
          "crops": crops.entries(),
          "identity": name,
          "versions": provenance.versions(),
          "commit": provenance.git_revision(),
          "device": jax.devices()[0].device_kind,
          "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
      }
      with out.open("a") as file:
        file.write(json.dumps(line, allow_nan=False) + "\n")
        file.flush()
        os.fsync(file.fileno())
      best = ", ".join(f"{methods.label(r['method'], r['steps'])} {r['psnr']:.2f}" for r in line["results"] if r["psnr"])
      progress.say(f"{cell['set']} {cell['kernel']} x{cell['scale']}: {best}")


if __name__ == "__main__":
  define_flags()
  cli.run(main)
