"""The paper's tables of PSNR and SSIM, from shipped weights and any folder of HR images, beside what the paper prints.

    python -m experiments.tables --table=2 --hr_dir=Set5/GT --set=Set5 --out=runs/table2_set5.json

writes JSON, and the table as Markdown beside it. Tables: 1, images shrunk by bicubic; 2, blur kernels at x2; 3, one model for
many scales; 5, x4. Table 4, times, is `python -m experiments.bench.adaptation --side=256`. The paper's cells (paper.json) are
shown for the sets that it has: Set5, BSD100, Urban100. Weights that are missing are named, and their lines left out.
"""

import itertools
import json
import math
import pathlib
import sys
from typing import Any, NamedTuple

from absl import flags

from experiments import outputs
from experiments.bench import timing
from mzsr_jax import cli, files, progress, weights
from mzsr_jax.evaluation import benchmark, methods
from mzsr_jax.inference import pool
from mzsr_jax.photo import kernel_files

flags.DEFINE_enum("table", None, ["1", "2", "3", "5"], "of the paper", required=True)
flags.DEFINE_string("hr_dir", None, "folder of HR images", required=True)
flags.DEFINE_enum("set", "", ["", "Set5", "BSD100", "Urban100"], "which of the paper's benchmarks that is, if any")
outputs.define_flags("Markdown")
cli.define_cache_flag()

_PAPER = pathlib.Path(__file__).with_name("paper.json")


class Part(NamedTuple):
  """Columns of a table that the same models fill: the kernels, and the steps of each of the weights."""

  scale: int
  kernels: tuple[str, ...]
  steps: dict[str, tuple[int, ...]]


def _both_ways(name: str, steps: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
  """By the weights' own steps, and by those of `inner_rules.Spectral`."""
  return {name: steps, weights.SPECTRAL + name: steps}


_UNIVERSAL = {weights.DEFAULT: (0,)}
TABLES = {
    "1": [Part(2, ("bicubic",), _both_ways("x2_bicubic", (1, 10)) | _UNIVERSAL)],
    "2": [
        Part(2, ("g02d", "g20d", "gani", "gani5"), _both_ways("x2_direct", (1, 10)) | _UNIVERSAL),
        Part(2, ("g13b",), _both_ways("x2_bicubic", (1, 10)) | _UNIVERSAL),
    ],
    "3": [Part(2, ("g02d", "g20d", "gani"), _both_ways("x2_direct", (10,)) | _both_ways("multiscale", (10,)) | _UNIVERSAL)],
    "5": [Part(4, ("g20d",), _both_ways("multiscale", (1, 10)) | _both_ways("x4_direct", (1, 10)) | _UNIVERSAL)],
}


def run(part: Part, hr_dir: str) -> list[dict[str, Any]]:
  """Results as `benchmark.summarise` has them, "method" being the weights' name."""
  compared = [methods.bicubic()]
  compared += [methods.parse(f"mzsr:{name}", steps, part.scale)._replace(name=name) for name, steps in part.steps.items()]
  degradations = {name: kernel_files.load_degradation(name) for name in part.kernels}
  samples = benchmark.load_hr(hr_dir, part.scale)
  adapters = pool.make_adapters(len(samples), sizes=benchmark.lr_sizes(samples, part.scale))
  scores = benchmark.run(samples, degradations, compared, part.scale, adapters)
  total = len(samples) * len(degradations) * sum(len(method.steps) for method in compared)
  return benchmark.summarise(progress.track(scores, total, "result", "scoring"), part.scale)


def markdown(results: list[dict[str, Any]], quoted: list[dict[str, Any]]) -> str:
  """A line a method, those of the paper below ours; PSNR/SSIM, a column a kernel."""
  kernels_shown = list(dict.fromkeys(r["kernel"] for r in results))
  lines: dict[str, dict[str, str]] = {}
  for r in results:
    label = r["method"] if r["method"] == "bicubic" else f"`{r['method']}`, {r['steps']} step{'s' * (r['steps'] != 1)}"
    lines.setdefault(label, {})[r["kernel"]] = f"{math.inf if r['psnr'] is None else r['psnr']:.2f} / {r['ssim']:.4f}"
  for q in quoted:
    cell = f"{q['psnr']:.2f}" + (f" / {q['ssim']:.4f}" if q["ssim"] else "")
    lines.setdefault(f"paper: {q['method']}", {})[q["kernel"]] = cell
  return timing.table([{"": label, **{k: cells.get(k) for k in kernels_shown}} for label, cells in lines.items()]) + "\n"


def main(argv: list[str]) -> None:
  """Makes one table."""
  del argv
  args = flags.FLAGS
  cli.start_jax()
  beside = outputs.check(".md")
  parts = []
  for part in TABLES[args.table]:
    missing = {name for name in part.steps if not weights.is_shipped(name)}
    if missing:
      print(f"weights {', '.join(sorted(missing))} are not shipped: their lines are left out", file=sys.stderr)
    parts.append(part._replace(steps={name: steps for name, steps in part.steps.items() if name not in missing}))
  results = list(itertools.chain.from_iterable(run(part, args.hr_dir) for part in parts))
  quoted = [q for q in json.loads(_PAPER.read_text()) if (q["table"], q["set"]) == (args.table, args.set)]
  table = markdown(results, quoted)
  print(table)
  used = {name for part in parts for name in part.steps}
  outputs.write({
      "table": args.table,
      "set": args.set,
      "results": results,
      "paper": quoted,
      "weights_sha256": {name: weights.load(name).digest for name in sorted(used)},
  })  # fmt: skip
  files.write_whole(beside, table.encode(), args.overwrite)


if __name__ == "__main__":
  cli.run(main)
