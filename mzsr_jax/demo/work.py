"""What the demo does to a photo: a part of it at once, the whole on request."""

import contextlib
import math
import pathlib
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import numpy as np
from PIL import Image

from mzsr_jax import decode, files, images, weights
from mzsr_jax import progress as progress_lib
from mzsr_jax.core import kernels, networks
from mzsr_jax.demo import crop
from mzsr_jax.errors import UserError
from mzsr_jax.inference import plain as plain_lib
from mzsr_jax.inference.tiled import TiledAdapter, network_passes
from mzsr_jax.photo import blind, enhance, kernel_files, response
from mzsr_jax.photo import file as photo_file
from mzsr_jax.photo.enhance import Recipe
from mzsr_jax.photo.file import Photo

MIN_SCALE, MAX_SCALE, MAX_STEPS, MAX_NOISE = 1.5, 4.0, 10, 50
MIN_BLUR, MAX_BLUR = 0.1, 1.25  # standard deviations, pixels of the photo
AUTO, CUSTOM, FILE = "auto", "custom", "file"
KERNELS = {
    AUTO: "Find it in the photo",
    kernel_files.SHARP: "None: a screenshot, a drawing, or sharp already",
    "bicubic": "None: a program made it smaller (bicubic)",
    CUSTOM: "As wide as I say below",
    FILE: "As a file says …",
}
_MAX_KERNEL = 101  # pixels a side: a job can be stopped between pieces of work alone, and each grows with the kernel
_PART = 360, 480  # SR pixels of the part: with what it depends on, one tile of the default memory
_COMPARED = 1500, 2000  # SR pixels that are looked at of the whole
_THUMBNAIL = 640  # pixels, side
_LOST = 0.2  # mean difference from the bicubic picture that no result has which still shows the photo


class Limits(NamedTuple):
  """What one job may ask for.

  Attributes:
    megapixels: of the photo.
    seconds: of work, from when it is its turn.
  """

  megapixels: float
  seconds: float

  @property
  def upload_bytes(self) -> int:
    """Of a file: four channels of 16 bits that do not compress, and as much metadata as cameras write."""
    return int(self.megapixels * 8e6) + 2**24


class JobRequest(NamedTuple):
  """What a visitor asks for.

  Attributes:
    photo: the file; None where none was given.
    kernel: one of `KERNELS`.
    gaussian: for "custom": standard deviations along two axes, pixels of the photo, and the angle of the first, degrees, from
      rightwards towards downwards.
    kernel_file: for "file".
    scale: from 1.5 to 4.
    steps: from 0 to 10.
    noise_level: standard deviation of the photo's noise, of 255; None has it estimated.
    strength: from 0, the plain enlargement, to 1.
    png: whether the result is a PNG file, whatever the photo is.
    place: (x, y) of the middle of the part that is looked at, in widths and heights of the photo.
    whole: whether the whole photo is enlarged, or that part.
  """

  photo: pathlib.Path | None
  kernel: str = AUTO
  gaussian: tuple[float, float, float] = (0.5, 0.5, 0.0)
  kernel_file: pathlib.Path | None = None
  scale: float = 2.0
  steps: int = 0
  noise_level: float | None = None
  strength: float = 1.0
  png: bool = False
  place: tuple[float, float] = (0.5, 0.5)
  whole: bool = True


class JobStatus(NamedTuple):
  """What a page shows of a job. Pictures are PNG files.

  Attributes:
    status: a line.
    failed: whether the line says why there is no result.
    stopped: and that is because the visitor did not want it any more.
    pair: the part enlarged by bicubic interpolation, and by the network.
    frame: width and height of the part, in those of the photo.
    kernel: a picture of the kernel.
    kernel_text: a line about it.
    kernel_file: the estimated kernel, .mat.
    gaussian: the estimated kernel as a Gaussian, see `JobRequest`.
    noise_level: see `JobRequest`.
    foretold: seconds that the whole photo will take; told when the part is done.
    result: the enlarged photo.
  """

  status: str
  failed: bool = False
  stopped: bool = False
  pair: tuple[pathlib.Path, pathlib.Path] | None = None
  frame: tuple[float, float] = (1.0, 1.0)
  kernel: pathlib.Path | None = None
  kernel_text: str = ""
  kernel_file: pathlib.Path | None = None
  gaussian: tuple[float, float, float] | None = None
  noise_level: float = 0.0
  foretold: float | None = None
  result: pathlib.Path | None = None

  @property
  def done(self) -> bool:
    """Whether it is the last of a job that succeeded."""
    return self.foretold is not None or self.result is not None

  @property
  def last(self) -> bool:
    """Whether it is the last of a job."""
    return self.done or self.failed


class Worker:
  """Works on photos, and remembers of the last one what the next job mostly needs too."""

  def __init__(self, limits: Limits, memory: Callable[[int, float, int], float | None] = lambda *_: None):
    """Makes a worker.

    Args:
      limits: of a job.
      memory: of LR pixels, scale and pictures, see `cli.memory_limit`.
    """
    self.limits = limits
    self._memory = memory
    self._photo: tuple[pathlib.Path, Photo] | None = None
    self._estimated: tuple[JobRequest, enhance.Estimated] | None = None
    self._made: tuple[JobRequest, Photo, Photo] | None = None  # of a part: the plain one, and the network's
    self._speed: float | None = None  # seconds that a part took of a pass over a pixel, see `network_passes`

  def look(self, path: pathlib.Path) -> tuple[str, images.Pixels]:
    """A line about a photo, and a small picture of it.

    Raises:
      UserError: the file is not a photo, or too large.
    """
    photo = self._read(path)
    height, width = photo.rgb.shape[:2]
    kinds = [f"{width}×{height}", f"{photo.bits} bits", *["gray"] * photo.gray, *["transparency"] * (photo.alpha is not None)]
    every = slice(None, None, max(1, max(height, width) // (2 * _THUMBNAIL)))  # the rest would only take time
    shown = Image.fromarray(photo_file.on_white(crop.cut(photo, crop.Part(every, every))))
    shown.thumbnail((_THUMBNAIL, _THUMBNAIL))
    return f"{path.name}: {', '.join(kinds)}.", np.asarray(shown)

  def forget(self) -> None:
    """Drops what is remembered of the last photo."""
    self._photo = self._estimated = self._made = None

  def work(
      self, wanted: JobRequest, job: pathlib.Path, check: Callable[[], None], progress: Callable[[float], None]
  ) -> Iterator[JobStatus]:
    """Does what is wanted.

    Args:
      wanted: see `JobRequest`.
      job: a folder for the files of it, which is made.
      check: called between pieces of work; what it raises ends the job.
      progress: told how much of the whole photo is done, from 0 to 1.

    Raises:
      UserError: what is wanted cannot be done.
    """
    _check_request(wanted)
    if wanted.kernel != CUSTOM:  # what the page says beside it is what was estimated
      wanted = wanted._replace(gaussian=JobRequest(None).gaussian)
    if not self._photo or self._photo[0] != wanted.photo:
      yield JobStatus("Reading the photo …")
    photo = self._read(wanted.photo)
    photo_file.check_format(photo, _format(wanted), wanted.scale)
    check()
    if not self._estimated or self._estimated[0] != _what_estimates_depend_on(wanted):
      yield JobStatus("Looking for blur and noise …")
    recipe, estimate = self._estimate(photo, wanted)
    check()
    shown = _about(wanted, recipe, estimate, job)
    yield from (self._whole if wanted.whole else self._part)(photo, recipe, wanted, shown, job, check, progress)

  def _part(self, photo, recipe: Recipe, wanted: JobRequest, shown: JobStatus, job, check, progress) -> Iterator[JobStatus]:
    """The part of the photo, as the whole photo will have it."""
    del progress
    size = photo.rgb.shape[:2]
    adapter = TiledAdapter(memory_limit=self._memory(size[0] * size[1], 0, 0))
    adapter.on_progress = lambda passes: check()
    part, net = crop.around(wanted.place, size, wanted.scale, _PART), networks.of(recipe.params)
    wide = crop.widened(part, size, wanted.scale, net.reach(wanted.scale), net.cell(wanted.scale))
    given, inner = crop.cut(photo, wide), crop.enlarged(part, wanted.scale, wide)
    height, width = part.size
    shown = shown._replace(frame=(width / size[1], height / size[0]))
    picture = lambda name, made: _write_picture(job / f"{name}.png", photo_file.on_white(crop.cut(made, inner)))
    known = wanted._replace(strength=1.0, png=False)
    if (last := self._made) and last[0] == known:
      _, plain, made = last
      before = picture("before", plain)
    else:
      plain = enhance.enlarge_plainly(given, recipe.scale)
      before = picture("before", plain)
      yield shown._replace(status="Enlarging this part …", pair=(before, before))
      start, compiling = time.perf_counter(), []
      with _seconds_of_compiling(compiling):
        for event in enhance.run(adapter, given, recipe._replace(strength=1.0), range(wanted.steps + 1)):
          check()
          match event:
            case enhance.Adapted(step, params) if step < wanted.steps:
              after = picture(f"step_{step}", enhance.enlarge(adapter, params, given, recipe))
              yield shown._replace(status=f"Step {step} of {wanted.steps}", pair=(before, after))
            case enhance.Enlarged(made):
              took = time.perf_counter() - start - sum(compiling)
      # What it is widened by is worked on too; of the whole photo, that is little.
      self._speed = max(took, 1e-3) / (_passes(wanted, recipe) * given.rgb.shape[0] * given.rgb.shape[1])
      _check_likeness(plain, made)
      self._made = known, plain, made
    after = picture("after", made if wanted.strength == 1 else enhance.blend(plain, made, wanted.strength))
    check()
    yield shown._replace(status="This part is done.", pair=(before, after), foretold=self._foretold(size, wanted, recipe))

  def _whole(self, photo, recipe: Recipe, wanted: JobRequest, shown: JobStatus, job, check, progress) -> Iterator[JobStatus]:
    """The whole photo, as a file."""
    start, size = time.perf_counter(), photo.rgb.shape[:2]
    if (foretold := self._foretold(size, wanted, recipe) or 0) > self.limits.seconds:
      most = duration(self.limits.seconds)
      raise UserError(f"the whole photo would take about {duration(foretold)}, and here it may take {most}: take a smaller "
                      "scale or fewer steps, or start the demo with a higher --max_seconds")
    # In 8 bits; or in float32, with several of them.
    pictures = 2 if recipe.strength == 1 and recipe.scale == recipe.net_scale else 10
    adapter = TiledAdapter(memory_limit=self._memory(size[0] * size[1], max(recipe.scale, recipe.net_scale), pictures))
    done = 0.0

    def on_progress(passes: float) -> None:
      nonlocal done
      check()
      done += passes / _passes(wanted, recipe)
      progress(min(done, 1.0))

    adapter.on_progress = on_progress
    yield JobStatus("Enlarging the whole photo …")
    for event in enhance.run(adapter, photo, recipe, [wanted.steps]):
      check()
      if isinstance(event, enhance.Enlarged):
        result = event.photo
    part = crop.around(wanted.place, size, wanted.scale, _COMPARED)
    wide = crop.widened(part, size, wanted.scale, plain_lib.REACH * wanted.scale)
    plain = enhance.enlarge_plainly(crop.cut(photo, wide), recipe.scale)
    plain = crop.cut(plain, crop.enlarged(part, wanted.scale, wide))
    made = crop.cut(result, crop.enlarged(part, wanted.scale))
    _check_likeness(plain, made)
    pair = tuple(_write_picture(job / f"{name}.png", photo_file.on_white(each))
                 for name, each in {"before": plain, "after": made}.items())
    yield JobStatus("Writing the file …")
    path = job / f"{wanted.photo.stem}_x{wanted.scale:g}{_suffix(wanted)}"
    files.write_whole(path, photo_file.encode(result, _format(wanted)), overwrite=True)
    check()
    sizes = "{1}×{0} → {3}×{2}".format(*size, *result.rgb.shape[:2])
    steps = f", {wanted.steps} steps" * (wanted.steps > 0)
    status = f"Done: {sizes}{steps}, {time.perf_counter() - start:.1f} s"
    frame = tuple(inner / outer for inner, outer in zip(part.size[::-1], size[::-1]))
    yield shown._replace(status=status, pair=pair, frame=frame, result=path)

  def _read(self, path: pathlib.Path) -> Photo:
    known = self._photo  # once: another page may look at its photo meanwhile
    if not known or known[0] != path:
      self.forget()
      known = self._photo = path, _read(path, self.limits)
    return known[1]

  def _estimate(self, photo: Photo, wanted: JobRequest) -> tuple[Recipe, blind.Estimate | None]:
    """What is to be done, with what is known of the whole photo; and what was estimated of its kernel."""
    loaded = weights.load(weights.DEFAULT)
    net_scale = enhance.network_scale(loaded, wanted.scale)
    degradation = kernels.Degradation(None) if wanted.kernel == AUTO else _kernel(wanted, net_scale)
    options = {"noise_level": wanted.noise_level, "strength": wanted.strength}
    recipe = enhance.make_recipe(loaded, degradation, wanted.scale, wanted.steps, **options)
    known = _what_estimates_depend_on(wanted)
    before = self._estimated
    found = before[1] if before and before[0] == known else enhance.estimate(photo, recipe)
    self._estimated = known, found
    return found.recipe._replace(inner_lrs=recipe.inner_lrs, strength=recipe.strength), found.estimate

  def _foretold(self, size: tuple[int, int], wanted: JobRequest, recipe: Recipe) -> float | None:
    """Seconds that the whole photo will take, by those that the last part did."""
    return self._speed and self._speed * _passes(wanted, recipe) * size[0] * size[1]


def duration(seconds: float) -> str:
  """A time in words, as exactly as it can be foretold."""
  if seconds < 60:
    return f"{max(1, round(seconds))} s"
  return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def default_steps() -> int:
  """Steps that the page proposes; 0 where the network gains nothing by them."""
  return min(enhance.default_steps(weights.load(weights.DEFAULT)), MAX_STEPS)


def _what_estimates_depend_on(wanted: JobRequest) -> JobRequest:
  return wanted._replace(strength=1.0, png=False, steps=0, place=(0.5, 0.5), whole=True)


def _passes(wanted: JobRequest, recipe: Recipe) -> float:
  return network_passes(wanted.steps, 1, recipe.net_scale)


@contextlib.contextmanager
def _seconds_of_compiling(seconds: list[float]) -> Iterator[None]:
  """Collects what compiling programs takes, which is done once."""
  kinds = progress_lib.LOWERED, progress_lib.COMPILED
  listener = lambda event, duration, **_: seconds.append(duration) if event in kinds else None
  jax.monitoring.register_event_duration_secs_listener(listener)
  try:
    yield
  finally:
    jax.monitoring.unregister_event_duration_listener(listener)


def _about(wanted: JobRequest, recipe: Recipe, estimate: blind.Estimate | None, job: pathlib.Path) -> JobStatus:
  """What is known of the photo."""
  gaussian = kernel_file = None
  if estimate:
    stem = job / f"{wanted.photo.stem}_kernel"
    blind.save(estimate, stem, overwrite=True)
    kernel_file, picture = blind.files_of(stem)
    widths = np.clip(estimate.sigmas / recipe.net_scale, MIN_BLUR, MAX_BLUR)
    gaussian, text = (*map(float, widths), math.degrees(estimate.theta)), estimate.text
  else:
    picture = _write_picture(job / "kernel.png", blind.picture(recipe.degradation.kernel))
    along, across, angle = wanted.gaussian
    text = {
        CUSTOM: f"{along:.2f} × {across:.2f} pixels of the photo, at {angle:.0f}°",
        FILE: wanted.kernel_file and wanted.kernel_file.name,
    }.get(wanted.kernel, KERNELS[wanted.kernel])
  return JobStatus(
      "", kernel=picture, kernel_text=text, kernel_file=kernel_file, gaussian=gaussian, noise_level=recipe.noise_level
  )


def _check_likeness(plain: Photo, made: Photo) -> None:
  """Raises UserError where the result no longer shows the photo."""
  before, after = (photo_file.on_white(photo).astype(np.int16) for photo in (plain, made))
  if np.abs(after - before).mean() > 255 * _LOST:
    raise UserError("the result diverged: take fewer steps, or a blur that fits the photo better")


def _check_request(wanted: JobRequest) -> None:
  """Raises UserError where an order is not within bounds, which a page alone would see to."""
  if wanted.photo is None:
    raise UserError("no photo: drop one on the page, or try the example")
  if wanted.kernel not in KERNELS:
    raise UserError(f"unknown kernel '{wanted.kernel}'")
  if wanted.kernel == FILE and wanted.kernel_file is None:
    raise UserError("no kernel file: choose a .mat or .npy file, or another kernel")
  along, across, angle = wanted.gaussian
  bounds = {
      "scale": (wanted.scale, MIN_SCALE, MAX_SCALE), "steps": (wanted.steps, 0, MAX_STEPS),
      "noise": (wanted.noise_level or 0, 0, MAX_NOISE), "strength": (wanted.strength, 0, 1),
      "blur": (along, MIN_BLUR, MAX_BLUR), "blur across": (across, MIN_BLUR, MAX_BLUR), "direction": (angle, 0, 180),
      "place": (wanted.place[0], 0, 1), "place down": (wanted.place[1], 0, 1),
  }  # fmt: skip
  for name, (value, least, most) in bounds.items():
    if not least <= value <= most:
      raise UserError(f"{name} {value:g}: it must be from {least:g} to {most:g}")


def _kernel(wanted: JobRequest, net_scale: float) -> kernels.Degradation:
  """The kernel of an order that names one."""
  if wanted.kernel == CUSTOM:
    *widths, angle = wanted.gaussian
    centre = kernel_files.cell_centre(net_scale, "direct")
    shape = *((net_scale * width) ** 2 for width in widths), math.radians(angle)
    kernel = kernels.exact_gaussian(shape, response.kernel_size(net_scale), centre)
    return kernels.Degradation(np.float32(kernel), "direct", centre)
  spec = f"{wanted.kernel_file}" if wanted.kernel == FILE else wanted.kernel
  degradation = kernel_files.load_degradation(spec, photo_scale=net_scale)
  if len(degradation.kernel) > _MAX_KERNEL:
    raise UserError(f"the kernel is {len(degradation.kernel)} pixels wide: here it may have at most {_MAX_KERNEL}")
  return degradation


def _suffix(wanted: JobRequest) -> str:
  return ".png" if wanted.png else wanted.photo.suffix.lower()


def _format(wanted: JobRequest) -> str:
  return images.FORMATS[_suffix(wanted)]


def _read(path: pathlib.Path, limits: Limits) -> Photo:
  """The photo, whose size is looked at before it is decoded.

  Raises:
    UserError: no photo, or one that is too large.
  """
  if path.suffix.lower() not in images.FORMATS:
    raise UserError(f"'{path.name}' is no photo of a known format: choose one of {', '.join(images.FORMATS)}")
  if not path.is_file():
    raise UserError("the photo is no longer here: choose it again")
  known = set(images.FORMATS.values())
  try:
    (height, width), file_format, _ = decode.header(path)
    if file_format not in known:  # whatever its name says
      raise UserError(f"'{path.name}' cannot be read: it is a {file_format} file, and none of {', '.join(sorted(known))}")
    if height * width > limits.megapixels * 1e6:
      raise UserError(f"the photo has {height * width / 1e6:.3g} megapixels, and here it may have {limits.megapixels:g}: make "
                      "it smaller, or start the demo with a higher --max_megapixels")
    photo = photo_file.read(path)
  except UserError as e:
    raise UserError(str(e).replace(f"{path}", path.name)) from e
  if photo.rgb.shape[0] * photo.rgb.shape[1] > limits.megapixels * 1e6:  # a header that lied
    raise UserError(f"the photo has more than {limits.megapixels:g} megapixels (--max_megapixels): make it smaller")
  return photo


def _write_picture(path: pathlib.Path, pixels: images.Pixels) -> pathlib.Path:
  """A PNG file to be looked at, made in little time."""
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.fromarray(pixels).save(path, "PNG", compress_level=1)
  return path
