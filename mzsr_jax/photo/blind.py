"""The blur kernel of an LR image, estimated from the image alone.

A shipped network predicts the Gaussian that blurred an image, in less than a second (`kernel_net`). `experiments/blind.py`
compares it with other ways.
"""

import functools
import io
import os
import pathlib
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from PIL import Image

from mzsr_jax import files, images, weights
from mzsr_jax.core import checks, kernels
from mzsr_jax.errors import UserError
from mzsr_jax.photo import kernel_net
from mzsr_jax.photo.kernel_net import Gaussian, Prediction

_UNSURE = 0.25  # relative error of a width from which on the text says so
_SHRUNK = 0.52  # standard deviation, times the scale, of the Gaussian that is seen in images shrunk by bicubic
_UNTOLD = 0.5  # radians, error of the angle from which on the text gives no angle
_SHOWN = 200  # pixels, side of the picture of a kernel


class Estimate(NamedTuple):
  """A kernel and how sure it is.

  Attributes:
    kernel: (k, k) float32, k odd, sum 1, on the HR grid; for `kernels.Degradation`.
    sigmas: (2,) standard deviations along the principal axes, the larger first, HR pixels.
    theta: angle of the first axis, radians, from x (rightwards) towards y (downwards), in [0, pi).
    uncertainty: (2,) standard errors of `sigmas`.
    text: one line about all that.
  """

  kernel: Float[np.ndarray, "k k"]
  sigmas: Float[np.ndarray, "2"]
  theta: float
  uncertainty: Float[np.ndarray, "2"]
  text: str


MIN_SCALE = kernel_net.SCALES[0]  # for which kernels can be estimated


def estimate(
    lr: Float[np.ndarray, "h w 3"], scale: float, subsample: str = "direct", centre: tuple[float, float] = (0.0, 0.0)
) -> Estimate:
  """Estimates the kernel that an image was blurred by before it was subsampled.

  An image without edges gives the middle of what the network was trained for, and says so.

  Args:
    lr: in [0, 1], of any size.
    scale: how many times smaller it is than the HR image; 2 to 4.
    subsample: one of `kernels.SUBSAMPLINGS`, by which the kernel was followed.
    centre: where the kernel is put, see `kernel_files.cell_centre`; it is not estimated.

  Raises:
    ValueError: the image is no float array, or not in [0, 1].
    UserError: not an RGB image, or another value where one of the above is asked for.
  """
  if lr.ndim != 3 or lr.shape[2] != 3 or not lr.size or not np.isfinite(lr).all():
    raise UserError(f"the image must be (H, W, 3) of finite values, not {' x '.join(map(str, lr.shape))} of {lr.dtype}")
  checks.check_image(lr)
  low, high = kernel_net.SCALES[0], kernel_net.SCALES[-1]
  if not low <= scale <= high:
    raise UserError(f"scale {scale:g}: the kernel can be estimated for scales from {low:g} to {high:g} only")
  if subsample not in kernels.SUBSAMPLINGS:
    raise UserError(f"unknown subsampling '{subsample}': use one of {', '.join(kernels.SUBSAMPLINGS)}")
  lr = lr.astype(np.float32)
  if not len(kernel_net.patches(kernel_net.luma(lr), most=1)):
    return _regressed(kernel_net.prior(scale), scale, centre, "the image has no edges to tell its blur by, so a likely one: ")
  params, calibration = _shipped()
  found = kernel_net.predict(params, lr, scale, subsample)
  return _regressed(kernel_net.calibrated(found, calibration, scale), scale, centre)


def looks_shrunk(found: Estimate, scale: float) -> bool:
  """Whether a blur is no wider than bicubic shrinking by `scale` looks, so that it need not be a blur at all.

  To be told too narrow a kernel leaves some blur in the result; too wide a one makes halos.
  """
  return float(np.sqrt(found.sigmas.prod())) <= _SHRUNK * scale


@functools.cache
def _shipped():
  """Parameters and calibration of the network."""
  arrays = weights.load_arrays(weights.KERNEL_ESTIMATOR)
  return arrays["net"], np.asarray(arrays["calibration"], np.float64)


def _regressed(found: Prediction, scale: float, centre: tuple[float, float], preface: str = "") -> Estimate:
  """The estimate of a predicted code."""
  shape = kernel_net.decode(found.mean, scale)
  return describe(kernel_net.kernel(shape, centre), shape, found, scale, preface)


def describe(kernel: np.ndarray, shape: Gaussian, code: Prediction, scale: float, preface: str = "") -> Estimate:
  """A kernel with its widths and angle; their errors are those of codes drawn around its own."""
  drawn = code.mean + np.sqrt(code.variance) * np.random.default_rng(0).standard_normal((1000, 3))
  several = kernel_net.decode(drawn, scale)
  sigmas = np.sqrt(np.stack(shape[:2]))
  error = np.sqrt(((np.sqrt(np.stack(several[:2])) - sigmas[:, None]) ** 2).mean(1))
  turn = np.sqrt(-2 * np.log(np.abs(np.exp(2j * several.theta).mean()))) / 2  # circular standard deviation
  angle = f"turned by {shape.theta:.2f} +- {turn:.2f} radians" if turn < _UNTOLD else "at an angle that cannot be told"
  doubt = "; unsure" if (error > _UNSURE * sigmas).any() else ""
  text = f"{preface}blur of {sigmas[0]:.2f} +- {error[0]:.2f} by {sigmas[1]:.2f} +- {error[1]:.2f} HR pixels, {angle}{doubt}"
  return Estimate(np.float32(kernel), np.float32(sigmas), float(shape.theta), np.float32(error), text)


def save(estimate: Estimate, path_stem: str | os.PathLike, overwrite: bool = False) -> None:
  """Writes the kernel as a MATLAB file (variable Kernel) and as a picture of its largest value in white: STEM.mat, STEM.png.

  Raises:
    UserError: see `files.write_whole`; then neither is written, but for a full disk.
  """
  import scipy.io  # takes a moment, which only files need

  paths = files_of(path_stem)
  for path in paths:
    files.check_writable(path, overwrite)
  buffer = io.BytesIO()
  scipy.io.savemat(buffer, {"Kernel": estimate.kernel.astype(np.float64)})
  files.write_whole(paths[0], buffer.getvalue(), overwrite)
  files.write_whole(paths[1], images.encode_png(picture(estimate.kernel)), overwrite)


def files_of(path_stem: str | os.PathLike) -> tuple[pathlib.Path, pathlib.Path]:
  """What `save` writes."""
  stem = pathlib.Path(path_stem)
  return stem.with_name(f"{stem.name}.mat"), stem.with_name(f"{stem.name}.png")


def picture(kernel: Float[np.ndarray, "k k"]) -> images.Pixels:
  """A kernel as gray pixels, enlarged to about 200 a side, its largest value white."""
  gray = np.round(np.clip(kernel / kernel.max(), 0, 1) * 255).astype(np.uint8)
  side = len(kernel) * max(round(_SHOWN / len(kernel)), 1)
  return np.array(Image.fromarray(gray).resize((side, side), Image.Resampling.NEAREST).convert("RGB"))
