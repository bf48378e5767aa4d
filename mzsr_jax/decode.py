"""The one reader of image files: their channels, with all bits, and what they say of themselves.

Pillow, tifffile and imagecodecs are used as they are, not through imageio, which gives no quantisation tables of JPEG, no extra
samples and bits of TIFF, 8 of 16 bits of coloured PNG, and nothing at all where EXIF data are damaged.
"""

import contextlib
import fractions
import io
import numbers
import pathlib
import struct
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import imagecodecs
import numpy as np
import tifffile
from absl import logging
from jaxtyping import Float, UInt
from PIL import Image, ImageCms, JpegImagePlugin, UnidentifiedImageError

from mzsr_jax.errors import UserError

ORIENTATION = 0x0112
# Description, make, model, software, date, artist, copyright: what tells of a picture, and not how its pixels are stored.
DESCRIPTIVE = (0x010E, 0x010F, 0x0110, 0x0131, 0x0132, 0x013B, 0x8298)
_XMP, _ICC, _X_RESOLUTION, _Y_RESOLUTION, _RESOLUTION_UNIT = 0x02BC, 0x8773, 0x011A, 0x011B, 0x0128
_BIGTIFF = (ORIENTATION, _XMP, _ICC, _X_RESOLUTION, _Y_RESOLUTION, _RESOLUTION_UNIT, *DESCRIPTIVE)
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_REDUCED, _DNG_VERSION = 1, 0xC612  # a kind of page, and a tag, that files of cameras' raw pixels have
_INCHES = {2: 1.0, 3: 2.54}  # by TIFF's unit of resolution: how many of it an inch holds
_MAX_SAMPLES = 4
_ASSOCIATED, _UNASSOCIATED = 1, 2  # kinds of TIFF's extra samples: colours are multiplied by their alpha, or are not
_GRAYS = {tifffile.PHOTOMETRIC.MINISWHITE, tifffile.PHOTOMETRIC.MINISBLACK}
_COLOURS = {**dict.fromkeys(_GRAYS | {tifffile.PHOTOMETRIC.PALETTE}, 1), tifffile.PHOTOMETRIC.RGB: 3,
            tifffile.PHOTOMETRIC.SEPARATED: 4}  # fmt: skip
_SAMPLE_FORMATS = {2: "signed", 3: "floating-point", 4: "untyped", 5: "complex", 6: "complex"}
_TURNS = {
    2: np.fliplr, 3: lambda x: np.rot90(x, 2), 4: np.flipud, 5: lambda x: x.swapaxes(0, 1), 6: lambda x: np.rot90(x, -1),
    7: lambda x: np.rot90(x, 2).swapaxes(0, 1), 8: np.rot90,
}  # fmt: skip


class Picture(NamedTuple):
  """What a file holds.

  Attributes:
    channels: (h, w, c) 8 or 16 bits, as they are stored, not turned. One is gray, two are gray and alpha, three RGB, four RGB
      and alpha; colours are not multiplied by alpha.
    orientation: from 1 to 8, as EXIF counts.
    exif: its tags; empty where they are damaged.
    info: of Pillow's names: "icc_profile", "xmp", "dpi", "comment".
    texts: keywords and texts of a PNG file.
    chunks: (type, data) of a PNG file that say what its colours are.
    quantisation: (8, 8) steps of a JPEG file's luma; None for other files, and for other colours than gray and RGB.
    lossless_webp: whether it is such a file.
  """

  channels: UInt[np.ndarray, "h w c"]
  orientation: int
  exif: Image.Exif
  info: Mapping[str, Any]
  texts: Mapping[str, str] = {}
  chunks: tuple[tuple[bytes, bytes], ...] = ()
  quantisation: Float[np.ndarray, "8 8"] | None = None
  lossless_webp: bool = False


class Header(NamedTuple):
  """What is known of a file without decoding its pixels.

  Attributes:
    size: height and width, upright.
    file_format: as Pillow calls it.
    samples: of each pixel.
  """

  size: tuple[int, int]
  file_format: str
  samples: int


def read(path: str | pathlib.Path) -> Picture:
  """Decodes a file of any format that Pillow or tifffile knows, found by its content; the first picture of several.

  Palettes are expanded, extra samples that are no alpha ignored; CMYK and its like are converted to sRGB with 8 bits, by their
  profile where they have one. Samples of 9 to 15 bits become 16, those of fewer than 8 become 8.

  Raises:
    UserError: no such file, not decodable, or a layout that has no one meaning: other types than unsigned integers of up to 16
      bits, more than four samples a pixel, samples of different sizes, unknown colours.
  """
  with _decoder(path):
    data = pathlib.Path(path).read_bytes()
  return (_tiff if data[:4] in _TIFF else _others)(path, data)


def header(path: str | pathlib.Path) -> Header:
  """What the beginning of a file says: of a PNG file, not what stands behind its pixels, which may turn it.

  Raises:
    UserError: as `read`, as far as that is known without decoding.
  """
  with _decoder(path):
    with pathlib.Path(path).open("rb") as file:
      tiff = file.read(4) in _TIFF
    if not tiff:
      with Image.open(path) as image:
        exif = _exif(path, image)
        samples = len(image.getbands())
        size, file_format = image.size[::-1], "JPEG" if image.format == "MPO" else image.format
    else:
      with tifffile.TiffFile(path) as file:
        page = file.pages.first
        size, file_format, samples = (page.imagelength, page.imagewidth), "TIFF", page.samplesperpixel
        exif = _tiff_exif(path, file)
  return Header(size if _orientation(exif) < 5 else size[::-1], file_format, samples)


def upright(channels: UInt[np.ndarray, "h w c"], orientation: int) -> UInt[np.ndarray, "p q c"]:
  """Pixels that are stored with an EXIF orientation, as they are looked at."""
  return _TURNS.get(orientation, lambda x: x)(channels)


def _refuse(path: str | pathlib.Path, reason: str):
  raise UserError(f"image '{path}' cannot be read: {reason}")


@contextlib.contextmanager
def _decoder(path: str | pathlib.Path) -> Iterator[None]:
  """Around calls of decoders, and nothing else: whatever they raise, the file is to blame."""
  try:
    yield
  except Exception as e:  # each format has its own zoo of exceptions for damaged files
    reason = e.strerror if isinstance(e, OSError) and e.strerror else str(e)
    if isinstance(e, UnidentifiedImageError):
      reason = "it is no image, or of a kind that neither Pillow nor tifffile knows"
    raise UserError(f"image '{path}' cannot be read: {' '.join(reason.split()) or type(e).__name__}") from e


def _exif(path: str | pathlib.Path, image: Image.Image) -> Image.Exif:
  """The tags of an image; none where they cannot be read, which is no reason to refuse the pixels."""
  try:
    return Image.Image.getexif(image)  # that of PNG files decodes the pixels first
  except Exception as e:  # of damaged tags there are as many kinds as of damaged files
    logging.warning("'%s': its EXIF data cannot be read and are left out (%s).", path, e)
    return Image.Exif()


def _tiff_exif(path: str | pathlib.Path, file: tifffile.TiffFile) -> Image.Exif:
  """The tags of the first page."""
  exif, page = Image.Exif(), file.pages.first
  exif.endian = file.byteorder
  try:
    if file.is_bigtiff:  # whose tags Pillow reads in one order of bytes alone, and whose directories are then left out
      exif.update({tag: page.tags.valueof(tag) for tag in _BIGTIFF if tag in page.tags})
      exif.update({tag: fractions.Fraction(*exif[tag]) for tag in (_X_RESOLUTION, _Y_RESOLUTION) if tag in exif})
    else:
      exif.load_from_fp(file.filehandle, page.offset)
      exif.update({tag: exif[tag] for tag in exif})  # now, while the file is open
  except Exception as e:  # see `_exif`
    logging.warning("'%s': its tags cannot be read and are left out (%s).", path, e)
    return Image.Exif()
  return exif


def value(exif: Image.Exif, tag: int, default: Any = None) -> Any:
  """A tag's value; the default where it is absent or cannot be read."""
  try:
    return exif.get(tag, default)
  except Exception:  # see `_exif`; values are decoded when they are asked for
    return default


def _orientation(exif: Image.Exif) -> int:
  found = value(exif, ORIENTATION, 1)
  return found if isinstance(found, int) and 1 <= found <= 8 else 1


def _others(path: str | pathlib.Path, data: bytes) -> Picture:
  """Any file but TIFF."""
  with _decoder(path):
    image = Image.open(io.BytesIO(data))
  if image.format in ("EPS", "WMF"):
    _refuse(path, f"{image.format} files hold drawings, not pixels")
  with _decoder(path):
    image.load()
  exif = _exif(path, image)
  info = dict(image.info)
  if image.format == "PNG" and data[24] == 16:  # of colours, Pillow would drop half of the bits; of gray, the colour key
    with _decoder(path):
      channels = imagecodecs.png_decode(data)
  else:
    channels = _channels(path, image)
    if image.mode in _CONVERTED:
      info.pop("icc_profile", None)
  lossless = image.format == "WEBP" and _is_lossless(data)
  chunks = png_chunks(data) if image.format == "PNG" else ()
  chunks = tuple((kind, chunk[8:-4]) for kind, chunk in chunks if kind in _PNG_COLOURS)
  texts = getattr(image, "text", {})
  return Picture(_three(channels), _orientation(exif), exif, info, texts, chunks, _quantisation(image), lossless)


def _three(channels: UInt[np.ndarray, "h w ..."]) -> UInt[np.ndarray, "h w c"]:
  return channels.reshape(*channels.shape[:2], -1)


_CONVERTED = ("CMYK", "LAB", "YCbCr", "HSV")


def _channels(path: str | pathlib.Path, image: Image.Image) -> UInt[np.ndarray, "h w ..."]:
  """The pixels of one of Pillow's images."""
  if image.mode in ("I", "F"):
    kind = "32-bit integers" if image.mode == "I" else "floating-point pixels"
    _refuse(path, f"it holds {kind}, whose range is unknown: save it with 8 or 16 bits")
  if image.mode.startswith("I;16"):
    return np.asarray(image).astype(np.uint16)
  if image.mode in _CONVERTED:
    return np.asarray(_to_srgb(image))
  colour = "L" if image.mode in ("1", "L", "LA", "La") else "RGB"
  with _decoder(path):
    return np.asarray(image.convert(colour + ("A" if image.has_transparency_data else "")))


def _to_srgb(image: Image.Image) -> Image.Image:
  profile = image.info.get("icc_profile")
  if profile and image.mode == "CMYK":
    try:
      source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
      return ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (ImageCms.PyCMSError, OSError):  # a profile that is none: as programs do that know no profiles
      pass
  return image.convert("RGB")


def _quantisation(image: Image.Image) -> Float[np.ndarray, "8 8"] | None:
  if not isinstance(image, JpegImagePlugin.JpegImageFile) or image.mode not in ("L", "RGB"):
    return None
  first = image.layer[0][3]  # the number of the luma's table
  return np.float64(image.quantization[first]).reshape(8, 8) if first in image.quantization else None


_PNG_COLOURS = (b"cHRM", b"gAMA", b"cICP", b"sRGB")


def png_chunks(png: bytes) -> Iterator[tuple[bytes, bytes]]:
  """(type, whole chunk) of a PNG file: length (4 bytes), type (4), data, checksum (4)."""
  start = 8  # the signature
  while start + 12 <= len(png):
    (length,) = struct.unpack(">I", png[start : start + 4])
    yield png[start + 4 : start + 8], png[start : start + length + 12]
    start += length + 12


def _is_lossless(webp: bytes, start: int = 12) -> bool:
  """Whether the first picture in chunks of a WebP file, from a byte on, is coded without loss."""
  while start + 8 <= len(webp):
    kind, length = webp[start : start + 4], int.from_bytes(webp[start + 4 : start + 8], "little")
    if kind in (b"VP8L", b"VP8 "):
      return kind == b"VP8L"
    if kind == b"ANMF":  # a frame: its place, size and duration, then chunks of its own
      return _is_lossless(webp[: start + 8 + length], start + 24)
    start += 8 + length + length % 2
  return False


def _tiff(path: str | pathlib.Path, data: bytes) -> Picture:
  """A TIFF file. tifffile reads layouts that Pillow takes for others: more bits, planes, tiles, extra samples, BigTIFF."""
  with _decoder(path):
    file = tifffile.TiffFile(io.BytesIO(data))
    page = file.pages.first
  _check_layout(path, page)
  exif = _tiff_exif(path, file)
  info = {"icc_profile": value(exif, _ICC), "xmp": value(exif, _XMP)}
  if per_inch := _INCHES.get(value(exif, _RESOLUTION_UNIT)):
    sides = value(exif, _X_RESOLUTION), value(exif, _Y_RESOLUTION)
    if all(isinstance(side, numbers.Real) for side in sides):
      info["dpi"] = tuple(per_inch * float(side) for side in sides)
  jpeg = page.photometric == tifffile.PHOTOMETRIC.YCBCR and page.compression == tifffile.COMPRESSION.JPEG
  if page.photometric in _COLOURS or jpeg:
    with _decoder(path):
      # (planes, depth, height, width, samples): one of the first and the last is 1
      channels = np.moveaxis(page.asarray().reshape(page.shaped)[:, 0], 0, -1).reshape(*page.shaped[2:4], -1)
      channels = _interpreted(page, channels, 3 if jpeg else _COLOURS[page.photometric])
    if page.photometric == tifffile.PHOTOMETRIC.SEPARATED:
      image = Image.fromarray(channels if channels.dtype == np.uint8 else (channels >> 8).astype(np.uint8), "CMYK")
      image.info["icc_profile"] = info.pop("icc_profile")
      channels = np.asarray(_to_srgb(image))
  else:
    with _decoder(path):
      image = Image.open(io.BytesIO(data))
      image.load()
    info.pop("icc_profile")
    exif[ORIENTATION] = 1  # Pillow has turned it
    channels = _channels(path, image)
  return Picture(_three(channels), _orientation(exif), exif, info)


def _check_layout(path: str | pathlib.Path, page: tifffile.TiffPage) -> None:
  """Raises UserError where the page may be taken for what it is not."""
  if Image.MAX_IMAGE_PIXELS and page.imagelength * page.imagewidth > 2 * Image.MAX_IMAGE_PIXELS:
    _refuse(path, f"its {page.imagewidth}x{page.imagelength} pixels are more than {2 * Image.MAX_IMAGE_PIXELS}")
  if page.samplesperpixel > _MAX_SAMPLES:
    _refuse(path, f"it has {page.samplesperpixel} channels: save it as gray or RGB, with or without alpha")
  if _DNG_VERSION in page.tags or page.subfiletype & _REDUCED:
    _refuse(path, "it holds raw pixels of a camera, and this page is a preview of them: develop it first")
  if page.imagedepth != 1:
    _refuse(path, "it holds a volume, not an image")
  name = f"{page.bitspersample}-bit {_SAMPLE_FORMATS.get(page.sampleformat, '')}".strip()
  if page.sampleformat != 1 or not isinstance(page.bitspersample, int) or page.bitspersample > 16:
    _refuse(path, f"it holds {name} pixels, whose range is unknown: save it with 8 or 16 unsigned bits")
  pillows = page.photometric in (tifffile.PHOTOMETRIC.YCBCR, tifffile.PHOTOMETRIC.CIELAB) and page.bitspersample == 8
  if page.photometric not in _COLOURS and not (pillows and page.planarconfig == 1):
    _refuse(path, f"it holds colours of the kind {getattr(page.photometric, 'name', page.photometric)}: save it as gray or RGB")
  further = page.samplesperpixel - _COLOURS.get(page.photometric, 3)
  if further < 0 or further > 1 or (page.photometric == tifffile.PHOTOMETRIC.MINISWHITE and _ASSOCIATED in page.extrasamples):
    _refuse(path, f"it has {page.samplesperpixel} samples a pixel, and colours of the kind {page.photometric.name}: save it as "
                  "gray or RGB, with or without alpha")  # fmt: skip


def _interpreted(page: tifffile.TiffPage, channels: UInt[np.ndarray, "h w c"], colours: int) -> UInt[np.ndarray, "h w d"]:
  """Samples as 8 or 16 bits of gray, RGB or CMYK, and alpha where the file says that it is."""
  if page.photometric == tifffile.PHOTOMETRIC.PALETTE:
    palette = page.colormap.T
    return (palette >> 8 if palette.max() > 255 else palette).astype(np.uint8)[channels[..., 0].astype(int)]
  dtype = np.uint8 if page.bitspersample <= 8 else np.uint16
  white, most = 2**page.bitspersample - 1, np.iinfo(dtype).max
  if page.bitspersample not in (8, 16):
    channels = ((channels.astype(np.uint32) * most + white // 2) // white).astype(dtype)
  kinds = {int(kind) for kind in page.extrasamples}
  shown, alpha = channels[..., :colours], channels[..., colours:] if kinds & {_ASSOCIATED, _UNASSOCIATED} else None
  if page.photometric == tifffile.PHOTOMETRIC.MINISWHITE:
    shown = most - shown
  if alpha is None or page.photometric == tifffile.PHOTOMETRIC.SEPARATED:
    return shown
  if _ASSOCIATED in kinds:
    shown = np.minimum(shown * (most / np.maximum(alpha, 1).astype(np.float32)) + 0.5, most).astype(dtype)
  return np.concatenate([shown, alpha], axis=-1)
