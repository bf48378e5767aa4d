"""What the quality options of `upscale` gain and cost: PSNR and time of each, on images degraded here.

    python -m experiments.presets --hr_dir=Set14 --kernels=g20d,gani
    python -m experiments.presets --hr_dir=Set14 --kernels=g20d --noise=5 --noise_levels=0,auto,5
    python -m experiments.presets --hr_dir=Set14 --kernels=g20d --jpeg=75 --noise_levels=0,auto

Adaptations of several numbers of steps, each as it is and with what refines its result; with `--noise_levels`, adapted to
sons of several noises. Times are of one image at a time, compiled before.
"""

import time

import numpy as np
from absl import flags

from experiments import camera, outputs
from experiments.bench import timing
from mzsr_jax import cli, weights
from mzsr_jax.errors import UserError
from mzsr_jax.evaluation import benchmark, metrics
from mzsr_jax.inference.tiled import TiledAdapter
from mzsr_jax.photo import enhance, kernel_files
from mzsr_jax.photo import file as photo_file
from mzsr_jax.photo.enhance import Recipe
from mzsr_jax.photo.file import Photo

flags.DEFINE_string("hr_dir", None, "folder of HR images", required=True)
flags.DEFINE_list("kernels", ["g20d", "gani"], "that make the LR images")
flags.DEFINE_integer("scale", 2, "scale factor", lower_bound=2)
flags.DEFINE_string("weights", "spectral:x2_direct", "shipped name or .safetensors file, after 'spectral:' or not")
flags.DEFINE_list("noise_levels", ["auto"], "noises that the adaptation assumes, of 255; auto: as estimated from each image")
flags.DEFINE_integer("images", 0, "take no more than so many images, the smallest; 0 takes all", lower_bound=0)
outputs.define_flags()
camera.define_flags()
cli.define_cache_flag()

STEPS = (0, 1, 10)
# Labels to fields of `Recipe`.
REFINEMENTS = {
    "": {},
    "self-ensemble": {"self_ensemble": True},
    "back-projection 2": {"back_projection": 2},
    "back-projection 10": {"back_projection": 10},
    "both": {"self_ensemble": True, "back_projection": 10},
}


def measure(adapter: TiledAdapter, photo: Photo, gt: np.ndarray, recipe: Recipe) -> list[dict]:
  """A row for each number of steps and refinement."""
  rows, adapting = [], 0.0
  states = enhance.adapt(adapter, photo.rgb, recipe, STEPS)
  for steps in STEPS:
    start = time.perf_counter()
    params = next(states)
    adapting += time.perf_counter() - start
    for name, fields in REFINEMENTS.items():
      start = time.perf_counter()
      sr = photo_file.on_white(enhance.enlarge(adapter, params, photo, recipe._replace(**fields)))
      seconds = adapting + time.perf_counter() - start
      scores = {"psnr": metrics.psnr_y(sr, gt, flags.FLAGS.scale), "ssim": metrics.ssim_y(sr, gt, flags.FLAGS.scale)}
      rows.append({"steps": steps, "refinement": name, **scores, "seconds": seconds})
  return rows


def means(rows: list[dict]) -> list[dict]:
  """The rows of the table: means over images, formatted."""
  groups = {}
  for row in rows:
    groups.setdefault(tuple(row[key] for key in ("kernel", "noise_level", "steps", "refinement")), []).append(row)
  mean = lambda group, key: np.mean([row[key] for row in group])
  return [
      {
          "kernel": kernel, "noise level": level, "steps": steps, "refinement": refinement,
          "PSNR": f"{mean(group, 'psnr'):.2f}", "SSIM": f"{mean(group, 'ssim'):.4f}", "s": float(mean(group, "seconds")),
      }
      for (kernel, level, steps, refinement), group in groups.items()
  ]  # fmt: skip


def main(argv: list[str]) -> None:
  """Measures all settings on all images; prints and writes their means."""
  del argv
  args = flags.FLAGS
  try:
    levels = {level: cli.NoiseLevelParser().parse(level) for level in args.noise_levels}
  except ValueError as e:
    raise UserError(f"--noise_levels: {e}") from e
  if not levels:
    raise UserError("--noise_levels: name at least one")
  outputs.check()
  cli.start_jax()
  loaded = weights.load(args.weights)
  params, rates = loaded.params, loaded.inner_lrs(STEPS[-1])
  loaded.check_scale(args.scale)
  samples = sorted(benchmark.load_hr(args.hr_dir, args.scale), key=lambda s: s.gt.size)[: args.images or None]
  adapter = TiledAdapter(sizes=benchmark.lr_sizes(samples, args.scale))
  rows = []
  for kernel in args.kernels:
    degradation = kernel_files.load_degradation(kernel)
    for sample in samples:
      photo = camera.taken(benchmark.lr_image(adapter, sample, degradation, args.scale), args.noise, args.jpeg)
      adapter.warm_up(params, photo.rgb.shape[:2], degradation, args.scale, rates)
      for name, level in levels.items():
        told = degradation.replace(noise_std=enhance.noise_std(photo) if level == cli.AUTO else level / 255)
        recipe = Recipe(params, rates, told, args.scale, args.scale)
        shared = {"kernel": kernel, "image": sample.name, "noise_level": name, "noise_told": 255 * told.noise_std}
        rows += [shared | row for row in measure(adapter, photo, sample.gt, recipe)]
  timing.report(f"means over {len(samples)} images", means(rows), args.out, images=rows, weights=loaded.digest)


if __name__ == "__main__":
  cli.run(main)
