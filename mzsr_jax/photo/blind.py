"""The blur kernel of an LR image, estimated from the image alone.

Two ways, see `kernel_net` and `kernelgan`: "regression", a shipped network that predicts the Gaussian that blurred an image, in
less than a second; and "kernelgan", which learns any kernel from the one image, in half a minute and far less exactly.
`experiments/blind.py` compares them.
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
from mzsr_jax.core import kernels
from mzsr_jax.errors import UserError
from mzsr_jax.photo import kernel_net, kernelgan
from mzsr_jax.photo.kernel_net import Gaussian, Prediction

METHODS = ("regression", "kernelgan")
_UNSURE = 0.25  # relative error of a width from which on the text says so
_UNTOLD = 0.5  # radians, error of the angle likewise
# Of KernelGAN's kernels on Set14, mean square of the errors of their codes: it has no notion of its own error.
_LEARNED_VARIANCE = np.array([0.33, 0.06, 0.06])
_SHOWN = 200  # pixels, side of the picture of a kernel


class Estimate(NamedTuple):
  """A kernel and how sure it is.

  Attributes:
    kernel: (k, k) float32, k odd, sum 1, on the HR grid; for `kernels.Degradation`.
    sigmas: (2,) standard deviations along the principal axes, the larger first, HR pixels.
    theta: angle of the first axis, radians, from x (rightwards) towards y (downwards), in [0, pi).
    uncertainty: (2,) standard errors of `sigmas`. Those of "kernelgan" are its usual ones, whatever the image.
    text: one line about all that.
  """

  kernel: Float[np.ndarray, "k k"]
  sigmas: Float[np.ndarray, "2"]
  theta: float
  uncertainty: Float[np.ndarray, "2"]
  text: str


def estimate(
    lr: Float[np.ndarray, "h w 3"], scale: float, subsample: str = "direct", method: str = "regression", seed: int = 0
) -> Estimate:
  """Estimates the kernel that an image was blurred by before it was subsampled.

  An image without edges gives the middle of what "regression" was trained for, and says so.

  Args:
    lr: in [0, 1], of any size.
    scale: how many times smaller it is than the HR image; 2 to 4.
    subsample: one of `kernels.SUBSAMPLINGS`, by which the kernel was followed.
    method: one of `METHODS`.
    seed: of what is random, which is nothing in "regression".

  Raises:
    UserError: not an RGB image, or another value where one of the above is asked for.
  """
  if lr.ndim != 3 or lr.shape[2] != 3 or not lr.size or not np.isfinite(lr).all():
    raise UserError(f"the image must be (H, W, 3) of finite values, not {' x '.join(map(str, lr.shape))} of {lr.dtype}")
  low, high = kernel_net.SCALES[0], kernel_net.SCALES[-1]
  if not low <= scale <= high:
    raise UserError(f"scale {scale:g}: the kernel can be estimated for scales from {low:g} to {high:g} only")
  for value, known in ((subsample, kernels.SUBSAMPLINGS), (method, METHODS)):
    if value not in known:
      raise UserError(f"'{value}' is none of {', '.join(known)}")
  lr = lr.astype(np.float32)
  if not len(kernel_net.patches(kernel_net.luma(lr), most=1)):
    return _regressed(kernel_net.prior(scale), scale, "the image has no edges to tell its blur by, so a likely one: ")
  if method == "kernelgan":
    return _learned(lr, scale, subsample, seed)
  params, calibration = _shipped()
  found = kernel_net.predict(params, lr, scale, subsample)
  return _regressed(kernel_net.calibrated(found, calibration, scale), scale)


@functools.cache
def _shipped():
  """Parameters and calibration of the network."""
  arrays = weights.load_arrays(weights.KERNEL_ESTIMATOR)
  return arrays["net"], np.asarray(arrays["calibration"], np.float64)


def _regressed(found: Prediction, scale: float, preface: str = "") -> Estimate:
  """The estimate of a predicted code."""
  shape = kernel_net.decode(found.mean, scale)
  return _estimate(kernel_net.kernel(shape), shape, found, scale, preface)


def _learned(lr: np.ndarray, scale: float, subsample: str, seed: int) -> Estimate:
  """KernelGAN's estimate."""
  kernel = kernelgan.learn(lr, scale, subsample, seed)
  shape = _moments(kernel)
  return _estimate(kernel, shape, Prediction(kernel_net.encode(shape, scale), _LEARNED_VARIANCE), scale)


def _moments(kernel: np.ndarray) -> Gaussian:
  """The Gaussian of a kernel's second moments about its middle pixel."""
  axis = np.arange(len(kernel)) - len(kernel) // 2
  mass = kernel.astype(np.float64)
  xx, yy, xy = mass.sum(0) @ axis**2, mass.sum(1) @ axis**2, axis @ mass @ axis
  half = np.hypot((xx - yy) / 2, xy)
  return Gaussian((xx + yy) / 2 + half, max((xx + yy) / 2 - half, 0.0), np.arctan2(2 * xy, xx - yy) / 2 % np.pi)


def _estimate(kernel: np.ndarray, shape: Gaussian, code: Prediction, scale: float, preface: str = "") -> Estimate:
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
