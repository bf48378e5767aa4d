"""The demo's work: jobs of the pages that are open, one at a time, within limits, and all their files."""

import contextlib
import pathlib
import secrets
import shutil
import threading
import time
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import skimage.data
from absl import logging
from PIL import Image

from mzsr_jax import decode, files, images, weights
from mzsr_jax.core import kernels
from mzsr_jax.errors import UserError
from mzsr_jax.inference import tiled
from mzsr_jax.inference.tiled import TiledAdapter
from mzsr_jax.photo import blind, enhance, kernel_files
from mzsr_jax.photo import file as photo_file
from mzsr_jax.photo.enhance import Recipe
from mzsr_jax.photo.file import Photo

MIN_SCALE, MAX_SCALE, MAX_STEPS, MAX_NOISE = 1.5, 4.0, 10, 50
AUTO, CUSTOM, FILE = "auto", "custom", "file"
KERNELS = {
    AUTO: "Estimate it from the photo",
    "bicubic": "None: plain bicubic shrinking",
    "g02d": "Gaussian, variance 0.2: hardly any blur",
    "g20d": "Gaussian, variance 2.0",
    "gani": "Gaussian, variances 4 and 1, slanted",
    "gani5": "Gaussian, variances 5 and 1, slanted",
    "g13b": "Gaussian, variance 1.3, then bicubic shrinking",
    CUSTOM: "Gaussian of my own …",
    FILE: "From a file …",
}
_GAUSSIAN = "gaussian:"
EXAMPLE_KERNEL = "g20d"
_MAX_KERNEL = 101  # pixels a side: a job can be stopped between pieces of work alone, and each grows with the kernel
_PREVIEW_SIDE = 1000  # pixels
_SLOW_PICTURE = 4.0  # seconds: where the picture of a step takes longer, later steps get none
MAX_WAITING = 8  # jobs
_PATIENCE = 60.0  # seconds that a place is kept while nobody is at work: its turn has come, and is not taken
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
    gaussian: for "custom": "VARIANCE" or "VARIANCExVARIANCExRADIANS", after "gaussian:" or not.
    kernel_file: for "file".
    scale: from 1.5 to 4.
    steps: from 0 to 10.
    noise_level: standard deviation of the photo's noise, of 255; None has it estimated.
    png: whether the result is a PNG file, whatever the photo is.
  """

  photo: pathlib.Path | None
  kernel: str = AUTO
  gaussian: str = ""
  kernel_file: pathlib.Path | None = None
  scale: float = 2.0
  steps: int = 0
  noise_level: float | None = None
  png: bool = False


class JobStatus(NamedTuple):
  """What a page shows of a job. Files are those of the visit, and pictures are PNG files.

  Attributes:
    status: a line.
    failed: whether the line says why there is no result.
    pair: the picture enlarged by bicubic interpolation, and by the network.
    kernel: a picture of the kernel.
    kernel_text: a line about it.
    noise_text: a line about the photo's noise.
    kernel_file: the estimated kernel, .mat.
    result: the enlarged photo.
  """

  status: str
  failed: bool = False
  pair: tuple[pathlib.Path, pathlib.Path] | None = None
  kernel: pathlib.Path | None = None
  kernel_text: str = ""
  noise_text: str = ""
  kernel_file: pathlib.Path | None = None
  result: pathlib.Path | None = None


class _Stopped(Exception):
  """A job was cancelled, its page closed, or its time is over."""


class _Visit:
  """An open page: its files, and whether its job is to stop."""

  def __init__(self, folder: pathlib.Path):
    self.folder = folder / secrets.token_hex(16)
    self.uploads: dict[str, pathlib.Path] = {}  # "photo" and "kernel", the newest of each
    self.stop = threading.Event()


def example_photo() -> images.Pixels:
  """A part of scikit-image's astronaut (NASA, public domain), degraded by the kernel "g20d" at x2."""
  face = skimage.data.astronaut()[:320, 90:410] / 255
  return images.to_uint8(tiled.degrade(face, kernel_files.load_degradation(EXAMPLE_KERNEL), 2, dtype=np.float64))


class JobManager:
  """One adapter for one job at a time, and the files of the pages that are open."""

  def __init__(self, folder: pathlib.Path, limits: Limits, memory: float | None = None):
    """Makes a manager.

    Args:
      folder: for all files, uploads too; it is made.
      limits: of a job.
      memory: see `TiledAdapter`.

    Raises:
      UserError: the memory is too little.
    """
    self.folder, self.limits = folder, limits
    self._adapter = TiledAdapter(memory_limit=memory)
    self._visits: dict[str, _Visit] = {}
    self._waiting: dict[str, float] = {}  # visits by when they began
    self._last_work = time.monotonic()
    self._lock, self._busy = threading.Lock(), threading.Lock()
    folder.mkdir(parents=True)

  def look(self, visit_id: str, path: pathlib.Path) -> tuple[str, pathlib.Path]:
    """A line about a photo, and a picture of it; in place of those that the page gave before.

    Raises:
      UserError: the file is not a photo, or too large.
    """
    visit = self._visit(visit_id)
    self._keep(visit, path, "photo")
    photo = _read(path, self.limits)
    height, width = photo.rgb.shape[:2]
    kinds = [f"{width}×{height}", f"{photo.bits} bits", *["gray"] * photo.gray, *["transparency"] * (photo.alpha is not None)]
    shown = Image.fromarray(photo_file.on_white(photo))
    shown.thumbnail((_PREVIEW_SIDE, _PREVIEW_SIDE))
    return f"{path.name}: {', '.join(kinds)}.", _write_picture(visit.folder / "photo.png", np.asarray(shown))

  def example(self, visit_id: str) -> pathlib.Path:
    """A photo to try, blurred by the kernel "g20d", as if the page had given it."""
    visit = self._visit(visit_id)
    path = visit.folder / "example" / "astronaut.png"
    images.write_png(path, example_photo(), overwrite=True)
    return path

  def begin(self, visit_id: str) -> None:
    """To be called when a job is asked for, which may have to wait: what was cancelled before counts no more.

    Its place is given up by `run`, `give_up` or `leave`; or when its turn is not taken for a minute, or longer than all others
    could take.

    Raises:
      UserError: too many are waiting.
    """
    visit = self._visit(visit_id)
    with self._lock:
      now = time.monotonic()
      idle_since = now if self._busy.locked() else self._last_work
      longest = (MAX_WAITING + 1) * self.limits.seconds
      waits = lambda began: now - max(began, idle_since) < _PATIENCE and now - began < longest
      self._waiting = {other: began for other, began in self._waiting.items() if waits(began) and other != visit_id}
      if len(self._waiting) >= MAX_WAITING:
        raise UserError(f"{MAX_WAITING} photos are waiting for their turn: try again in a while")
      self._waiting[visit_id] = now
    visit.stop.clear()

  def give_up(self, visit_id: str) -> None:
    """Frees the place of a job that has begun and will not be run."""
    with self._lock:
      self._waiting.pop(visit_id, None)

  def cancel(self, visit_id: str) -> None:
    """Ends the page's job, at work or waiting, within a moment."""
    self._visit(visit_id).stop.set()

  def leave(self, visit_id: str) -> None:
    """Ends the page's job, and deletes all that it gave and got."""
    with self._lock:
      visit = self._visits.pop(visit_id, None)
      self._waiting.pop(visit_id, None)
    if visit:
      visit.stop.set()
      self._delete(visit)

  def close(self) -> None:
    """Has all pages leave."""
    for visit_id in list(self._visits):
      self.leave(visit_id)

  def run(self, visit_id: str, wanted: JobRequest) -> Iterator[JobStatus]:
    """A job, from `begin` on. Its last view says how it ended; that of a job that failed or was stopped has no result."""
    with self._lock:
      visit = self._visits.get(visit_id)
      self._waiting.pop(visit_id, None)
    if visit is None:  # closed while it waited
      return
    job, done = visit.folder / "job", False
    try:
      shutil.rmtree(job, ignore_errors=True)
      work = self._work(visit, job, wanted)
      while True:
        with self._turn(visit):
          view = next(work, None)
        if view is None:
          return
        done = view.result is not None
        yield view
    except UserError as e:
      reason = str(e).replace(f"{wanted.photo}", getattr(wanted.photo, "name", ""))
      reason = reason.replace(f"{wanted.kernel_file}", getattr(wanted.kernel_file, "name", ""))
    except _Stopped as e:
      reason = str(e)
    except Exception:  # the page goes on; the log has the rest
      logging.exception("a job failed")
      reason = "the program failed at this photo: its log says more"
    finally:
      if self._visits.get(visit_id) is not visit:
        self._delete(visit)
      elif not done:
        shutil.rmtree(job, ignore_errors=True)
    yield JobStatus(reason, failed=True)

  @contextlib.contextmanager
  def _turn(self, visit: _Visit) -> Iterator[None]:
    """One at a time: the job before may still be ending when its page is gone."""
    while not self._busy.acquire(timeout=0.1):
      if visit.stop.is_set():
        raise _Stopped("cancelled")
    try:
      yield
    finally:
      self._last_work = time.monotonic()
      self._busy.release()

  def _work(self, visit: _Visit, job: pathlib.Path, wanted: JobRequest) -> Iterator[JobStatus]:
    start = time.perf_counter()

    def check(passes: float = 0) -> None:
      if visit.stop.is_set():
        raise _Stopped("cancelled")
      if time.perf_counter() - start > self.limits.seconds:
        raise _Stopped(f"stopped after {self.limits.seconds:g} s, the limit: take fewer steps, a smaller photo or scale")

    for role, path in {"photo": wanted.photo, "kernel": wanted.kernel_file}.items():
      if path:
        self._keep(visit, path, role)
    _check_request(wanted)
    photo = _read(wanted.photo, self.limits)
    suffix = ".png" if wanted.png else wanted.photo.suffix.lower()
    photo_file.check_format(photo, images.FORMATS[suffix])
    self._adapter.on_progress = check
    check()

    if wanted.kernel == AUTO:
      yield JobStatus("Estimating the kernel …")
    recipe, shown, took = _recipe(wanted), None, 0.0
    for event in enhance.run(self._adapter, photo, recipe, range(wanted.steps + 1)):
      check()
      match event:
        case enhance.Estimated(recipe, estimate):
          kernel_text, kernel_file = KERNELS[wanted.kernel], None
          if estimate:
            kernel_text, stem = estimate.text, job / f"{wanted.photo.stem}_kernel"
            blind.save(estimate, stem, overwrite=True)
            kernel_file, _ = blind.files_of(stem)
          elif wanted.kernel in (CUSTOM, FILE):
            kernel_text = _spec(wanted) if wanted.kernel == CUSTOM else wanted.kernel_file.name
          noise_text = f"{255 * recipe.degradation.noise_std:.1f} of 255"
          picture = _write_picture(job / "kernel.png", _kernel_picture(recipe.degradation.kernel))
          shown = JobStatus("", kernel=picture, kernel_text=kernel_text, noise_text=noise_text, kernel_file=kernel_file)
          check()
          bicubic = photo_file.on_white(enhance.enlarge(self._adapter, None, photo, recipe))
          before = after = _write_picture(job / "bicubic.png", bicubic)
          yield shown._replace(status="Adapting …", pair=(before, after))
        case enhance.Adapted(step, params) if step < wanted.steps:
          if took < _SLOW_PICTURE:
            started = time.perf_counter()
            result = enhance.enlarge(self._adapter, params, photo, recipe)
            previous, after = after, _write_picture(job / f"step_{step}.png", _checked(result, bicubic, step))
            took = time.perf_counter() - started
          status = f"Step {step} of {wanted.steps}, {time.perf_counter() - start:.1f} s"
          yield shown._replace(status=status, pair=(before, after))
          if took and previous not in (before, after):
            previous.unlink(missing_ok=True)  # the page has asked for the next one
        case enhance.Enlarged(result):
          after = _write_picture(job / f"step_{wanted.steps}.png", _checked(result, bicubic, wanted.steps))
    encoded = photo_file.encode(result, images.FORMATS[suffix])
    path = job / f"{wanted.photo.stem}_x{wanted.scale:g}{suffix}"
    files.write_whole(path, encoded, overwrite=True)
    check()
    (height, width), (sr_height, sr_width) = photo.rgb.shape[:2], result.rgb.shape[:2]
    sizes = f"{width}×{height} → {sr_width}×{sr_height}"
    status = f"Done: {sizes}, {wanted.steps} steps, {time.perf_counter() - start:.1f} s"
    yield shown._replace(status=status, pair=(before, after), result=path)

  def _visit(self, visit_id: str) -> _Visit:
    with self._lock:
      return self._visits.setdefault(visit_id, _Visit(self.folder))

  def _keep(self, visit: _Visit, path: pathlib.Path, role: str) -> None:
    """Lays claim to an uploaded file, and deletes that of its role ("photo" or "kernel") that the page gave before."""
    if not path.resolve().is_relative_to(self.folder):
      raise UserError("that is no file that this page was given: choose it again")
    if path.is_relative_to(visit.folder):
      return
    with self._lock:
      before = visit.uploads.get(role, path)
      visit.uploads[role] = path
    self._drop({before} - {path})

  def _drop(self, paths: set[pathlib.Path]) -> None:
    """Deletes uploaded files, but for those that another page, which gave the same file, lays claim to."""
    with self._lock:
      for path in paths.difference(*(visit.uploads.values() for visit in self._visits.values())):
        path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # another file of the same content
          path.parent.rmdir()

  def _delete(self, visit: _Visit) -> None:
    shutil.rmtree(visit.folder, ignore_errors=True)
    self._drop(set(visit.uploads.values()))


def _recipe(wanted: JobRequest) -> Recipe:
  """What is to be done."""
  loaded = weights.load(weights.DEFAULT)
  net_scale = enhance.network_scale(loaded, wanted.scale)
  degradation = kernels.Degradation(None) if wanted.kernel == AUTO else _kernel(wanted, net_scale)
  return enhance.make_recipe(loaded, degradation, wanted.scale, wanted.steps, noise_level=wanted.noise_level)


def _checked(result: Photo, bicubic: images.Pixels, step: int) -> images.Pixels:
  """The result as it is shown. Raises UserError where it no longer shows the photo."""
  pixels = photo_file.on_white(result)
  if np.abs(pixels.astype(np.int16) - bicubic).mean() > 255 * _LOST:
    raise UserError(f"the result diverged at step {step}: take fewer steps, or a kernel that fits the photo better")
  return pixels


def _check_request(wanted: JobRequest) -> None:
  """Raises UserError where an order is not within bounds, which a page alone would see to."""
  if wanted.photo is None:
    raise UserError("no photo: drop one on the page, or try the example")
  if wanted.kernel not in KERNELS:
    raise UserError(f"unknown kernel '{wanted.kernel}'")
  if wanted.kernel == FILE and wanted.kernel_file is None:
    raise UserError("no kernel file: choose a .mat or .npy file, or another kernel")
  noise_level = wanted.noise_level or 0
  if not (MIN_SCALE <= wanted.scale <= MAX_SCALE and 0 <= wanted.steps <= MAX_STEPS and 0 <= noise_level <= MAX_NOISE):
    raise UserError(
        f"the scale must be from {MIN_SCALE:g} to {MAX_SCALE:g}, steps from 0 to {MAX_STEPS}, noise from 0 to {MAX_NOISE}"
    )


def _spec(wanted: JobRequest) -> str:
  """The name of the visitor's own Gaussian; never that of a file."""
  return _GAUSSIAN + wanted.gaussian.strip().removeprefix(_GAUSSIAN)


def default_steps() -> int:
  """Steps that the page proposes; 0 where the network gains nothing by them."""
  return min(enhance.default_steps(weights.load(weights.DEFAULT)), MAX_STEPS)


def _kernel(wanted: JobRequest, net_scale: float) -> kernels.Degradation:
  """The kernel of an order that names one."""
  spec = {CUSTOM: _spec(wanted), FILE: f"{wanted.kernel_file}"}.get(wanted.kernel, wanted.kernel)
  degradation = kernel_files.load_degradation(spec, photo_scale=net_scale)
  if len(degradation.kernel) > _MAX_KERNEL:
    raise UserError(f"the kernel is {len(degradation.kernel)} pixels wide: here it may have at most {_MAX_KERNEL}")
  return degradation


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
      size = f"{height * width / 1e6:.3g} megapixels"
      raise UserError(f"the photo has {size}, and here it may have {limits.megapixels:g}: make it smaller")
    photo = photo_file.read(path)
  except UserError as e:
    raise UserError(str(e).replace(f"{path}", path.name)) from e
  if photo.rgb.shape[0] * photo.rgb.shape[1] > limits.megapixels * 1e6:  # a header that lied
    raise UserError(f"the photo has more than {limits.megapixels:g} megapixels: make it smaller")
  return photo


def _kernel_picture(kernel: np.ndarray) -> images.Pixels:
  """Each pixel of a kernel as a square, white where it is largest."""
  level = images.to_uint8(np.clip(kernel / kernel.max(), 0, 1))
  side = -(-210 // len(kernel))
  return np.repeat(np.kron(level, np.ones((side, side), np.uint8))[..., None], 3, axis=-1)


def _write_picture(path: pathlib.Path, pixels: images.Pixels) -> pathlib.Path:
  """A PNG file to be looked at, made in little time."""
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.fromarray(pixels).save(path, "PNG", compress_level=1)
  return path
