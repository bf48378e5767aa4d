"""The demo's jobs: of the pages that are open, one at a time, within limits, and all their files."""

import contextlib
import pathlib
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Iterator

import skimage.data
from absl import logging

from mzsr_jax import images
from mzsr_jax.demo.work import JobRequest, JobStatus, Limits, Worker
from mzsr_jax.errors import UserError
from mzsr_jax.inference import tiled
from mzsr_jax.photo import kernel_files

MAX_WAITING = 8  # jobs
_PATIENCE = 60.0  # seconds that a place is kept while nobody is at work: its turn has come, and is not taken


class _Stopped(Exception):
  """A job was cancelled, its page closed, or another takes its place."""


class _Visit:
  """An open page: its files, what it wants, and whether its job is to stop."""

  def __init__(self, folder: pathlib.Path):
    self.folder = folder / secrets.token_hex(16)
    self.uploads: dict[str, pathlib.Path] = {}  # "photo" and "kernel", the newest of each
    self.has_photo = False  # that was looked at, and can be worked on
    self.wanted: JobRequest | None = None  # and not begun
    self.at_work: JobRequest | None = None
    self.progress, self.since = 0.0, 0.0  # how much of the whole photo is done, and when it was begun
    self.stop = threading.Event()  # of the job at work


def example_photo(kernel: str = "g20d") -> images.Pixels:
  """A part of scikit-image's astronaut (NASA, public domain), degraded by a kernel at x2."""
  return tiled.make_lr(skimage.data.astronaut()[:320, 90:410], kernel_files.load_degradation(kernel), 2)


class JobManager:
  """One job at a time, and the files of the pages that are open."""

  def __init__(
      self, folder: pathlib.Path, limits: Limits, memory: Callable[[int, float, int], float | None] = lambda *_: None
  ):
    """Makes a manager.

    Args:
      folder: for all files, uploads too; it is made.
      limits: of a job.
      memory: of LR pixels, scale and pictures, see `cli.memory_limit`; what it raises is said of the job.
    """
    self.folder, self.worker = folder, Worker(limits, memory)
    self._visits: dict[str, _Visit] = {}
    self._waiting: dict[str, float] = {}  # visits by when they began
    self._last_work = time.monotonic()
    self._lock, self._busy = threading.Lock(), threading.Lock()
    folder.mkdir(parents=True)

  def look(self, visit_id: str, path: pathlib.Path) -> tuple[str, images.Pixels]:
    """A line about a photo, and a small picture of it; in place of those that the page gave before.

    Raises:
      UserError: the file is not a photo, or too large.
    """
    visit = self._visit(visit_id)
    visit.has_photo = False
    self._keep(visit, path, "photo")
    shutil.rmtree(visit.folder / "whole", ignore_errors=True)
    seen = self.worker.look(path)
    visit.has_photo = True
    return seen

  def has_photo(self, visit_id: str) -> bool:
    """Whether the page has given a photo that `look` did not refuse, and has not cleared it since."""
    return self._visit(visit_id).has_photo

  def clear(self, visit_id: str) -> None:
    """To be called when the page has no photo any more: ends its job."""
    self._visit(visit_id).has_photo = False
    self.cancel(visit_id)

  def example(self, visit_id: str) -> pathlib.Path:
    """A photo to try, blurred by the kernel "g20d", as if the page had given it."""
    visit = self._visit(visit_id)
    path = visit.folder / "example" / "astronaut.png"
    images.write_png(path, example_photo(), overwrite=True)
    return path

  def begin(self, visit_id: str, wanted: JobRequest) -> None:
    """To be called when a job is asked for, before `run`, which may have to wait.

    It takes the place of that which the page asked for before, if this has not begun; a part that is worked on is left.

    Its place is given up by `run` or `leave`; or when its turn is not taken for a minute, or longer than all others
    could take.

    Raises:
      UserError: too many are waiting, or the page's whole photo is worked on.
    """
    visit = self._visit(visit_id)
    with self._lock:
      if visit.at_work and visit.at_work.whole:
        raise UserError("the whole photo is being enlarged: wait for it, or stop it")
      now = time.monotonic()
      idle_since = now if self._busy.locked() else self._last_work
      longest = (MAX_WAITING + 1) * self.worker.limits.seconds
      waits = lambda began: now - max(began, idle_since) < _PATIENCE and now - began < longest
      self._waiting = {other: began for other, began in self._waiting.items() if waits(began)}
      if len(self._waiting) >= MAX_WAITING and visit_id not in self._waiting:
        raise UserError(f"{MAX_WAITING} photos are waiting for their turn: try again in a while")
      self._waiting[visit_id] = now
      visit.wanted = wanted
      visit.stop.set()

  def cancel(self, visit_id: str) -> bool:
    """Ends the page's job, at work or waiting, within a moment. Returns whether one is at work, and will say that it ends."""
    visit = self._visit(visit_id)
    with self._lock:
      visit.wanted = None
      visit.stop.set()
    return visit.at_work is not None

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

  def progress(self, visit_id: str) -> tuple[float, float | None]:
    """How much of the page's whole photo is done, from 0 to 1, and how many seconds are left, once that can be told."""
    visit = self._visit(visit_id)
    part = visit.progress
    return part, (time.perf_counter() - visit.since) * (1 / part - 1) if part else None

  def run(self, visit_id: str) -> Iterator[JobStatus]:
    """The job that was begun, if it still is to be done. Its last view says how it ended; that of a job that failed or was
    stopped has no result, and one that another takes the place of has no last view."""
    with self._lock:
      visit = self._visits.get(visit_id)
      self._waiting.pop(visit_id, None)
      if visit is None or visit.wanted is None:  # closed or cancelled while it waited, or done with those before it
        return
      wanted, visit.wanted, visit.stop = visit.wanted, None, threading.Event()
      visit.at_work, visit.progress, visit.since = wanted, 0.0, time.perf_counter()
    job, done = visit.folder / ("whole" if wanted.whole else "part"), False
    try:
      shutil.rmtree(job, ignore_errors=True)
      # A browser would show an older picture of the same name.
      work = self._work(visit, wanted, job / secrets.token_hex(4))
      while True:
        with self._turn(visit):
          view = next(work, None)
        if view is None:
          return
        done = view.done
        yield view
    except UserError as e:
      reason = str(e).replace(f"{wanted.photo}", getattr(wanted.photo, "name", ""))
      last = JobStatus(reason.replace(f"{wanted.kernel_file}", getattr(wanted.kernel_file, "name", "")), failed=True)
    except _Stopped:
      last = JobStatus("stopped", failed=True, stopped=True)
    except Exception:  # the page goes on; the log has the rest
      logging.exception("a job failed")
      last = JobStatus("the program failed at this photo: its log says more", failed=True)
    finally:
      visit.at_work = None
      if self._visits.get(visit_id) is not visit:
        self._delete(visit)
      elif not done:
        shutil.rmtree(job, ignore_errors=True)
    if not visit.wanted:
      yield last

  @contextlib.contextmanager
  def _turn(self, visit: _Visit) -> Iterator[None]:
    """One at a time: the job before may still be ending when its page is gone."""
    while not self._busy.acquire(timeout=0.1):
      if visit.stop.is_set():
        raise _Stopped
    try:
      yield
    finally:
      self._last_work = time.monotonic()
      self._busy.release()

  def _work(self, visit: _Visit, wanted: JobRequest, job: pathlib.Path) -> Iterator[JobStatus]:
    start, stop = time.perf_counter(), visit.stop

    def check() -> None:
      if stop.is_set():
        raise _Stopped
      if time.perf_counter() - start > (seconds := self.worker.limits.seconds):
        raise UserError(f"stopped after {seconds:g} s, the limit (--max_seconds): take fewer steps, or a smaller scale")

    def progress(part: float) -> None:
      visit.progress = part

    for role, path in {"photo": wanted.photo, "kernel": wanted.kernel_file}.items():
      if path:
        self._keep(visit, path, role)
    yield from self.worker.work(wanted, job, check, progress)

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
    self.worker.forget()
    shutil.rmtree(visit.folder, ignore_errors=True)
    self._drop(set(visit.uploads.values()))
