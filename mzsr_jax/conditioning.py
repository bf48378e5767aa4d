"""A start for each kernel: parameters that depend on the kernel which the meta-test is told (beyond the paper).

Conditioned parameters are those of the network with one more entry, `KEY`, which says how its convolutions change with the
kernel: their weights are multiplied for each place and channel that they see and for each output, their biases moved. What
`start` makes of them has the shape of the network's own parameters, so that nothing after it knows of this. Pure functions.
"""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Key

from mzsr_jax.model import Params

KEY = "by_kernel"
_HIDDEN = 24
_MIDDLE = 1.3  # standard deviation in the middle of the training's kernels at x2, HR pixels
_TINY = 1e-6  # pixels^4: square roots of what is 0 for one pixel, or for round kernels, still have a derivative
_LENGTH = 4  # of a description


def is_conditioned(params: Params) -> bool:
  """Whether parameters depend on the kernel."""
  return KEY in params


def network(params: Params) -> Params:
  """Those of the network alone; conditioned ones without what depends on the kernel."""
  return {name: layer for name, layer in params.items() if name != KEY}


def init(key: Key[Array, ""], params: Params) -> Params:
  """Conditioned parameters that start as `params` for every kernel."""
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


def start(params: Params, kernel: Float[ArrayLike, "k k"], scale: Float[ArrayLike, ""] | float) -> Params:
  """The network's parameters for a kernel; parameters that are not conditioned are returned as they are.

  Args:
    params: of the network, conditioned or not.
    kernel: (k, k), k odd, sum 1.
    scale: scale factor.
  """
  if not is_conditioned(params):
    return params
  return _start(params, jnp.asarray(kernel), jnp.asarray(scale, jnp.float32))


@jax.jit
def _start(params: Params, kernel: Float[Array, "k k"], scale: Float[Array, ""]) -> Params:
  hidden, code = params[KEY]["hidden"], describe(kernel, scale)
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


def describe(kernel: Float[Array, "k k"], scale: Float[ArrayLike, ""]) -> Float[Array, " 4"]:
  """What of a kernel the parameters depend on: the square root of its covariance matrix, and the scale factor.

  Returns:
    (horizontal, vertical, mixed, scale), the first two in HR pixels less `_MIDDLE`, the last less 2. A kernel that is wider
    than those of training counts as one as wide (of a largest variance of 2.5 times the scale), negative variances as 0.
  """
  axis = jnp.arange(kernel.shape[0], dtype=kernel.dtype) - kernel.shape[0] // 2
  rows, columns = kernel.sum(1), kernel.sum(0)
  y, x = axis - (rows * axis).sum(), axis - (columns * axis).sum()
  yy, xx = jnp.maximum((rows * y * y).sum(), 0), jnp.maximum((columns * x * x).sum(), 0)
  xy = jnp.dot(jnp.dot(y, kernel, precision="highest"), x, precision="highest")
  largest = (xx + yy) / 2 + jnp.sqrt(((xx - yy) / 2) ** 2 + xy * xy + _TINY)
  shrink = jnp.minimum(2.5 * scale / largest, 1)
  xx, yy, xy = xx * shrink, yy * shrink, xy * shrink
  root = jnp.sqrt(jnp.maximum(xx * yy - xy * xy, _TINY))  # of the determinant
  trace = jnp.sqrt(xx + yy + 2 * root)  # of the matrix' square root
  return jnp.stack([(xx + root) / trace - _MIDDLE, (yy + root) / trace - _MIDDLE, xy / trace, jnp.asarray(scale) - 2])
