"""Plain bicubic enlargement: what a result is compared and mixed with. On the host, where nothing needs to be compiled."""

import numpy as np
from jaxtyping import Float, Shaped

from mzsr_jax import images
from mzsr_jax.core import checks, resize

REACH = 2  # pixels of the image on each side that a pixel of the result depends on
_ROWS = 256  # of the result at a time, for the memory's sake


def enlarge(image: Float[np.ndarray, "h w c"], scale: float, dtype: type = np.uint8) -> Shaped[np.ndarray, "p q c"]:
  """`degradation.enlarge`, clipped to [0, 1].

  Args:
    image: in [0, 1].
    scale: scale factor.
    dtype: of the pixels, see `images.quantize`.

  Returns:
    ceil(H * scale) x ceil(W * scale) pixels.
  """
  checks.check_image(image)
  rows, columns = (resize.enlarge_sparse(length, scale) for length in image.shape[:2])
  height, width, channels = rows.shape[0], columns.shape[0], image.shape[2]
  out = np.empty((height, width, channels), dtype)
  for first in range(0, height, _ROWS):
    own = rows[first : first + _ROWS]
    seen = slice(own.indices.min(), own.indices.max() + 1)
    wide = columns @ image[seen].swapaxes(0, 1).reshape(len(image[0]), -1)
    wide = wide.reshape(width, -1, channels).swapaxes(0, 1).reshape(-1, width * channels)
    made = (own[:, seen] @ wide).reshape(-1, width, channels)
    out[first : first + _ROWS] = images.quantize(np.clip(made, 0, 1), dtype)
  return out
