"""Other programs on our LR images: what they make, for `folder:` lines of the evaluation, and CPU seconds an image.

    python -m experiments.peers --hr_dir=Set5/GT --kernels=g20d,bicubic --peers=USRNet-tiny=usrnet.py --out=runs/peers/set5_x2
    python -m mzsr_jax.evaluate --hr_dir=Set5/GT --kernels=g20d,bicubic --methods=mzsr,folder:USRNet-tiny=runs/peers/set5_x2/USRNet-tiny/{kernel} --steps=0 --out=runs/set5.json

A peer is a Python file that defines

    enlarge(lr, kernel, subsample, scale)

of an (h, w, 3) float32 image in [0, 1], the kernel that it was correlated with, "direct" or "bicubic", and a whole number. It
returns the enlarged image in [0, 1], or None for a degradation that it is not made for. `--methods` are run in turn with them,
for their times. Times are of this process on all of its cores (taskset chooses them), of each image after a first one, so
that whatever is compiled or loaded before counts for none. They are printed, and written into seconds.json in the folder.
"""  # noqa: E501 (commands)

import importlib.util
import pathlib
import time
from collections.abc import Iterator

import numpy as np
from absl import flags

from experiments.bench import timing
from mzsr_jax import cli, files, images
from mzsr_jax.errors import UserError
from mzsr_jax.evaluation import benchmark, methods
from mzsr_jax.evaluation.methods import Case, Method, Result
from mzsr_jax.inference import pool
from mzsr_jax.inference.tiled import TiledAdapter
from mzsr_jax.photo import kernel_files

flags.DEFINE_string("hr_dir", None, "folder of HR images", required=True)
flags.DEFINE_list("kernels", list(kernel_files.NAMES), "that make the LR images")
flags.DEFINE_integer("scale", 2, "scale factor", lower_bound=2)
flags.DEFINE_list("peers", [], "NAME=FILE of each program")
flags.DEFINE_list("methods", [], "of ours, to be timed beside them, such as mzsr:universal; without steps")
flags.DEFINE_string("out", None, "folder: NAME/KERNEL/IMAGE.png", required=True)
flags.DEFINE_bool("overwrite", False, "replace output files that exist")
cli.define_cache_flag()


def peer(text: str) -> Method:
  """The method of NAME=FILE. Raises UserError where there is no such file, or nothing in it to enlarge with."""
  name, _, path = text.partition("=")
  if not name or not pathlib.Path(path).is_file():
    raise UserError(f"--peers={text}: write NAME=FILE, a Python file")
  spec = importlib.util.spec_from_file_location(pathlib.Path(path).stem, path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  if not hasattr(module, "enlarge"):
    raise UserError(f"'{path}' defines no function 'enlarge': see the top of experiments/peers.py")

  def solve(adapter: TiledAdapter, case: Case) -> Iterator[Result]:
    of = case.degradation
    sr = module.enlarge(case.lr, np.asarray(of.kernel), of.subsample, int(case.scale))
    if sr is not None:
      yield Result(0, images.to_uint8(np.clip(sr, 0, 1)), None)

  return Method(name, (0,), solve)


def main(argv: list[str]) -> None:
  """Enlarges everything, writes images and times."""
  del argv
  args = flags.FLAGS
  cli.start_jax()
  out = pathlib.Path(args.out)
  files.check_writable(out / "seconds.json", args.overwrite)
  degradations = {kernel: kernel_files.load_degradation(kernel) for kernel in args.kernels}
  programs = [methods.parse(name, [0], args.scale) for name in args.methods] + [peer(text) for text in args.peers]
  samples = benchmark.load_hr(args.hr_dir, args.scale)
  (adapter, *_) = pool.make_adapters(1, sizes=benchmark.lr_sizes(samples, args.scale))
  rows = []
  for kernel, degradation in degradations.items():
    lrs = [benchmark.lr_image(adapter, sample, degradation, args.scale) for sample in samples]
    cases = [Case(sample.name, kernel, lr, degradation, args.scale) for sample, lr in zip(samples, lrs)]
    for method in programs:
      for case in cases:
        method.warm_up(adapter, case)
      if method.name not in {row["method"] for row in rows}:  # what is loaded at the first call
        list(method.solve(adapter, cases[0]))
      seconds = []
      for case in cases:
        start = time.process_time()
        made = list(method.solve(adapter, case))
        seconds.append(time.process_time() - start)
        for result in made:
          images.write_png(out / method.name / kernel / f"{case.image}.png", result.sr, args.overwrite)
      if made:
        rows.append({"method": method.name, "kernel": kernel, "scale": args.scale, "s": float(np.mean(seconds))})
        print(rows[-1], flush=True)
  timing.report(f"CPU seconds, mean of {len(samples)} images", rows, str(out / "seconds.json"))


if __name__ == "__main__":
  cli.run(main)
