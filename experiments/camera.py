"""What a camera does to an LR image besides blur and sampling: noise and JPEG."""

import io
import tempfile

import numpy as np
from absl import flags
from PIL import Image

from mzsr_jax import images
from mzsr_jax.photo import file as photo_file
from mzsr_jax.photo.file import Photo

flags.disclaim_key_flags()  # those defined here belong to the script that asks for them, so that its --help lists them


def define_flags() -> None:
  """Defines --noise and --jpeg."""
  flags.DEFINE_float("noise", 0, "standard deviation of Gaussian noise on the LR images, of 255", lower_bound=0)
  flags.DEFINE_integer("jpeg", None, "quality of JPEG files that the LR images are read from", lower_bound=1, upper_bound=100)


def taken(lr: np.ndarray, noise: float, quality: int | None) -> Photo:
  """An 8-bit LR image as a file has it.

  Args:
    lr: in [0, 1].
    noise: standard deviation, of 255; images of the same size get the same noise.
    quality: of the JPEG file; None for a lossless one.
  """
  if noise:
    lr = images.to_float(images.to_uint8(lr + np.random.default_rng(1).normal(0, noise / 255, lr.shape)))
  if not quality:
    return Photo(lr)
  coded = io.BytesIO()
  Image.fromarray(images.to_uint8(lr)).save(coded, "JPEG", quality=quality)
  return read(coded.getvalue(), ".jpg")


def read(content: bytes, extension: str) -> Photo:
  """The photo that a file of such content is."""
  with tempfile.NamedTemporaryFile(suffix=extension) as file:
    file.write(content)
    file.flush()
    return photo_file.read(file.name)
