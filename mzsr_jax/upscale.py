"""Super-resolves photos: adapts the network to each image and its blur kernel, without any ground truth.

  python -m mzsr_jax.upscale -i photo.jpg                                   # x2, kernel estimated, to results/photo.jpg
  python -m mzsr_jax.upscale -i photo.png -o out.png --kernel=g20d --scale=2 --preset=real
  python -m mzsr_jax.upscale -i photos -o results --kernel=kernel.mat --suffix=x3 --scale=3 --ext=png
"""

import functools
import glob
import itertools
import math
import pathlib
import sys
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from absl import flags, logging
from PIL import Image

from mzsr_jax import cli, decode, files, images
from mzsr_jax.core import resize
from mzsr_jax.core.kernels import Degradation
from mzsr_jax.errors import UserError
from mzsr_jax.inference import pool
from mzsr_jax.inference.tiled import TiledAdapter, network_passes
from mzsr_jax.photo import blind, enhance, kernel_files
from mzsr_jax.photo import file as photo_file
from mzsr_jax.photo.enhance import Recipe
from mzsr_jax.progress import Progress, say

AUTO = cli.AUTO
FIRST_FLAGS = ("input", "output", "scale", "kernel", "strength")  # that people need
USAGE = """usage: python -m mzsr_jax.upscale -i photo.jpg [-o out.png] [--scale=2] [--kernel=auto] [--strength=1]

  python -m mzsr_jax.upscale -i photo.jpg      # twice as large, to results/photo.jpg

--help lists all flags."""
EXTENSIONS = tuple(extension[1:] for extension in images.FORMATS)
# What flags that are not given are, by --preset: experiments/presets.py measures what each costs and gains. Steps are at most
# so many, and else as many as the weights gain by.
PRESETS = {None: {"back_projection": 0}, "fast": {"steps": 1, "back_projection": 10}, "real": {"back_projection": 10}}


def define_flags() -> None:
  """Defines the flags of this entry."""
  cli.define_adaptation_flags()
  flags.DEFINE_float(
      "strength", 1.0, "from 0, the plain bicubic enlargement, to 1, all that the network adds", lower_bound=0, upper_bound=1
  )
  flags.DEFINE_bool("save_kernel", False, "write an estimated kernel beside the result, as NAME_kernel.mat and NAME_kernel.png")
  flags.DEFINE_multi_string(
      "input", [], "LR image, folder of images (searched recursively), or pattern such as 'photos/*.jpg'; may be repeated, "
      "and further words of the command line are taken so too", short_name="i",
  )
  flags.DEFINE_string(
      "output", "results", "file to write, whose extension is the format, or folder for results of the inputs' names",
      short_name="o",
  )
  flags.DEFINE_float("scale", 2, "scale factor of the result, from 1 to 8, fractions too", short_name="s")
  flags.DEFINE_string("suffix", "", "in a folder, results are called NAME_SUFFIX.EXT")
  flags.DEFINE_enum("ext", AUTO, (AUTO, *EXTENSIONS), "format of results in a folder; auto: that of the input")
  flags.DEFINE_integer(
      "quality", photo_file.QUALITY, "of results in JPEG and WebP, but for those of lossless WebP, which stay so", 1, 100
  )
  flags.DEFINE_integer(
      "tile", 0, "largest side of the tiles that an image is worked on in, LR pixels, about; 0: as the memory limit allows. "
      "The result does not depend on it", short_name="t", lower_bound=0,
  )
  flags.DEFINE_string(
      "comparison", None, "also write bicubic | step 0 | step 1 | last step side by side: a PNG file, or a folder for several"
  )
  flags.DEFINE_string(
      "kernel", AUTO, "what blurred the image. auto, or photo: it is estimated. sharp: nothing, as in screenshots, art, and "
      f"what a program shrank. Where it is known: {kernel_files.SPECS}",
  )
  flags.DEFINE_enum(
      "preset", None, [name for name in PRESETS if name], "what --steps and --back_projection are, where they are not given"
  )
  flags.DEFINE_integer(
      "steps", None, "adaptation steps (default: 0 where the weights gain nothing by any, as universal; else 10, or 1 with "
      "--preset=fast)", lower_bound=0
  )
  flags.DEFINE_bool("self_ensemble", False, "the mean over the image flipped and turned; eight times the work, or less")
  flags.DEFINE_integer(
      "back_projection", None, "iterations, at most, that make the result agree with the photo under its kernel, but for noise",
      lower_bound=0,
  )
  flags.DEFINE(
      cli.NoiseLevelParser(), "noise_level", AUTO, "standard deviation of the photo's noise, of 255, or auto, which estimates "
      "it from the photo: the network adapts to sons that have as much", serializer=flags.ArgumentSerializer(),
  )


class Job(NamedTuple):
  """One image to read, and the files to make of it.

  Attributes:
    source: the image.
    output: what it is enlarged to; its extension is one of `images.FORMATS`.
    comparison: a PNG file, or None.
    kernel: where an estimated kernel is written, without extension; None where it is not.
    existing: what of all that exists and stays.
  """

  source: pathlib.Path
  output: pathlib.Path
  comparison: pathlib.Path | None
  kernel: pathlib.Path | None
  existing: frozenset[pathlib.Path] = frozenset()


def main(argv: list[str]) -> None:
  """Reads the flags and super-resolves each image. Of several, a bad one is reported and the others still done."""
  args = flags.FLAGS
  if len(sys.argv) == 1:
    print(USAGE, file=sys.stderr)
    sys.exit(2)
  estimates = args.kernel in (AUTO, "photo")
  if args.save_kernel and not estimates:
    raise UserError("--save_kernel writes a kernel that is estimated, and --kernel gives one: leave one of them out")
  jobs = plan([*args.input, *argv[1:]], args.output, args.comparison, args.overwrite, args.suffix, args.ext, args.save_kernel)
  if not jobs:
    return
  with Progress(len(jobs), "image") as progress:
    _make(jobs, estimates, progress)


def _make(jobs: Sequence[Job], estimates: bool, progress: Progress) -> None:
  """Makes all images, as the flags say; `estimates`: whether the kernel is that of each photo."""
  args, preset = flags.FLAGS, PRESETS[flags.FLAGS.preset]
  cli.start_jax()
  loaded = cli.load_weights()
  if estimates:
    degradation = Degradation(None, args.subsample or "direct")
  else:
    net_scale = enhance.network_scale(loaded, args.scale)
    flip = args.flip_kernel
    degradation = kernel_files.load_degradation(args.kernel, args.subsample, args.kernel_shift, net_scale, flip)
  gaining = enhance.default_steps(loaded)
  steps = min(preset.get("steps", gaining), gaining) if args.steps is None else args.steps
  back_projection = preset["back_projection"] if args.back_projection is None else args.back_projection
  noise_level = None if args.noise_level == AUTO else args.noise_level
  recipe = enhance.make_recipe(
      loaded, degradation, args.scale, steps, self_ensemble=args.self_ensemble, back_projection=back_projection,
      noise_level=noise_level, strength=args.strength,
  )  # fmt: skip
  shown = sorted({0, min(1, steps), steps}) if args.comparison else [steps]
  how = _how(steps, recipe)
  kernel, noise = "to be estimated" if estimates else args.kernel, _noise(noise_level)
  say(f"{len(jobs)} image{'s' * (len(jobs) > 1)}, x{args.scale:g}; kernel {kernel}; noise {noise}; {how}")

  room = functools.partial(_room, recipe=recipe, panels=len(shown) if args.comparison else 0)
  adapters = _adapters(jobs, recipe, room)
  make = functools.partial(_run, recipe=recipe, shown=shown, how=how, progress=progress, alone=len(jobs) == 1, room=room)
  failures, faults = 0, 0
  work = _work(recipe, shown)
  for adapter in adapters:
    adapter.on_progress = lambda passes: progress.advance(passes / work)
  for count, (job, result) in enumerate(zip(jobs, pool.map_images(functools.partial(_reported, make), jobs, adapters)), 1):
    progress.reach(count)
    expected = isinstance(result, (UserError, OSError))  # see `cli.run`
    if expected and len(jobs) == 1:
      raise result
    if isinstance(result, Exception):
      failures += 1
      faults += not expected
      cli.report(f"{job.source}: {result}" if expected else cli.fault(result, str(job.source)))
    else:
      say(result)
  if faults:
    sys.exit(1)
  if failures:
    raise UserError(f"{failures} of {len(jobs)} images failed, each named above; the others are done")


def _how(steps: int, recipe: Recipe) -> str:
  """What is done, in words, but for what each image has of its own."""
  args = flags.FLAGS
  words = [f"{steps or 'no'} step{'s' * (steps != 1)}"]
  words += [f"{recipe.back_projection} iterations of back-projection"] * bool(recipe.back_projection)
  words += ["self-ensemble"] * recipe.self_ensemble + [f"strength {recipe.strength:g}"] * (recipe.strength < 1)
  words += [f"preset {args.preset}"] * bool(args.preset)
  return "; ".join([*words, f"weights {args.weights}"])


def _noise(level: float | None) -> str:
  return "to be estimated" if level is None else f"{level:.1f} of 255"


def _work(recipe: Recipe, shown: Sequence[int]) -> float:
  """Passes of the network for an image, as far as they can be foretold."""
  known = recipe.degradation.kernel is not None
  turns = enhance.num_turns(recipe, (2, 2)) if known else 1
  return network_passes(shown[-1], len(shown) * turns, recipe.net_scale)


def _room(size: tuple[int, int], recipe: Recipe, panels: int) -> float | None:
  """Bytes for tiles beside an LR image of (height, width) and what is made of it, see `cli.memory_limit`, which raises."""
  # In pictures of 8 bits: a comparison holds bicubic, every panel, and twice the strip of them all; what is refined is held in
  # float32, with the sum of an ensemble, and some ten arrays of one channel in back-projection.
  pictures = 3 * (1 + panels) if panels else 1
  refined = recipe.self_ensemble or recipe.back_projection or recipe.scale != recipe.net_scale
  pictures += (8 + 13 * bool(recipe.back_projection)) if refined else 0
  blended = recipe.strength < 1 or recipe.degradation.kernel is None
  pictures += 2 * (4 if refined else 1) * blended
  return cli.memory_limit(math.prod(size), max(recipe.scale, recipe.net_scale), pictures)


def _adapters(jobs: Sequence[Job], recipe: Recipe, room: Callable[[tuple[int, int]], float | None]) -> list[TiledAdapter]:
  """Adapters for the images; of several, the sizes are announced, so that few programs do for all."""

  def fits(size: tuple[int, int]) -> bool:
    try:
      room(size)
    except UserError:
      return False
    return True

  # `_run` reports those that do not fit.
  sizes = [size for job in jobs if (size := images.image_size(job.source)) and fits(size)]
  limit = room(max(sizes, key=math.prod, default=(1, 1)))
  announced = sizes if len(jobs) > 1 else ()
  adapters = pool.make_adapters(len(jobs), limit, sizes=announced, precision=flags.FLAGS.precision)
  for adapter in adapters:
    if flags.FLAGS.tile:
      adapter.limit_tiles(resize.enlarged_size(flags.FLAGS.tile, recipe.net_scale))
  return adapters


def _reported(make, adapter: TiledAdapter, job: Job) -> str | Exception:
  """What `make` returns, or what it raises: one bad image, or one that shows a fault here, is no reason to drop the others."""
  try:
    return make(adapter, job)
  except Exception as e:
    if isinstance(e, MemoryError) or "RESOURCE_EXHAUSTED" in str(e):
      return UserError("the memory does not suffice: close other programs, or pass a smaller --memory_limit or --tile")
    return e


def _run(
    adapter: TiledAdapter, job: Job, *, recipe: Recipe, shown: Sequence[int], how: str, progress: Progress, alone: bool,
    room: Callable[[tuple[int, int]], float | None],
) -> str:  # fmt: skip
  """Makes one image; returns a line about it. Args: see `_make`; `how` is what is done, in words; `room`, see `_room`."""
  args, start = flags.FLAGS, time.perf_counter()
  if size := images.image_size(job.source):
    room(size)
  progress.phase(f"reading {job.source.name}")
  photo = photo_file.read(job.source)
  file_format = images.FORMATS[job.output.suffix.lower()]
  photo_file.check_format(photo, file_format, recipe.scale)
  if recipe.degradation.kernel is None:
    progress.phase(f"estimating the kernel of {job.source.name}")
  panels = {}
  for event in enhance.run(adapter, photo, recipe, shown):
    match event:
      case enhance.Estimated(recipe, estimate):
        kernel = f"estimated: {estimate.text}" if estimate else args.kernel
        about = f"kernel {kernel}; noise {_noise(255 * recipe.degradation.noise_std)}"
        if recipe.trusted < 1:
          about += f"; keeps {enhance.kept(photo, recipe).mean():.0%} of what the network adds"
        if alone:
          say(about)
        progress.phase(f"{'adapting' if shown[-1] else 'enlarging'} {job.source.name}")
        if job.comparison:
          panels["bicubic"] = photo_file.on_white(enhance.enlarge_plainly(photo, recipe.scale))
      case enhance.Adapted(step, params):
        if step == shown[-1]:
          progress.phase(f"enlarging {job.source.name}")
        elif job.comparison:
          panels[f"step {step}"] = photo_file.on_white(enhance.enlarge(adapter, params, photo, recipe))
      case enhance.Enlarged(result):
        made = {job.output: photo_file.encode(result, file_format, args.quality, str(job.output))}
  if estimate and job.kernel:
    made |= blind.encode(estimate, job.kernel)
  if job.comparison:
    panels[f"step {shown[-1]}"] = photo_file.on_white(result)
    made[job.comparison] = images.encode_png(images.side_by_side(list(panels.values()), list(panels)))
  for path, content in made.items():
    if path not in job.existing:
      files.write_whole(path, content, args.overwrite)
  (height, width), (sr_height, sr_width) = photo.rgb.shape[:2], result.rgb.shape[:2]
  sizes = f"{width}x{height} -> {sr_width}x{sr_height}"
  return f"{job.output}: {sizes}, {time.perf_counter() - start:.1f} s; {about}; {how}"


def plan(
    inputs: Sequence[str],
    output: str,
    comparison: str | None = None,
    overwrite: bool = False,
    suffix: str = "",
    ext: str = AUTO,
    save_kernels: bool = False,
) -> list[Job]:
  """What to read and what to write, checked as far as can be without decoding.

  Args:
    inputs: image files, folders of them, or patterns.
    output: for one image file, a file with the extension of a format; else a folder, where each image keeps its name, and its
      place below the folder that it was found in.
    comparison: likewise a .png file or a folder, or None.
    overwrite: whether outputs may exist; of several images, what exists else stays, and those that lack nothing are left out.
    suffix: of names in a folder.
    ext: of names in a folder; "auto": as the input's.
    save_kernels: whether estimated kernels are written too.

  Raises:
    UserError: no input, an output that exists, has no extension of a format, cannot be written, or would take two images or
      replace an input; a suffix that names a folder.
  """
  if pathlib.PurePath(suffix).name != suffix:
    raise UserError(f"--suffix={suffix}: it is a part of a name, without folders: name these by --output")
  found = _find(inputs)
  alone = len(found) == 1 and len(inputs) == 1 and pathlib.Path(inputs[0]).is_file()
  _check_output(output, alone)
  jobs, roots = [], []
  for source, (name, root) in found.items():
    if alone and pathlib.Path(output).suffix.lower() in images.FORMATS:
      target = pathlib.Path(output)
    else:
      stem = f"{name.stem}_{suffix}" if suffix else name.stem
      target = pathlib.Path(output) / name.with_name(stem + (_extension(source) if ext == AUTO else f".{ext}"))
    panels = comparison and pathlib.Path(comparison)
    if panels and not (alone and panels.suffix.lower() == ".png"):
      panels /= name.with_suffix(".png")
    jobs.append(Job(source, target, panels, target.with_name(f"{target.stem}_kernel") if save_kernels else None))
    roots.append(root)

  if not alone:
    jobs = _without_results(jobs, roots, output)
  taken = {job.source.resolve(): f"the input '{job.source}'" for job in jobs}
  for job in jobs:
    for target in _targets(job):
      if other := taken.get(target.resolve()):
        raise UserError(f"output '{target}' of '{job.source}' would replace {other}: name another, or rename one")
      taken[target.resolve()] = f"another output, of '{job.source}'"
  if not alone and not overwrite:
    jobs = [job._replace(existing=frozenset(target for target in _targets(job) if target.exists())) for job in jobs]
    lacking = [job for job in jobs if not job.existing.issuperset(_targets(job))]
    if done := len(jobs) - len(lacking):
      logging.warning("%d results exist and stay, %d are to be made; --overwrite makes all anew.", done, len(lacking))
    jobs = lacking
  for job in jobs:
    for target in _targets(job):
      files.check_writable(target, overwrite or target in job.existing)
  return jobs


def _check_output(output: str, alone: bool) -> None:
  """Raises UserError where the name of an output looks like an image that will not come to be."""
  path, written = pathlib.Path(output), ", ".join(images.FORMATS)
  if path.is_dir():
    return
  if path.suffix.lower() in images.FORMATS and not alone:
    raise UserError(f"output '{output}' names one image, and the input is several, or a folder: name a folder")
  unknown = path.suffix.lower() not in images.FORMATS
  if unknown and (path.suffix.lower() in Image.registered_extensions() or (alone and path.suffix)):
    raise UserError(f"output '{output}': {path.suffix} is not written; choose one of {written}, or name a folder: one that "
                    "exists, or has no dot in its name")


def _extension(source: pathlib.Path) -> str:
  """That of a result in its input's format: its own; by content where it has none that is written; .png for what is not."""
  if (own := source.suffix.lower()) in images.FORMATS:
    return own
  try:
    file_format = decode.header(source).file_format
  except UserError:  # reading it will say so
    file_format = "PNG"
  return next((extension for extension, known in images.FORMATS.items() if known == file_format), ".png")


def _without_results(jobs: Sequence[Job], roots: Sequence[pathlib.Path | None], output: str) -> list[Job]:
  """Jobs without those whose input an earlier run made.

  That is: the result of another input beside it, a kernel's picture, or, if it was found by a search from its root, what is in
  the output folder below this.
  """
  makers, folder = {job.output.resolve(): job.source.resolve() for job in jobs}, pathlib.Path(output).resolve()
  above = {root for root in set(roots) - {None} if root.resolve() in folder.parents}
  kept, named = [], []
  for job, root in zip(jobs, roots):
    source = job.source.resolve()
    maker = makers.get(source, source)
    if (
        (maker != source and maker.parent == source.parent)
        or (root in above and source.is_relative_to(folder))
        or (source.stem.endswith("_kernel") and source.with_suffix(".mat").exists())
    ):
      named += [job.source] * (root is None)
    else:
      kept.append(job)
  if named:
    logging.warning("%d inputs are left out, for an earlier run made them, such as '%s'.", len(named), named[0])
  return kept


def _targets(job: Job) -> list[pathlib.Path]:
  """All files that are made of an image."""
  return [job.output, *filter(None, [job.comparison]), *(blind.files_of(job.kernel) if job.kernel else ())]


def _find(inputs: Sequence[str]) -> dict[pathlib.Path, tuple[pathlib.Path, pathlib.Path | None]]:
  """By image: its name in an output folder, and the folder that it was searched from; None for that if it was named."""
  if not inputs:
    raise UserError("no input: pass -i with an image, a folder or a pattern")
  found = {}
  for text in inputs:
    path = pathlib.Path(text)
    if path.is_dir():
      found |= {file: (file.relative_to(path), path) for file in images.find_images(path) if file not in found}
    elif path.is_file():
      found[path] = pathlib.Path(path.name), None
    elif matches := [pathlib.Path(match) for match in sorted(glob.glob(text, recursive=True))]:
      pictures = [match for match in matches if match.suffix.lower() in images.EXTENSIONS and match.is_file()]
      root = pathlib.Path(*itertools.takewhile(lambda part: not glob.has_magic(part), path.parts))
      found |= {file: (pathlib.Path(file.name), root) for file in pictures if file not in found}
    else:
      raise UserError(f"input '{text}' does not exist: name an image file, a folder of them, or a pattern that fits some")
  if not found:
    raise UserError(f"input '{inputs[0]}' holds no image: looked for {', '.join(images.EXTENSIONS)}")
  return found


if __name__ == "__main__":
  define_flags()
  cli.run(main, arguments=10**6, first=FIRST_FLAGS)  # a shell turns `-i photos/*.jpg` into one input and many words
