"""Scores methods on benchmark images: PSNR-Y and SSIM-Y, as a table and as JSON.

From HR images, degraded here:
  python -m mzsr_jax.evaluate --weights=x2_direct --hr_dir=Set5/GT --kernels=g02d,g20d --steps=1,10 --out=set5.json
From LR images that came with their kernel:
  python -m mzsr_jax.evaluate --weights=x2_direct --lr_dir=Set5/g20_direct_x2 --gt_dir=Set5/GT \
    --kernel_path=Set5/g20_direct_x2/kernel.mat --subsample=direct --out=set5.json
The same with a kernel for each image, as in DIV2KRK:
  python -m mzsr_jax.evaluate --weights=x2_direct --lr_dir=DIV2KRK/lr_x2 --gt_dir=DIV2KRK/gt \
    --kernel_path=DIV2KRK/gt_k_x2 --kernel_shift=centre_of_mass --out=div2krk.json

The JSON file holds "results" (see `benchmark.summarise`), "differences" where --compare_with asks for them, "settings",
"versions" and "weights_sha256".
"""

import json
import pathlib
import sys
from collections.abc import Iterable, Iterator
from typing import Any

import jax
import numpy as np
import tqdm
from absl import flags

from mzsr_jax import benchmark, cli, files, kernels, metrics, provenance, spread, weights
from mzsr_jax.errors import UserError


def define_flags() -> None:
  """Defines the flags of this entry."""
  cli.define_adaptation_flags()
  flags.DEFINE_string("hr_dir", None, "folder of HR images, degraded with each of --kernels")
  flags.DEFINE_list("kernels", list(kernels.NAMES), f"with --hr_dir: some of {kernels.SPECS}")
  flags.DEFINE_string("lr_dir", None, "folder of LR images, instead of --hr_dir")
  flags.DEFINE_string("gt_dir", None, "with --lr_dir: folder of their ground truth")
  flags.DEFINE_string(
      "kernel_path", None, "with --lr_dir: the kernel that made them, as in --kernels; or a folder of such files, one for each "
      "image",
  )
  flags.DEFINE_list(
      "methods", list(benchmark.METHODS), f"some of {', '.join(benchmark.METHODS)}; and folder:NAME=PATH for images that "
      "another program made, named as those of the set; {kernel} in PATH stands for each of the kernels",
  )
  flags.DEFINE_list(
      "metrics", ["psnr", "ssim"], f"what the table shows, some of {', '.join(metrics.METRICS)}; the JSON file holds all. psnr "
      "and ssim are the paper's, of luma in 16..235",
  )
  cli.define_numbers("steps", [1, 10], "adaptation steps of mzsr, one line each; 0 is without", number=int, minimum=0)
  flags.DEFINE_string(
      "compare_with", None, "also show how much better all others are than this line of the table, such as bicubic or "
      "'mzsr (1)': the mean difference of the first of --metrics, with its 95% interval (bootstrap over images)",
  )
  flags.DEFINE_integer("scale", 2, "scale factor", lower_bound=2)
  flags.DEFINE_string("out", None, "JSON file to write", required=True)


def main(argv: list[str]) -> None:
  """Reads the flags, runs the benchmark, prints its table and writes its JSON."""
  del argv
  args = flags.FLAGS
  cli.start_jax()
  files.check_writable(args.out, args.overwrite)
  degradations = _degradations(args)
  _check_some_of("metrics", args.metrics, metrics.METRICS)
  outside = [method for method in args.methods if _outside(method)]
  if not outside or len(outside) < len(args.methods):
    _check_some_of("methods", [method for method in args.methods if method not in outside], benchmark.METHODS)
  mzsr, method_settings = _mzsr(args)
  if args.hr_dir:
    samples = benchmark.load_hr(args.hr_dir, args.scale)
  else:
    samples = benchmark.load_pairs(args.lr_dir, args.gt_dir, args.scale)
    if None in degradations.values():
      samples = benchmark.with_own_kernels(samples, args.kernel_path, args.subsample, args.kernel_shift)
  methods = _methods(args, mzsr, samples, list(degradations))

  labels = [benchmark.label(method.name, method.steps) for method in methods]
  if twice := sorted({name for name in labels if labels.count(name) > 1}):
    raise UserError(f"--methods: several are called {', '.join(twice)}: give each a name of its own")
  if args.compare_with is not None and args.compare_with not in labels:
    raise UserError(f"--compare_with='{args.compare_with}': must be one of the lines {', '.join(labels)}")

  sizes = benchmark.lr_sizes(samples, args.scale)
  limit = cli.memory_limit(max(h * w for h, w in sizes), args.scale, pictures=9)  # one of them as float64
  solvers = spread.make_solvers(len(samples), limit, sizes=sizes)
  scores = benchmark.run(samples, degradations, methods, args.scale, solvers)
  results = benchmark.summarise(_with_progress(scores, len(samples), len(degradations) * len(methods)), args.scale)
  print(benchmark.table(results, args.metrics))
  differences = benchmark.differences(results, args.compare_with, args.metrics[0]) if args.compare_with else []
  if differences:
    print(f"\n{args.metrics[0]}, difference to {args.compare_with}\n{benchmark.differences_table(differences)}")

  report = {
      "results": results,
      **({"differences": differences} if args.compare_with else {}),
      "settings": {
          **{name: args[name].value for name in ("hr_dir", "lr_dir", "gt_dir", "scale", "kernel_shift")},
          "subsample": {name: (kind or samples[0].kind).subsample for name, kind in degradations.items()},
          **method_settings,
          "device": jax.devices()[0].device_kind,
          "devices": jax.local_device_count(),
      },
      "versions": provenance.versions(),
      "weights_sha256": weights.sha256(args.weights) if method_settings["weights"] else None,
  }
  files.write_whole(args.out, (json.dumps(report, indent=2, allow_nan=False) + "\n").encode(), args.overwrite)


def _degradations(args: flags.FlagValues) -> dict[str, kernels.Degradation | None]:
  """The degradations that the flags name, by those names; None for a folder, of one for each image."""
  given = [name for name in ("hr_dir", "lr_dir", "gt_dir", "kernel_path") if args[name].value]
  if given == ["hr_dir"]:
    names = args.kernels
  elif given == ["lr_dir", "gt_dir", "kernel_path"] and args["kernels"].using_default_value:
    if pathlib.Path(args.kernel_path).is_dir():
      return {pathlib.Path(args.kernel_path).absolute().name: None}
    names = [args.kernel_path]
  else:
    raise UserError("pass either --hr_dir (with --kernels), or --lr_dir, --gt_dir and --kernel_path together")
  if not names:
    raise UserError("--kernels is empty: name at least one")
  return {name: kernels.load_degradation(name, args.subsample, args.kernel_shift) for name in names}


def _check_some_of(flag: str, values: Iterable[str], known: Iterable[str]) -> None:
  """Raises UserError unless there are values, and all are known."""
  values = list(values)
  if not values or not set(values) <= set(known):
    raise UserError(f"--{flag}={','.join(values)}: must be some of {', '.join(known)}")


def _outside(method: str) -> tuple[str, str] | None:
  """NAME and PATH of "folder:NAME=PATH"; None for another kind of method."""
  if not method.startswith("folder:"):
    return None
  name, _, path = method.removeprefix("folder:").partition("=")
  if not name or not path or name in benchmark.METHODS:
    raise UserError(f"--methods={method}: write folder:NAME=PATH, with a name that is none of {', '.join(benchmark.METHODS)}")
  return name, path


def _mzsr(args: flags.FlagValues) -> tuple[list[benchmark.Method], dict[str, Any]]:
  """A method for each number of steps, if mzsr is among --methods; and what the report's settings say of all methods."""
  settings = {"methods": list(dict.fromkeys(args.methods)), "weights": None}
  if "mzsr" not in args.methods:
    return [], settings
  steps = sorted(set(args.steps))
  params, metadata, inner_lrs = cli.load_weights(steps[-1])
  weights.check_scale(metadata, args.scale)
  settings |= {"weights": args.weights, "steps": steps}
  settings["inner_lrs"] = inner_lrs.tolist() if isinstance(inner_lrs, np.ndarray) else "learned, in the weights"
  return [benchmark.mzsr(params, inner_lrs, n, args.scale) for n in steps], settings


def _methods(args: flags.FlagValues, mzsr, samples, kernel_names: list[str]) -> list[benchmark.Method]:
  """The methods that the flags name, in their order."""
  methods = []
  for method in dict.fromkeys(args.methods):
    if given := _outside(method):
      methods.append(benchmark.outside(*given, samples, kernel_names))
    else:
      methods += mzsr if method == "mzsr" else [benchmark.baseline(method, args.scale)]
  return methods


def _with_progress(scores: Iterable[benchmark.Score], num_samples: int, per_sample: int) -> Iterator[benchmark.Score]:
  """Passes the scores on; shows a bar on a terminal, or a line per image in a log."""
  with tqdm.tqdm(total=num_samples * per_sample, unit="result", disable=None) as bar:
    for count, score in enumerate(scores, 1):
      bar.update()
      if bar.disable and count % per_sample == 0:
        print(f"{count // per_sample}/{num_samples} {score.image}", file=sys.stderr)
      yield score


if __name__ == "__main__":
  define_flags()
  cli.run(main)
