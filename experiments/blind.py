"""What it costs not to know the kernel: MZSR with estimated kernels, beside the true one and the usual guess.

    python -m experiments.blind --hr_dir=Set14 --out=runs/blind.json
    python -m experiments.blind --hr_dir=Set14 --jpeg=75 --out=runs/blind_jpeg75.json

degrades each image of a folder by random Gaussians of the paper's training distribution (direct subsampling), estimates them
from the LR images alone, and writes PSNR/SSIM of MZSR told each kernel, as JSON, and as Markdown beside it. The noise that it
is told is estimated in any case, as `upscale` does. What `--methods` may name: `bicubic`, plain enlargement;
`bicubic_weights`, the weights `spectral:x2_bicubic` told that the image was shrunk by bicubic;
`bicubic_kernel`, the weights of `--weights` told the kernel of antialiased bicubic shrinking; `middle`, told the middle of
the distribution; `regression` (`mzsr_jax/photo/blind.py`); `true`. The kernels depend on the
seed and the number of images alone.
"""

import time
from collections.abc import Callable, Sequence

import numpy as np
from absl import flags

from experiments import camera, outputs
from experiments.bench import timing
from mzsr_jax import cli, files, images, progress, weights
from mzsr_jax.core import resize
from mzsr_jax.core.kernels import Degradation
from mzsr_jax.errors import UserError
from mzsr_jax.evaluation import benchmark, methods
from mzsr_jax.evaluation.benchmark import Sample
from mzsr_jax.evaluation.methods import Method
from mzsr_jax.inference import pool
from mzsr_jax.photo import blind, enhance, kernel_files, kernel_net
from mzsr_jax.photo.kernel_net import Gaussian

_METHODS = ("bicubic", "bicubic_weights", "bicubic_kernel", "middle", "regression", "true")


def define_flags() -> None:
  """Defines the flags of this entry."""
  flags.DEFINE_string("hr_dir", None, "folder of HR images", required=True)
  flags.DEFINE_integer("kernels_per_image", 1, "random kernels that each image is degraded by", lower_bound=1)
  flags.DEFINE_integer("seed", 0, "of the kernels", lower_bound=0)
  flags.DEFINE_integer("scale", 2, "scale factor", lower_bound=2)
  flags.DEFINE_integer("images", 0, "take no more than so many images, the smallest; 0 takes all", lower_bound=0)
  flags.DEFINE_string("weights", weights.DEFAULT, "that MZSR adapts")
  flags.DEFINE_float("least", 1.0, "least variance of a kernel, HR pixels^2: the paper's 1, or less", lower_bound=0.01)
  flags.DEFINE_integer("steps", None, "adaptation steps; default: 10, or 0 for weights that gain nothing by any", lower_bound=0)
  flags.DEFINE_list("methods", list(_METHODS), "what to compare")
  camera.define_flags()
  outputs.define_flags("Markdown")
  cli.define_cache_flag()


def told(name: str, params, rates, steps: int, degradations: Callable[[str], Degradation], noises: dict[str, float]) -> Method:
  """MZSR, told for each image what `degradations` says of its name, whatever is true, and its noise."""
  mzsr = methods.mzsr(params, rates, [steps], name)
  degradation = lambda image: degradations(image).replace(noise_std=noises[image])
  return mzsr._replace(solve=lambda adapter, case: mzsr.solve(adapter, case._replace(degradation=degradation(case.image))))


def error_of(sigmas: np.ndarray, kernel: np.ndarray, true: Gaussian, true_kernel: np.ndarray) -> dict[str, float]:
  """How far a kernel is from the true one: its distance in parts of the true one's norm, and that of the widths, pixels."""
  side = max(len(kernel), len(true_kernel))
  grown = [np.pad(k, (side - len(k)) // 2) for k in (kernel, true_kernel)]
  distance = np.linalg.norm(grown[0] - grown[1]) / np.linalg.norm(true_kernel)
  return {"kernel error": float(distance), "width error": float(np.abs(sigmas - np.sqrt(true[:2])).mean())}


def bicubic_kernel(scale: float, size: int = 13) -> np.ndarray:
  """Of antialiased bicubic shrinking, with its centre on a pixel, so that direct subsampling may follow."""
  middle = 2 * size
  # The offset has the one output pixel look at that pixel.
  taps = resize.bicubic(2 * middle + 1, 1, 1 / scale, 1 - (middle + 1 - (1 - scale) / 2) / scale)[0]
  taps = taps[middle - size // 2 :][:size] / taps[middle - size // 2 :][:size].sum()
  return np.float32(np.outer(taps, taps))


def degraded(photos: Sequence[Sample], count: int, seed: int, scale: int, least: float) -> tuple[list[Sample], list[Gaussian]]:
  """Each photo `count` times, with a random kernel as its own, and those kernels' parameters."""
  shapes = kernel_net.draw(np.random.default_rng(seed), scale, len(photos) * count, least)
  shapes = [Gaussian(*shape) for shape in zip(*shapes)]
  numbered = [(photo, f"{photo.name}:{i}") for photo in photos for i in range(count)]
  degradations = [Degradation(kernel_net.kernel(shape), "direct") for shape in shapes]
  made = [photo._replace(name=name, degradation=d) for (photo, name), d in zip(numbered, degradations)]
  return made, shapes


def estimate(method: str, lr: np.ndarray, scale: int) -> blind.Estimate:
  """By the shipped network, or the middle of the distribution, whatever the image."""
  if method == "regression":
    return blind.estimate(lr, scale)
  middle = kernel_net.decode(kernel_net.prior(scale).mean, scale)
  return blind.Estimate(kernel_net.kernel(middle), np.sqrt(middle[:2]), 0.0, np.full(2, np.nan), "")


def estimates(method: str, samples: Sequence[Sample], lrs, shapes: Sequence[Gaussian], scale: int):
  """Kernels by the name of their sample, and a row about each."""
  degradations, rows = {}, []
  estimate(method, lrs[0], scale)  # compiles
  for sample, lr, shape in zip(samples, lrs, shapes):
    start = time.perf_counter()
    found = estimate(method, lr, scale)
    seconds = time.perf_counter() - start
    row = {"method": method, "image": sample.name, "true": list(shape), "found": [*map(float, found.sigmas**2), found.theta]}
    row |= error_of(found.sigmas, found.kernel, shape, sample.degradation.kernel) | {"s": seconds}
    if np.isfinite(found.uncertainty).all():
      off = np.abs(found.sigmas - np.sqrt(shape[:2])) / found.uncertainty
      row |= {"uncertainty": found.uncertainty.tolist(), "widths within 2 errors": float((off < 2).mean())}
    rows.append(row)
    degradations[sample.name] = Degradation(found.kernel, "direct")
  return degradations, rows


def main(argv: list[str]) -> None:
  """Degrades, estimates, enlarges, measures."""
  del argv
  args = flags.FLAGS
  cli.start_jax()
  if not args.methods or (bad := [name for name in args.methods if name not in _METHODS]):
    raise UserError(f"--methods: {', '.join(bad) if args.methods else 'nothing'} is none of {', '.join(_METHODS)}")
  beside = outputs.check(".md")
  scale = args.scale

  def network(name):
    loaded = weights.load(name)
    loaded.check_scale(scale)
    steps = args.steps if args.steps is not None else enhance.default_steps(loaded)
    return loaded.params, loaded.inner_lrs(max(steps, 1)), steps

  photos = sorted(benchmark.load_hr(args.hr_dir, scale), key=lambda sample: sample.gt.size)[: args.images or None]
  samples, shapes = degraded(photos, args.kernels_per_image, args.seed, scale, args.least)
  adapters = pool.make_adapters(len(samples), sizes=benchmark.lr_sizes(samples, scale))
  made = (benchmark.lr_image(adapters[0], sample, sample.degradation, scale) for sample in samples)
  taken = [camera.taken(lr, args.noise, args.jpeg) for lr in made]
  lrs = [photo.rgb for photo in taken]
  samples = [sample._replace(lr=images.to_uint8(lr)) for sample, lr in zip(samples, lrs)]
  noises = {sample.name: enhance.noise_std(photo) for sample, photo in zip(samples, taken)}
  compared, rows = [], []
  for name in args.methods:
    if name == "bicubic":
      compared.append(methods.bicubic())
    elif name == "bicubic_weights":
      none = kernel_files.load_degradation("bicubic")
      compared.append(told(name, *network("spectral:x2_bicubic"), lambda image, degradation=none: degradation, noises))
    elif name == "bicubic_kernel":
      bicubic = Degradation(bicubic_kernel(scale))
      compared.append(told(name, *network(args.weights), lambda image, degradation=bicubic: degradation, noises))
    elif name == "true":
      compared.append(told(name, *network(args.weights), {s.name: s.degradation for s in samples}.__getitem__, noises))
    else:
      degradations, more = estimates(name, samples, lrs, shapes, scale)
      rows += more
      print(summary(more), flush=True)
      compared.append(told(name, *network(args.weights), degradations.__getitem__, noises))
  scores = benchmark.run(samples, {"random": None}, compared, scale, adapters)
  results = benchmark.summarise(progress.track(scores, len(samples) * len(compared), "result", "scoring"), scale)
  table = markdown(results, rows)
  print(table)
  outputs.write({
      "scale": scale,
      "steps": args.steps,
      "seed": args.seed,
      "least": args.least,
      "noise": args.noise,
      "jpeg": args.jpeg,
      "weights": args.weights,
      "results": results,
      "estimates": rows,
      "machine": timing.machine(),
  })  # fmt: skip
  files.write_whole(beside, table.encode(), args.overwrite)


def summary(rows) -> dict[str, float]:
  """Means over the images of one estimator's rows, but the median of the time."""
  columns = [key for key in ("kernel error", "width error", "widths within 2 errors") if key in rows[0]]
  means = {key: float(np.mean([row[key] for row in rows])) for key in columns}
  return means | {"s": float(np.median([row["s"] for row in rows]))}


def markdown(results, rows) -> str:
  """A line a method: PSNR/SSIM, and what `summary` has of the estimators."""
  lines = []
  for result in results:
    own = [row for row in rows if row["method"] == result["method"]]
    line = {"kernel": result["method"], "PSNR / SSIM": f"{result['psnr']:.2f} / {result['ssim']:.4f}"}
    line |= dict.fromkeys(("kernel error", "width error", "widths within 2 errors", "s"))
    lines.append(line | (summary(own) if own else {}))
  return timing.table(lines) + "\n"


if __name__ == "__main__":
  define_flags()
  cli.run(main)
