"""The network: eight 3x3 convolutions that correct a bicubic enlargement (Fig. 2). Pure: parameters in, image out."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from mzsr_jax import conv

Params = PyTree[Float[Array, "..."]]


CONVOLUTIONS = conv.CONVOLUTIONS  # same function, different lowering of its second derivatives


def _lowering(convolution: str, precision: str) -> Callable:
  """A convolution behind the signature of lax.conv_general_dilated, for the one case the network has: SAME, stride 1."""
  return lambda inputs, kernel, *_, **__: CONVOLUTIONS[convolution](inputs, kernel, precision)


class MZSRNet(nn.Module):
  """output = input + last convolution; ReLU after all layers but the last.

  Attributes:
    depth: number of convolutions.
    features: channels between them.
    channels: image channels in and out.
    convolution: key of `CONVOLUTIONS`.
    precision: of the products, one of `conv.PRECISIONS`.
  """

  depth: int = 8
  features: int = 64
  channels: int = 3
  convolution: str = "closed"
  precision: str = "float32"

  @nn.compact
  def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h w c"]:
    """Args: LR images enlarged to the target size by bicubic, RGB in [0, 1]. Returns: SR images, not clipped."""
    h = x
    for i in range(self.depth):
      last = i == self.depth - 1
      h = nn.Conv(
          self.channels if last else self.features,
          kernel_size=(3, 3),
          padding="SAME",
          kernel_init=nn.initializers.variance_scaling(1.0, "fan_in", "truncated_normal"),
          conv_general_dilated=_lowering(self.convolution, self.precision),
          name=f"conv{i + 1}",
      )(h)
      if not last:
        h = nn.relu(h)
    return x + h


NET = MZSRNet()  # the paper's


def init(key, model: MZSRNet = NET) -> Params:
  """Random parameters: variance scaling (scale 1, fan-in, truncated normal), zero biases."""
  return model.init(key, jnp.zeros((1, 8, 8, model.channels), jnp.float32))["params"]


def apply(params: Params, x: Float[Array, "n h w c"], model: MZSRNet = NET) -> Float[Array, "n h w c"]:
  """Runs the network on LR images enlarged to the target size; RGB in [0, 1], output not clipped."""
  return model.apply({"params": params}, x)


def count(params: Params) -> int:
  """Number of scalars in `params`: 225,091 for the paper's network."""
  return sum(p.size for p in jax.tree.leaves(params))
