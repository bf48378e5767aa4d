"""Image files in, image files out, and the pixel formats between: uint8 and float RGB, (H, W, 3)."""

import pathlib
from collections.abc import Sequence

import imageio.v3 as iio
import numpy as np
from jaxtyping import Float, Shaped, UInt, UInt8
from PIL import Image, ImageDraw, ImageFont

from mzsr_jax import decode, files
from mzsr_jax.core.jpeg import LUMA as LUMA
from mzsr_jax.errors import UserError

# What is written, by extension, as Pillow calls it.
FORMATS = {
    ".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".jfif": "JPEG", ".bmp": "BMP", ".tif": "TIFF", ".tiff": "TIFF",
    ".webp": "WEBP",
}  # fmt: skip
EXTENSIONS = (*FORMATS, ".avif", ".gif")  # of what is looked for in folders; a file that is named is read whatever its name is

Pixels = UInt8[np.ndarray, "h w 3"]


def find_images(folder: str | pathlib.Path) -> list[pathlib.Path]:
  """The image files under a folder and its subfolders, sorted; found by extension, hidden files left out.

  Raises:
    UserError: no such folder, or no image in it.
  """
  return files.find(folder, EXTENSIONS, "image")


def read_image(path: str | pathlib.Path) -> Pixels:
  """Decodes an image file to (H, W, 3) uint8 RGB, turned as its EXIF orientation says.

  Gray is repeated to three channels, transparent pixels are laid over white, 16-bit values are rounded to 8 bits; for the rest
  see `decode.read`.

  Raises:
    UserError: see `decode.read`.
  """
  picture = decode.read(path)
  channels = decode.upright(picture.channels, picture.orientation)
  if channels.shape[-1] % 2 == 0:
    channels = over_white(to_float(channels[..., :-1]), to_float(channels[..., -1]))
  elif channels.dtype != np.uint8:
    channels = to_float(channels)
  pixels = channels if channels.dtype == np.uint8 else to_uint8(channels)
  return np.array(np.broadcast_to(pixels, (*pixels.shape[:2], 3)))


def image_size(path: str | pathlib.Path) -> tuple[int, int] | None:
  """Height and width of the image that `read_image` would return, from the file's header; None where it cannot be read."""
  try:
    return decode.header(path).size
  except UserError:  # `read_image` will report it
    return None


def over_white(colours: Float[np.ndarray, "h w c"], alpha: Float[np.ndarray, "h w"]) -> Float[np.ndarray, "h w c"]:
  """What is transparent, laid over white; all in [0, 1]."""
  return colours * alpha[..., None] + (1 - alpha[..., None])


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
  return iio.imwrite("<bytes>", image, extension=".png", plugin="pillow", is_batch=False)


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
