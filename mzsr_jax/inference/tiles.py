"""How an image is cut into tiles of one size, and how many sizes a set of images needs. Plain numbers, no arrays on devices.

A program is compiled for a tile size. A small image lies in one tile, padded; a large one is covered by several that overlap by
twice the network's reach (the halo), each of which answers for its core alone.
"""

import collections
import itertools
import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

Size = tuple[int, int]  # height, width


class Span(NamedTuple):
  """A tile along one axis of an image.

  Attributes:
    start: first pixel of the tile.
    first: first pixel of its core.
    stop: one past the last pixel of its core.
  """

  start: int
  first: int
  stop: int


def spans(length: int, tile: int, halo: int, cell: int = 1) -> list[Span]:
  """Tiles along an axis, as few as will do; their cores cover it once.

  Args:
    length: of the axis, pixels.
    tile: length of a tile, more than two halos. Of a shorter axis it reaches beyond the end.
    halo: pixels that a core must stay away from a tile's end, unless the image ends there as well.
    cell: starts are multiples of it; so the last tile may reach beyond the end by less than that.
  """
  if length <= tile:
    return [Span(0, 0, length)]
  last, most = math.ceil((length - tile) / cell), (tile - 2 * halo) // cell
  count = 1 + math.ceil(last / most)
  starts = [round(i * last / (count - 1)) * cell for i in range(count)]
  bounds = [0, *((a + tile + b) // 2 for a, b in itertools.pairwise(starts)), length]
  return [Span(start, first, last) for start, first, last in zip(starts, bounds, bounds[1:])]


def grid(size: Size, tile: Size, halo: int) -> list[tuple[Span, Span]]:
  """The tiles of an image, row by row: (vertical, horizontal) spans."""
  return list(itertools.product(*(spans(length, side, halo) for length, side in zip(size, tile))))


def fit(size: Size, max_area: int, halo: int, parts: int = 1, step: int = 32) -> Size:
  """A tile size for images of at most `size`.

  Args:
    size: height and width, pixels.
    max_area: pixels that a tile may have.
    halo: see `spans`.
    parts: tiles that are worked on at once: an image is cut into as many, from top to bottom, but into none whose own rows are
      fewer than those of one halo. What is not cut would be done by each device all the same.
    step: sides are multiples of it, so that images of nearly one size share a program.
  """
  up = lambda length, multiple: math.ceil(length / multiple) * multiple
  height, width = (up(length, step) for length in size)
  if halo:
    parts = max(1, min(parts, (height - 2 * halo) // halo))
  if parts > 1:
    height = up((height - 2 * halo) / parts + 2 * halo, 8)
  if height * width > max_area:
    least = 4 * halo
    width = _even(width, max(math.isqrt(max_area) // 8 * 8, least), halo)
    height = _even(height, max(max_area // width // 8 * 8, least), halo)
  return height, width


def _even(length: int, most: int, halo: int) -> int:
  """The side of tiles, at most `most`, that overlap no more than their halos ask for, but for multiples of 8."""
  if length <= most or not halo:
    return min(length, most)
  count = math.ceil((length - 2 * halo) / (most - 2 * halo))
  return math.ceil(((length - 2 * halo) / count + 2 * halo) / 8) * 8


def buckets(sizes: Iterable[Size], limit: int) -> dict[Size, Size]:
  """Assigns each image size to one of at most `limit` sizes that hold it, with as little padding as can be.

  The sizes are sorted by area and cut into runs; a run's bucket is as high as its highest and as wide as its widest image.
  All ways to cut are weighed (by dynamic programming).

  Args:
    sizes: of all images, repeated as often as they occur.
    limit: the most buckets.
  """
  counts = collections.Counter(sizes)
  ordered = sorted(counts, key=lambda size: (size[0] * size[1], size))
  limit = min(limit, len(ordered))
  best = [[(0, [])] * (limit + 1)]  # best[n][b]: least area of the first n sizes in at most b runs, and where runs begin
  for n in range(1, len(ordered) + 1):
    options = [(math.inf, [])] * (limit + 1)
    height = width = images = 0
    for cut in range(n - 1, -1, -1):
      height, width = max(height, ordered[cut][0]), max(width, ordered[cut][1])
      images += counts[ordered[cut]]
      for b in range(1, limit + 1):
        area, cuts = best[cut][b - 1]
        if area + images * height * width < options[b][0]:
          options[b] = (area + images * height * width, [*cuts, cut])
    best.append(options)
  cuts = [*best[-1][-1][1], len(ordered)]
  return {size: _cover(ordered[a:b]) for a, b in itertools.pairwise(cuts) for size in ordered[a:b]}


def _cover(sizes: Sequence[Size]) -> Size:
  return max(h for h, _ in sizes), max(w for _, w in sizes)
