"""Image files in, image files out, and the pixel formats between: uint8 and float RGB, (H, W, 3)."""

import io
import pathlib
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Shaped, UInt, UInt8
from PIL import Image, ImageDraw, ImageFont, ImageOps

from mzsr_jax import files
from mzsr_jax.errors import UserError

# What is read and written, by extension, as Pillow calls it.
FORMATS = {
    ".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".bmp": "BMP", ".tif": "TIFF", ".tiff": "TIFF", ".webp": "WEBP"
}  # fmt: skip
LUMA = (0.299, 0.587, 0.114)  # of R, G and B in a gray level, ITU-R BT.601

Pixels = UInt8[np.ndarray, "h w 3"]


def find_images(folder: str | pathlib.Path) -> list[pathlib.Path]:
  """The image files under a folder and its subfolders, sorted; found by extension, hidden files left out.

  Raises:
    UserError: no such folder, or no image in it.
  """
  return files.find(folder, tuple(FORMATS), "image")


def read_image(path: str | pathlib.Path) -> Pixels:
  """Decodes an image file to (H, W, 3) uint8 RGB, turned as its EXIF orientation says.

  Gray is repeated to three channels, palettes are expanded, transparent pixels are laid over white, 16-bit values are
  scaled to 8 bits; of an animation, the first picture counts.

  Raises:
    UserError: no such file, not decodable, or 32-bit pixels, whose range of values is unknown.
  """
  try:
    with Image.open(path) as image:
      return _to_rgb(ImageOps.exif_transpose(image))
  except Exception as e:  # each format has its own zoo of exceptions for damaged files
    raise UserError(f"image '{path}' cannot be read: {' '.join(str(e).split())}") from e


def image_size(path: str | pathlib.Path) -> tuple[int, int] | None:
  """Height and width of the image that `read_image` would return, from the file's header; None where it cannot be read."""
  try:
    with Image.open(path) as image:
      # Orientations 5 to 8 swap the sides; of TIFF files Pillow has done so.
      turned = image.format != "TIFF" and image.getexif().get(0x0112, 1) >= 5
      return image.size if turned else image.size[::-1]
  except Exception:  # each format has its own zoo of exceptions for damaged headers; `read_image` will report it
    return None


def _to_rgb(image: Image.Image) -> Pixels:
  if image.mode.startswith("I;16"):  # Pillow knows 16 bits in gray only; of 16-bit colour it keeps the upper 8
    gray = np.round(np.asarray(image) / 257).astype(np.uint8)
    return np.repeat(gray[..., None], 3, axis=-1)
  if image.mode in ("I", "F"):
    raise UserError("it holds 32-bit pixels, whose range is unknown: save it with 8 or 16 bits")
  if image.has_transparency_data:
    image = image.convert("RGBA")
    image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
  return np.array(image.convert("RGB"))


def to_float(image: UInt[np.ndarray, "*s"]) -> Float[np.ndarray, "*s"]:
  """Unsigned integers, of which the largest is white, to float32 in [0, 1]."""
  return image.astype(np.float32) / np.float32(np.iinfo(image.dtype).max)


def to_uint8(image: Float[np.ndarray, "*s"]) -> UInt8[np.ndarray, "*s"]:
  """`quantize` to 8 bits."""
  return quantize(image, np.uint8)


def quantize(image: Float[np.ndarray, "*s"], dtype: type) -> Shaped[np.ndarray, "*s"]:
  """Float, [0, 1] or beyond, clipped, and rounded to a type of unsigned integers; a type of floats keeps what lies between.

  Raises:
    UserError: NaN, which only an adaptation with too large a learning rate gives.
  """
  image = np.asarray(image)
  if np.isnan(image).any():
    raise UserError("the result holds NaN: the adaptation diverged, lower its learning rate (--inner_lr)")
  image = np.clip(image, 0, 1)
  return image.astype(dtype) if np.issubdtype(dtype, np.floating) else np.round(image * np.iinfo(dtype).max).astype(dtype)


def crop_to_multiple(image: Pixels, scale: int) -> Pixels:
  """Cuts rows at the bottom and columns at the right until `scale` divides both sides."""
  height, width = image.shape[:2]
  return image[: height - height % scale, : width - width % scale]


def center_crop(image: Pixels, side: int) -> Pixels:
  """The square in the middle; a shorter side is kept whole."""
  top, left = (max(length - side, 0) // 2 for length in image.shape[:2])
  return image[top : top + side, left : left + side]


def encode_png(image: Pixels) -> bytes:
  """An 8-bit image as a PNG file."""
  buffer = io.BytesIO()
  Image.fromarray(image).save(buffer, "PNG")
  return buffer.getvalue()


def write_png(
    path: str | pathlib.Path, image: Pixels | Float[np.ndarray, "h w 3"], overwrite: bool = False
) -> None:
  """Writes an RGB image, uint8 or float in [0, 1], as a PNG file, whole or not at all.

  Raises:
    UserError: see `files.write_whole`.
  """
  files.write_whole(path, encode_png(image if image.dtype == np.uint8 else to_uint8(image)), overwrite)


def side_by_side(images: Sequence[Pixels], labels: Sequence[str]) -> Pixels:
  """A strip of equally large images, left to right, each under its label, with thin white lines between them.

  Args:
    images: (H, W, 3) uint8 each.
    labels: a short caption for each; what is wider than the image is cut off.
  """
  height, width = images[0].shape[:2]
  gap, font_size = 2, max(12, height // 24)
  caption_height = font_size * 3 // 2
  strip = Image.new("RGB", (len(images) * (width + gap) - gap, caption_height + height), "white")
  for i, (image, label) in enumerate(zip(images, labels, strict=True)):
    caption = Image.new("RGB", (width, caption_height), "white")
    font = ImageFont.load_default(font_size)
    ImageDraw.Draw(caption).text((width / 2, caption_height / 2), label, fill="black", font=font, anchor="mm")
    left = i * (width + gap)
    strip.paste(caption, (left, 0))
    strip.paste(Image.fromarray(image), (left, caption_height))
  return np.array(strip)
