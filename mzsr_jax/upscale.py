"""Super-resolves photos: adapts the network to each image and its blur kernel, without any ground truth.

  python -m mzsr_jax.upscale --input=photo.png --kernel=g20d --weights=x2_direct --steps=10 --output=out.png
  python -m mzsr_jax.upscale --input=photos --kernel=kernel.mat --weights=x2_direct --output=results
"""

import pathlib
import time
from typing import NamedTuple

from absl import flags

from mzsr_jax import baselines, cli, files, images, kernels, meta_test, weights
from mzsr_jax.errors import UserError


def define_flags() -> None:
  """Defines the flags of this entry."""
  cli.define_adaptation_flags()
  flags.DEFINE_string("input", None, "LR image, or a folder of them", required=True)
  flags.DEFINE_string("output", None, "PNG file to write; a folder where --input is one", required=True)
  flags.DEFINE_string(
      "comparison", None, "also write bicubic | step 0 | step 1 | last step side by side: a PNG file or folder likewise"
  )
  flags.DEFINE_string(
      "kernel", None, f"blur kernel of the image: {', '.join(kernels.NAMES)}, or a .mat or .npy file", required=True
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
  jobs = plan(args.input, args.output, args.comparison, args.overwrite)
  kind = kernels.load_degradation(args.kernel, args.subsample)
  params, metadata, inner_lrs = cli.load_weights(args.steps)
  trained_scales = weights.scales(metadata)
  if args.scale is None and not trained_scales:
    raise UserError(f"weights '{args.weights}' do not say which scale they are for: pass --scale")
  scale = args.scale or trained_scales[0]
  weights.check_scale(metadata, scale)
  shown = sorted({0, min(1, args.steps), args.steps}) if args.comparison else [args.steps]

  failures = 0
  for job in jobs:
    start = time.perf_counter()
    try:
      lr = images.read_image(job.source)
      lr_float = images.to_float(lr)
      srs = meta_test.trajectory(params, lr_float, kind.kernel, shown, scale, inner_lrs, kind.subsample)
      results = {steps: images.to_uint8(sr) for steps, sr in srs.items()}
      sr = results[args.steps]
      images.write_png(job.output, sr, args.overwrite)
      if job.comparison:
        bicubic = images.to_uint8(baselines.bicubic(lr_float, scale))
        labels = ["bicubic", *(f"step {steps}" for steps in results)]
        images.write_png(job.comparison, images.side_by_side([bicubic, *results.values()], labels), args.overwrite)
    except UserError as e:
      if len(jobs) == 1:
        raise
      failures += 1
      cli.report(f"{job.source}: {e}")
    else:
      sizes = f"{lr.shape[1]}x{lr.shape[0]} -> {sr.shape[1]}x{sr.shape[0]}"
      print(f"{job.output}: {sizes}, {args.steps} steps, {time.perf_counter() - start:.1f} s")
  if failures:
    raise UserError(f"{failures} of {len(jobs)} images failed, each named above; the others are done")


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
