"""What JPEG does to an image, on device. Pure; a model of the loss alone, not a coder."""

import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Float

LUMA = (0.299, 0.587, 0.114)  # of R, G and B in a gray level, ITU-R BT.601
BLOCK = 16  # pixels, side of what is coded together: four blocks of luma, one of each chroma
# Steps at quality 50, ITU-T T.81, tables K.1 and K.2.
LUMA_STEPS = np.array([
    [16, 11, 10, 16, 24, 40, 51, 61], [12, 12, 14, 19, 26, 58, 60, 55], [14, 13, 16, 24, 40, 57, 69, 56],
    [14, 17, 22, 29, 51, 87, 80, 62], [18, 22, 37, 56, 68, 109, 103, 77], [24, 35, 55, 64, 81, 104, 113, 92],
    [49, 64, 78, 87, 103, 121, 120, 101], [72, 92, 95, 98, 112, 100, 103, 99],
], np.float32)  # fmt: skip
CHROMA_STEPS = np.full((8, 8), 99, np.float32)
CHROMA_STEPS[:4, :4] = [[17, 18, 24, 47], [18, 21, 26, 66], [24, 26, 56, 99], [47, 66, 99, 99]]
# The orthonormal discrete cosine transform (DCT-II) of eight numbers.
COSINES = np.cos(np.pi / 16 * np.outer(np.arange(8), np.arange(1, 16, 2)))
COSINES = (COSINES / np.linalg.norm(COSINES, axis=1, keepdims=True)).astype(np.float32)
_TO_YCBCR = np.array([LUMA, [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]], np.float32)
_TO_RGB = np.linalg.inv(_TO_YCBCR.astype(np.float64)).astype(np.float32)


def steps(quality: Float[ArrayLike, ""], at_50: Float[np.ndarray, "8 8"]) -> Float[Array, "8 8"]:
  """Steps of the quantisation at a quality from 1 to 100, as the Independent JPEG Group scales them."""
  percent = jnp.where(quality < 50, jnp.floor(5000 / quality), 200 - 2 * quality)
  return jnp.clip(jnp.floor((at_50 * percent + 50) / 100), 1, 255)


def compress(image: Float[Array, "h w 3"], quality: Float[ArrayLike, ""]) -> Float[Array, "h w 3"]:
  """An image with what JPEG takes from it: halved chroma, coefficients in whole steps. Not rounded to 8 bits.

  Args:
    image: in [0, 1], sides multiples of 16.
    quality: from 1 to 100.
  """
  h, w, _ = image.shape
  ycc = jnp.matmul(image * 255 - 128, _TO_YCBCR.T, precision="highest")
  y = quantised(ycc[..., 0], steps(quality, LUMA_STEPS))
  halved = ycc[..., 1:].reshape(h // 2, 2, w // 2, 2, 2).mean((1, 3))
  chroma = [quantised(halved[..., i], steps(quality, CHROMA_STEPS)) for i in range(2)]
  chroma = [_doubled(_doubled(c).T).T for c in chroma]
  return (jnp.matmul(jnp.stack([y, *chroma], -1), _TO_RGB.T, precision="highest") + 128) / 255


def _doubled(plane: Float[Array, "h w"]) -> Float[Array, "2*h w"]:
  """Rows between rows, as decoders make them: three parts of the nearer, one of the further."""
  around = jnp.pad(plane, ((1, 1), (0, 0)), mode="edge")
  both = jnp.stack([3 * plane + around[:-2], 3 * plane + around[2:]], 1) / 4
  return both.reshape(-1, plane.shape[1])


def quantised(plane: Float[Array, "h w"], steps: Float[Array, "8 8"]) -> Float[Array, "h w"]:
  """A plane of blocks of 8x8, in levels about 0, their coefficients in whole steps."""
  blocks = plane.reshape(plane.shape[0] // 8, 8, plane.shape[1] // 8, 8)
  exactly = {"precision": lax.Precision.HIGHEST}
  found = jnp.einsum("ui,piqj,vj->pquv", COSINES, blocks, COSINES, **exactly)
  found = jnp.round(found / steps[None, None]) * steps[None, None]
  return jnp.einsum("ui,pquv,vj->piqj", COSINES, found, COSINES, **exactly).reshape(plane.shape)
