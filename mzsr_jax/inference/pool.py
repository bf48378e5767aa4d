"""Folders over devices: on accelerators an image for each device, else all devices on one image after another."""

import concurrent.futures
import queue
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import jax

from mzsr_jax.inference.tiled import TiledAdapter, default_memory

T, R = TypeVar("T"), TypeVar("R")


def make_adapters(num_images: int, memory_limit: float | None = None, **options) -> list[TiledAdapter]:
  """Adapters for a folder.

  Several accelerators get an adapter each, since an image of a benchmark is too small to share. The cores of a CPU, which are
  devices too (see `devices.use_all_cores`), work together on each image: the times that are taken then are those of an
  image alone.

  Args:
    num_images: in the folder.
    memory_limit: bytes for all devices together, see `TiledAdapter`.
    options: see `TiledAdapter`.
  """
  devices = jax.local_devices()
  if num_images == 1 or devices[0].platform == "cpu":
    return [TiledAdapter(devices, memory_limit, **options)]
  limit = (default_memory(devices) if memory_limit is None else memory_limit) / len(devices)
  return [TiledAdapter([device], limit, **options) for device in devices[:num_images]]


def map_images(
    function: Callable[[TiledAdapter, T], R], items: Sequence[T], adapters: Sequence[TiledAdapter]
) -> Iterator[R]:
  """function(adapter, item) of every item, in order; each adapter has one item at a time. The first exception ends it."""
  if len(adapters) == 1:  # in this thread, so that Ctrl-C reaches it
    yield from (function(adapters[0], item) for item in items)
    return
  free = queue.SimpleQueue()
  for adapter in adapters:
    free.put(adapter)

  def with_a_free_adapter(item: T) -> R:
    adapter = free.get()
    try:
      return function(adapter, item)
    finally:
      free.put(adapter)

  with concurrent.futures.ThreadPoolExecutor(len(adapters)) as pool:
    futures = [pool.submit(with_a_free_adapter, item) for item in items]
    try:
      for future in futures:
        yield future.result()
    finally:
      for future in futures:
        future.cancel()
