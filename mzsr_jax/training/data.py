"""HR patches for training: image files, decoded on demand on the host, to batches of random crops, by Grain.

Everything after the crop (kernel, subsampling, noise) is made on the device, see `tasks.py`.
"""

import hashlib
import itertools
import json
import math
import pathlib
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import grain
import jaxtyping
import numpy as np
import skimage
from absl import logging
from PIL import Image

from mzsr_jax import images
from mzsr_jax.errors import UserError

# The natural colour photos among the sample images that the scikit-image wheel itself holds, read as files: its own
# loaders may go to the network. (`motorcycle_right` is left out, being the same scene.)
_SAMPLES = ("astronaut.png", "chelsea.png", "coffee.png", "motorcycle_left.png", "rocket.jpg")

Patches = jaxtyping.UInt8[np.ndarray, "n p p 3"]


def sample_photos() -> list[pathlib.Path]:
  """Paths of the five natural photos (0.1 to 0.4 megapixels) installed with scikit-image; needs no network."""
  folder = pathlib.Path(skimage.__file__).parent / "data"
  return [folder / name for name in _SAMPLES]


def folders(root: str) -> list[tuple[str, float]]:
  """The folders that a root names, and each one's share of the patches.

  Args:
    root: a folder; or several with commas between, each with its share after a colon, or without one, which is a share of 1:
      "a:3,b" draws three patches from a for each from b. What exists is one folder, whatever its name.

  Raises:
    UserError: a folder without a name, or a share that is no number above 0.
  """
  named = _folders(root)
  if root and not all(folder and 0 < share < math.inf for folder, share in named):
    raise UserError(f"training images '{root}': write a folder, or several as in photosA:3,photosB:1, with shares above 0")
  return named


def _folders(root: str) -> list[tuple[str, float]]:
  """`folders`, unchecked; a share that is no number is NaN."""
  if pathlib.Path(root).exists():
    return [(root, 1.0)]
  return [_folder(item) for item in root.split(",")]


def _folder(item: str) -> tuple[str, float]:
  folder, colon, share = item.rpartition(":")
  if not colon or pathlib.Path(item).exists():
    return item, 1.0
  try:
    return folder, float(share)
  except ValueError:
    return folder, math.nan


def describe(root: str) -> str:
  """Training images in words, without paths, which mean nothing on another machine."""
  named = [(pathlib.Path(folder).name, share) for folder, share in _folders(root)]
  if not root or len(named) == 1:
    return f"images in {named[0][0]}" if root else "sample photos"
  return "images in " + ", ".join(f"{name} ({share:g})" for name, share in named)


class PatchIterator(Iterator[Patches]):
  """Endless batches of patches, (N, P, P, 3) uint8 RGB, from `make_patch_iterator`.

  The sequence depends on the files and the seed alone, not on threads, prefetching or processes. `get_state` and `set_state`
  let a new iterator, of any share of the rows, go on where this one was.
  """

  def __init__(
      self, start: Callable[[int], Iterator[Patches]], cropper: "_Cropper", corpus: str, skipped: set[pathlib.Path]
  ):
    self._start = start  # gives the batches from a number on
    self._next = 0
    self._batches: Iterator[Patches] | None = None
    self._cropper = cropper
    self._corpus = corpus
    self._skipped = skipped

  def __next__(self) -> Patches:
    """The next batch. Raises UserError when no file of the whole corpus could be decoded."""
    if self._batches is None:
      self._batches = self._start(self._next)
    batch = next(self._batches)
    self._next += 1
    return batch

  @property
  def skipped(self) -> list[pathlib.Path]:
    """Files passed over so far, sorted: smaller than a patch, or not decodable. Grows as broken files are met."""
    return sorted(self._skipped | self._cropper.broken)

  def get_state(self) -> dict[str, Any]:
    """The position of the next batch, as a dictionary for JSON; the same on every process."""
    return {"corpus": self._corpus, "next_batch": self._next}

  def set_state(self, state: dict[str, Any]) -> None:
    """Goes on after the batch that was last when `state` was taken; warns when the image files are not the same.

    Raises:
      UserError: the state is of an earlier version.
    """
    if "next_batch" not in state:
      raise UserError("the checkpoint is of an earlier version, which drew other patches: choose another --workdir")
    if state["corpus"] != self._corpus:
      logging.warning("Training images or shares have changed since the checkpoint: the patches to come will differ.")
    self._next, self._batches = state["next_batch"], None


def make_patch_iterator(
    root: str,
    *,
    patch_size: int,
    batch_size: int,
    seed: int,
    cache_mb: int,
    num_threads: int,
    prefetch: int,
    rows: np.ndarray | None = None,
) -> PatchIterator:
  """Random patches of the images under a folder, without end.

  Every epoch of a folder visits each image once, in a new order, for one patch at a uniform position, in one of its eight
  orientations; patches of several folders take turns by their shares. A file that is smaller than a patch or cannot be decoded
  is named in a warning, once, and skipped; in place of one that cannot be decoded, which its header does not tell, another is
  drawn. So each patch depends on its position in the sequence alone, and processes that make different rows of the batches make
  together what one would make of all. (They must see the same files. Each of several processes names the files that it met
  itself.)

  Args:
    root: folder, searched recursively, or several with shares, see `folders`; "" takes the sample photos of scikit-image.
    patch_size: side of a patch, pixels.
    batch_size: patches per batch.
    seed: 0 to 2**32 - 1; decides order, positions and orientations.
    cache_mb: 10^6 bytes of decoded images to keep (DIV2K has about 7,000). What does not fit is decoded anew at each
      visit, some 0.1 s for an image of 3 megapixels.
    num_threads: threads that decode and crop ahead of use; 0 does it when a batch is asked for.
    prefetch: batches to hold ready.
    rows: which rows of each batch to make, for one of several processes; None makes all.

  Raises:
    UserError: see `folders`; no such folder, or no image in one that is large enough.
  """
  names, shares = zip(*folders(root))
  scans = [_scan(images.find_images(name) if name else sample_photos(), patch_size) for name in names]
  for name, (sizes, _) in zip(names, scans):
    if not sizes:
      raise UserError(f"no image under '{name}' can be read and has at least {patch_size}x{patch_size} pixels")
  if not root:
    logging.warning(
        "No training images given: training on %d sample photos only. Pass --config.data.root=/path/to/HR for a folder "
        "of your own.", len(scans[0][0])
    )
  paths = [list(sizes) for sizes, _ in scans]
  cropper = _Cropper(list(itertools.chain(*paths)), patch_size, cache_mb * 10**6)
  endless = [
      grain.MapDataset.source(own).seed((seed + i) % 2**32).shuffle().repeat().random_map(cropper)
      for i, own in enumerate(paths)
  ]
  patches = grain.MapDataset.mix(endless, shares)
  rows = np.arange(batch_size) if rows is None else rows
  read_options = grain.ReadOptions(num_threads=num_threads, prefetch_buffer_size=prefetch * len(rows))

  def start(number: int) -> Iterator[Patches]:
    share = _Share(patches, rows, batch_size, number)
    return iter(share.to_iter_dataset(read_options).batch(len(rows), batch_fn=np.stack))

  corpus = [[(path.name, *size) for path, size in sizes.items()] for sizes, _ in scans]
  described = [corpus, shares] if len(corpus) > 1 else corpus[0]
  skipped = set().union(*(skipped for _, skipped in scans))
  return PatchIterator(start, cropper, hashlib.sha256(json.dumps(described).encode()).hexdigest(), skipped)


class _Share(grain.MapDataset):
  """Some rows of each batch of an endless dataset, from a batch on."""

  def __init__(self, parent: grain.MapDataset, rows: np.ndarray, batch_size: int, first_batch: int):
    super().__init__(parent)
    self._rows = [int(row) for row in rows]
    self._batch_size = batch_size
    self._first_batch = first_batch

  def __len__(self) -> int:
    return sys.maxsize

  def __getitem__(self, index):
    batch, i = divmod(index, len(self._rows))
    return self._parent[(self._first_batch + batch) * self._batch_size + self._rows[i]]


def _scan(paths: list[pathlib.Path], patch_size: int) -> tuple[dict[pathlib.Path, tuple[int, int]], set[pathlib.Path]]:
  """Width and height by file, from the headers alone, and the files that give no patch."""
  sizes, skipped = {}, set()
  for path in paths:
    try:
      with Image.open(path) as image:
        size = image.size
    except Exception as e:  # each format has its own zoo of exceptions for damaged headers
      reason = f"cannot be read ({e})"
    else:
      if min(size) >= patch_size:
        sizes[path] = size
        continue
      reason = f"is {size[0]}x{size[1]}, smaller than a patch of {patch_size}x{patch_size}"
    skipped.add(path)
    logging.warning("Skipped: '%s' %s.", path, reason)
  return sizes, skipped


class _Cropper:
  """Cuts one random patch out of an image file; shared by the reading threads."""

  def __init__(self, paths: list[pathlib.Path], patch_size: int, cache_bytes: int):
    self.broken: set[pathlib.Path] = set()
    self._paths = paths
    self._patch_size = patch_size
    self._free_bytes = cache_bytes
    self._cache: dict[pathlib.Path, np.ndarray] = {}
    self._lock = threading.Lock()

  def __call__(self, path: pathlib.Path, rng: np.random.Generator) -> np.ndarray:
    """A (P, P, 3) uint8 patch, of another file where this one is broken. Raises UserError when all files are broken."""
    while (image := self._read(path)) is None:
      if len(self.broken) == len(self._paths):
        raise UserError(f"none of the {len(self._paths)} training images can be decoded, '{path}' among them")
      path = self._paths[rng.integers(len(self._paths))]
    p = self._patch_size
    y, x = rng.integers(image.shape[0] - p + 1), rng.integers(image.shape[1] - p + 1)
    patch = np.rot90(image[y : y + p, x : x + p], rng.integers(4))
    # A copy, since a view would keep its whole image in memory.
    return (patch[::-1] if rng.integers(2) else patch).copy()

  def _read(self, path: pathlib.Path) -> np.ndarray | None:
    """The decoded image, None when it is broken.

    What once is in the cache stays: an epoch visits each image once, so that what was used last is needed last, and
    dropping the least recently used would drop most images just before their turn.
    """
    if path in self._cache:
      return self._cache[path]
    if path in self.broken:
      return None
    try:
      image = images.read_image(path)
    except UserError as e:
      self._report(path, e)
      return None
    with self._lock:
      if path not in self._cache and image.nbytes <= self._free_bytes:
        self._cache[path] = image
        self._free_bytes -= image.nbytes
    return image

  def _report(self, path: pathlib.Path, error: UserError) -> None:
    with self._lock:
      if path not in self.broken:
        self.broken.add(path)
        logging.warning("Skipped: %s.", error)
