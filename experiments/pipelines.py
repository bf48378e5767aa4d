"""The default of `upscale` beside bicubic enlargement, on photos as cameras and programs make them.

    python -m experiments.pipelines --hr_dir=Set14 --out=runs/pipelines.json

Parts of HR photos (those of `--hr_dir`, sample photos of scikit-image, and drawings, text and screenshots made by seed) are
shrunk in the ways of `PIPELINES`, whose parameters are drawn for each pair of a photo and a pipeline. Each file is enlarged by
the default and by Pillow's bicubic, and both are compared with the part that was shrunk. Written as JSON, and as Markdown
beside it. The same seed and photos make the same files.
"""

import io
import pathlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import scipy.ndimage
from absl import flags
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from experiments import camera, outputs
from experiments.bench import timing
from mzsr_jax import cli, files, images, progress, weights
from mzsr_jax.core import resize
from mzsr_jax.core.kernels import Degradation
from mzsr_jax.evaluation import metrics
from mzsr_jax.inference.tiled import TiledAdapter
from mzsr_jax.photo import enhance
from mzsr_jax.photo import file as photo_file
from mzsr_jax.photo.file import Photo
from mzsr_jax.training import data

_EDGE = 40  # levels per pixel of the truth's luma from which on an edge is strong
_NEAR = 3  # pixels around, for what is near an edge and for the local range of the truth
_DRAWINGS = 2  # of each kind
_FILTERS = {"area": Image.Resampling.BOX, "Lanczos": Image.Resampling.LANCZOS, "bicubic": Image.Resampling.BICUBIC}


class Pipeline(NamedTuple):
  """How a photo comes to be. Pairs are ranges that a number is drawn from.

  Attributes:
    shrink: a filter of Pillow, or "optics", a Gaussian in linear light, then area.
    blur: standard deviation of the optics, LR pixels.
    noise: standard deviation at middle brightness, of 255. It grows with the root of the light, and is smooth, as demosaicing
      and denoising leave it.
    amount: of unsharp masking, percent.
    radius: of it, LR pixels.
    qualities: of JPEG files, one after another; of WebP where `webp` is set; none for PNG.
    webp: the format.
  """

  shrink: str
  blur: tuple[float, float] = (0.2, 0.7)
  noise: tuple[float, float] | None = None
  amount: tuple[float, float] | None = None
  radius: tuple[float, float] = (0.5, 2.0)
  qualities: tuple[tuple[int, int], ...] = ()
  webp: bool = False


PIPELINES = {
    "area": Pipeline("area"),
    "Lanczos": Pipeline("Lanczos"),
    "bicubic": Pipeline("bicubic"),
    "optics": Pipeline("optics"),
    "area, sharpened": Pipeline("area", amount=(50, 150)),
    "Lanczos, sharpened, JPEG": Pipeline("Lanczos", amount=(50, 100), radius=(0.5, 1.0), qualities=((80, 95),)),
    "bicubic, JPEG": Pipeline("bicubic", qualities=((60, 95),)),
    "area, WebP": Pipeline("area", qualities=((70, 90),), webp=True),
    "area, JPEG twice": Pipeline("area", qualities=((75, 95), (60, 90))),
    "camera, PNG": Pipeline("optics", noise=(1, 6)),
    "camera, JPEG": Pipeline("optics", noise=(1, 5), qualities=((75, 95),)),
    "camera, sharpened, JPEG": Pipeline("optics", noise=(1, 4), amount=(30, 120), qualities=((75, 95),)),
    "camera, sharpened, JPEG twice": Pipeline("optics", noise=(1, 4), amount=(30, 120), qualities=((80, 95), (60, 90))),
}


def define_flags() -> None:
  """Defines the flags of this entry."""
  flags.DEFINE_string("hr_dir", None, "folder of HR images, beside the sample photos and drawings")
  flags.DEFINE_integer("side", 256, "of the part of each image that is shrunk, HR pixels", lower_bound=64)
  flags.DEFINE_integer("scale", 2, "scale factor", lower_bound=2, upper_bound=4)
  flags.DEFINE_integer("seed", 0, "of all that is drawn", lower_bound=0)
  flags.DEFINE_string("weights", weights.DEFAULT, "that the default uses")
  outputs.define_flags("Markdown")
  cli.define_cache_flag()


def photo_of(hr: images.Pixels, pipeline: Pipeline, scale: int, rng: np.random.Generator) -> Photo:
  """What is read from the file that a pipeline makes of an HR image, whose sides `scale` divides."""
  between = lambda span: rng.uniform(*span)
  size = tuple(length // scale for length in hr.shape[1::-1])
  if pipeline.shrink == "optics":
    light = scipy.ndimage.gaussian_filter((hr / 255) ** 2.2, (scale * between(pipeline.blur),) * 2, axes=(0, 1))
    light = light.reshape(size[1], scale, size[0], scale, 3).mean((1, 3))
    lr = light ** (1 / 2.2)
    if pipeline.noise:
      smooth = scipy.ndimage.gaussian_filter(rng.standard_normal(lr.shape), (between((0.4, 0.8)),) * 2, axes=(0, 1))
      # The tone curve's slope takes from bright pixels what their light adds to the noise, and more.
      lr = lr + between(pipeline.noise) / 255 * smooth / smooth.std() * np.sqrt(0.5 / np.clip(lr, 0.1, 1)) ** 0.2
    pixels = Image.fromarray(images.to_uint8(lr))
  else:
    pixels = Image.fromarray(hr).resize(size, _FILTERS[pipeline.shrink])
  if pipeline.amount:
    pixels = pixels.filter(ImageFilter.UnsharpMask(between(pipeline.radius), round(between(pipeline.amount)), 0))
  extension = ".webp" if pipeline.webp else ".jpg" if pipeline.qualities else ".png"
  buffer = io.BytesIO()
  for span in pipeline.qualities or (None,):
    pixels = Image.open(buffer) if buffer.getbuffer() else pixels
    pixels.load()
    buffer = io.BytesIO()
    options = {} if span is None else {"quality": int(rng.integers(*span, endpoint=True))}
    pixels.save(buffer, images.FORMATS[extension], **options)  # Pillow's JPEG has half the chroma, 4:2:0
  return camera.read(buffer.getvalue(), extension)


def truths(folder: str | None, side: int) -> Iterator[tuple[str, images.Pixels]]:
  """Names and middles of all HR images; those that are smaller are left out."""
  paths = [*data.sample_photos(), *(images.find_images(pathlib.Path(folder)) if folder else ())]
  for path in paths:
    image = images.read_image(path)
    if min(image.shape[:2]) >= side:
      yield path.stem, images.center_crop(image, side)
  for i in range(_DRAWINGS):
    for kind in (text, line_art, screenshot):
      yield f"{kind.__name__}_{i}", kind(np.random.default_rng(i), side)


def text(rng: np.random.Generator, side: int) -> images.Pixels:
  """A page of letters, dark on light or light on dark."""
  dark, light = (tuple(map(int, rng.integers(*span, 3))) for span in ((0, 60), (200, 256)))
  ink, paper = (dark, light) if rng.random() < 0.7 else (light, dark)
  image = Image.new("RGB", (side, side), paper)
  canvas, y = ImageDraw.Draw(image), 4
  while y < side:
    height = int(rng.integers(9, 28))
    canvas.text((4, y), _words(rng, 12), fill=ink, font=ImageFont.load_default(height))
    y += round(1.4 * height)
  return np.array(image)


def line_art(rng: np.random.Generator, side: int) -> images.Pixels:
  """Circles and lines of several widths on white, without jagged edges."""
  fine = 4
  image = Image.new("RGB", (side * fine, side * fine), "white")
  canvas = ImageDraw.Draw(image)
  for _ in range(24):
    points = [float(x) for x in rng.uniform(0, side * fine, 4)]
    width, colour = int(rng.integers(1, 4 * fine)), tuple(map(int, rng.integers(0, 200, 3)))
    if rng.random() < 0.4:
      x, y, radius = points[0], points[1], points[2] / 5
      canvas.ellipse((x - radius, y - radius, x + radius, y + radius), outline=colour, width=width)
    else:
      canvas.line(points, fill=colour, width=width)
  return np.array(image.resize((side, side), Image.Resampling.BOX))


def screenshot(rng: np.random.Generator, side: int) -> images.Pixels:
  """Windows with titles and text, lines one pixel wide."""
  image = Image.new("RGB", (side, side), tuple(map(int, rng.integers(30, 200, 3))))
  canvas = ImageDraw.Draw(image)
  for _ in range(5):
    x, y = (int(v) for v in rng.integers(0, side * 2 // 3, 2))
    right, bottom = (int(v) for v in (x, y) + rng.integers(side // 4, side // 2, 2))
    canvas.rectangle((x, y, right, bottom), fill=(245, 245, 245), outline=(90, 90, 90))
    canvas.rectangle((x, y, right, y + 14), fill=tuple(map(int, rng.integers(0, 160, 3))))
    canvas.text((x + 4, y + 1), _words(rng, 2), fill="white", font=ImageFont.load_default(11))
    for line in range(y + 18, bottom - 12, 13):
      canvas.text((x + 5, line), _words(rng, 2), fill=(20, 20, 20), font=ImageFont.load_default(10))
  return np.array(image)


def _words(rng: np.random.Generator, count: int) -> str:
  """So many words of letters and figures."""
  letters = np.array(list("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"))
  return " ".join("".join(rng.choice(letters, int(rng.integers(2, 9)))) for _ in range(count))


def overshoot(sr: images.Pixels, gt: images.Pixels) -> float:
  """How far luma lies beyond the local range of the truth near its strong edges: the mean there, levels; 0 without such."""
  sr, gt = map(metrics.luma, (sr, gt))
  steep = np.hypot(*np.gradient(gt)) > _EDGE
  window = 2 * _NEAR + 1
  near = scipy.ndimage.binary_dilation(steep, np.ones((window, window)))
  low, high = (f(gt, window) for f in (scipy.ndimage.minimum_filter, scipy.ndimage.maximum_filter))
  return float(np.maximum(np.maximum(sr - high, low - sr), 0)[near].mean()) if near.any() else 0.0


def scores(sr: images.Pixels, gt: images.Pixels, border: int) -> dict[str, float]:
  """PSNR, SSIM, FLIP where its package is, and overshoot."""
  names = [name for name in ("psnr", "ssim", "flip") if name in metrics.METRICS]
  found = {name: metrics.METRICS[name](sr, gt, border) for name in names} | {"overshoot": overshoot(sr, gt)}
  return {name: round(value, 4) for name, value in found.items()}


def default_of(photo: Photo, adapter: TiledAdapter, recipe: enhance.Recipe, steps: int) -> tuple[images.Pixels, str]:
  """What the default makes of a photo, and a line about what it took the photo for."""
  for event in enhance.run(adapter, photo, recipe, [steps]):
    if isinstance(event, enhance.Estimated):
      about = f"{event.estimate.text}; noise {255 * event.recipe.degradation.noise_std:.1f}"
  return photo_file.on_white(event.photo), about


def summary(rows: list[dict[str, Any]]) -> dict[str, float]:
  """Of some pairs: how many, and how the default stands to bicubic."""
  gains = np.array([row["default"]["psnr"] - row["bicubic"]["psnr"] for row in rows])
  mean = lambda method, name: float(np.mean([row[method][name] for row in rows]))
  found = {"pairs": len(rows), "gain": float(gains.mean()), "better": float((gains > 0).mean()), "worst": float(gains.min())}
  found |= {name: mean("default", name) - mean("bicubic", name) for name in ("ssim", "flip") if name in rows[0]["default"]}
  return found | {f"overshoot of {method}": mean(method, "overshoot") for method in ("bicubic", "default")}


def markdown(rows: list[dict[str, Any]], before: list[dict[str, Any]] | None = None) -> str:
  """A line a pipeline, and one for all pairs; with `before`, what it was comes first in each cell."""
  lines, earlier = _lines(rows), _lines(before or rows)
  if before:
    lines = {n: {k: f"{earlier[n][k]} → {v}" if k != "pairs" else v for k, v in line.items()} for n, line in lines.items()}
  return timing.table([{"pipeline": name} | line for name, line in lines.items()]) + "\n"


def _lines(rows: list[dict[str, Any]]) -> dict[str, dict[str, str]]:
  """Cells by pipeline and column."""
  names = list(dict.fromkeys(row["pipeline"] for row in rows))
  groups = {name: [row for row in rows if row["pipeline"] == name] for name in names} | {"all": rows}
  return {name: _line(summary(group)) for name, group in groups.items()}


def _line(found: dict[str, float]) -> dict[str, str]:
  signed = lambda key, digits: f"{found[key]:+.{digits}f}"
  line = {"pairs": str(found["pairs"]), "gain, dB": signed("gain", 2), "better": f"{found['better']:.0%}"}
  line |= {"worst, dB": signed("worst", 2), "SSIM": signed("ssim", 4)}
  line |= {"FLIP": signed("flip", 4)} if "flip" in found else {}
  return line | {"overshoot, levels": f"{found['overshoot of default']:.2f} (bicubic {found['overshoot of bicubic']:.2f})"}


def main(argv: list[str]) -> None:
  """Makes the files, enlarges, compares."""
  del argv
  args = flags.FLAGS
  cli.start_jax()
  beside = outputs.check(".md")
  loaded = weights.load(args.weights)
  steps = enhance.default_steps(loaded)
  recipe = enhance.make_recipe(loaded, Degradation(None), args.scale, steps)
  side = args.side // args.scale * args.scale
  pairs = [(name, hr, pipeline) for name, hr in truths(args.hr_dir, side) for pipeline in PIPELINES]
  adapter = TiledAdapter(sizes=[(resize.shrunk_size(side, args.scale),) * 2])
  rows = []
  for number, (name, hr, pipeline) in enumerate(progress.track(pairs, len(pairs), "pair")):
    photo = photo_of(hr, PIPELINES[pipeline], args.scale, np.random.default_rng([args.seed, number]))
    lr = Image.fromarray(images.to_uint8(photo.rgb))
    enlarged, about = default_of(photo, adapter, recipe, steps)
    made = {"bicubic": np.array(lr.resize((side, side), Image.Resampling.BICUBIC)), "default": enlarged}
    row = {"photo": name, "pipeline": pipeline, "about": about}
    rows.append(row | {method: scores(sr, hr, args.scale) for method, sr in made.items()})
  table = markdown(rows)
  print(table)
  outputs.write({"scale": args.scale, "side": side, "seed": args.seed, "weights": args.weights, "pairs": rows,
                 "machine": timing.machine()})
  files.write_whole(beside, table.encode(), args.overwrite)


if __name__ == "__main__":
  define_flags()
  cli.run(main)
