"""The paper's figures of results, from shipped weights and any folder of HR images; needs `pip install '.[bench]'`.

    python -m experiments.figures --figure=3 --hr_dir=Set5/GT --out=runs/figure3.json

writes JSON, and a PNG beside it. Figures: 3, PSNR over the steps of MZSR, by its own rates and by spectral steps, and of the
networks of the ablations by Adam; 4, a picture of each at the start and after one step; 5, bicubic, MZSR and the truth side by
side; 6, what MZSR and the universal network make of an image when they are told a wrong kernel. For 4 to 6 the first image of
the folder is taken, or that which `--image` names.
"""

import io
import itertools
import sys
from collections.abc import Sequence

import numpy as np
from absl import flags

from experiments import outputs
from mzsr_jax import cli, files, images, progress, weights
from mzsr_jax.core.kernels import Degradation
from mzsr_jax.errors import UserError
from mzsr_jax.evaluation import benchmark, methods, metrics
from mzsr_jax.evaluation.benchmark import Sample
from mzsr_jax.images import Pixels
from mzsr_jax.inference import plain, pool
from mzsr_jax.inference.tiled import TiledAdapter
from mzsr_jax.photo import kernel_files

flags.DEFINE_enum("figure", None, ["3", "4", "5", "6"], "of the paper", required=True)
flags.DEFINE_string("hr_dir", None, "folder of HR images", required=True)
flags.DEFINE_string("kernel", "g20d", "kernel that makes the LR images")
flags.DEFINE_string("image", None, "name of the image in the folder, for figures 4 to 6")
flags.DEFINE_integer("steps", 10, "adaptation steps", lower_bound=2)
flags.DEFINE_integer("crop", 160, "side of the square that figures 4 to 6 show, from the middle, pixels", lower_bound=16)
outputs.define_flags("PNG")
cli.define_cache_flag()

SCALE = 2
# Legend of the paper to methods: the first adapts by its own rates, the others by Adam.
METHODS = {
    "MZSR": "mzsr:x2_direct",
    "MZSR, spectral steps": "mzsr:spectral:x2_direct",
    "Meta-Learning": "adam:meta_no_pretrain",
    "Pre-train (All)": "adam:pretrain_all_kernels",
    "Pre-train (Bicubic)": "adam:pretrain_x2",
}
ASSUMED = ("g02d", "g20d", "gani", "gani5")


def adapted(adapter: TiledAdapter, method: str, lr: np.ndarray, degradation: Degradation, shown: Sequence[int]) -> list[Pixels]:
  """SR images after those numbers of steps, ascending; of one of `METHODS`, or of shipped weights."""
  case = methods.Case("", "", lr, degradation, SCALE)
  return [result.sr for result in methods.parse(METHODS.get(method, f"mzsr:{method}"), shown, SCALE).solve(adapter, case)]


def available() -> list[str]:
  """Methods whose weights are shipped; the others are named on stderr."""
  of = {method: methods.weights_of(name) for method, name in METHODS.items()}
  missing = {method: name for method, name in of.items() if not weights.is_shipped(name)}
  for method, name in missing.items():
    print(f"weights {name} ('{method}') are not shipped: left out", file=sys.stderr)
  return [method for method in METHODS if method not in missing]


def curves(samples: list[Sample], degradation: Degradation, steps: int) -> tuple[list[dict], "object"]:
  """Figure 3: rows of mean and standard deviation over images, and the plot."""
  from matplotlib import pyplot

  adapter = pool.make_adapters(1, sizes=benchmark.lr_sizes(samples, SCALE))[0]
  lrs = [benchmark.lr_image(adapter, sample, degradation, SCALE) for sample in samples]
  rows = []
  figure, axes = pyplot.subplots(figsize=(6, 4), layout="constrained")
  methods_drawn = available()
  for method in progress.track(methods_drawn, len(methods_drawn), "method", "adapting"):
    psnrs = np.array([
        [metrics.psnr_y(sr, s.gt, SCALE) for sr in adapted(adapter, method, lr, degradation, range(steps + 1))]
        for s, lr in zip(samples, lrs)
    ])  # fmt: skip
    rows += [
        {"method": method, "weights": methods.weights_of(METHODS[method]), "steps": n, "psnr": float(m), "deviation": float(d)}
        for n, (m, d) in enumerate(zip(psnrs.mean(0), psnrs.std(0)))
    ]
    axes.plot(psnrs.mean(0), "o-", label=method)
    progress.say("  ".join([f"{method:20}", *(f"{value:.2f}" for value in psnrs.mean(0))]))
  axes.set(xlabel="gradient steps", ylabel="PSNR-Y, dB, mean over images")
  axes.grid(alpha=0.3)
  axes.legend()
  return rows, figure


def pictures(figure: str, sample: Sample, degradation: Degradation, steps: int, crop: int) -> tuple[list[dict], Pixels]:
  """Figures 4 to 6: rows of PSNRs, and the picture."""
  adapter = TiledAdapter()
  lr = benchmark.lr_image(adapter, sample, degradation, SCALE)
  bicubic = plain.enlarge(lr, SCALE)
  strips: list[dict[str, Pixels]] = []
  track = lambda items: progress.track(items, len(items), "picture", "adapting")
  if figure == "4":
    for method in track(available()):
      start, one = adapted(adapter, method, lr, degradation, [0, 1])
      strips.append({f"{method}, start": start, "1 step": one})
  elif figure == "5":
    asked = {"MZSR": [1, steps], "MZSR, spectral steps": [steps]}
    one, all_steps, spectral = (
        sr for method in track(list(asked)) for sr in adapted(adapter, method, lr, degradation, asked[method])
    )
    mzsr = {"MZSR, 1 step": one, f"{steps} steps": all_steps, f"{steps} spectral steps": spectral}
    strips.append({"bicubic": bicubic, **mzsr, "truth": sample.gt})
  else:
    for method, count in {"MZSR": steps, "universal": 0}.items():
      strips.append({"bicubic": bicubic})
      for name in track(ASSUMED):
        told = kernel_files.load_degradation(name)
        strips[-1][f"{method} told {name}"] = adapted(adapter, method, lr, told, [count])[0]
      strips[-1]["truth"] = sample.gt
  rows = []
  for label, sr in itertools.chain.from_iterable(strip.items() for strip in strips):
    psnr = None if label == "truth" else metrics.psnr_y(sr, sample.gt, SCALE)
    rows.append({"picture": label, "psnr": psnr})
    print(f"{label:28}", "" if psnr is None else f"{psnr:.2f}", flush=True)
  shown = lambda sr: images.center_crop(sr, crop).repeat(2, 0).repeat(2, 1)  # twice as large for the eye
  made = [images.side_by_side([shown(sr) for sr in strip.values()], list(strip)) for strip in strips]
  return rows, np.concatenate(made)


def main(argv: list[str]) -> None:
  """Makes one figure."""
  del argv
  args = flags.FLAGS
  cli.start_jax()
  beside = outputs.check(".png")
  samples, degradation = benchmark.load_hr(args.hr_dir, SCALE), kernel_files.load_degradation(args.kernel)
  if args.figure == "3":
    rows, figure = curves(samples, degradation, args.steps)
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=120)
    files.write_whole(beside, png.getbuffer(), args.overwrite)
  else:
    named = {sample.name: sample for sample in samples}
    if args.image is not None and args.image not in named:
      raise UserError(f"no image '{args.image}' in '{args.hr_dir}': name one of {', '.join(named)}")
    sample = named[args.image] if args.image else samples[0]
    rows, picture = pictures(args.figure, sample, degradation, args.steps, args.crop)
    images.write_png(beside, picture, args.overwrite)
  outputs.write({"figure": args.figure, "kernel": args.kernel, "rows": rows}, allow_nan=True)


if __name__ == "__main__":
  cli.run(main)
