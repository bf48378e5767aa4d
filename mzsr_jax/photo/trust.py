"""How much of what a network adds to a photo is kept where the kernel was estimated: the rest is plain.

An estimate may be wrong, and a mean with the plain enlargement halves what that costs, but takes a quarter of what a right one
gains. Details as fine as two pixels may have been finer before the photo was shrunk: enlarging them sharpens what is not there
(aliasing). What is brighter or darker than all pixels around is a halo more often than a detail. Noise and traces of JPEG grow
where a strong blur is undone. `experiments/pipelines.py` measures what it gains.
"""

import numpy as np
import scipy.ndimage
from jaxtyping import Float

from mzsr_jax.photo import kernel_net

SHARE = 0.55  # where nothing speaks against it
CLEAR_SHARE = 0.98  # where the photo is clearly blurred, and clean
_CLEAN = 1 / 255  # noise up to which a photo is clean; with twice as much, it is noisy
# What undoing the blur makes of the noise in details of two pixels: from where on less is kept, and from where on least.
_AMPLIFIED = 12 / 255, 20 / 255
_LEAST = 0.7  # times as much as of a clean photo
_BEYOND = 0.5, 0.75  # share that stands of what lies beyond the range around, where `SHARE` is kept and where `CLEAR_SHARE`
_FINE = 0.3, 0.6  # share of the contrast in details of two pixels: from where on less is kept, and from where on nothing
_WINDOW = 9  # pixels, side, that contrast is measured in
_FLAT = 2 / 255  # contrast, standard deviation, that is as good as none
_NOISE = 2  # times its standard deviation: contrast that noise may make


def trust(lr: Float[np.ndarray, "h w 3"], noise_std: float, most: float) -> Float[np.ndarray, "h w"]:
  """The share of the change that is kept at each pixel, in [0, 1].

  Args:
    lr: the photo, in [0, 1].
    noise_std: standard deviation of its noise, in [0, 1] units.
    most: the share where nothing in the picture speaks against it, see `share`.
  """
  luma = kernel_net.luma(lr).astype(np.float32)
  mean = lambda x: scipy.ndimage.uniform_filter(x, _WINDOW, mode="mirror")
  # Of a frequency, such a filter passes 1 of contrast at two pixels, half at four.
  fine = sum(mean(scipy.ndimage.convolve1d(luma, (-0.25, 0.5, -0.25), axis, mode="mirror") ** 2) for axis in (0, 1))
  contrast = np.maximum(mean(luma**2) - mean(luma) ** 2, 0) + _FLAT**2 + (_NOISE * noise_std) ** 2
  start, end = _FINE
  return most * np.clip((end - fine / contrast) / (end - start), 0, 1)


def share(most: float, noise_std: float, fine: float) -> float:
  """The share that may be kept of a photo with some noise.

  Args:
    most: the share if it were clean, see `response.trusted`.
    noise_std: see `trust`.
    fine: what the blur has left of the contrast in details of two pixels, 1 for all.
  """
  noisy = min(most, SHARE)
  kept = most + (noisy - most) * float(np.clip(noise_std / _CLEAN - 1, 0, 1))
  return kept * float(np.interp(noise_std / max(fine, 1e-3), _AMPLIFIED, (1, _LEAST)))


def beyond(most: float) -> float:
  """The share that stands of what lies beyond the limits. Args: see `trust`."""
  return float(np.interp(most, (SHARE, CLEAR_SHARE), _BEYOND))


def limits(lr: Float[np.ndarray, "h w 3"]) -> tuple[Float[np.ndarray, "h w 3"], Float[np.ndarray, "h w 3"]]:
  """The darkest and the brightest of each pixel and its eight neighbours, channel by channel."""
  return tuple(f(lr, (3, 3, 1), mode="nearest") for f in (scipy.ndimage.minimum_filter, scipy.ndimage.maximum_filter))


def limited(
    rgb: Float[np.ndarray, "h w 3"],
    plain: Float[np.ndarray, "h w 3"],
    low: Float[np.ndarray, "h w 3"],
    high: Float[np.ndarray, "h w 3"],
    beyond: float,
) -> Float[np.ndarray, "h w 3"]:
  """A result with a share of what lies beyond the plain enlargement and the `limits` of the photo there."""
  inside = np.clip(rgb, np.minimum(low, plain), np.maximum(high, plain))
  return inside + beyond * (rgb - inside)
