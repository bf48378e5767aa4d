"""What a file says of its picture: read, kept true, and written as far as a format takes it.

Pixels are never lost for a tag: what a format does not take is left out, with a warning that names it.
"""

import math
import numbers
import re
import xml.dom.minidom
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from absl import logging
from PIL import ExifTags, Image, PngImagePlugin, TiffImagePlugin

from mzsr_jax import decode

EXIF, GPS, _INTEROPERABILITY = 0x8769, 0x8825, 0xA005
_WIDTH, _HEIGHT, _DESCRIPTION = 0xA002, 0xA003, 0x010E
XMP = 0x02BC
# What programs of microscopy read as the layout of the file that they wrote.
_LAYOUT = re.compile(r"^ImageJ=|<OME\b|^\s*\{\"shape\":")
_PNG_XMP = "XML:com.adobe.xmp"
_MAX_DPI = 65535  # of JPEG
# XMP's names of data that lie beside the picture: the video of a motion photo, gain maps, depth.
_BESIDE = re.compile(
    r"^http://ns\.google\.com/photos/1\.0/(camera|container|depthmap|image|audio|panorama)|^http://ns\.adobe\.com/hdr-gain-map/"
    r"|^http://ns\.apple\.com/(HDRGainMap|pixeldatainfo)/"
)
_SIZES = ("PixelXDimension", "PixelYDimension", "ImageWidth", "ImageLength")
_NAMES = {
    "icc_profile": "the colour profile", "dpi": "the resolution", "comment": "the comment", "exif": "EXIF data", "xmp": "XMP",
    "texts": "texts",
}  # fmt: skip
# What a format has no place for, and Pillow leaves out without a word. Nor has WebP for the resolution, not worth a warning.
_NO_PLACE = {
    "BMP": ("icc_profile", "exif", "xmp", "comment", "texts"), "JPEG": ("texts",), "PNG": ("comment",),
    "TIFF": ("comment", "texts"), "WEBP": ("comment", "texts"),
}  # fmt: skip
_SRGB_GAMMA = (45455).to_bytes(4, "big")


class Metadata(NamedTuple):
  """What a file says of its picture.

  Attributes:
    icc_profile: of the colours.
    exif: descriptive tags, those of the camera and the place; neither orientation nor thumbnail.
    xmp: an XML packet.
    dpi: (horizontal, vertical).
    texts: keywords and texts of a PNG file.
    comment: of a JPEG file.
    chunks: (type, data) of a PNG file that say what its colours are: gAMA, cHRM, cICP, sRGB.
  """

  icc_profile: bytes | None = None
  exif: Mapping[int, object] | None = None
  xmp: bytes | None = None
  dpi: tuple[float, float] | None = None
  texts: tuple[tuple[str, str], ...] = ()
  comment: bytes | None = None
  chunks: tuple[tuple[bytes, bytes], ...] = ()


def of(picture: decode.Picture, name: str) -> Metadata:
  """What is kept of what a file says: not how it is turned, stored and how large it is, nor what lies beside its pixels.

  Args:
    picture: as read.
    name: of the file, for warnings.
  """
  info, exif = picture.info, picture.exif
  warn = lambda what: logging.warning("'%s': %s left out.", name, what)
  kept = {tag: found for tag in decode.DESCRIPTIVE if (found := decode.value(exif, tag)) is not None}
  if _LAYOUT.search(str(kept.get(_DESCRIPTION, ""))):
    del kept[_DESCRIPTION]
  for directory in (EXIF, GPS):
    try:
      tags = exif.get_ifd(directory)
    except Exception:  # damaged directories have their own zoo of exceptions
      warn(f"{_tag_name(directory)}, which cannot be read, is")
      continue
    if tags := {k: v for k, v in tags.items() if k != _INTEROPERABILITY}:
      kept[directory] = tags
  icc_profile, comment = info.get("icc_profile"), info.get("comment")
  dpi = info.get("dpi")
  if dpi and not _is_resolution(dpi):
    warn(f"its resolution, {dpi[0]} x {dpi[1]} dots per inch, is")
    dpi = None
  return Metadata(
      icc_profile=icc_profile if isinstance(icc_profile, bytes) and icc_profile else None,
      exif=kept or None,
      xmp=_true_xmp(info.get("xmp", info.get(_PNG_XMP)), warn),
      dpi=tuple(map(float, dpi)) if dpi else None,
      texts=tuple((k, str(v)) for k, v in picture.texts.items() if k != _PNG_XMP and not k.startswith("Raw profile type")),
      comment=comment if isinstance(comment, bytes) else None,
      chunks=picture.chunks,
  )


def _is_resolution(dpi: Any) -> bool:
  return all(isinstance(side, numbers.Real) and math.isfinite(side) and 1 <= side <= _MAX_DPI for side in dpi)


def _true_xmp(xmp: str | bytes | None, warn: Callable[[str], None]) -> bytes | None:
  """The packet without what is no longer true of the picture: its turn, its size, and what lay beside it in the file."""
  if not isinstance(xmp, (str, bytes)) or not xmp:
    return None
  xmp = (xmp.encode("utf-8", "replace") if isinstance(xmp, str) else xmp).rstrip(b"\0")
  # Some programs write the orientation here as well, and others heed it.
  xmp = re.sub(rb'(tiff:Orientation(?:="|>))[2-8]', rb"\g<1>1", xmp)
  try:
    document = xml.dom.minidom.parseString(xmp)
  except Exception:  # expat, codecs and minidom have each their own
    if re.search(rb"ns\.google\.com|hdr-gain-map|HDRGainMap", xmp):
      warn("its XMP, which cannot be read and tells of data that are not copied, is")
      return None
    return xmp
  if not _without_untrue(document.documentElement):
    return xmp
  return "".join(node.toxml() for node in document.childNodes).encode()


def _without_untrue(element: xml.dom.minidom.Element) -> bool:
  """Takes what is untrue out of an element; returns whether there was any."""
  untrue = lambda node: bool(_BESIDE.search(node.namespaceURI or "")) or node.localName in _SIZES
  attributes = [a for a in (element.attributes.item(i) for i in range(element.attributes.length)) if untrue(a)]
  children = [node for node in element.childNodes if node.nodeType == node.ELEMENT_NODE]
  gone = [node for node in children if untrue(node)]
  for attribute in attributes:
    element.removeAttributeNode(attribute)
  for node in gone:
    element.removeChild(node)
  below = [_without_untrue(node) for node in children if node not in gone]
  return bool(attributes or gone or any(below))


def options(metadata: Metadata, size: tuple[int, int], file_format: str) -> dict[str, Any]:
  """What Pillow's `save` is told to write metadata of a picture of height and width `size`, as far as it may be told."""
  told = {"icc_profile": metadata.icc_profile, "dpi": metadata.dpi, "xmp": metadata.xmp, "comment": metadata.comment}
  if metadata.exif or (metadata.xmp and file_format == "TIFF"):
    told["exif"] = _exif(metadata, size, file_format)
  if file_format == "PNG":
    told["pnginfo"] = _png_info(metadata)
  if file_format == "TIFF" and not {EXIF, GPS} & set(metadata.exif or ()):
    told["compression"] = "tiff_adobe_deflate"  # by libtiff, which cannot write these directories
  return {key: value for key, value in told.items() if value is not None}


def _exif(metadata: Metadata, size: tuple[int, int], file_format: str) -> bytes:
  exif = Image.Exif()
  exif.update(metadata.exif or {})
  if EXIF in exif:
    exif[EXIF] = {**exif[EXIF], _WIDTH: size[1], _HEIGHT: size[0]}
  if file_format == "TIFF" and metadata.xmp:
    exif[XMP] = metadata.xmp
  return exif.tobytes()


def directories(metadata: Metadata, size: tuple[int, int]) -> dict[int, TiffImagePlugin.ImageFileDirectory_v2]:
  """The directories of camera and place by the tag that points to them; little-endian."""
  made = {}
  for directory, tags in _directories(metadata.exif or {}).items():
    if directory is not None:
      made[directory] = TiffImagePlugin.ImageFileDirectory_v2(group=directory)
      sizes = {_WIDTH: size[1], _HEIGHT: size[0]} if directory == EXIF else {}
      for tag, value in {**tags, **sizes}.items():
        made[directory][tag] = value
  return made


def _png_info(metadata: Metadata) -> PngImagePlugin.PngInfo:
  info = PngImagePlugin.PngInfo()
  for kind, data in metadata.chunks:
    info.add(kind, data)
  for key, text in metadata.texts:
    info.add_itxt(key, text)
  if metadata.xmp:
    info.add_itxt(_PNG_XMP, metadata.xmp.decode("utf-8", "replace"))
  return info


def fitting(metadata: Metadata, write: Callable[[Metadata], None], file_format: str, name: str) -> Metadata:
  """The metadata that a format takes; a warning names each part that is left out.

  Args:
    metadata: of a photo.
    write: writes a picture with metadata, and raises where they cannot be written.
    file_format: as Pillow calls it.
    name: of the file, for warnings.
  """
  if file_format != "PNG" and (lost := ", ".join(kind.decode() for kind, data in metadata.chunks if _matters(kind, data))):
    logging.warning("'%s': %s has no place for %s of the PNG file: colours may look different.", name, file_format, lost)
  if lost := ", ".join(_NAMES[field] for field in _NO_PLACE[file_format] if getattr(metadata, field)):
    logging.warning("'%s': %s has no place for %s: left out.", name, file_format, lost)
  try:
    write(metadata)
    return metadata
  except Exception:  # encoders of metadata have their own zoo of exceptions: each part is tried by itself
    kept = Metadata()
  for part, with_part in _parts(metadata):
    try:
      write(candidate := with_part(kept))
      kept = candidate
    except Exception as e:
      logging.warning("'%s': %s cannot be written as %s, and is left out (%s).", name, part, file_format,
                      " ".join(str(e).split()) or type(e).__name__)  # fmt: skip
  return kept


def _matters(kind: bytes, data: bytes) -> bool:
  """Whether a PNG chunk says of colours what no program would guess: something else than sRGB."""
  return (kind == b"gAMA" and data != _SRGB_GAMMA) or (kind == b"cICP" and data[:2] != b"\x01\x0d")


def _parts(metadata: Metadata) -> Iterator[tuple[str, Callable[[Metadata], Metadata]]]:
  """(name, what adds it to other metadata) of each tag, text and block; the largest tags last."""
  for field in ("icc_profile", "dpi", "comment"):
    if found := getattr(metadata, field):
      yield _NAMES[field], lambda kept, field=field, found=found: kept._replace(**{field: found})
  for chunk in metadata.chunks:
    yield f"PNG chunk {chunk[0].decode()}", lambda kept, chunk=chunk: kept._replace(chunks=(*kept.chunks, chunk))
  for text in metadata.texts:
    yield f"text '{text[0]}'", lambda kept, text=text: kept._replace(texts=(*kept.texts, text))
  tags = [
      (len(repr(found)), directory, tag, found)
      for directory, of_it in _directories(metadata.exif or {}).items()
      for tag, found in of_it.items()
  ]
  for _, directory, tag, found in sorted(tags, key=lambda entry: entry[0]):
    yield f"EXIF tag {_tag_name(tag, directory)}", lambda kept, entry=(directory, tag, found): _with_tag(kept, *entry)
  if metadata.xmp:
    yield _NAMES["xmp"], lambda kept: kept._replace(xmp=metadata.xmp)


def _directories(exif: Mapping[int, object]) -> dict[int | None, Mapping[int, object]]:
  """Tags by directory; None is that of the picture."""
  own = {tag: found for tag, found in exif.items() if tag not in (EXIF, GPS)}
  return {None: own, **{directory: exif[directory] for directory in (EXIF, GPS) if directory in exif}}


def _with_tag(metadata: Metadata, directory: int | None, tag: int, found: object) -> Metadata:
  exif = dict(metadata.exif or {})
  if directory is None:
    exif[tag] = found
  else:
    exif[directory] = {**exif.get(directory, {}), tag: found}
  return metadata._replace(exif=exif)


def _tag_name(tag: int, directory: int | None = None) -> str:
  names = ExifTags.GPSTAGS if directory == GPS else ExifTags.TAGS
  return names.get(tag, hex(tag))
