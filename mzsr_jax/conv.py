"""A 3x3 convolution whose derivatives of every order stay convolutions that XLA lowers well.

XLA derives the gradient of a weight gradient as a convolution with window dilation, which its CPU backend runs slowly;
the second-order meta-gradient is full of them. Convolution and weight gradient are two bilinear maps, conv(x, w) and
wgrad(x, g), and each derivative of either is again one of the two, with w flipped and its channels swapped. Defining
the rules of both through each other closes the set.
"""

import jax
import jax.numpy as jnp
from jax import lax

_DIMS = ("NHWC", "HWIO", "NHWC")


def _flip(w):
  """The weights of the transposed convolution: flipped in space, channel axes swapped."""
  return jnp.swapaxes(w[::-1, ::-1], 2, 3)


@jax.custom_vjp
def conv(x, w):
  """'SAME' convolution, stride 1: (N, H, W, C) x (3, 3, C, D) -> (N, H, W, D)."""
  return lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=_DIMS)


@jax.custom_vjp
def wgrad(x, g):
  """Gradient of <conv(x, w), g> with respect to the 3x3 weights w: (N, H, W, C) x (N, H, W, D) -> (3, 3, C, D)."""
  return lax.conv_general_dilated(x, g, (1, 1), ((1, 1), (1, 1)), dimension_numbers=("CHWN", "IHWO", "HWNC"))


conv.defvjp(lambda x, w: (conv(x, w), (x, w)), lambda r, g: (conv(g, _flip(r[1])), wgrad(r[0], g)))
wgrad.defvjp(lambda x, g: (wgrad(x, g), (x, g)), lambda r, h: (conv(r[1], _flip(h)), conv(r[0], h)))
