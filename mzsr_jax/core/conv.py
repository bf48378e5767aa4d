"""A 3x3 convolution whose derivatives of every order stay convolutions that XLA lowers well, and its alternatives.

XLA derives the gradient of a weight gradient as a convolution with window dilation, which its CPU backend runs slowly;
the second-order meta-gradient is full of them. Convolution and weight gradient are two bilinear maps, conv(x, w) and
wgrad(x, g), and each derivative of either is again one of the two, with w flipped and its channels swapped. Defining
the rules of both through each other closes the set.

All take (N, H, W, C) images and (3, 3, C, D) weights of one type, 'SAME' padding, stride 1, and a precision of the products
of float32: "float32" or "tf32" (where the hardware has it, else more exact). Results and gradients are of the inputs' type;
sums of products of bfloat16 are float32 until they are rounded to it.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

PRECISIONS = ("float32", "tf32", "bfloat16")
_DIMS = ("NHWC", "HWIO", "NHWC")
_LAX_PRECISION = {"float32": lax.Precision.HIGHEST, "tf32": lax.Precision.HIGH}
# Below so many channels a convolution leaves most of a vector register idle: a matrix product is 15 times faster on a CPU.
_FEW_CHANNELS = 8
# Of images of so many pixels, a CPU takes weight gradients one by one: each stays in its cache, and is worth a call.
_ONE_BY_ONE = range(32 * 32, 128 * 128 + 1)


def _convolve(x, w, precision):
  return lax.conv_general_dilated(
      x, w, (1, 1), ((1, 1), (1, 1)), dimension_numbers=_DIMS, precision=_LAX_PRECISION[precision]
  )


def _matmul(a, b, precision):
  return jnp.matmul(a, b, precision=_LAX_PRECISION[precision])


def _flip(w):
  """The weights of the transposed convolution: flipped in space, channel axes swapped."""
  return jnp.swapaxes(w[::-1, ::-1], 2, 3)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def conv(x, w, precision="float32"):
  """'SAME' convolution, stride 1: (N, H, W, C) x (3, 3, C, D) -> (N, H, W, D)."""
  return _convolve(x, w, precision)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def wgrad(x, g, precision="float32"):
  """Gradient of <conv(x, w), g> with respect to the 3x3 weights w: (N, H, W, C) x (N, H, W, D) -> (3, 3, C, D)."""
  if x.shape[-1] < _FEW_CHANNELS:
    return _few_channel_wgrad(x, g, precision)
  if g.shape[-1] < _FEW_CHANNELS:
    return _flip(_few_channel_wgrad(g, x, precision))
  if x.shape[1] * x.shape[2] in _ONE_BY_ONE:
    by_images = functools.partial(_wgrad_by_images, precision=precision)
    return lax.platform_dependent(x, g, cpu=by_images, default=functools.partial(_wgrad_by_convolution, precision=precision))
  return _wgrad_by_convolution(x, g, precision)


def _wgrad_by_convolution(x, g, precision):
  """`wgrad` as one convolution of all images."""
  # Transposed in the open, not by dimension numbers: inside a loop, XLA's CPU backend finds its fast convolution only
  # when the layout is already the canonical one, and is 20 times slower otherwise.
  out = _convolve(x.transpose(3, 1, 2, 0), g.transpose(1, 2, 0, 3), precision)
  return out.transpose(1, 2, 0, 3)


def _wgrad_by_images(x, g, precision):
  """`wgrad` as one matrix product for each image: what three columns of it hold, times what three rows of g hold."""
  (_, height, width, c), d = x.shape, g.shape[-1]

  def product(image):
    x, g = jnp.pad(image[0], ((1, 1), (1, 1), (0, 0))), jnp.pad(image[1], ((2, 2), (0, 0), (0, 0)))
    columns = jnp.concatenate([x[:, j : j + width] for j in range(3)], -1).reshape(-1, 3 * c)
    rows = jnp.concatenate([g[2 - i : 4 - i + height] for i in range(3)], -1).reshape(-1, 3 * d)
    return _matmul(columns.T, rows, precision)

  out = lax.map(product, (x, g)).sum(0)  # of bfloat16 too, JAX sums in float32
  return out.reshape(3, c, 3, d).transpose(2, 0, 1, 3)


def _few_channel_wgrad(x, g, precision):
  """`wgrad` as one matrix product: the nine shifted images, channel first so that each row is contiguous, times g."""
  n, height, width, channels = x.shape
  padded = jnp.pad(x.transpose(3, 0, 1, 2), ((0, 0), (0, 0), (1, 1), (1, 1)))
  shifted = jnp.stack([padded[:, :, i : i + height, j : j + width] for i in range(3) for j in range(3)])
  out = _matmul(shifted.reshape(9 * channels, -1), g.reshape(n * height * width, -1), precision)
  return out.reshape(3, 3, channels, -1)


conv.defvjp(
    lambda x, w, precision: (conv(x, w, precision), (x, w)),
    lambda precision, r, g: (conv(g, _flip(r[1]), precision), wgrad(r[0], g, precision)),
)
wgrad.defvjp(
    lambda x, g, precision: (wgrad(x, g, precision), (x, g)),
    lambda precision, r, h: (conv(r[1], _flip(h), precision), conv(r[0], h, precision)),
)


def dilated(x, w, dilation):
  """`conv` whose taps lie `dilation` pixels apart: plain convolutions of every `dilation`-th row and column."""
  if dilation == 1:
    return conv(x, w)
  n, height, width, channels = x.shape
  x = jnp.pad(x, ((0, 0), (0, -height % dilation), (0, -width % dilation), (0, 0)))
  rows, columns = x.shape[1] // dilation, x.shape[2] // dilation
  apart = x.reshape(n, rows, dilation, columns, dilation, channels).transpose(0, 2, 4, 1, 3, 5)
  out = conv(apart.reshape(-1, rows, columns, channels), w)
  out = out.reshape(n, dilation, dilation, rows, columns, -1).transpose(0, 3, 1, 4, 2, 5)
  return out.reshape(n, *x.shape[1:3], -1)[:, :height, :width]


def relu(x):
  """max(x, 0). Of bfloat16, a CPU selects the gradient 20 times as fast in float32, which is exact too."""
  return jax.nn.relu(x.astype(jnp.float32)).astype(x.dtype) if x.dtype == jnp.bfloat16 else jax.nn.relu(x)


def xla(x, w, precision="float32"):
  """The same function with the derivatives that JAX itself has for a convolution."""
  return lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=_DIMS, precision=_LAX_PRECISION[precision])


def im2col(x, w, precision="float32"):
  """The same function as one matrix product over the nine shifted images; under vmap it becomes a batched product."""
  _, height, width, _ = x.shape
  padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
  shifted = [padded[:, i : i + height, j : j + width] for i in range(3) for j in range(3)]
  return _matmul(jnp.concatenate(shifted, -1), w.reshape(-1, w.shape[-1]), precision)


CONVOLUTIONS: dict[str, Callable] = {"closed": conv, "xla": xla, "im2col": im2col}
