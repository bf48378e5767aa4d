"""The network: eight 3x3 convolutions that correct a bicubic enlargement (Fig. 2). Pure: parameters in, image out."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Key

from mzsr_jax.core import conv, degradation, resize
from mzsr_jax.core.kernels import Degradation
from mzsr_jax.core.network import Params

CONVOLUTIONS = conv.CONVOLUTIONS  # same function, different lowering of its second derivatives


def _lowering(convolution: str, precision: str) -> Callable:
  """A convolution behind the signature of lax.conv_general_dilated, for the one case the network has: SAME, stride 1."""
  products = "tf32" if precision == "tf32" else "float32"
  return lambda inputs, kernel, *_, **__: CONVOLUTIONS[convolution](inputs, kernel, products)


class MZSRNet(nn.Module):
  """output = input + last convolution; ReLU after all layers but the last.

  Attributes:
    depth: number of convolutions.
    features: channels between them.
    channels: image channels in and out.
    convolution: key of `CONVOLUTIONS`.
    precision: one of `conv.PRECISIONS`. In bfloat16 are the layers between the first and the last; all else is float32.
  """

  depth: int = 8
  features: int = 64
  channels: int = 3
  convolution: str = "closed"
  precision: str = "float32"

  @nn.compact
  def __call__(self, x: Float[ArrayLike, "n h w c"], mask: Float[Array, "n h w 1"] | None = None) -> Float[Array, "n h w c"]:
    """Runs the network.

    Args:
      x: LR images enlarged to the target size by bicubic, RGB in [0, 1].
      mask: 1 where there is an image and 0 in what pads it. With it, each layer sees the zeros beyond the image's edge that
        it would see without the padding; the output is meaningless in the padding.

    Returns:
      SR images, not clipped.
    """
    h = x if mask is None else x * mask
    for i in range(self.depth):
      last = i == self.depth - 1
      inside = self.precision == "bfloat16" and 0 < i and not last
      h = nn.Conv(
          self.channels if last else self.features,
          kernel_size=(3, 3),
          padding="SAME",
          kernel_init=nn.initializers.variance_scaling(1.0, "fan_in", "truncated_normal"),
          dtype=jnp.bfloat16 if inside else x.dtype,
          conv_general_dilated=_lowering(self.convolution, self.precision),
          name=f"conv{i + 1}",
      )(h)
      if not last:
        h = conv.relu(h)
        h = h if mask is None else h * mask.astype(h.dtype)
    return x + h

  # The interface `network.Network`: the paper's network sees a bicubic enlargement.

  @nn.nowrap
  def reach(self, scale: float) -> int:
    """See `network.Network`: a pixel for each convolution."""
    del scale
    return self.depth

  @nn.nowrap
  def cell(self, scale: float) -> int:
    """See `network.Network`: tiles may begin anywhere."""
    del scale
    return 1

  @property
  def activations(self) -> int:
    """Numbers kept for an HR pixel."""
    return self.depth * self.features

  @property
  def is_told_kernel(self) -> bool:
    """See `network.Network`."""
    return False

  @nn.nowrap
  def init_params(self, key: Key[Array, ""]) -> Params:
    """Random parameters: variance scaling (scale 1, fan-in, truncated normal), zero biases."""
    return self.init(key, jnp.zeros((1, 8, 8, self.channels), jnp.float32))["params"]

  @nn.nowrap
  def observe(
      self, lr: Float[Array, "*n h w c"], of: Degradation, scale: float, size: tuple[int, int] | None = None
  ) -> Float[Array, "*n p q c"]:
    """LR images enlarged by bicubic interpolation."""
    return degradation.enlarge(lr, scale, size, of.offset)

  @nn.nowrap
  def reconstruct(
      self, params: Params, enlarged: Float[ArrayLike, "*n h w c"], mask: Float[Array, "*n h w 1"] | None = None
  ) -> Float[Array, "*n h w c"]:
    """SR images of enlarged ones, see `__call__`; without an axis of images for one."""
    batch = lambda x: None if x is None else x.reshape(-1, *x.shape[-3:])
    return self.apply({"params": params}, batch(enlarged), batch(mask)).reshape(enlarged.shape)

  @nn.nowrap
  def tell(self, of: Degradation, scale: float) -> tuple[()]:
    """See `network.Network`: tiles are told nothing."""
    return ()

  @nn.nowrap
  def tile_axis(
      self, of: Degradation, scale: float, axis: int, lr_length: int, length: int, start: int, side: int
  ) -> tuple[int, int, Float[np.ndarray, "side n"]]:
    """See `network.Network`: a matrix of the enlargement, zero beyond the image."""
    block = resize.enlarge_block(lr_length, scale, start, min(side, length - start), side, of.offset[axis])
    return block.start, block.matrix.shape[1], block.matrix

  @nn.nowrap
  def observe_tile(
      self, lr: Float[Array, "h w c"], rows: Float[Array, "p h"], columns: Float[Array, "q w"], told: tuple[()]
  ) -> Float[Array, "p q c"]:
    """See `network.Network`."""
    return degradation.resample(lr, rows, columns)


NET = MZSRNet()  # the paper's


def init(key: Key[Array, ""], network: MZSRNet = NET) -> Params:
  """Random parameters: see `MZSRNet.init_params`."""
  return network.init_params(key)


def count(params: Params) -> int:
  """Number of scalars in `params`: 225,091 for the paper's network."""
  return sum(p.size for p in jax.tree.leaves(params))
