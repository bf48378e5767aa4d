"""Folders over devices: on accelerators an image for each device, else all devices on one image after another."""

import concurrent.futures
import queue
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import jax

from mzsr_jax.inference.tiled import Solver, default_memory

T, R = TypeVar("T"), TypeVar("R")


def make_solvers(num_images: int, memory_limit: float | None = None, **options) -> list[Solver]:
  """Solvers for a folder.

  Several accelerators get a solver each, since an image of a benchmark is too small to share. The cores of a CPU, which are
  devices too (see `devices.use_all_cores`), work together on each image: the times that are taken then are those of an
  image alone.

  Args:
    num_images: in the folder.
    memory_limit: bytes for all devices together, see `Solver`.
    options: see `Solver`.
  """
  devices = jax.local_devices()
  if num_images == 1 or devices[0].platform == "cpu":
    return [Solver(devices, memory_limit, **options)]
  limit = (default_memory(devices) if memory_limit is None else memory_limit) / len(devices)
  return [Solver([device], limit, **options) for device in devices[:num_images]]


def spread(work: Callable[[Solver, T], R], items: Sequence[T], solvers: Sequence[Solver]) -> Iterator[R]:
  """work(solver, item) of every item, in order; each solver has one item at a time. The first exception ends it."""
  if len(solvers) == 1:  # in this thread, so that Ctrl-C reaches it
    yield from (work(solvers[0], item) for item in items)
    return
  free = queue.SimpleQueue()
  for solver in solvers:
    free.put(solver)

  def with_a_solver(item: T) -> R:
    solver = free.get()
    try:
      return work(solver, item)
    finally:
      free.put(solver)

  with concurrent.futures.ThreadPoolExecutor(len(solvers)) as pool:
    futures = [pool.submit(with_a_solver, item) for item in items]
    try:
      for future in futures:
        yield future.result()
    finally:
      for future in futures:
        future.cancel()
