"""PSNR and SSIM of 8-bit images, border cut off: as super-resolution papers report them, on the luma, and as others do.

A PSNR of one picture depends on what it is taken of: that of luma in 16..235 is 20 log10(255 / 219) = 1.32 dB above that of
full-range luma, but for rounding.
"""

import importlib.util
from collections.abc import Callable

import numpy as np
from jaxtyping import Float, UInt8
from skimage.metrics import structural_similarity

SSIM_WINDOW = 11

# ITU-R BT.601 luma in 16..235 of RGB in 0..255 (MATLAB's rgb2ycbcr), and in 0..255 (as in JPEG files).
_LUMA = np.array([65.481, 128.553, 24.966]) / 255
_FULL_RANGE_LUMA = np.array([0.299, 0.587, 0.114])


def luma(rgb: UInt8[np.ndarray, "h w 3"]) -> Float[np.ndarray, "h w"]:
  """Luma of 8-bit RGB, rounded to whole numbers in 16..235, as float64."""
  return np.round(rgb @ _LUMA + 16)


def _cut(sr, gt, border: int):
  """Both images without `border` pixels on each side; ValueError unless both are uint8 of one size."""
  if sr.shape != gt.shape or sr.dtype != np.uint8 or gt.dtype != np.uint8:
    raise ValueError(f"need two uint8 images of one size, got {sr.dtype} {sr.shape} and {gt.dtype} {gt.shape}")
  inside = slice(border, -border or None)
  return sr[inside, inside], gt[inside, inside]


def _psnr(a, b) -> float:
  error = np.mean((np.asarray(a, np.float64) - b) ** 2)
  return float(10 * np.log10(255**2 / error)) if error else float("inf")


def psnr_y(sr: UInt8[np.ndarray, "h w 3"], gt: UInt8[np.ndarray, "h w 3"], border: int) -> float:
  """Peak signal-to-noise ratio of the lumas, dB, peak 255; infinite for equal lumas.

  Args:
    sr: super-resolved image.
    gt: ground truth.
    border: pixels to leave out on each side, the scale factor by convention.

  Raises:
    ValueError: not two uint8 images of one size.
  """
  return _psnr(*map(luma, _cut(sr, gt, border)))


def psnr_y_full(sr: UInt8[np.ndarray, "h w 3"], gt: UInt8[np.ndarray, "h w 3"], border: int) -> float:
  """PSNR of full-range lumas, 0..255, rounded to whole numbers, dB; see `psnr_y`."""
  return _psnr(*(np.round(image @ _FULL_RANGE_LUMA) for image in _cut(sr, gt, border)))


def psnr_rgb(sr: UInt8[np.ndarray, "h w 3"], gt: UInt8[np.ndarray, "h w 3"], border: int) -> float:
  """PSNR of all three channels together, dB; see `psnr_y`."""
  return _psnr(*_cut(sr, gt, border))


def ssim_y(sr: UInt8[np.ndarray, "h w 3"], gt: UInt8[np.ndarray, "h w 3"], border: int) -> float:
  """Structural similarity of the lumas: Wang et al. 2004, 11x11 Gaussian windows with sigma 1.5, whole windows only.

  Args: see `psnr_y`; what is left inside the border must be at least 11x11 pixels.

  Raises:
    ValueError: not two uint8 images of one size, or too small.
  """
  sr_y, gt_y = map(luma, _cut(sr, gt, border))
  # scikit-image filters to the very edge and then averages without the outer 5 pixels: the same as whole windows.
  return float(
      structural_similarity(sr_y, gt_y, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=255)
  )


def flip(sr: UInt8[np.ndarray, "h w 3"], gt: UInt8[np.ndarray, "h w 3"], border: int) -> float:
  """Mean FLIP error (Andersson et al., 2020): the change that a viewer who flips between the images sees, from 0 to 1.

  At 67 pixels per degree of visual angle. Needs the package flip-evaluator.

  Args: see `psnr_y`.

  Raises:
    ValueError: not two uint8 images of one size.
  """
  import flip_evaluator

  sr, gt = (image.astype(np.float32) / 255 for image in _cut(sr, gt, border))
  return float(flip_evaluator.evaluate(np.ascontiguousarray(gt), np.ascontiguousarray(sr), "LDR", applyMagma=False)[1])


# Names of the columns of results; "psnr" and "ssim" are the paper's, "flip" is there where its package is.
METRICS: dict[str, Callable[[np.ndarray, np.ndarray, int], float]] = {
    "psnr": psnr_y,
    "ssim": ssim_y,
    "psnr_y_full": psnr_y_full,
    "psnr_rgb": psnr_rgb,
}
if importlib.util.find_spec("flip_evaluator"):
  METRICS["flip"] = flip
