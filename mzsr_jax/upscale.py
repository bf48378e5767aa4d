"""Super-resolves photos: adapts the network to each image and its blur kernel, without any ground truth.

  python -m mzsr_jax.upscale --input=photo.png --kernel=g20d --weights=x2_direct --steps=10 --output=out.png
  python -m mzsr_jax.upscale --input=photos --kernel=kernel.mat --weights=x2_direct --output=results
"""

import functools
import pathlib
import threading
import time
from collections.abc import Sequence
from typing import NamedTuple

import tqdm
from absl import flags

from mzsr_jax import cli, files, images, kernels, spread, weights
from mzsr_jax.errors import UserError
from mzsr_jax.solver import Solver, work


def define_flags() -> None:
  """Defines the flags of this entry."""
  cli.define_adaptation_flags()
  flags.DEFINE_string("input", None, "LR image, or a folder of them", required=True)
  flags.DEFINE_string("output", None, "PNG file to write; a folder where --input is one", required=True)
  flags.DEFINE_string(
      "comparison", None, "also write bicubic | step 0 | step 1 | last step side by side: a PNG file or folder likewise"
  )
  flags.DEFINE_string(
      "kernel", None, f"blur kernel of the image: {kernels.SPECS}", required=True
  )
  flags.DEFINE_integer("steps", 10, "adaptation steps; 0 is without", lower_bound=0)
  flags.DEFINE_float("scale", None, "scale factor (default: the first that the weights know)", lower_bound=1)


class Job(NamedTuple):
  """One image to read, and the files to make of it."""

  source: pathlib.Path
  output: pathlib.Path
  comparison: pathlib.Path | None


def main(argv: list[str]) -> None:
  """Reads the flags and super-resolves each image. Of several, a bad one is reported and the others still done."""
  del argv
  args = flags.FLAGS
  cli.start_jax()
  jobs = plan(args.input, args.output, args.comparison, args.overwrite)
  kind = kernels.load_degradation(args.kernel, args.subsample, args.kernel_shift)
  params, metadata, inner_lrs = cli.load_weights(args.steps)
  trained_scales = weights.scales(metadata)
  if args.scale is None and not trained_scales:
    raise UserError(f"weights '{args.weights}' do not say which scale they are for: pass --scale")
  scale = args.scale or trained_scales[0]
  weights.check_scale(metadata, scale)
  shown = sorted({0, min(1, args.steps), args.steps}) if args.comparison else [args.steps]

  # A comparison holds bicubic, every panel, and twice the strip of them all.
  solvers = _solvers(jobs, scale, pictures=3 * (1 + len(shown)) if args.comparison else 1)
  make = functools.partial(
      _run, params=params, kind=kind, shown=shown, scale=scale, inner_lrs=inner_lrs, overwrite=args.overwrite
  )
  work_of_one = work(args.steps, len(shown), scale)
  failures = 0
  with tqdm.tqdm(total=len(jobs), unit="image", disable=None, bar_format="{l_bar}{bar}| {elapsed} < {remaining}") as bar:
    for solver in solvers:
      solver.done = functools.partial(_advance, bar, threading.Lock(), work_of_one)
    for job, result in zip(jobs, spread.spread(functools.partial(_reported, make), jobs, solvers)):
      if isinstance(result, UserError):
        if len(jobs) == 1:
          raise result
        failures += 1
        cli.report(f"{job.source}: {result}")
      else:
        bar.write(result)
  if failures:
    raise UserError(f"{failures} of {len(jobs)} images failed, each named above; the others are done")


def _advance(bar: tqdm.tqdm, lock: threading.Lock, work_of_one: float, passes: float) -> None:
  with lock:  # several solvers work in threads
    bar.update(passes / work_of_one)


def _solvers(jobs: Sequence[Job], scale: float, pictures: int) -> list[Solver]:
  """Solvers for the images; of several, the sizes are announced, so that few programs do for all."""
  sizes = [size for job in jobs if (size := images.image_size(job.source))]
  limit = cli.memory_limit(max((h * w for h, w in sizes), default=1), scale, pictures)
  return spread.make_solvers(len(jobs), limit, sizes=sizes if len(jobs) > 1 else ())


def _reported(make, solver: Solver, job: Job) -> str | UserError:
  """What `make` returns, or the error that it raises: one bad image is no reason to drop the others."""
  try:
    return make(solver, job)
  except UserError as e:
    return e


def _run(solver: Solver, job: Job, *, params, kind, shown, scale, inner_lrs, overwrite) -> str:
  """Makes one image; returns a line about it."""
  start = time.perf_counter()
  lr = images.to_float(images.read_image(job.source))
  results = solver.trajectory(params, lr, kind, shown, scale, inner_lrs)
  sr = results[shown[-1]]
  images.write_png(job.output, sr, overwrite)
  if job.comparison:
    labels = ["bicubic", *(f"step {steps}" for steps in results)]
    panels = [solver.super_resolve(None, lr, scale), *results.values()]
    images.write_png(job.comparison, images.side_by_side(panels, labels), overwrite)
  sizes = f"{lr.shape[1]}x{lr.shape[0]} -> {sr.shape[1]}x{sr.shape[0]}"
  return f"{job.output}: {sizes}, {shown[-1]} steps, {time.perf_counter() - start:.1f} s"


def plan(source: str, output: str, comparison: str | None, overwrite: bool) -> list[Job]:
  """What to read and what to write, checked as far as can be without decoding.

  Args:
    source: an image file or a folder of them.
    output: a .png file for a file, a folder for a folder, where each image keeps its name but for the extension.
    comparison: as `output`, or None.
    overwrite: whether outputs may exist.

  Raises:
    UserError: no input, an output that exists, is not a .png file, cannot be written, or would take two images or
      replace an input.
  """
  path = pathlib.Path(source)
  if path.is_dir():
    sources = images.find_images(path)
    names = [file.relative_to(path).with_suffix(".png") for file in sources]
    jobs = [
        Job(file, pathlib.Path(output) / name, pathlib.Path(comparison) / name if comparison else None)
        for file, name in zip(sources, names)
    ]
  elif path.is_file():
    jobs = [Job(path, pathlib.Path(output), pathlib.Path(comparison) if comparison else None)]
  else:
    raise UserError(f"input '{source}' does not exist: name an image file, or a folder of them")

  taken = {job.source.resolve(): job.source for job in jobs}
  for job in jobs:
    for target in filter(None, (job.output, job.comparison)):
      if target.suffix.lower() != ".png":
        raise UserError(f"output '{target}' is not a .png file: results are written as PNG")
      if other := taken.get(target.resolve()):
        raise UserError(f"output '{target}' of '{job.source}' would replace '{other}': name another, or rename one")
      taken[target.resolve()] = target
      files.check_writable(target, overwrite)
  return jobs


if __name__ == "__main__":
  define_flags()
  cli.run(main)
