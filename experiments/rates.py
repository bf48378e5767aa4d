"""What gradient steps gain, and how far they should go: PSNR over steps with learning rates times several factors.

    python -m experiments.rates --weights=x2_direct --hr_dir=Set14 --kernels=g20d,gani,g02d --factors=0.5,1,2,1:2:3
    python -m experiments.rates --weights=universal --hr_dir=Set14 --kernels=g20d --widths=0.8,1.2 --factors=10 --steps=0,10

A factor is for all steps, or a list with colons for one step after another, the last of which holds for all further steps.
The factors that do best, `python -m mzsr_jax.export --inner_lr_factors` writes into the weights. Choose them on images that
are not those of the tables. With --widths, a network is told kernels that are too narrow or too wide. Gains have the 95%
interval of their mean over images, by bootstrap.
"""

import math

import jax
import numpy as np
from absl import flags

from experiments import camera, gains, outputs
from experiments.bench import timing
from mzsr_jax import cli, images, weights
from mzsr_jax.errors import UserError
from mzsr_jax.evaluation import benchmark, metrics
from mzsr_jax.inference import plain
from mzsr_jax.inference.tiled import TiledAdapter
from mzsr_jax.photo import kernel_files

flags.DEFINE_string("weights", None, "shipped name or .safetensors file", required=True)
flags.DEFINE_string("hr_dir", None, "folder of HR images", required=True)
flags.DEFINE_list("kernels", ["g20d", "gani", "g02d"], "that make the LR images")
cli.define_numbers("widths", [1], "times the standard deviations of the kernel, as it is told", number=float, minimum=0.01)
camera.define_flags()
flags.DEFINE_float("noise_level", None, "that is told (default: what --noise says, and what JPEG has changed)", lower_bound=0)
flags.DEFINE_integer("scale", 2, "scale factor", lower_bound=2)
flags.DEFINE_integer("images", 0, "take no more than so many images, the smallest; 0 takes all", lower_bound=0)
flags.DEFINE_integer("side", 0, "take the middle of each image, pixels a side; 0 takes all of it", lower_bound=0)
outputs.define_flags()
flags.DEFINE_list("factors", ["0.5", "1", "2"], "to multiply the rates with")
cli.define_numbers("steps", [0, 1, 2, 5, 10], "after which to measure", number=int, minimum=0)
cli.define_cache_flag()


def schedule(text: str, steps: int) -> np.ndarray:
  """Factors of `steps` steps. Raises UserError for what is not numbers with colons."""
  try:
    factors = weights.extend_schedule([float(part) for part in text.split(":")], steps)
  except ValueError as e:
    raise UserError(f"--factors: '{text}' is not a number, or numbers with colons between them") from e
  return factors


def main(argv: list[str]) -> None:
  """Prints one row for each kernel, width and factor."""
  del argv
  args = flags.FLAGS
  cli.start_jax()
  if not args.kernels:
    raise UserError("--kernels is empty: name at least one")
  steps = sorted(set(args.steps))
  schedules = {text: schedule(text, steps[-1]) for text in args.factors or ["1"]}
  degradations = {name: kernel_files.load_degradation(name) for name in args.kernels}
  told = {(name, width): kernel_files.widened(name, width) for name in args.kernels for width in args.widths}
  outputs.check()
  loaded = weights.load_checked(args.weights)
  params, rates = loaded.params, loaded.inner_lrs(steps[-1])
  loaded.check_scale(args.scale)
  samples = sorted(benchmark.load_hr(args.hr_dir, args.scale), key=lambda sample: sample.gt.size)[: args.images or None]
  if args.side:
    samples = [sample._replace(gt=images.center_crop(sample.gt, args.side - args.side % args.scale)) for sample in samples]
  adapter = TiledAdapter(sizes=benchmark.lr_sizes(samples, args.scale))
  score = lambda sr, sample: metrics.psnr_y(sr, sample.gt, args.scale)
  rows = []
  for kernel, degradation in degradations.items():
    made = [benchmark.lr_image(adapter, sample, degradation, args.scale) for sample in samples]
    photos = [camera.taken(lr, args.noise, args.jpeg) for lr in made]
    bicubic = [score(plain.enlarge(photo.rgb, args.scale), sample) for photo, sample in zip(photos, samples)]
    for width in args.widths:
      about = f"x{width:g}" if width != 1 else "true"
      about += f", noise {args.noise_level:g}" if args.noise_level not in (None, args.noise) else ""
      for factor, factors in schedules.items():
        scaled = jax.tree.map(lambda rate: np.asarray(rate) * factors, rates)  # noqa: B023 (used at once)
        psnr = {str(n): [] for n in steps}
        for sample, photo in zip(samples, photos):
          level = np.hypot(args.noise / 255, photo.jpeg_error) if args.noise_level is None else args.noise_level / 255
          of = told[kernel, width].replace(noise_std=float(level))
          try:
            srs = adapter.trajectory(params, photo.rgb, of, steps, args.scale, scaled)
          except UserError:  # too large a factor: that is what is being looked for
            srs = {}
          for n in steps:
            psnr[str(n)].append(score(srs[n], sample) if n in srs else math.nan)
        row = {"kernel": kernel, "scale": args.scale, "told": about, "noise": args.noise, "jpeg": args.jpeg, "factor": factor}
        rows.append(row | {"bicubic": bicubic, "psnr": psnr})
        print(gains.line(rows[-1]), flush=True)
  table = timing.table([gains.line(row) for row in rows])
  print(f"PSNR-Y, dB, mean over {len(samples)} images\n{timing.describe()}\n\n{table}")
  if args.out:
    names = [sample.name for sample in samples]
    timing.write_json(args.out, {"weights": args.weights, "weights_sha256": loaded.digest, "images": names, "rows": rows})


if __name__ == "__main__":
  cli.run(main)
