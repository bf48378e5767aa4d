"""The table: methods x kernels on a set of images, PSNR-Y, SSIM-Y and time (Tables 1 to 5 of the paper)."""

import functools
import math
import pathlib
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from absl import logging

from mzsr_jax import images
from mzsr_jax.core.kernels import Degradation
from mzsr_jax.errors import UserError
from mzsr_jax.evaluation import metrics
from mzsr_jax.evaluation.methods import Case, Method, Result, label
from mzsr_jax.inference import pool
from mzsr_jax.inference.tiled import TiledAdapter, make_lr
from mzsr_jax.inference.tiles import Size
from mzsr_jax.photo import kernel_files

_FINE = ("ssim", "flip")  # metrics from 0 to 1, shown with more digits


class Sample(NamedTuple):
  """One image of a benchmark set.

  Attributes:
    name: path inside the set, without extension and without a "_GT", "_HR", "_LR" or "_SR" at its end; of two that match, see
      `_match`, the shorter one.
    gt: (H, W, 3) uint8, the scale divides both sides.
    lr: (H / scale, W / scale, 3) uint8; None to make it from `gt` with each kernel.
    degradation: its own degradation, see `with_own_kernels`; None where all images have the same.
  """

  name: str
  gt: images.Pixels
  lr: images.Pixels | None = None
  degradation: Degradation | None = None


class Score(NamedTuple):
  """What one method made of one image.

  Attributes:
    values: of each of `metrics.METRICS`, dB or without unit.
    seconds: that it took, compilation left out; None where they mean nothing.
  """

  method: str
  steps: int
  kernel: str
  image: str
  values: dict[str, float]
  seconds: float | None


def outside(name: str, folder: str, samples: Sequence[Sample], kernel_names: Sequence[str], scale: int) -> Method:
  """SR images that another program made, matched to the set as `load_pairs` matches its images.

  They may be larger than their truth, which the scale divides, by up to `scale`, and are cropped then.

  Args:
    name: of the method, for the table.
    folder: of its images; "{kernel}" in it stands for the name of the degradation.
    samples: of the set.
    kernel_names: of the degradations.
    scale: scale factor.

  Raises:
    UserError: one folder for several degradations; images that are missing, too many, or not of the size of their truth.
  """
  if "{kernel}" not in folder and len(kernel_names) > 1:
    raise UserError(f"method '{name}' has one folder for {len(kernel_names)} kernels: put {{kernel}} into its path")
  sizes = {sample.name: sample.gt.shape[:2] for sample in samples}
  paths = {}
  for kernel in kernel_names:
    root = folder.replace("{kernel}", kernel)
    files = _by_name(root, results=True)
    names = _match(sizes, files, ("in the set", "there"), f"the set and the images of method '{name}' in '{root}'")
    for image in sizes:
      path = files[names[image]]
      size = images.read_image(path).shape[:2]  # all of it, so that one that is damaged costs no benchmark
      if not all(0 <= length - ours <= scale for length, ours in zip(size, sizes[image])):
        raise UserError(f"'{path}' is {size[1]}x{size[0]}: its truth has {sizes[image][1]}x{sizes[image][0]} pixels")
      paths[kernel, image] = path

  def solve(adapter: TiledAdapter, case: Case):
    height, width = sizes[case.image]
    yield Result(0, images.read_image(paths[case.kernel, case.image])[:height, :width], None)

  return Method(name, (0,), solve)


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
  """Reads LR images and their ground truth, matched by name, see `_match`.

  Where the scale does not divide the truth, LR images may be rounded down or up; both then are cropped, as `load_hr` crops.

  Raises:
    UserError: as `load_hr`; an image without its counterpart, or not `scale` times as large as it.
  """
  lr_files, gt_files = _by_name(lr_dir, results=True), _by_name(gt_dir, results=True)
  gt_names = _match(lr_files, gt_files, ("LR", "GT"), f"images of '{lr_dir}' and '{gt_dir}'")
  samples, cropped = [], []
  for name, lr_path in lr_files.items():
    gt_path = gt_files[gt_names[name]]
    lr, gt = images.read_image(lr_path), images.read_image(gt_path)
    (height, width), whole = lr.shape[:2], gt.shape[:2]
    if not all(length in (full // scale, -(-full // scale)) for length, full in zip(lr.shape, whole)):
      raise UserError(
          f"'{gt_path}' is {gt.shape[1]}x{gt.shape[0]}: at scale {scale} it must be {width * scale}x"
          f"{height * scale}, for '{lr_path}' is {width}x{height}"
      )
    gt = images.crop_to_multiple(gt, scale)
    _check_size(gt_path, gt, scale)
    if whole != gt.shape[:2]:
      cropped.append(name)
    samples.append(Sample(min(name, gt_names[name], key=len), gt, lr[: gt.shape[0] // scale, : gt.shape[1] // scale]))
  if cropped:
    logging.warning("The scale does not divide the truth of %s: cropped, and LR images with it.", ", ".join(cropped))
  return samples


def with_own_kernels(
    samples: Sequence[Sample],
    folder: str | pathlib.Path,
    load: Callable[[str], Degradation] = kernel_files.load_degradation,
) -> list[Sample]:
  """Gives each sample a kernel of its own, as in DIV2KRK (Bell-Kligler et al., KernelGAN, NeurIPS 2019).

  Args:
    samples: of the set.
    folder: of kernel files (`kernel_files.find_kernels`), matched to the images as `load_pairs` matches its own.
    load: of a kernel file's path, as `kernel_files.load_degradation`.

  Raises:
    UserError: no such folder, a kernel or an image without its counterpart, or a file that holds no usable kernel.
  """
  files = _by_name(folder, results=True, find=kernel_files.find_kernels)
  names = _match([sample.name for sample in samples], files, ("image", "kernel"), f"kernels of '{folder}' and images")
  return [sample._replace(degradation=load(str(files[names[sample.name]]))) for sample in samples]


_MAY_DIFFER = "names may differ in their extension, an end such as _GT, _HR, _LR, _SR, x2 or _x2_SR, or what follows a '_'"
_END = re.compile(r"(x[0-9]+)?([-_. ].*)?", re.IGNORECASE)  # of the longer of two names that match, after the shorter one


def _by_name(folder: str | pathlib.Path, results: bool = False, find=images.find_images) -> dict[str, pathlib.Path]:
  """The files that `find` finds, by `Sample.name`; with `results`, a scale at the end (_x2) does not belong to the name."""
  end = rf"{'(_x[0-9]+)?' if results else ''}(_(gt|hr|lr|sr))?$"
  files: dict[str, pathlib.Path] = {}
  for path in find(folder):
    name = re.sub(end, "", path.relative_to(folder).with_suffix("").as_posix(), flags=re.IGNORECASE)
    if name in files:
      raise UserError(f"'{files[name]}' and '{path}' have one name, '{name}': remove one of them")
    files[name] = path
  return files


def _match(ours: Iterable[str], theirs: Iterable[str], sides: tuple[str, str], what: str) -> dict[str, str]:
  """Which of their names belongs to each of ours.

  That is the equal one; or else the longest that begins it, or that it begins, but for an end such as x2 or _SwinIR, where this
  pairs all; or else, where none is equal, that of the same first number: im_7 goes with img_7_gt.

  Args:
    ours, theirs: names, see `_by_name`.
    sides: what each of them is called where one has no counterpart.
    what: both together, for that message.
  """
  ours, theirs = list(ours), list(theirs)
  if pairs := _by_beginning(ours, theirs) or {name: other for other, name in _by_beginning(theirs, ours).items()}:
    if unequal := [f"'{name}' with '{other}'" for name, other in pairs.items() if name != other]:
      logging.warning("%s are matched by the beginnings of their names: %s.", what, ", ".join(unequal))
    return pairs
  keyed = [{name: name for name in names} for names in (ours, theirs)]
  if not keyed[0].keys() & keyed[1].keys():
    numbered = [{int(n[0]): name for name in names if (n := re.findall("[0-9]+", name.split("/")[-1]))} for names in keyed]
    if [len(names) for names in numbered] == [len(names) for names in keyed]:  # each has one, and no two the same
      keyed = numbered
  ours, theirs = keyed
  lone = [f"{ours[key]} ({sides[0]} only)" for key in sorted(ours.keys() - theirs.keys())]
  lone += [f"{theirs[key]} ({sides[1]} only)" for key in sorted(theirs.keys() - ours.keys())]
  if lone:
    raise UserError(f"{what} do not match: {', '.join(lone)}; {_MAY_DIFFER}, or in all but their first number")
  return {name: theirs[key] for key, name in ours.items()}


def _by_beginning(short: Sequence[str], long: Sequence[str]) -> dict[str, str]:
  """Which of the long names belongs to each of the short ones: the longest that begins it does. Empty unless this pairs all."""
  pairs = {}
  for name in long:
    beginnings = [other for other in short if name.startswith(other) and _END.fullmatch(name, len(other))]
    pairs[max(beginnings, key=len, default=None)] = name
  return pairs if pairs.keys() == set(short) and len(short) == len(long) else {}


def _check_size(path: pathlib.Path, gt: images.Pixels, scale: int) -> None:
  least = metrics.SSIM_WINDOW + 2 * scale
  if min(gt.shape[:2]) < least:
    raise UserError(f"'{path}' is too small to be scored at scale {scale}: both sides need at least {least} pixels")


def lr_image(adapter: TiledAdapter, sample: Sample, degradation: Degradation, scale: int) -> np.ndarray:
  """The LR image of a sample, given or made with `make_lr`, as float32 in [0, 1]."""
  if sample.lr is not None:
    return images.to_float(sample.lr)
  (size,) = lr_sizes([sample], scale)
  return images.to_float(make_lr(sample.gt, degradation, scale, adapter.bucket(size), adapter.devices[0]))


def lr_sizes(samples: Iterable[Sample], scale: int) -> list[Size]:
  """Heights and widths of the LR images of a benchmark, for `TiledAdapter`."""
  return [(sample.gt.shape[0] // scale, sample.gt.shape[1] // scale) for sample in samples]


def run(
    samples: Sequence[Sample],
    degradations: dict[str, Degradation | None],
    methods: Sequence[Method],
    scale: int,
    adapters: Sequence[TiledAdapter] | None = None,
    observe: Callable[[Sample, Case, str, Result], None] | None = None,
) -> Iterator[Score]:
  """Scores every method on every image under every degradation, images outermost.

  Time is taken for one image at a time, from the LR image to the SR image, both on the host; programs are compiled before,
  once for each bucket of image sizes.

  Args:
    samples: see `load_hr` and `load_pairs`.
    degradations: by the name that goes into the scores; None stands for each sample's own. Given LR images are not degraded
      again.
    methods: see `methods.parse` and `outside`.
    scale: whole number.
    adapters: images are spread over them; default: see `pool.make_adapters`.
    observe: called with each sample, what a method was given of it, the method's name and its result.

  Raises:
    UserError: an adaptation diverged.
  """
  adapters = adapters or pool.make_adapters(len(samples), sizes=lr_sizes(samples, scale))
  score = functools.partial(_scores, degradations=degradations, methods=methods, scale=scale, observe=observe)
  for scores in pool.map_images(score, samples, adapters):
    yield from scores


def _scores(adapter: TiledAdapter, sample: Sample, degradations, methods, scale, observe) -> list[Score]:
  """All scores of one image."""
  scores = []
  for kernel_name, degradation in degradations.items():
    degradation = degradation or sample.degradation
    lr = lr_image(adapter, sample, degradation, scale)
    case = Case(sample.name, kernel_name, lr, degradation, scale)
    for method in methods:
      method.warm_up(adapter, case)
    for method in methods:
      try:
        for result in method.solve(adapter, case):
          values = {name: metric(result.sr, sample.gt, scale) for name, metric in metrics.METRICS.items()}
          scores.append(Score(method.name, result.steps, kernel_name, sample.name, values, result.seconds))
          if observe:
            observe(sample, case, method.name, result)
      except UserError as e:
        raise UserError(f"{method.name} on '{sample.name}' with {kernel_name}: {e}") from e
  return scores


def summarise(scores: Iterable[Score], scale: int) -> list[dict[str, Any]]:
  """Means over images, one dictionary per method, number of steps and kernel, ready for JSON.

  Keys: method, kernel, scale, steps, those of `metrics.METRICS`, seconds (mean per image; None: not timed), images (name and
  metrics of each). JSON has no infinity: the PSNR of an image without any error is None, and so is a mean that holds it.
  """
  groups: dict[tuple, list[Score]] = {}
  for score in scores:
    groups.setdefault((score.method, score.steps, score.kernel), []).append(score)

  def finite(values: dict[str, float]) -> dict[str, float | None]:
    return {name: float(value) if math.isfinite(value) else None for name, value in values.items()}

  def seconds(group: list[Score]) -> float | None:
    return None if group[0].seconds is None else float(np.mean([s.seconds for s in group]))

  return [
      {
          "method": method,
          "kernel": kernel,
          "scale": scale,
          "steps": steps,
          **finite({name: np.mean([s.values[name] for s in group]) for name in group[0].values}),
          "seconds": seconds(group),
          "images": [{"name": s.image, **finite(s.values)} for s in group],
      }
      for (method, steps, kernel), group in groups.items()
  ]


def table(results: Sequence[dict[str, Any]], shown: Sequence[str] = ("psnr", "ssim")) -> str:
  """The results of `summarise` as text: a line per method and number of steps, a column per kernel; the metrics in the corner.

  Args:
    results: see `summarise`.
    shown: the metrics in each cell, between slashes.
  """

  def cell(result: dict[str, Any]) -> str:
    values = {name: math.inf if result[name] is None else result[name] for name in shown}
    return "/".join(f"{value:.4f}" if name in _FINE else f"{value:.2f}" for name, value in values.items())

  lines = [(label(result["method"], result["steps"]), result["kernel"], cell(result)) for result in results]
  return _grid(lines, "/".join(shown))


def differences(results: Sequence[dict[str, Any]], reference: str, metric: str) -> list[dict[str, Any]]:
  """How much better each method is than one of them, over the same images: whether it is more than chance among few images.

  Args:
    results: see `summarise`.
    reference: `methods.label` of the method to compare with, one of the results.
    metric: one of `metrics.METRICS`.

  Returns:
    Dictionaries of label, kernel, metric, mean, low and high, see `interval`; None stands for what is undefined, as a
    difference of infinite values is.
  """
  values = {(label(r["method"], r["steps"]), r["kernel"]): [image[metric] for image in r["images"]] for r in results}
  made = []
  for (name, kernel), row in values.items():
    if name == reference:
      continue
    other = values[reference, kernel]
    mean, low, high = (None,) * 3 if None in row or None in other else interval(np.subtract(row, other))
    made.append({"label": name, "kernel": kernel, "metric": metric, "mean": mean, "low": low, "high": high})
  return made


def interval(by_image: np.ndarray) -> tuple[float, float | None, float | None]:
  """The mean over images, and the ends of its 95% interval; None for those of a single image, or of values that are not finite.

  By bootstrap over images, with percentiles, which few images do not make undefined.
  """
  import scipy.stats  # here, since it takes a second that few need

  mean = float(by_image.mean())
  if len(by_image) < 2 or not math.isfinite(mean):
    return mean, None, None
  found = scipy.stats.bootstrap((by_image,), np.mean, method="percentile", rng=0).confidence_interval
  return mean, float(found.low), float(found.high)


def difference_text(row: dict[str, Any]) -> str:
  """One of `differences` as text: "+0.12 [-0.03, +0.30]"; "?" for what is undefined."""
  return interval_text(row["mean"], row["low"], row["high"], 4 if row["metric"] in _FINE else 2)


def interval_text(mean: float | None, low: float | None, high: float | None, digits: int) -> str:
  """A mean and its interval as text, see `difference_text`."""
  mean, low, high = ("?" if value is None else f"{value:+.{digits}f}" for value in (mean, low, high))
  return f"{mean} [{low}, {high}]"


def differences_table(rows: Sequence[dict[str, Any]]) -> str:
  """`differences` as text, laid out like `table`."""
  return _grid([(row["label"], row["kernel"], difference_text(row)) for row in rows])


def _grid(cells: Sequence[tuple[str, str, str]], corner: str = "") -> str:
  """Cells of (line, column, text) as aligned text; in its corner, what the texts are."""
  columns = list(dict.fromkeys(column for _, column, _ in cells))
  lines: dict[str, dict[str, str]] = {}
  for line, column, text in cells:
    lines.setdefault(line, {})[column] = text
  rows = [[corner, *columns], *([line, *(texts[c] for c in columns)] for line, texts in lines.items())]
  widths = [max(map(len, column)) for column in zip(*rows)]
  return "\n".join("  ".join(text.ljust(width) for text, width in zip(row, widths)).rstrip() for row in rows)
