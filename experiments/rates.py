"""How far the adaptation should step: PSNR over steps with the weights' own learning rates times several factors.

    python -m experiments.rates --weights=x2_direct --hr_dir=Set14 --kernels=g20d,gani,g02d --factors=0.5,1,2,1:2:3

A factor is for all steps, or a list with colons for one step after another, the last of which holds for all further steps.
The factors that do best, `python -m mzsr_jax.export --inner_lr_factors` writes into the weights. Choose them on images that
are not those of the tables.
"""

import math

import jax
import numpy as np
from absl import flags

from experiments.bench import timing
from mzsr_jax import cli, files, weights
from mzsr_jax.errors import UserError
from mzsr_jax.evaluation import benchmark, metrics
from mzsr_jax.inference.tiled import TiledAdapter
from mzsr_jax.photo import kernel_files

flags.DEFINE_string("weights", None, "shipped name or .safetensors file", required=True)
flags.DEFINE_string("hr_dir", None, "folder of HR images", required=True)
flags.DEFINE_list("kernels", ["g20d", "gani", "g02d"], "that make the LR images")
flags.DEFINE_integer("scale", 2, "scale factor", lower_bound=2)
flags.DEFINE_integer("images", 0, "take no more than so many images, the smallest; 0 takes all", lower_bound=0)
flags.DEFINE_string("out", None, "JSON file to write")
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
  """Prints one row for each kernel and factor."""
  del argv
  args = flags.FLAGS
  cli.start_jax()
  if not args.kernels:
    raise UserError("--kernels is empty: name at least one")
  steps = sorted(set(args.steps))
  schedules = {text: schedule(text, steps[-1]) for text in args.factors or ["1"]}
  if args.out:
    files.check_writable(args.out, overwrite=True)
  loaded = weights.load(args.weights)
  params, rates = loaded.params, loaded.inner_lrs(steps[-1])
  weights.check_network(params)
  loaded.check_scale(args.scale)
  samples = benchmark.load_hr(args.hr_dir, args.scale)
  samples = sorted(samples, key=lambda sample: sample.gt.size)[: args.images or None]
  adapter = TiledAdapter(sizes=benchmark.lr_sizes(samples, args.scale))
  rows = []
  for kernel in args.kernels:
    degradation = kernel_files.load_degradation(kernel)
    lrs = [benchmark.lr_image(adapter, sample, degradation, args.scale) for sample in samples]
    for factor, factors in schedules.items():
      scaled = jax.tree.map(lambda rate: np.asarray(rate) * factors, rates)  # noqa: B023 (used at once)
      psnrs = []
      for sample, lr in zip(samples, lrs):
        try:
          srs = adapter.trajectory(params, lr, degradation, steps, args.scale, scaled)
        except UserError:  # too large a factor: that is what is being looked for
          psnrs.append([math.nan] * len(steps))
        else:
          psnrs.append([metrics.psnr_y(srs[n], sample.gt, args.scale) for n in steps])
      means = np.mean(psnrs, axis=0)
      rows.append({"kernel": kernel, "factor": factor, **{f"{n} steps": f"{m:.2f}" for n, m in zip(steps, means)}})
      print(rows[-1], flush=True)
  timing.report(f"PSNR-Y, dB, mean over {len(samples)} images", rows, args.out, weights=loaded.digest)


if __name__ == "__main__":
  cli.run(main)
