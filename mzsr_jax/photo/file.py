"""Photos as people have them, in and out of files: 8 or 16 bits, gray, transparency, colour profile and metadata.

`images` reads what the network sees, 8-bit RGB. Here nothing of a photo is lost on its way through the network.
"""

import io
import pathlib
import re
import struct
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import imagecodecs
import numpy as np
import scipy.ndimage
import tifffile
from jaxtyping import Float, Shaped, UInt
from PIL import Image, ImageCms, ImageOps, JpegImagePlugin, PngImagePlugin

from mzsr_jax import images
from mzsr_jax.errors import UserError
from mzsr_jax.photo import noise

_WITH_ALPHA = ("PNG", "WEBP", "TIFF")
_WITH_16_BITS = ("PNG", "TIFF")
_QUALITY = {"JPEG": {"quality": 95, "subsampling": "4:4:4"}, "WEBP": {"quality": 95}}

_ORIENTATION = 0x0112
_EXIF, _GPS, _INTEROPERABILITY = 0x8769, 0x8825, 0xA005
_WIDTH, _HEIGHT = 0xA002, 0xA003
_XMP, _ICC = 0x02BC, 0x8773
_BITS, _SAMPLE_FORMAT, _PHOTOMETRIC, _RESOLUTION_UNIT = 0x0102, 0x0153, 0x0106, 0x0128
# Description, make, model, software, date, artist, copyright: what tells of a picture, and not how its pixels are stored.
_DESCRIPTIVE = (0x010E, 0x010F, 0x0110, 0x0131, 0x0132, 0x013B, 0x8298)
_PNG_XMP = "XML:com.adobe.xmp"
_ASSOCIATED = 1  # a TIFF file's colours are multiplied by their alpha
_SEPARATE = 2  # a TIFF file's channels lie one after another


class Metadata(NamedTuple):
  """What a file says of its picture.

  Attributes:
    icc_profile: of the colours.
    exif: descriptive tags, those of the camera and the place; neither orientation nor thumbnail.
    xmp: an XML packet.
    dpi: (horizontal, vertical).
    texts: keywords and texts of a PNG file.
    comment: of a JPEG file.
  """

  icc_profile: bytes | None = None
  exif: Mapping[int, object] | None = None
  xmp: bytes | None = None
  dpi: tuple[float, float] | None = None
  texts: tuple[tuple[str, str], ...] = ()
  comment: bytes | None = None


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
  """

  rgb: Shaped[np.ndarray, "h w 3"]
  alpha: Float[np.ndarray, "h w"] | None = None
  gray: bool = False
  bits: int = 8
  metadata: Metadata = Metadata()
  jpeg_error: float = 0.0


def read(path: str | pathlib.Path) -> Photo:
  """Reads an image file of one of `images.FORMATS`.

  The EXIF orientation is applied. Palettes are expanded; CMYK is converted to sRGB, by its profile where it has one. Of an
  animation or a file of several pages, the first picture counts.

  Raises:
    UserError: no such file, not decodable, or 32-bit pixels, whose range of values is unknown.
  """
  path = pathlib.Path(path)
  try:
    return _read_16_bit_tiff(path) or _read(path)
  except Exception as e:  # each format has its own zoo of exceptions for damaged files
    raise UserError(f"image '{path}' cannot be read: {' '.join(str(e).split())}") from e


def _read(path: pathlib.Path) -> Photo:
  with Image.open(path) as image:
    # Pillow knows 16 bits in gray without alpha alone: of colours it would drop half of the bits.
    deep = image.format == "PNG" and image.mode != "I;16" and any(";16" in str(tile.args) for tile in image.tile)
    upright = ImageOps.exif_transpose(image)
    metadata = _metadata(image.info, image.getexif(), getattr(image, "text", {}))
    error = _jpeg_error(image)
    if deep:
      turned = _turned(image.getexif().get(_ORIENTATION, 1))
      return _photo(turned(imagecodecs.png_decode(path.read_bytes())), metadata)
  if upright.mode.startswith("I;16"):
    return _photo(np.asarray(upright).astype(np.uint16), metadata)
  if upright.mode in ("CMYK", "LAB", "YCbCr"):
    upright, metadata = _to_srgb(upright), metadata._replace(icc_profile=None)
  return _photo(np.asarray(upright.convert(_mode(upright))), metadata)._replace(jpeg_error=error)


def _jpeg_error(image: Image.Image) -> float:
  """Of a loaded image as the file has it, not turned: blocks and table lie as they were written."""
  if not isinstance(image, JpegImagePlugin.JpegImageFile) or image.mode not in ("L", "RGB"):
    return 0.0
  first = image.layer[0][3]  # the number of the luma's table
  if first not in image.quantization:
    return 0.0
  pixels = np.asarray(image)
  pixels = pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, axis=-1)
  return noise.of_jpeg(pixels, np.float64(image.quantization[first]).reshape(8, 8))


def _read_16_bit_tiff(path: pathlib.Path) -> Photo | None:
  """The photo, where the file is a TIFF of gray or RGB with 16 bits, most layouts of which Pillow does not know."""
  with path.open("rb") as file:
    if file.read(4) not in (b"II*\0", b"MM\0*"):
      return None
    file.seek(0)
    tags = Image.Exif()
    tags.load_from_fp(file)
    tuples = [np.atleast_1d(tags.get(tag, default)) for tag, default in ((_BITS, 1), (_SAMPLE_FORMAT, 1), (_PHOTOMETRIC, 0))]
    if any(set(values.tolist()) - allowed for values, allowed in zip(tuples, ({16}, {1}, {1, 2}))):
      return None
    info = {"icc_profile": tags.get(_ICC), "xmp": tags.get(_XMP)}
    if tags.get(_RESOLUTION_UNIT) == 2:  # inches
      info["dpi"] = tags.get(0x011A, 0), tags.get(0x011B, 0)
    metadata = _metadata(info, tags)
    file.seek(0)
    page = tifffile.TiffFile(file).pages[0]
    channels = page.asarray()
    if page.planarconfig == _SEPARATE:
      channels = np.moveaxis(channels, 0, -1)
    if _ASSOCIATED in page.extrasamples:
      alpha = np.maximum(channels[..., -1:], 1).astype(np.float32)
      colours = np.minimum(channels[..., :-1] * (65535 / alpha) + 0.5, 65535).astype(np.uint16)
      channels = np.concatenate([colours, channels[..., -1:]], axis=-1)
    return _photo(_turned(tags.get(_ORIENTATION, 1))(channels), metadata)


def _turned(orientation: int):
  """What makes pixels upright that are stored with an EXIF orientation."""
  return {
      2: np.fliplr, 3: lambda x: np.rot90(x, 2), 4: np.flipud, 5: lambda x: x.swapaxes(0, 1), 6: lambda x: np.rot90(x, -1),
      7: lambda x: np.rot90(x, 2).swapaxes(0, 1), 8: np.rot90,
  }.get(orientation, lambda x: x)  # fmt: skip


def _mode(image: Image.Image) -> str:
  """The mode of Pillow that holds an 8-bit image without loss: L, LA, RGB or RGBA."""
  if image.mode in ("I", "F"):
    raise UserError("it holds 32-bit pixels, whose range is unknown: save it with 8 or 16 bits")
  colour = "L" if image.mode in ("1", "L", "LA", "La") else "RGB"
  return colour + ("A" if image.has_transparency_data else "")


def _to_srgb(image: Image.Image) -> Image.Image:
  profile = image.info.get("icc_profile")
  if profile and image.mode == "CMYK":
    try:
      source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
      return ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (ImageCms.PyCMSError, OSError):  # a damaged profile is ignored, as by programs that know no profiles
      pass
  return image.convert("RGB")


def _photo(channels: UInt[np.ndarray, "h w ..."], metadata: Metadata) -> Photo:
  """The photo of one (gray), two (gray, alpha), three or four channels of 8 or 16 bits."""
  bits = 8 * channels.itemsize
  channels = images.to_float(channels.reshape(*channels.shape[:2], -1))
  count = channels.shape[-1]
  if count > 4:
    raise UserError(f"it has {count} channels: save it as gray or RGB, with or without alpha")
  colours, alpha = (channels[..., :-1], channels[..., -1]) if count % 2 == 0 else (channels, None)
  if alpha is not None and (hidden := alpha == 0).any() and not hidden.all():
    nearest = scipy.ndimage.distance_transform_edt(hidden, return_distances=False, return_indices=True)
    colours = colours[tuple(nearest)]
  return Photo(np.repeat(colours, 3, axis=-1) if count <= 2 else colours, alpha, count <= 2, bits, metadata)


def _metadata(info: Mapping, exif: Image.Exif, texts: Mapping[str, str] | None = None) -> Metadata:
  """What Pillow knows of a loaded image, but for the way it is turned."""
  kept = {tag: exif[tag] for tag in _DESCRIPTIVE if tag in exif}
  for directory in (_EXIF, _GPS):
    if tags := {k: v for k, v in exif.get_ifd(directory).items() if k != _INTEROPERABILITY}:
      kept[directory] = tags
  xmp = info.get("xmp", info.get(_PNG_XMP))
  xmp = xmp.encode() if isinstance(xmp, str) else xmp
  return Metadata(
      icc_profile=info.get("icc_profile") or None,
      exif=kept or None,
      # Some programs write the orientation here as well, and others heed it.
      xmp=re.sub(rb'(tiff:Orientation(?:="|>))[2-8]', rb"\g<1>1", xmp) if xmp else None,
      dpi=tuple(map(float, info["dpi"])) if info.get("dpi") and all(info["dpi"]) else None,
      texts=tuple((k, str(v)) for k, v in (texts or {}).items() if k != _PNG_XMP and not k.startswith("Raw profile type")),
      comment=info.get("comment") if isinstance(info.get("comment"), bytes) else None,
  )


def check_format(photo: Photo, file_format: str) -> None:
  """Raises UserError where a format cannot hold what the photo has: transparency. Of 16 bits it may keep 8."""
  if photo.alpha is not None and file_format not in _WITH_ALPHA:
    raise UserError(f"it has transparency, which {file_format} cannot hold: choose png, webp or tif for it")


def encode(photo: Photo, file_format: str) -> bytes:
  """The photo as a file, with its metadata as far as the format has a place for them.

  Args:
    photo: clipped and rounded to its bits, or to 8 where the format has no 16.
    file_format: one of the values of `images.FORMATS`. JPEG and WebP are written at quality 95.

  Raises:
    UserError: the format cannot hold the photo's transparency or size; or it holds NaN.
  """
  check_format(photo, file_format)
  dtype = np.uint16 if photo.bits == 16 and file_format in _WITH_16_BITS else np.uint8
  rgb = photo.rgb if photo.rgb.dtype == dtype and not photo.gray else _as_float(photo.rgb)
  colours = rgb @ np.float32(images.LUMA) if photo.gray else rgb
  pixels = colours if colours.dtype == dtype else images.quantize(colours, dtype)
  if photo.alpha is not None:
    pixels = np.dstack([pixels, images.quantize(photo.alpha, dtype)])
  if dtype == np.uint8:
    return _save(Image.fromarray(pixels), photo, file_format)
  return _png_16(pixels, photo) if file_format == "PNG" else _tiff_16(pixels, photo)


def _save(image: Image.Image, photo: Photo, file_format: str) -> bytes:
  metadata, buffer = photo.metadata, io.BytesIO()
  options = {"icc_profile": metadata.icc_profile, "dpi": metadata.dpi, "xmp": metadata.xmp, "comment": metadata.comment}
  if metadata.exif or metadata.xmp:
    options["exif"] = _exif(photo, file_format)
  if file_format == "PNG":
    options["pnginfo"] = _png_texts(metadata)
  if file_format == "TIFF" and not {_EXIF, _GPS} & set(metadata.exif or ()):
    options["compression"] = "tiff_adobe_deflate"  # by libtiff, which cannot write these directories
  options = {key: value for key, value in options.items() if value is not None}
  try:
    image.save(buffer, file_format, **options, **_QUALITY.get(file_format, {}))
  except (OSError, ValueError, struct.error) as e:
    height, width = photo.rgb.shape[:2]
    raise UserError(f"{width}x{height} pixels cannot be written as {file_format}: {' '.join(str(e).split())}") from e
  return buffer.getvalue()


def _exif(photo: Photo, file_format: str) -> bytes:
  exif = Image.Exif()
  exif.update(photo.metadata.exif or {})
  if _EXIF in exif:
    height, width = photo.rgb.shape[:2]
    exif[_EXIF] = {**exif[_EXIF], _WIDTH: width, _HEIGHT: height}
  if file_format == "TIFF" and photo.metadata.xmp:
    exif[_XMP] = photo.metadata.xmp
  return exif.tobytes()


def _png_texts(metadata: Metadata) -> PngImagePlugin.PngInfo:
  info = PngImagePlugin.PngInfo()
  for key, text in metadata.texts:
    info.add_itxt(key, text)
  if metadata.xmp:
    info.add_itxt(_PNG_XMP, metadata.xmp.decode("utf-8", "replace"))
  return info


def _chunks(png: bytes) -> Iterator[tuple[bytes, bytes]]:
  """(type, whole chunk) of a PNG file: length (4 bytes), type (4), data, checksum (4)."""
  start = 8  # the signature
  while start < len(png):
    (length,) = struct.unpack(">I", png[start : start + 4])
    yield png[start + 4 : start + 8], png[start : start + length + 12]
    start += length + 12


def _png_16(pixels: Shaped[np.ndarray, "h w ..."], photo: Photo) -> bytes:
  png = imagecodecs.png_encode(np.ascontiguousarray(pixels))
  # Pillow knows how to write the metadata, and the other library how to write 16 bits: a file of one pixel lends its chunks.
  lent = _save(Image.new("L" if photo.gray else "RGB", (1, 1)), photo, "PNG")
  besides = b"".join(chunk for kind, chunk in _chunks(lent) if kind not in (b"IHDR", b"IDAT", b"IEND"))
  header = 8 + next(len(chunk) for kind, chunk in _chunks(png) if kind == b"IHDR")
  return png[:header] + besides + png[header:]


def _tiff_16(pixels: Shaped[np.ndarray, "h w ..."], photo: Photo) -> bytes:
  metadata, buffer = photo.metadata, io.BytesIO()
  texts = {tag: metadata.exif[tag] for tag in _DESCRIPTIVE if tag in (metadata.exif or {})}
  extra = [(tag, "s", 0, str(text), True) for tag, text in texts.items()]
  extra += [(_XMP, "B", len(metadata.xmp), metadata.xmp, True)] if metadata.xmp else []
  resolution = {"resolution": metadata.dpi, "resolutionunit": "INCH"} if metadata.dpi else {}
  tifffile.imwrite(
      buffer, pixels, photometric="minisblack" if photo.gray else "rgb", compression="zlib", metadata=None, software=False,
      extrasamples=() if photo.alpha is None else ("unassalpha",), iccprofile=metadata.icc_profile, extratags=extra,
      **resolution,
  )  # fmt: skip
  return buffer.getvalue()


def on_white(photo: Photo) -> images.Pixels:
  """The photo as 8-bit RGB, to be looked at: gray as three channels, what is transparent over white."""
  rgb = photo.rgb
  if photo.alpha is None:
    return rgb if rgb.dtype == np.uint8 else images.to_uint8(_as_float(rgb))
  alpha = photo.alpha[..., None]
  return images.to_uint8(_as_float(rgb) * alpha + (1 - alpha))


def _as_float(rgb: Shaped[np.ndarray, "h w 3"]) -> Float[np.ndarray, "h w 3"]:
  return rgb if rgb.dtype.kind == "f" else images.to_float(rgb)
