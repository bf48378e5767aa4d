"""What became of a photo's frequencies before it was a file: blur, shrinking and sharpening as one kernel.

An unsharp mask of amount a and radius r makes of a photo blurred by K the photo blurred by (1 + a) K - a (K * G_r): one more
kernel. So the kernel of a photo is sought as (1 + a) G(Sigma) - a G(Sigma + r^2 I). What a network sees in the photo is not
these numbers, of which many sets leave nearly the same image, but the response at some frequencies, in units of LR pixels;
that is its code. The kernel is the one of the family whose response fits best. Area, bicubic and Lanczos shrinking are nearly
in the family.

`experiments/train_photo_estimator.py` trains the network.
"""

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from mzsr_jax.core import kernels
from mzsr_jax.photo import trust
from mzsr_jax.photo.kernel_net import Gaussian, KernelNet, Prediction, luma

FREQUENCIES = np.pi * np.array([0.2, 0.4, 0.6, 0.8, 1.0, 1.3])  # radians per LR pixel, along an axis
_COUNT = len(FREQUENCIES)
_SOFTENING = 0.03  # responses far below this all leave the same image
_DIRECTION = 5.0  # units of the anisotropy in a code
_DEVIATIONS = np.linspace(0.1, 1.15, 43)  # of the blur, LR pixels
_AMOUNTS = np.linspace(0, 2, 21)
_RADII = np.array([0.5, 0.75, 1.0, 1.5, 2.0])  # of the unsharp mask, LR pixels
_MIDDLE, _FINE = 1, 4  # frequencies of periods of 5 and of 2 LR pixels
_UNSURE = 0.35  # error of the logarithm of the fine response from which on the text says so
_ROUND = 0.9  # most of the anisotropy, in parts of the variance
_CLEAR = 3  # index of the frequency by whose response a blur is told: a period of 2.5 LR pixels
_SURE = 3.0, 3.5  # standard errors that the response lies below none: from where on a blur is clearer, and from where on clear
_CAUTION = 0.5  # standard errors: with 0.2, photos gain as much on average, and fewer of them gain
_END = 5.5 / 255  # from black or white: so near, JPEG leaves what was either
_SATURATED = 0.3, 0.6  # share of black and white: from where on less sharpening is believed, and from where on none
_PARSIMONY = 0.02  # what a unit of sharpening must gain in the fit
NET = KernelNet((0.0, -0.1, -0.3, -0.5, -0.8, -1.5, 0.0, 0.0))


class Blur(NamedTuple):
  """Parameters of a kernel of the family.

  Attributes:
    variance: mean of both axes, LR pixels^2.
    anisotropy: half the difference of the variances along the principal axes, times (cos, sin) of twice the first one's angle.
    amount: of the sharpening, a.
    radius: of it, LR pixels.
  """

  variance: float
  anisotropy: tuple[float, float]
  amount: float
  radius: float


def encode(response: Float[np.ndarray, "*b f"], anisotropy: Float[np.ndarray, "*b 2"]) -> Float[np.ndarray, "*b d"]:
  """The code of responses at `FREQUENCIES` and of `Blur.anisotropy`."""
  return np.concatenate([np.log(np.maximum(response, 0) + _SOFTENING), np.asarray(anisotropy) * _DIRECTION], -1)


@functools.cache
def prior() -> Prediction:
  """A code where an image says nothing: area shrinking, with errors larger than the blurs of photos differ by."""
  area = np.sinc(FREQUENCIES / (2 * np.pi))
  return Prediction(encode(area, np.zeros(2)), np.append((FREQUENCIES / np.pi) ** 2, [1.0, 1.0]))


def posterior(found: Prediction, calibration: Float[np.ndarray, "2 d"]) -> Prediction:
  """What is known of a photo: what was predicted, with the variance that whole photos have (`kernel_net.calibrated`), and the
  prior, which counts in small photos and in those that are out of focus."""
  own, known = found.variance * calibration[0] + calibration[1], prior()
  variance = 1 / (1 / own + 1 / known.variance)
  return Prediction(variance * (found.mean / own + known.mean / known.variance), variance)


def clearness(found: Prediction) -> float:
  """How clearly a photo is blurred, from 0 to 1: such estimates are right."""
  start, end = _SURE
  below = (math.log(1 + _SOFTENING) - found.mean[_CLEAR]) / math.sqrt(found.variance[_CLEAR])
  return float(np.clip((below - start) / (end - start), 0, 1))


def cautious(found: Prediction) -> Prediction:
  """The code with its responses raised by `_CAUTION` standard errors, but for photos that are clearly blurred.

  To be told more blur, or less sharpening, than there was makes halos; less blur only leaves some in the result.
  """
  raised = (1 - clearness(found)) * _CAUTION * np.sqrt(found.variance) * (np.arange(found.mean.shape[-1]) < _COUNT)
  return found._replace(mean=found.mean + raised)


def trusted(found: Prediction) -> float:
  """The share of what a network adds that is kept: nearly all where the photo is clearly blurred."""
  return trust.SHARE + (trust.CLEAR_SHARE - trust.SHARE) * clearness(found)


def fine(found: Prediction) -> float:
  """What is left of the contrast in details of two pixels."""
  return float(_left(found)[_FINE])


def saturated(lr: Float[np.ndarray, "h w 3"]) -> float:
  """The share of a photo in [0, 1] that is black or white, or nearly so."""
  gray = luma(lr)
  return float(np.mean((gray < _END) | (gray > 1 - _END)))


def unclipped(found: Prediction, share: float) -> Prediction:
  """The code without what looks like sharpening, where much of the photo is black or white. Args: share of that.

  Halos, by which sharpening is told, cannot be seen there. Lines on white paper look sharpened without any: to undo that would
  make them thin and pale.
  """
  start, end = _SATURATED
  believed = np.clip((end - share) / (end - start), 0, 1)
  above = np.maximum(found.mean - math.log(1 + _SOFTENING), 0) * (np.arange(found.mean.shape[-1]) < _COUNT)
  return found._replace(mean=found.mean - (1 - believed) * above)


def taps(variance, centre: float, size: int) -> Float[np.ndarray, "*b k"]:
  """Gaussians on the HR grid, sums 1. Args: variances, HR pixels^2; centre from the middle pixel; size, pixels."""
  exponent = -((np.arange(size) - size // 2 - centre) ** 2) / (2 * np.asarray(variance)[..., None])
  made = np.exp(exponent - exponent.max(-1, keepdims=True))
  return made / made.sum(-1, keepdims=True)


def kernel_size(scale: float) -> int:
  """Pixels, side: two and a half deviations of the widest sharpening."""
  return max(kernels.EVALUATION_SIZE, 2 * math.ceil(2.5 * 1.5 * scale) + 1)


@functools.cache
def _family(scale: float) -> tuple[np.ndarray, np.ndarray]:
  """Parameters (n, 3), deviation, amount and radius, of the family's isotropic kernels, and their codes' responses."""
  centre, size = (scale - 1) / 2, kernel_size(scale)
  wave = np.cos(np.outer(np.arange(size) - size // 2 - centre, FREQUENCIES / scale))
  parameters = np.array(np.meshgrid(_DEVIATIONS, _AMOUNTS, _RADII, indexing="ij")).reshape(3, -1).T
  deviation, amount, radius = parameters.T
  plain, wide = (taps(v * scale**2, centre, size) @ wave for v in (deviation**2, deviation**2 + radius**2))
  response = (1 + amount[:, None]) * plain - amount[:, None] * wide
  return parameters, np.log(np.maximum(response, 0) + _SOFTENING)


def _left(found: Prediction) -> Float[np.ndarray, " f"]:
  """What is left of the contrast at `FREQUENCIES`; above 1 where the photo was sharpened."""
  return np.exp(found.mean[:_COUNT]) - _SOFTENING


def describe(found: Prediction) -> str:
  """A line about a code, in words."""
  kept, errors = _left(found), np.sqrt(found.variance[:_COUNT])
  middle, fine = (f"{100 * kept[i]:.0f} +- {100 * kept[i] * errors[i]:.0f}%" for i in (_MIDDLE, _FINE))
  doubt = "unsure" if errors[_FINE] > _UNSURE else "sure"
  sharpened = "sharpened, " if kept[_MIDDLE] > 1 + errors[_MIDDLE] else ""
  return f"{sharpened}contrast is {middle} in details of 5 pixels and {fine} in those of 2, {doubt}"


def decode(code: Float[np.ndarray, "n d"], variance: Float[np.ndarray, " d"], scale: float) -> list[Blur]:
  """The blurs that fit codes best, each number of them weighted by the variance of its errors."""
  parameters, responses = _family(scale)
  variance = variance[:_COUNT]
  # The sum of squares of the differences over the variance, but for what all blurs have in common.
  errors = responses**2 @ (1 / variance) - 2 * (code[:, :_COUNT] / variance) @ responses.T
  errors += _PARSIMONY / variance.mean() * parameters[:, 1]
  blurs = []
  for (deviation, amount, radius), own in zip(parameters[errors.argmin(1)], code):
    anisotropy = own[_COUNT:] / _DIRECTION
    anisotropy = anisotropy * min(1, _ROUND * deviation**2 / max(np.hypot(*anisotropy), 1e-9))
    blurs.append(Blur(deviation**2, tuple(anisotropy.tolist()), float(amount), float(radius)))
  return blurs


def shape(blurs: Sequence[Blur], scale: float) -> Gaussian:
  """The Gaussians that were sharpened."""
  middle = np.array([blur.variance for blur in blurs])
  cosine, sine = np.array([blur.anisotropy for blur in blurs]).T
  half = np.hypot(cosine, sine)
  return Gaussian((middle + half) * scale**2, (middle - half) * scale**2, np.arctan2(sine, cosine) / 2 % np.pi)


def kernel(blur: Blur, scale: float) -> Float[np.ndarray, "k k"]:
  """The kernel of a blur on the HR grid, about the middle of the cell that an LR pixel stands for."""
  size, centre = kernel_size(scale), ((scale - 1) / 2,) * 2
  wider = blur._replace(variance=blur.variance + blur.radius**2)
  lambda1, lambda2, theta = shape([blur, wider], scale)
  plain, wide = (kernels.exact_gaussian(tuple(map(float, of)), size, centre) for of in zip(lambda1, lambda2, theta))
  return ((1 + blur.amount) * plain - blur.amount * wide).astype(np.float32)
