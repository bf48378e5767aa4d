"""Writes the tables of results into the documents, from the JSON files that `mzsr_jax.evaluate --out` wrote.

    python -m experiments.documents            # after a new file in experiments/results/
    python -m experiments.documents --check    # changes nothing; exit code 2 where a document is out of date

A table stands between `<!-- table: NAME -->` and `<!-- end -->`. The first word of a result file's name is the benchmark set
(`set5_x2_x2_direct.json`). A new method is a result file and a line in `METHODS`. Quoted figures come from paper.json.
The table of photos has another form: it is made of what `experiments.pipelines` wrote into experiments/results/photos/. So have
those of speed, of what the scripts in experiments/bench/ wrote into experiments/results/speed/NAME.json, or NAME_SOMETHING.json
where there are several; that of precision, of evaluations in bfloat16 in experiments/results/precision/;
those of gains by steps and with wrong kernels, of `experiments.rates`; that of blind kernels, of `experiments.blind`; and that
of seconds, of `experiments.peers`.
"""

import functools
import json
import pathlib
import re
from typing import Any, NamedTuple

from absl import flags

from experiments import blind, gains, pipelines
from experiments.bench import timing
from mzsr_jax import cli, files
from mzsr_jax.errors import UserError

HERE = pathlib.Path(__file__).parent
RESULTS = HERE / "results"
DOCUMENTS = (HERE.parent / "README.md", *sorted((HERE / "docs").glob("*.md")))
SETS = {"set5": "Set5", "set14": "Set14"}
# What a line of a table is called, and the methods that fill it: `bicubic`, or --weights of the evaluation. Of several, the
# first that has a result for the column's kernel and scale.
METHODS = {
    "universal": ("universal",),
    "universal_large": ("universal_large",),
    "USRNet-tiny": ("USRNet-tiny",),
    "SRMDNF": ("SRMDNF",),
    "bicubic enlargement": ("bicubic",),
    "stage 1 alone": ("pretrain_x2", "pretrain_x4"),
    "meta-trained, plain steps": ("x2_direct", "x2_bicubic", "x4_direct"),
    "meta-trained, spectral steps": ("spectral:x2_direct", "spectral:x2_bicubic", "spectral:x4_direct"),
}
NO_STEPS = ("USRNet-tiny", "SRMDNF", "bicubic enlargement")  # methods without any
QUOTED = ("ZSSR", "MZSR (1)", "MZSR (10)")


class Table(NamedTuple):
  """Lines of methods and steps, a column a kernel. `steps`: those shown of each method; None shows all."""

  sets: tuple[str, ...]
  scale: int
  kernels: tuple[str, ...]
  methods: tuple[str, ...] = tuple(METHODS)
  steps: tuple[int, ...] | None = None


_README_METHODS = ("bicubic enlargement", "meta-trained, plain steps", "universal", "universal_large", "USRNet-tiny", "SRMDNF")
_PAPER_KERNELS = ("g02d", "g20d", "gani", "g13b", "bicubic")
TABLES = {
    "readme": Table(("Set5", "Set14"), 2, _PAPER_KERNELS, _README_METHODS),
    "set5_x2": Table(("Set5",), 2, ("g02d", "g20d", "gani", "gani5", "g13b", "bicubic")),
    "set5_x3": Table(("Set5",), 3, ("g20d", "gani", "bicubic")),
    "set5_x4": Table(("Set5",), 4, ("g20d", "gani", "bicubic")),
    "set14_x2": Table(("Set14",), 2, ("g02d", "g20d", "gani", "gani5", "g13b", "bicubic")),
    "set14_x3": Table(("Set14",), 3, ("g20d", "gani", "bicubic")),
    "set14_x4": Table(("Set14",), 4, ("g20d", "gani", "bicubic")),
    "start": Table(("Set5",), 2, ("g02d", "g20d", "gani"), ("meta-trained, spectral steps", "universal"), (0, 10)),
}

SPEED = ("meta_step", "adaptation", "first_photo", "megapixels", "sizes")

Cells = dict[tuple[str, str, int, str, int], dict[str, Any]]


def read(folder: pathlib.Path = RESULTS) -> Cells:
  """All results, by set, method, scale, kernel and steps.

  Raises:
    UserError: a file of no known set, or two results for one place.
  """
  cells: Cells = {}
  for path in sorted(folder.glob("*.json")):
    name = SETS.get(path.stem.partition("_")[0])
    if name is None:
      raise UserError(f"'{path}': its name must begin with one of {', '.join(SETS)}")
    report = json.loads(path.read_text())
    for result in report["results"]:
      method = report["settings"]["weights"] if result["method"] == "mzsr" else result["method"]
      key = (name, method, result["scale"], result["kernel"], result["steps"])
      if key in cells:
        raise UserError(f"'{path}': {key} is in another file too: remove one of them")
      cells[key] = result
  return cells


def _cell(result: dict[str, Any]) -> str:
  return f"{result['psnr']:.2f} / {result['ssim']:.4f}"


def _steps(count: int) -> str:
  """What a line's label says of its steps."""
  return f", {count or 'no'} step{'s' * (count > 1)}"


def _measured(table: Table, cells: Cells, name: str) -> dict[str, dict[str, str]]:
  """Lines to their cells by kernel, of one set."""
  lines: dict[str, dict[str, str]] = {}
  for label in table.methods:
    for steps in sorted({key[4] for key in cells if key[1] in METHODS[label]}):
      about = "" if label in NO_STEPS else _steps(steps)
      for kernel in table.kernels:
        found = [cells[key] for method in METHODS[label] if (key := (name, method, table.scale, kernel, steps)) in cells]
        if found and (table.steps is None or steps in table.steps):
          lines.setdefault(label + about, {})[kernel] = _cell(found[0])
  return lines


def _quoted(table: Table, name: str) -> dict[str, dict[str, str]]:
  """The paper's lines, as its authors print them."""
  rows = [r for r in json.loads((HERE / "paper.json").read_text()) if (r["set"], r["scale"]) == (name, table.scale)]
  return {
      f"{method}, quoted": cells
      for method in QUOTED
      if (cells := {r["kernel"]: _cell(r) for r in rows if r["method"] == method and r["kernel"] in table.kernels})
  }


def markdown(table: Table, cells: Cells) -> str:
  """A table, the quoted lines of each set last. Raises UserError where a set has no result."""
  rows = []
  for name in table.sets:
    measured = _measured(table, cells, name)
    if not measured:
      raise UserError(f"no result in '{RESULTS}' for a table of {name} x{table.scale}")
    for label, row in (measured | _quoted(table, name)).items():
      where = f"{name}: " * (len(table.sets) > 1)
      rows.append({"": where + label, **{f"`{kernel}`": row.get(kernel) for kernel in table.kernels}})
  return timing.table(rows)


def photos(folder: pathlib.Path = RESULTS / "photos") -> str:
  """The table of photos as cameras and programs make them: what was, and what is now where that was measured."""
  before, now = (folder / f"{name}.json" for name in ("before", "now"))
  first, *then = (json.loads(path.read_text())["pairs"] for path in (before, now) if path.exists())
  return pipelines.markdown(*then, first).strip() if then else pipelines.markdown(first).strip()


def speed(name: str, folder: pathlib.Path = RESULTS / "speed") -> str:
  """What a script of experiments/bench/ wrote, each file with the machine that it was measured on."""
  parts = []
  for path in sorted({*folder.glob(f"{name}.json"), *folder.glob(f"{name}_*.json")}):
    report = json.loads(path.read_text())
    machine = ", ".join(f"{key} {value}" for key, value in report["machine"].items())
    parts.append(f"{report['title']} ({machine}):\n\n{timing.table(report['rows'])}")
  return "\n\n".join(parts) or "Not measured yet."


def precision(folder: pathlib.Path = RESULTS) -> str:
  """What bfloat16 costs: PSNR in the files of precision/ less that of float32 in the folder above."""
  exact, lines = read(folder), {}
  for place, result in read(folder / "precision").items():
    name, weights, _, kernel, steps = place
    change = result["psnr"] - exact[place]["psnr"]
    lines.setdefault(f"{name}: {weights}{_steps(steps)}", {})[f"`{kernel}`"] = f"{change:+.3f}"
  columns = dict.fromkeys(key for line in lines.values() for key in line)
  rows = [{"": label} | {key: line.get(key) for key in columns} for label, line in lines.items()]
  return timing.table(rows) if rows else "Not measured yet."


def gained(name: str) -> str:
  """A table of what steps gain, or of kernels that are told wrongly: the rows of all files of a folder."""
  rows = [row for path in sorted((RESULTS / name).glob("*.json")) for row in json.loads(path.read_text())["rows"]]
  return timing.table([gains.line(row) for row in rows])


def blind_kernels(path: pathlib.Path = RESULTS / "blind" / "set14.json") -> str:
  """What it costs not to know the kernel, a line a kernel that the network is told."""
  found = json.loads(path.read_text())
  return blind.markdown(found["results"], found["estimates"]).rstrip("\n")


def seconds(folder: pathlib.Path = RESULTS / "seconds") -> str:
  """CPU seconds an image, a line a scale and kernel, a column a method."""
  lines: dict[tuple[int, str], dict[str, str]] = {}
  for path in sorted(folder.glob("*.json")):
    for row in json.loads(path.read_text())["rows"]:
      line = lines.setdefault((row["scale"], row["kernel"]), {"": f"`{row['kernel']}` x{row['scale']}"})
      line[row["method"].removeprefix("mzsr:")] = f"{row['s']:.2f}"
  columns = dict.fromkeys(key for line in lines.values() for key in line)
  return timing.table([{key: line.get(key) for key in columns} for line in lines.values()])


# Tables of other forms, by name.
OTHERS = {
    "photos": photos,
    "precision": precision,
    "steps": lambda: gained("steps"),
    "wrong_kernel": lambda: gained("wrong_kernel"),
    "blind": blind_kernels,
    "seconds": seconds,
    **{f"speed_{name}": functools.partial(speed, name) for name in SPEED},
}


def filled(text: str, tables: dict[str, str]) -> str:
  """A document with its tables. Raises UserError for the name of no table."""

  def replaced(match: re.Match) -> str:
    if match[1] not in tables:
      raise UserError(f"no table '{match[1]}': it must be one of {', '.join(tables)}")
    return f"<!-- table: {match[1]} -->\n{tables[match[1]]}\n<!-- end -->"

  return re.sub(r"<!-- table: (\w+) -->\n.*?<!-- end -->", replaced, text, flags=re.DOTALL)


def define_flags() -> None:
  """Defines the flag of this entry."""
  flags.DEFINE_bool("check", False, "change nothing, and fail where a document is out of date")


def main(argv: list[str]) -> None:
  """Writes, or checks, all documents."""
  del argv
  cells = read()
  tables = {name: markdown(table, cells) for name, table in TABLES.items()} | {name: make() for name, make in OTHERS.items()}
  stale = [path for path in DOCUMENTS if filled(path.read_text(), tables) != path.read_text()]
  if stale and flags.FLAGS.check:
    raise UserError(f"out of date: {', '.join(map(str, stale))}: run python -m experiments.documents")
  for path in stale:
    files.write_whole(path, filled(path.read_text(), tables).encode(), overwrite=True)
    print(f"wrote {path}")


if __name__ == "__main__":
  define_flags()
  cli.run(main)
