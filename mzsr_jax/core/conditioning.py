"""Parameters that depend on the degradation: a start of its own for each (beyond the paper).

Conditioned parameters are those of the network with one more entry, `KEY`, which says how its convolutions change with
kernel, scale and noise: their weights are multiplied for each place and channel that they see and for each output, their
biases moved. `start` makes parameters of the network's own shape: no code after it knows of conditioning. Pure functions.
"""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Key

from mzsr_jax.core.kernels import Degradation, as_degradation
from mzsr_jax.core.network import Params

KEY = "conditioning"
MAX_NOISE = 0.06  # that training knows, in [0, 1] units
_HIDDEN = 24
_MIDDLE = 1.3  # standard deviation in the middle of the training's kernels at x2, HR pixels
EPS = 1e-6  # pixels^4: square roots of what is 0 for one pixel, or for round kernels, still have a derivative
_LENGTH = 5  # of a description


def is_conditioned(params: Params) -> bool:
  """Whether parameters depend on the degradation."""
  return KEY in params


def network(params: Params) -> Params:
  """Those of the network alone; conditioned ones without what changes them."""
  return {name: layer for name, layer in params.items() if name != KEY}


def init(key: Key[Array, ""], params: Params) -> Params:
  """Conditioned parameters that start as `params` for every degradation."""
  keys = jax.random.split(key)
  width = _LENGTH + _HIDDEN
  hidden = {
      "weights": jax.random.normal(keys[0], (_LENGTH, _HIDDEN)) * 0.9,
      "bias": jax.random.normal(keys[1], (_HIDDEN,)) * 0.3,
  }
  changes = {}
  for name, layer in params.items():
    *seen, outputs = layer["kernel"].shape
    sizes = {"seen": seen[0] * seen[1] * seen[2], "outputs": outputs, "bias": outputs}
    changes[name] = {part: jnp.zeros((width, size)) for part, size in sizes.items()}
  return params | {KEY: {"hidden": hidden, "changes": changes}}


def start(
    params: Params, degradation: Degradation | Float[ArrayLike, "k k"], scale: float | Float[Array, ""]
) -> Params:
  """The network's parameters for a degradation; parameters that are not conditioned are returned as they are.

  Args:
    params: of the network, conditioned or not.
    degradation: of the LR image; a bare kernel means one without noise.
    scale: scale factor, may be traced.
  """
  if not is_conditioned(params):
    return params
  degradation = as_degradation(degradation)
  return _start(params, jnp.asarray(degradation.kernel), *(jnp.asarray(x, jnp.float32) for x in (scale, degradation.noise_std)))


@jax.jit
def _start(params: Params, kernel: Float[Array, "k k"], scale: Float[Array, ""], noise_std: Float[Array, ""]) -> Params:
  hidden, code = params[KEY]["hidden"], describe(kernel, scale, noise_std)
  dot = lambda x, y: jnp.dot(x, y, precision="highest")
  features = jnp.concatenate([code, jnp.tanh(dot(code, hidden["weights"]) + hidden["bias"])])
  made = {}
  for name, layer in network(params).items():
    change = {part: dot(features, matrix) for part, matrix in params[KEY]["changes"][name].items()}
    *seen, outputs = layer["kernel"].shape
    by_seen, by_output = 1 + change["seen"].reshape(*seen, 1), 1 + change["outputs"]
    weights = layer["kernel"] * by_seen * by_output.reshape(1, 1, 1, outputs)
    made[name] = {"kernel": weights, "bias": layer["bias"] * by_output + change["bias"]}
  return made


def describe(
    kernel: Float[Array, "k k"], scale: Float[ArrayLike, ""], noise_std: Float[ArrayLike, ""] = 0.0
) -> Float[Array, " 5"]:
  """What the parameters depend on: square root of the kernel's covariance matrix, scale factor and noise.

  Returns:
    (horizontal, vertical, mixed, scale, noise), the first two in HR pixels less `_MIDDLE`, the scale less 2, the noise from 0
    to 1. A kernel that is wider than those of training counts as one as wide (of a largest variance of 2.5 times the scale),
    noise above `MAX_NOISE` as that much, and negative variances as 0.
  """
  axis = jnp.arange(kernel.shape[0], dtype=kernel.dtype) - kernel.shape[0] // 2
  rows, columns = kernel.sum(1), kernel.sum(0)
  y, x = axis - (rows * axis).sum(), axis - (columns * axis).sum()
  yy, xx = jnp.maximum((rows * y * y).sum(), 0), jnp.maximum((columns * x * x).sum(), 0)
  xy = jnp.dot(jnp.dot(y, kernel, precision="highest"), x, precision="highest")
  largest = (xx + yy) / 2 + jnp.sqrt(((xx - yy) / 2) ** 2 + xy * xy + EPS)
  shrink = jnp.minimum(2.5 * scale / largest, 1)
  xx, yy, xy = xx * shrink, yy * shrink, xy * shrink
  root = jnp.sqrt(jnp.maximum(xx * yy - xy * xy, EPS))  # of the determinant
  trace = jnp.sqrt(xx + yy + 2 * root)  # of the matrix' square root
  noise = jnp.minimum(noise_std / MAX_NOISE, 1.0)
  shape = (xx + root) / trace - _MIDDLE, (yy + root) / trace - _MIDDLE, xy / trace
  return jnp.stack([*shape, *(jnp.asarray(x, kernel.dtype) for x in (scale - 2, noise))])
