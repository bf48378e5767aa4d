"""The table: methods x kernels on a set of images, PSNR-Y, SSIM-Y and time (Tables 1 to 5 of the paper)."""

import functools
import math
import pathlib
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import PyTree

from mzsr_jax import baselines, images, metrics, spread
from mzsr_jax.errors import UserError
from mzsr_jax.kernels import Degradation
from mzsr_jax.solver import Solver, degrade
from mzsr_jax.windows import Size

METHODS = (*baselines.BASELINES, "mzsr")


class Sample(NamedTuple):
  """One image of a benchmark set.

  Attributes:
    name: path inside the set, without extension and without a "_GT", "_HR" or "_LR" at its end.
    gt: (H, W, 3) uint8, the scale divides both sides.
    lr: (H / scale, W / scale, 3) uint8; None to make it from `gt` with each kernel.
  """

  name: str
  gt: images.Pixels
  lr: images.Pixels | None = None


class Method(NamedTuple):
  """One line of the table.

  Attributes:
    name: as in `METHODS`.
    steps: adaptation steps, 0 where there is no adaptation.
    params: of the network, None for a baseline without one.
    solve: (solver, lr, kind) -> sr: the LR image, float in [0, 1], and its degradation; 8-bit pixels.
  """

  name: str
  steps: int
  params: PyTree
  solve: Callable[[Solver, np.ndarray, Degradation], images.Pixels]


class Score(NamedTuple):
  """What one method made of one image. PSNR-Y in dB, SSIM-Y, and the seconds that it took, compilation left out."""

  method: str
  steps: int
  kernel: str
  image: str
  psnr: float
  ssim: float
  seconds: float


def baseline(name: str, scale: float) -> Method:
  """A method of `baselines.BASELINES`."""
  return Method(name, 0, None, functools.partial(baselines.BASELINES[name], scale=scale))


def mzsr(params: PyTree, inner_lrs: PyTree, steps: int, scale: float) -> Method:
  """MZSR with a number of adaptation steps (Algorithm 2), 0 of which leave the network as it is.

  Args:
    params: meta-trained parameters.
    inner_lrs: learning rates of `steps` steps or more, see `meta_test.adapt`.
    steps: adaptation steps.
    scale: scale factor.
  """

  def solve(solver, lr, kind):
    return solver.trajectory(params, lr, kind, [steps], scale, inner_lrs)[steps]

  return Method("mzsr", steps, params, solve)


def load_hr(hr_dir: str | pathlib.Path, scale: int) -> list[Sample]:
  """Reads HR images and crops them so that the scale divides both sides.

  Raises:
    UserError: see `images.find_images` and `images.read_image`; two images of one name, or one too small to be scored.
  """
  files = _by_name(hr_dir)
  samples = [Sample(name, images.crop_to_multiple(images.read_image(path), scale)) for name, path in files.items()]
  for sample in samples:
    _check_size(files[sample.name], sample.gt, scale)
  return samples


def load_pairs(lr_dir: str | pathlib.Path, gt_dir: str | pathlib.Path, scale: int) -> list[Sample]:
  """Reads LR images and their ground truth, matched by name.

  Raises:
    UserError: as `load_hr`; an image without its counterpart, or not `scale` times as large as it.
  """
  lr_files, gt_files = _by_name(lr_dir), _by_name(gt_dir)
  if lone := sorted(lr_files.keys() ^ gt_files.keys()):
    sides = ", ".join(f"{name} ({'LR' if name in lr_files else 'GT'} only)" for name in lone)
    raise UserError(f"images of '{lr_dir}' and '{gt_dir}' do not match: {sides}; only _LR, _GT, _HR may differ")
  samples = []
  for name, lr_path in lr_files.items():
    lr, gt = images.read_image(lr_path), images.read_image(gt_files[name])
    height, width = lr.shape[:2]
    if gt.shape[:2] != (height * scale, width * scale):
      raise UserError(
          f"'{gt_files[name]}' is {gt.shape[1]}x{gt.shape[0]}: at scale {scale} it must be {width * scale}x"
          f"{height * scale}, for '{lr_path}' is {width}x{height}"
      )
    _check_size(gt_files[name], gt, scale)
    samples.append(Sample(name, gt, lr))
  return samples


def _by_name(folder: str | pathlib.Path) -> dict[str, pathlib.Path]:
  """The images under a folder by `Sample.name`."""
  files: dict[str, pathlib.Path] = {}
  for path in images.find_images(folder):
    name = re.sub(r"_(gt|hr|lr)$", "", path.relative_to(folder).with_suffix("").as_posix(), flags=re.IGNORECASE)
    if name in files:
      raise UserError(f"'{files[name]}' and '{path}' have one name, '{name}': remove one of them")
    files[name] = path
  return files


def _check_size(path: pathlib.Path, gt: images.Pixels, scale: int) -> None:
  least = metrics.SSIM_WINDOW + 2 * scale
  if min(gt.shape[:2]) < least:
    raise UserError(f"'{path}' is too small to be scored at scale {scale}: both sides need at least {least} pixels")


def make_lr(gt: images.Pixels, kind: Degradation, scale: int, bucket: Size | None = None, device=None) -> images.Pixels:
  """The LR image of a ground truth whose sides the scale divides: blurred, subsampled, clipped, rounded to 8 bits.

  Args: see `solver.degrade`.
  """
  # In float64: in float32 a few values in 100,000 fall on the other side of a rounding.
  return images.to_uint8(degrade(gt / 255, kind, scale, bucket, np.float64, device))


def lr_sizes(samples: Iterable[Sample], scale: int) -> list[Size]:
  """Heights and widths of the LR images of a benchmark, for `Solver`."""
  return [(sample.gt.shape[0] // scale, sample.gt.shape[1] // scale) for sample in samples]


def run(
    samples: Sequence[Sample],
    degradations: dict[str, Degradation],
    methods: Sequence[Method],
    scale: int,
    solvers: Sequence[Solver] | None = None,
) -> Iterator[Score]:
  """Scores every method on every image under every degradation, images outermost.

  Time is taken for one image at a time, from the LR image to the SR image, both on the host; programs are compiled before,
  once for each bucket of image sizes.

  Args:
    samples: see `load_hr` and `load_pairs`.
    degradations: by the name that goes into the scores. Given LR images are not degraded again.
    methods: see `baseline` and `mzsr`.
    scale: whole number.
    solvers: images are spread over them; default: see `spread.make_solvers`.

  Raises:
    UserError: an adaptation diverged.
  """
  solvers = solvers or spread.make_solvers(len(samples), sizes=lr_sizes(samples, scale))
  score = functools.partial(_scores, degradations=degradations, methods=methods, scale=scale)
  for scores in spread.spread(score, samples, solvers):
    yield from scores


def _scores(solver: Solver, sample: Sample, degradations, methods, scale) -> list[Score]:
  """All scores of one image."""
  (size,) = lr_sizes([sample], scale)
  scores = []
  for kernel_name, kind in degradations.items():
    lr = sample.lr if sample.lr is not None else make_lr(sample.gt, kind, scale, solver.bucket(size), solver.devices[0])
    lr = images.to_float(lr)
    for method in methods:
      solver.warm_up(method.params, size, kind, scale)
    for method in methods:
      start = time.perf_counter()
      try:
        sr = method.solve(solver, lr, kind)
      except UserError as e:
        raise UserError(f"{method.name}, {method.steps} steps, on '{sample.name}' with {kernel_name}: {e}") from e
      seconds = time.perf_counter() - start
      psnr, ssim = metrics.psnr_y(sr, sample.gt, scale), metrics.ssim_y(sr, sample.gt, scale)
      scores.append(Score(method.name, method.steps, kernel_name, sample.name, psnr, ssim, seconds))
  return scores


def summarise(scores: Iterable[Score], scale: int) -> list[dict[str, Any]]:
  """Means over images, one dictionary per method, number of steps and kernel, ready for JSON.

  Keys: method, kernel, scale, steps, psnr (dB), ssim, seconds (mean per image), images (name, psnr, ssim of each). JSON
  has no infinity: the PSNR of an image without any error is None, and so is a mean that holds it.
  """
  groups: dict[tuple, list[Score]] = {}
  for score in scores:
    groups.setdefault((score.method, score.steps, score.kernel), []).append(score)

  def finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None

  return [
      {
          "method": method,
          "kernel": kernel,
          "scale": scale,
          "steps": steps,
          "psnr": finite(np.mean([s.psnr for s in group])),
          "ssim": float(np.mean([s.ssim for s in group])),
          "seconds": float(np.mean([s.seconds for s in group])),
          "images": [{"name": s.image, "psnr": finite(s.psnr), "ssim": s.ssim} for s in group],
      }
      for (method, steps, kernel), group in groups.items()
  ]


def table(results: Sequence[dict[str, Any]]) -> str:
  """The results of `summarise` as text: a line per method and number of steps, PSNR/SSIM in a column per kernel."""

  def cell(result: dict[str, Any]) -> str:
    return f"{math.inf if result['psnr'] is None else result['psnr']:.2f}/{result['ssim']:.4f}"

  kernels = list(dict.fromkeys(result["kernel"] for result in results))
  lines: dict[str, dict[str, str]] = {}
  for result in results:
    label = result["method"]
    if label not in baselines.BASELINES:
      label += f" ({result['steps']})"
    lines.setdefault(label, {})[result["kernel"]] = cell(result)
  rows = [["", *kernels], *([label, *(cells[k] for k in kernels)] for label, cells in lines.items())]
  widths = [max(map(len, column)) for column in zip(*rows)]
  return "\n".join("  ".join(text.ljust(width) for text, width in zip(row, widths)).rstrip() for row in rows)
