"""Photos as people have them, in and out of files: 8 or 16 bits, gray, transparency, colour profile and metadata.

`images` reads what the network sees, 8-bit RGB. Here nothing of a photo is lost on its way through the network.
"""

import functools
import io
import math
import pathlib
import struct
import warnings
from collections.abc import Mapping
from typing import NamedTuple

import imagecodecs
import imageio.v3 as iio
import numpy as np
import scipy.ndimage
from jaxtyping import Float, Shaped, UInt, UInt8, UInt16
from PIL import Image, TiffImagePlugin

from mzsr_jax import decode, images
from mzsr_jax.core import resize
from mzsr_jax.errors import UserError
from mzsr_jax.photo import metadata, noise
from mzsr_jax.photo.metadata import Metadata

_WITH_ALPHA = ("PNG", "WEBP", "TIFF")
_WITH_16_BITS = ("PNG", "TIFF")
QUALITY = 95
_LOSSY = {"JPEG": {"subsampling": "4:4:4"}, "WEBP": {}}
_LOSSLESS = {"PNG": {"compress_level": 4}}  # Pillow's own, 6, saves 2% of a file in almost three times the time
_MAX_SIDE = {"JPEG": 65500, "WEBP": 16383}  # pixels
_MAX_BYTES = {"BMP": 2**32, "TIFF": 2**32}  # of a file of 8 bits


class Photo(NamedTuple):
  """A picture, upright.

  Attributes:
    rgb: (h, w, 3) float32 in [0, 1], in the colours of its profile; or unsigned integers, already rounded. Where it is fully
      transparent, the colour of the nearest pixel that is not: what files hold there is mostly black, and would be seen as a
      dark fringe.
    alpha: (h, w) float32 in [0, 1]; None where the file has no transparency.
    gray: whether the file holds one channel of colour.
    bits: 8 or 16, of each channel.
    metadata: what else the file holds.
    jpeg_error: standard deviation of what JPEG has changed, in [0, 1] units, see `noise.of_jpeg`; 0 for files that are no JPEG
      files of gray or RGB.
    lossless_webp: whether the file is such a one, which stays lossless.
  """

  rgb: Shaped[np.ndarray, "h w 3"]
  alpha: Float[np.ndarray, "h w"] | None = None
  gray: bool = False
  bits: int = 8
  metadata: Metadata = Metadata()
  jpeg_error: float = 0.0
  lossless_webp: bool = False


def read(path: str | pathlib.Path) -> Photo:
  """Reads an image file, see `decode.read`; the EXIF orientation is applied.

  What its metadata say that is damaged is left out, with a warning.

  Raises:
    UserError: see `decode.read`.
  """
  picture = decode.read(path)
  photo = _photo(decode.upright(picture.channels, picture.orientation), metadata.of(picture, str(path)))
  return photo._replace(jpeg_error=_jpeg_error(picture), lossless_webp=picture.lossless_webp)


def _jpeg_error(picture: decode.Picture) -> float:
  """Of the picture as the file has it, not turned: blocks and table lie as they were written."""
  if picture.quantisation is None:
    return 0.0
  return noise.of_jpeg(np.broadcast_to(picture.channels, (*picture.channels.shape[:2], 3)), picture.quantisation)


def _photo(channels: UInt[np.ndarray, "h w c"], told: Metadata) -> Photo:
  """The photo of one (gray), two (gray, alpha), three or four channels of 8 or 16 bits."""
  bits = 8 * channels.itemsize
  channels = images.to_float(channels)
  count = channels.shape[-1]
  colours, alpha = (channels[..., :-1], channels[..., -1]) if count % 2 == 0 else (channels, None)
  if alpha is not None and (hidden := alpha == 0).any() and not hidden.all():
    nearest = scipy.ndimage.distance_transform_edt(hidden, return_distances=False, return_indices=True)
    colours = colours[tuple(nearest)]
  return Photo(np.repeat(colours, 3, axis=-1) if count <= 2 else colours, alpha, count <= 2, bits, told)


def check_format(photo: Photo, file_format: str, scale: float = 1) -> None:
  """Says before slow work what a format cannot hold of a photo that is to be enlarged. Of 16 bits it may keep 8.

  Raises:
    UserError: transparency, or more pixels than the format has room for.
  """
  if photo.alpha is not None and file_format not in _WITH_ALPHA:
    raise UserError(f"it has transparency, which {file_format} cannot hold: choose png, webp or tif for it")
  height, width = (resize.enlarged_size(length, scale) for length in photo.rgb.shape[:2])
  deep = photo.bits == 16 and file_format in _WITH_16_BITS
  sample_bytes = height * width * ((1 if photo.gray else 3) + (photo.alpha is not None))
  too_long = max(height, width) > _MAX_SIDE.get(file_format, 2**31 - 1)
  if too_long or (not deep and sample_bytes >= _MAX_BYTES.get(file_format, math.inf)):
    most = f" (at most {_MAX_SIDE[file_format]} a side)" if file_format in _MAX_SIDE else ""
    raise UserError(f"{width}x{height} pixels cannot be written as {file_format}{most}: choose png for it")


def encode(photo: Photo, file_format: str, quality: int = QUALITY, name: str = "photo") -> bytes:
  """The photo as a file, with its metadata as far as the format takes them; a warning names what is left out.

  Files of 8 bits and TIFF of 16 are written by imageio; PNG of 16 bits by imagecodecs, since Pillow and imageio know 16 bits in
  gray alone.

  Args:
    photo: clipped and rounded to its bits, or to 8 where the format has no 16.
    file_format: one of the values of `images.FORMATS`.
    quality: of JPEG, and of WebP unless the photo comes of a lossless WebP file: that stays lossless.
    name: of the file, for warnings.

  Raises:
    UserError: the format cannot hold the photo's transparency or size; or it holds NaN.
  """
  check_format(photo, file_format)
  dtype = np.uint16 if photo.bits == 16 and file_format in _WITH_16_BITS else np.uint8
  rgb = photo.rgb if photo.rgb.dtype == dtype and not photo.gray else as_float(photo.rgb)
  colours = rgb @ np.float32(images.LUMA) if photo.gray else rgb
  pixels = colours if colours.dtype == dtype else images.quantize(colours, dtype)
  if photo.alpha is not None:
    pixels = np.dstack([pixels, images.quantize(photo.alpha, dtype)])
  lossy = {"lossless": True} if photo.lossless_webp and file_format == "WEBP" else {"quality": quality}
  encoder = {**_LOSSY[file_format], **lossy} if file_format in _LOSSY else _LOSSLESS.get(file_format, {})
  size, deep = photo.rgb.shape[:2], dtype == np.uint16
  deep_tiff = deep and file_format == "TIFF"
  write = functools.partial(_write_deep_tiff, size) if deep_tiff else functools.partial(_write, file_format, encoder, size)
  dot = np.zeros_like(pixels[:1, :1], np.uint16 if deep_tiff else np.uint8)
  told = metadata.fitting(photo.metadata, lambda told: _check_readable(write(dot, told)), file_format, name)
  try:
    return _deep_png(pixels, write(dot, told)) if deep and not deep_tiff else write(pixels, told)
  except Exception as e:  # encoders have their own zoo of exceptions
    height, width = size
    raise UserError(f"{width}x{height} pixels cannot be written as {file_format}: {' '.join(str(e).split())}") from e


def _write(
    file_format: str, encoder: Mapping[str, object], size: tuple[int, int], pixels: UInt8[np.ndarray, "h w ..."], told: Metadata
) -> bytes:
  """A file of 8 bits."""
  extension = next(extension for extension, known in images.FORMATS.items() if known == file_format)
  told = metadata.options(told, size, file_format)
  return iio.imwrite("<bytes>", pixels, extension=extension, plugin="pillow", is_batch=False, **told, **encoder)


def _check_readable(encoded: bytes) -> None:
  """Raises what Pillow does where metadata spoil a file of one pixel."""
  with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    with Image.open(io.BytesIO(encoded)) as image:
      image.load()
      exif = image.getexif()
      for directory in (metadata.EXIF, metadata.GPS):
        exif.get_ifd(directory)


def _deep_png(pixels: UInt16[np.ndarray, "h w ..."], lender: bytes) -> bytes:
  """A PNG file of 16 bits, with what a file of one pixel has beside its own: Pillow knows how to write metadata."""
  png = imagecodecs.png_encode(np.ascontiguousarray(pixels))
  besides = b"".join(chunk for kind, chunk in decode.png_chunks(lender) if kind not in (b"IHDR", b"IDAT", b"IEND"))
  header = 8 + next(len(chunk) for kind, chunk in decode.png_chunks(png) if kind == b"IHDR")
  return png[:header] + besides + png[header:]


def _write_deep_tiff(size: tuple[int, int], pixels: UInt16[np.ndarray, "h w ..."], told: Metadata) -> bytes:
  """A TIFF file of 16 bits, of a picture of height and width `size`."""
  texts = {tag: told.exif[tag] for tag in decode.DESCRIPTIVE if tag in (told.exif or {})}
  extra = [(tag, "s", 0, _text(text), True) for tag, text in texts.items()]
  extra += [(metadata.XMP, "B", len(told.xmp), told.xmp, True)] if told.xmp else []
  resolution = {"resolution": told.dpi, "resolutionunit": "INCH"} if told.dpi else {}
  samples = pixels.shape[2] if pixels.ndim == 3 else 1
  layout = {"photometric": "rgb" if samples > 2 else "minisblack", "planarconfig": "contig" if samples > 1 else None}
  written = iio.imwrite(
      "<bytes>", pixels, plugin="tifffile", compression="zlib", metadata=None, software=False, iccprofile=told.icc_profile,
      extrasamples=() if samples % 2 else ("unassalpha",), extratags=extra, **layout, **resolution,
  )  # fmt: skip
  return _with_directories(written, metadata.directories(told, size))


def _with_directories(tiff: bytes, directories: Mapping[int, TiffImagePlugin.ImageFileDirectory_v2]) -> bytes:
  """A TIFF file of one picture with directories, which tifffile does not write; of 4 GiB and more as it is."""
  if not directories or tiff[:4] != b"II*\0":
    return tiff
  (start,) = struct.unpack_from("<I", tiff, 4)
  (count,) = struct.unpack_from("<H", tiff, start)
  entries = [tiff[place : place + 12] for place in range(start + 2, start + 2 + 12 * count, 12)]
  whole = bytearray(tiff)
  for tag, directory in directories.items():
    whole += bytes(len(whole) % 2)
    entries.append(struct.pack("<HHII", tag, 4, 1, len(whole)))
    whole += directory.tobytes(len(whole))
  # What a file begins with points to its main directory: to the longer one from now on.
  whole += bytes(len(whole) % 2)
  struct.pack_into("<I", whole, 4, len(whole))
  entries.sort(key=lambda entry: struct.unpack_from("<H", entry))
  return bytes(whole) + struct.pack("<H", len(entries)) + b"".join(entries) + bytes(4)


def _text(value: object) -> bytes:
  """A tag's text; raises TypeError for numbers, which a text is not."""
  return value.encode() if isinstance(value, str) else b"".join([value])


def on_white(photo: Photo) -> images.Pixels:
  """The photo as 8-bit RGB, to be looked at: gray as three channels, what is transparent over white."""
  rgb = photo.rgb
  if photo.alpha is None:
    return rgb if rgb.dtype == np.uint8 else images.to_uint8(as_float(rgb))
  return images.to_uint8(images.over_white(as_float(rgb), photo.alpha))


def as_float(rgb: Shaped[np.ndarray, "h w 3"]) -> Float[np.ndarray, "h w 3"]:
  """Colours in [0, 1], whatever type they are held in."""
  return rgb if rgb.dtype.kind == "f" else images.to_float(rgb)
