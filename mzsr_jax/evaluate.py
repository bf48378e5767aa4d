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

import functools
import json
import pathlib
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import flags

from mzsr_jax import cli, files, progress, provenance, weights
from mzsr_jax.core import inner_rules, kernels
from mzsr_jax.errors import UserError
from mzsr_jax.evaluation import benchmark, methods, metrics
from mzsr_jax.inference import pool
from mzsr_jax.photo import kernel_files


def define_flags() -> None:
  """Defines the flags of this entry."""
  cli.define_adaptation_flags()
  flags.DEFINE_string("hr_dir", None, "folder of HR images, degraded with each of --kernels")
  flags.DEFINE_list("kernels", list(kernel_files.NAMES), f"with --hr_dir: some of {kernel_files.SPECS}")
  flags.DEFINE_string("lr_dir", None, "folder of LR images, instead of --hr_dir")
  flags.DEFINE_string("gt_dir", None, "with --lr_dir: folder of their ground truth")
  flags.DEFINE_string(
      "kernel_path", None, "with --lr_dir: the kernel that made them, as in --kernels; or a folder of such files, one for each "
      "image",
  )
  flags.DEFINE_list(
      "methods", ["bicubic", "mzsr"], f"some of {', '.join(methods.FORMS)} (see evaluation/methods.py); mzsr for that of "
      "--weights and --inner_lr; and folder:NAME=PATH for images that another program made, named as those of the set; "
      "{kernel} in PATH stands for each of the kernels",
  )
  flags.DEFINE_list(
      "metrics", ["psnr", "ssim"], f"what the table shows, some of {', '.join(metrics.METRICS)}; the JSON file holds all. psnr "
      "and ssim are the paper's, of luma in 16..235",
  )
  cli.define_numbers("steps", [1, 10], "adaptation steps, one line each; 0 is without", number=int, minimum=0)
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
  chosen, method_settings = _methods(args)
  if args.hr_dir:
    samples = benchmark.load_hr(args.hr_dir, args.scale)
  else:
    samples = benchmark.load_pairs(args.lr_dir, args.gt_dir, args.scale)
    if None in degradations.values():
      samples = benchmark.with_own_kernels(samples, args.kernel_path, _loader(args))
  chosen = [
      benchmark.outside(*method, samples, list(degradations), args.scale) if isinstance(method, _Folder) else method
      for method in chosen
  ]
  labels = [methods.label(method.name, steps) for method in chosen for steps in method.steps]
  if twice := sorted({name for name in labels if labels.count(name) > 1}):
    raise UserError(f"--methods: several are called {', '.join(twice)}: give each a name of its own")
  if args.compare_with is not None and args.compare_with not in labels:
    raise UserError(f"--compare_with='{args.compare_with}': must be one of the lines {', '.join(labels)}")

  sizes = benchmark.lr_sizes(samples, args.scale)
  limit = cli.memory_limit(max(h * w for h, w in sizes), args.scale, pictures=9)  # one of them as float64
  adapters = pool.make_adapters(len(samples), limit, sizes=sizes, precision=args.precision)
  scores = benchmark.run(samples, degradations, chosen, args.scale, adapters)
  done, failure = [], None
  try:
    for score in _with_progress(scores, len(samples), len(degradations) * len(labels)):
      done.append(score)
  except UserError as e:
    if not done:
      raise
    failure = e
  results = benchmark.summarise(done, args.scale)
  print(benchmark.table(results, args.metrics))
  if failure:
    count = len({score.image for score in done})
    raise UserError(f"{failure}; the table above is of the {count} images before, --out is not written") from failure
  differences = benchmark.differences(results, args.compare_with, args.metrics[0]) if args.compare_with else []
  if differences:
    print(f"\n{args.metrics[0]}, difference to {args.compare_with}\n{benchmark.differences_table(differences)}")

  report = {
      "results": results,
      **({"differences": differences} if args.compare_with else {}),
      "settings": {
          **{name: args[name].value for name in ("hr_dir", "lr_dir", "gt_dir", "scale", "kernel_shift", "flip_kernel")},
          "subsample": {name: (degradation or samples[0].degradation).subsample for name, degradation in degradations.items()},
          **method_settings,
          "precision": adapters[0].precision,
          "device": jax.devices()[0].device_kind,
          "devices": jax.local_device_count(),
      },
      "versions": provenance.versions(),
      "weights_sha256": weights.load(args.weights).digest if method_settings["weights"] else None,
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
  return {name: _loader(args)(name) for name in names}


def _loader(args: flags.FlagValues) -> Callable[[str], kernels.Degradation]:
  """`kernel_files.load_degradation` as the flags say."""
  return functools.partial(
      kernel_files.load_degradation, subsample=args.subsample, shift=args.kernel_shift, flip=args.flip_kernel
  )


def _check_some_of(flag: str, values: Iterable[str], known: Iterable[str]) -> None:
  """Raises UserError unless there are values, and all are known."""
  values = list(values)
  if not values or not set(values) <= set(known):
    raise UserError(f"--{flag}={','.join(values)}: must be some of {', '.join(known)}")


class _Folder(NamedTuple):
  """SR images that another program made."""

  name: str
  path: str


def _folder(method: str) -> _Folder:
  """NAME and PATH of "folder:NAME=PATH"."""
  name, _, path = method.removeprefix("folder:").partition("=")
  ours = sorted({form.partition(":")[0] for form in methods.FORMS})
  if not name or not path or name.partition(":")[0] in ours:
    raise UserError(f"--methods={method}: write folder:NAME=PATH, with a name that is none of {', '.join(ours)}")
  return _Folder(name, path)


def _methods(args: flags.FlagValues) -> tuple[list[methods.Method | _Folder], dict[str, Any]]:
  """What --methods names, in its order; and what the report's settings say of it."""
  names = list(dict.fromkeys(args.methods))
  settings: dict[str, Any] = {"methods": names, "steps": sorted(set(args.steps)), "weights": None}
  if not names:
    raise UserError(f"--methods is empty: name some of {', '.join(methods.FORMS)}")
  chosen: list[methods.Method | _Folder] = []
  for name in names:
    if name == "mzsr":
      loaded = cli.load_weights()
      loaded.check_scale(args.scale)
      inner_lrs = loaded.inner_lrs(settings["steps"][-1])
      settings["weights"] = args.weights
      rates = inner_rules.bare(inner_lrs)
      settings["inner_rule"] = loaded.inner_rule
      settings["inner_lrs"] = rates.tolist() if isinstance(rates, np.ndarray) else "learned, in the weights"
      chosen.append(methods.mzsr(loaded.params, inner_lrs, settings["steps"]))
    elif name.startswith("folder:"):
      chosen.append(_folder(name))
    else:
      chosen.append(methods.parse(name, settings["steps"], args.scale))
  return chosen, settings


def _with_progress(scores: Iterable[benchmark.Score], num_samples: int, per_sample: int) -> Iterator[benchmark.Score]:
  """Passes the scores on; shows a bar on a terminal, or a line per image in a log."""
  scored = progress.track(scores, num_samples * per_sample, "result", "scoring")
  for count, score in enumerate(scored, 1):
    if not sys.stderr.isatty() and count % per_sample == 0:
      print(f"{count // per_sample}/{num_samples} {score.image}", file=sys.stderr)
    yield score


if __name__ == "__main__":
  define_flags()
  cli.run(main)
