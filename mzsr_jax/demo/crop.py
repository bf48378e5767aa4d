"""Which part of a photo is looked at, and what the enlargement of a part alone has to do with that of the whole photo."""

import math
from fractions import Fraction
from typing import NamedTuple

from mzsr_jax.core import resize
from mzsr_jax.inference.tiles import Size
from mzsr_jax.photo.file import Photo


class Part(NamedTuple):
  """A rectangle of LR pixels: slices of both axes."""

  rows: slice
  columns: slice

  @property
  def size(self) -> Size:
    """Height and width."""
    return self.rows.stop - self.rows.start, self.columns.stop - self.columns.start


def around(place: tuple[float, float], size: Size, scale: float, shown: Size) -> Part:
  """The part whose enlargement is as large as `shown`, or nearly, as near to a place as it can lie within the photo.

  Args:
    place: (x, y) of its middle, in widths and heights of the photo.
    size: of the photo.
    scale: by which it is enlarged.
    shown: height and width, SR pixels; turned where the photo is.
  """
  shown = sorted(shown, reverse=size[0] > size[1])
  step = _step(scale)
  x, y = place

  def along(middle: float, length: int, most: int) -> slice:
    side = min(length, int(most / scale))
    start = min(max(round(middle * length - side / 2), 0), length - side) // step * step
    return slice(start, start + side)

  return Part(along(y, size[0], shown[0]), along(x, size[1], shown[1]))


def widened(part: Part, size: Size, scale: float, reach: float, cell: int = 1) -> Part:
  """With as much around it, where the photo goes on, as its enlargement depends on.

  Args:
    part: LR pixels.
    size: of the photo.
    scale: by which it is enlarged.
    reach: SR pixels that the enlargement depends on.
    cell: SR pixels that the enlargement must begin at a multiple of, see `network.Network`.
  """
  step, margin = _step(scale, cell), math.ceil(reach / scale)
  first = lambda start: max(start - margin, 0) // step * step
  return Part(*(slice(first(s.start), min(s.stop + margin, length)) for s, length in zip(part, size)))


def cut(photo: Photo, part: Part) -> Photo:
  """The part of a photo."""
  return photo._replace(rgb=photo.rgb[part], alpha=None if photo.alpha is None else photo.alpha[part])


def enlarged(part: Part, scale: float, within: Part | None = None) -> Part:
  """Where the part lies in the enlargement of the whole photo, or of another part, that it lies in."""

  def along(own: slice, whole: slice) -> slice:
    start = round((own.start - whole.start) * scale)
    return slice(start, start + resize.enlarged_size(own.stop - own.start, scale))

  return Part(*map(along, part, within or (slice(0, 0),) * 2))


def _step(scale: float, cell: int = 1) -> int:
  """LR pixels from one place where a cell of SR pixels begins to the next."""
  return Fraction(scale / cell).limit_denominator(10 * cell).denominator
