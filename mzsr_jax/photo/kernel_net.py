"""A small network that sees in LR patches which Gaussian blurred them, and says how sure it is.

Kernels are predicted in units of LR pixels, as IKC and its successors predict a code of the kernel: there the blur of a x2 and
of a x4 image look alike. The code of a Gaussian of covariance Sigma is the matrix logarithm log(Sigma / s^2 + eps I), which has
no angle to jump from pi to 0 and can be averaged. It is predicted with a variance for each of its numbers (Gaussian negative
log-likelihood); the patches of an image are combined by inverse variance.

`experiments/train_kernel_estimator.py` trains it.
"""

import functools
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from mzsr_jax import images
from mzsr_jax.core import kernels
from mzsr_jax.core.model import Params

PATCH = 64  # LR pixels, side
SCALES = (2.0, 3.0, 4.0)  # that it is trained for
LEAST_VARIANCE = 0.2  # HR pixels^2, of the kernels that it is trained on
# LR pixels^2: blurs far below this all leave the same image, so that their logarithms should not lie far apart.
_SOFTENING = 0.05
_LUMA = np.float32(images.LUMA)
_LEVEL = 1 / 255
_CHUNK = 32  # patches at a time
_ALONG = 32  # patches along an axis, at most


class Gaussian(NamedTuple):
  """Parameters of `kernels.gaussian`, arrays of one shape: lambda1 >= lambda2, HR pixels^2; theta in [0, pi)."""

  lambda1: np.ndarray
  lambda2: np.ndarray
  theta: np.ndarray


class Prediction(NamedTuple):
  """Codes of kernels, with the variances of their errors."""

  mean: Float[np.ndarray, "*b d"]
  variance: Float[np.ndarray, "*b d"]


def draw(rng: np.random.Generator, scale: float, count: int, least: float = LEAST_VARIANCE) -> Gaussian:
  """Kernels of the distribution that `kernels.sample` draws from, as their parameters."""
  return Gaussian(*kernels.shapes(rng.random((3, count)), scale, least))


def encode(shape: Gaussian, scale: float) -> Float[np.ndarray, "*b 3"]:
  """log(Sigma / s^2 + eps I) as (half its trace, half the difference of its diagonal, its upper right)."""
  log1, log2 = (np.log(np.asarray(variance) / scale**2 + _SOFTENING) for variance in shape[:2])
  half = (log1 - log2) / 2
  double = 2 * np.asarray(shape.theta)
  return np.stack([(log1 + log2) / 2, half * np.cos(double), half * np.sin(double)], -1)


def decode(code: Float[np.ndarray, "*b 3"], scale: float) -> Gaussian:
  """The kernel of a code, kept within what the network was trained for."""
  middle, cosine, sine = np.moveaxis(np.asarray(code, np.float64), -1, 0)
  half = np.hypot(cosine, sine)
  variances = ((np.exp(middle + side) - _SOFTENING) * scale**2 for side in (half, -half))
  variances = (np.clip(variance, LEAST_VARIANCE, 2.5 * scale) for variance in variances)
  return Gaussian(*variances, np.arctan2(sine, cosine) / 2 % np.pi)


@functools.cache
def prior(scale: float) -> Prediction:
  """Mean and variance of the codes of `draw`: what is known without an image."""
  codes = encode(draw(np.random.default_rng(0), scale, 10_000), scale)
  return Prediction(codes.mean(0), codes.var(0))


class KernelNet(nn.Module):
  """Energies of linear filters, in cells of 8x8 pixels, and how they stand to each other.

  A Gaussian blur takes f' Sigma f off the logarithm of the energy at frequency f: what is looked for is linear in these.

  Attributes:
    middle: what the numbers of a code are about.
  """

  middle: tuple[float, ...] = (-1.0, 0.0, 0.0)

  @nn.compact
  def __call__(self, luma: Float[Array, "n p p"], condition: Float[Array, "n 2"]):
    """Codes of the kernels of patches, and the logarithms of their variances.

    Args:
      luma: of LR patches, in [0, 1].
      condition: see `condition`.
    """
    gradients, contrast = _gradients(luma)
    x = gradients / (contrast + 0.5 * _LEVEL)[:, None, None, None]
    n, p = luma.shape[:2]
    # Even and odd rows and columns as channels: half the size, nothing lost.
    x = x.reshape(n, p // 2, 2, p // 2, 2, 2).transpose(0, 1, 3, 2, 4, 5).reshape(n, p // 2, p // 2, 8)
    x = nn.Conv(48, (5, 5), name="filters")(x)
    x = jnp.log((x**2).reshape(n, p // 8, 4, p // 8, 4, 48).mean((2, 4)) + 1e-3)
    for i in range(3):
      x = nn.relu(nn.Conv(48, (3, 3), name=f"conv{i + 1}")(x))
    # Blur shows at edges: each feature says where it is to be trusted.
    trust = jax.nn.softmax(nn.Conv(48, (1, 1), name="trust")(x).reshape(n, -1, 48), axis=1)
    x = x.reshape(n, -1, 48)
    log_contrast = jnp.log(contrast + 0.5 * _LEVEL)[:, None] + 3
    x = jnp.concatenate([x.mean(1), (trust * x).sum(1), log_contrast, condition], -1)
    x = nn.relu(nn.Dense(48, name="dense1")(x))
    mean, log_variance = jnp.split(nn.Dense(2 * len(self.middle), name="dense2")(x), 2, axis=1)
    return mean + jnp.asarray([self.middle], jnp.float32), 6 * jnp.tanh(log_variance / 6) - 2


NET = KernelNet()


def _gradients(luma: Float[Array, "n p p"]) -> tuple[Float[Array, "n p p 2"], Float[Array, " n"]]:
  """Differences to the next pixel, right and down, zero at the last; and the root of their mean square."""
  right = jnp.pad(luma[:, :, 1:] - luma[:, :, :-1], ((0, 0), (0, 0), (0, 1)))
  down = jnp.pad(luma[:, 1:] - luma[:, :-1], ((0, 0), (0, 1), (0, 0)))
  gradients = jnp.stack([right, down], -1)
  return gradients, jnp.sqrt((gradients**2).sum(-1).mean((1, 2)))


def condition(scale: float, subsample: str) -> Float[np.ndarray, "2"]:
  """Scale and subsampling as the network takes them; scales beyond `SCALES` count as the nearest of them."""
  sign = {"direct": -1.0, "bicubic": 1.0}[subsample]
  return np.float32([np.clip(scale, SCALES[0], SCALES[-1]) - 3, sign])


def init(key, net: KernelNet = NET) -> Params:
  """Random parameters."""
  return net.init(key, jnp.zeros((1, PATCH, PATCH), jnp.float32), jnp.zeros((1, 2), jnp.float32))["params"]


def mean_and_log_variance(params: Params, luma: Float[Array, "n p p"], condition: Float[Array, "n 2"], net: KernelNet = NET):
  """Means and log-variances, see `KernelNet`."""
  return net.apply({"params": params}, luma, condition)


_predicted = jax.jit(mean_and_log_variance, static_argnames="net")


def luma(rgb: Float[ArrayLike, "*b h w 3"]) -> Float[ArrayLike, "*b h w"]:
  """Full-range luma of an array on the host or on a device."""
  return rgb @ _LUMA


def patches(image: Float[np.ndarray, "h w"], most: int = 256) -> Float[np.ndarray, "n p p"]:
  """Patches that overlap by half, or in a large image lie apart, without those that hold no edge; of many, those of the
  highest contrast.

  An image smaller than a patch is mirrored at its borders.
  """
  image = np.pad(image, [(0, max(PATCH - length, 0)) for length in image.shape], mode="symmetric")
  counts = [min(-(-(length - PATCH) // (PATCH // 2)) + 1, _ALONG) for length in image.shape]
  starts = [np.linspace(0, length - PATCH, count).astype(int) for length, count in zip(image.shape, counts)]
  views = np.lib.stride_tricks.sliding_window_view(image, (PATCH, PATCH))
  cut = views[np.ix_(*starts)].reshape(-1, PATCH, PATCH)
  contrast = np.sqrt(sum((np.diff(cut, axis=axis) ** 2).mean((1, 2)) for axis in (1, 2)))
  kept = np.argsort(-contrast, kind="stable")[: min(most, np.count_nonzero(contrast > _LEVEL))]
  return cut[np.sort(kept)]


def combine(
    mean: Float[ArrayLike, "*b n d"], variance: Float[ArrayLike, "*b n d"]
) -> tuple[Float[ArrayLike, "*b d"], Float[ArrayLike, "*b d"]]:
  """Predictions of n patches of one image as one, by inverse variance, as if their errors had nothing in common."""
  weight = 1 / variance
  total = weight.sum(-2)
  return (weight * mean).sum(-2) / total, 1 / total


def calibrated(prediction: Prediction, calibration: Float[np.ndarray, "2 d"], prior: Prediction) -> Prediction:
  """With the variance that whole images were found to have: patches of one image err alike, so that it falls with their
  number to a floor only. Never above that of the prior.

  Args:
    prediction: of `combine`.
    calibration: factor of the variance, and the variance to add.
    prior: what is known without an image.
  """
  return Prediction(prediction.mean, np.minimum(prediction.variance * calibration[0] + calibration[1], prior.variance))


def predict(
    params: Params, lr: Float[np.ndarray, "h w 3"], scale: float, subsample: str, net: KernelNet = NET
) -> Prediction | None:
  """The combined prediction for an image, not calibrated; None where the image holds no edge."""
  cut = patches(luma(lr))
  if not len(cut):
    return None
  told = np.tile(condition(scale, subsample), (_CHUNK, 1))
  found = []
  for first in range(0, len(cut), _CHUNK):
    chunk = cut[first : first + _CHUNK]
    padded = np.pad(chunk, ((0, _CHUNK - len(chunk)), (0, 0), (0, 0)))
    found.append([np.asarray(x)[: len(chunk)] for x in _predicted(params, padded, told, net)])
  mean, log_variance = (np.concatenate(parts) for parts in zip(*found))
  return Prediction(*combine(mean.astype(np.float64), np.exp(log_variance.astype(np.float64))))


def kernel(shape: Gaussian) -> Float[np.ndarray, "k k"]:
  """The kernel of a shape (scalars), on the grid of the evaluation kernels."""
  return kernels.exact_gaussian(tuple(map(float, shape))).astype(np.float32)
