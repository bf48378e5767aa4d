"""The blur kernel of an LR image, estimated from the image alone.

Shipped networks predict, in less than a second, the Gaussian that blurred the image of a benchmark (`kernel_net`), and the
blur and sharpening that a photo went through (`response`). `experiments/blind.py` and `experiments/pipelines.py` measure what
they gain.
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
from mzsr_jax.photo import kernel_net, response
from mzsr_jax.photo.kernel_net import Gaussian, Prediction

_UNSURE = 0.25  # relative error of a width from which on the text says so
_UNTOLD = 0.5  # radians, error of the angle from which on the text gives no angle
_NO_EDGES = "the image has no edges to tell its blur by, so a likely one: "
_DRAWS = 500  # codes, by which errors are measured
_SHOWN = 200  # pixels, side of the picture of a kernel


class Estimate(NamedTuple):
  """A kernel and how sure it is.

  Attributes:
    kernel: (k, k) float32, k odd, sum 1, on the HR grid; for `kernels.Degradation`.
    sigmas: (2,) standard deviations along the principal axes, the larger first, HR pixels.
    theta: angle of the first axis, radians, from x (rightwards) towards y (downwards), in [0, pi).
    uncertainty: (2,) standard errors of `sigmas`.
    text: one line about all that.
    trusted: share of what a network adds, told this kernel, that is kept if the image is clean: see `trust.share`.
    fine: what the blur has left of the contrast in details of two LR pixels; 1 for all.
  """

  kernel: Float[np.ndarray, "k k"]
  sigmas: Float[np.ndarray, "2"]
  theta: float
  uncertainty: Float[np.ndarray, "2"]
  text: str
  trusted: float = 1.0
  fine: float = 1.0


MIN_SCALE = kernel_net.SCALES[0]  # for which kernels can be estimated


def estimate(lr: Float[np.ndarray, "h w 3"], scale: float, subsample: str = "direct") -> Estimate:
  """Estimates the Gaussian that an image was blurred by before it was subsampled, on the grid of the paper's benchmarks.

  An image without edges gives the middle of what the network was trained for, and says so.

  Args:
    lr: in [0, 1], of any size.
    scale: how many times smaller it is than the HR image; 2 to 4.
    subsample: one of `kernels.SUBSAMPLINGS`, by which the kernel was followed.

  Raises:
    ValueError: the image is no float array, or not in [0, 1].
    UserError: not an RGB image, or another value where one of the above is asked for.
  """
  if subsample not in kernels.SUBSAMPLINGS:
    raise UserError(f"unknown subsampling '{subsample}': use one of {', '.join(kernels.SUBSAMPLINGS)}")
  _check(lr, scale)
  params, calibration = _shipped(weights.KERNEL_ESTIMATOR)
  found = kernel_net.predict(params, lr.astype(np.float32), scale, subsample)
  preface = _NO_EDGES if found is None else ""
  found = kernel_net.calibrated(found, calibration, kernel_net.prior(scale)) if found else kernel_net.prior(scale)
  shape = kernel_net.decode(found.mean, scale)
  return _described(kernel_net.kernel(shape), shape, kernel_net.decode(_around(found), scale), preface)


def estimate_photo(lr: Float[np.ndarray, "h w 3"], scale: float) -> Estimate:
  """Estimates what a photo went through, shrinking and sharpening included, as one kernel about the middle of a cell.

  Where it is unsure, the kernel is the narrower, or the more sharpened (`response.cautious`); of drawings on white or
  black, sharpening is not believed (`response.unclipped`).

  Args, Raises: see `estimate`.
  """
  _check(lr, scale)
  params, calibration = _shipped(weights.PHOTO_ESTIMATOR)
  found = kernel_net.predict(params, lr.astype(np.float32), scale, "direct", response.NET)
  preface = _NO_EDGES if found is None else ""
  found = response.posterior(found, calibration) if found else response.prior()
  trusted = response.trusted(found)
  if not preface:
    found = response.cautious(response.unclipped(found, response.saturated(lr)))
  blur, *several = response.decode(np.vstack([found.mean, _around(found)]), found.variance, scale)
  shape = Gaussian(*(part.item() for part in response.shape([blur], scale)))
  described = _described(response.kernel(blur, scale), shape, response.shape(several, scale))
  return described._replace(text=f"{preface}{response.describe(found)}", trusted=trusted, fine=response.fine(found))


def _check(lr: np.ndarray, scale: float) -> None:
  """Raises for an image or a scale that kernels cannot be estimated of."""
  if lr.ndim != 3 or lr.shape[2] != 3 or not lr.size or not np.isfinite(lr).all():
    raise UserError(f"the image must be (H, W, 3) of finite values, not {' x '.join(map(str, lr.shape))} of {lr.dtype}")
  checks.check_image(lr)
  low, high = kernel_net.SCALES[0], kernel_net.SCALES[-1]
  if not low <= scale <= high:
    raise UserError(f"scale {scale:g}: the kernel can be estimated for scales from {low:g} to {high:g} only")


@functools.cache
def _shipped(name: str):
  """Parameters and calibration of a network."""
  arrays = weights.load_arrays(name)
  return arrays["net"], np.asarray(arrays["calibration"], np.float64)


def _around(found: Prediction) -> Float[np.ndarray, "n d"]:
  """Codes drawn around one, by its own errors."""
  return found.mean + np.sqrt(found.variance) * np.random.default_rng(0).standard_normal((_DRAWS, len(found.mean)))


def _described(kernel: np.ndarray, shape: Gaussian, several: Gaussian, preface: str = "") -> Estimate:
  """A kernel with its widths and angle; their errors are those of `several` drawn around it."""
  sigmas = np.sqrt(np.stack(shape[:2]))
  error = np.sqrt(((np.sqrt(np.stack(several[:2])) - sigmas[:, None]) ** 2).mean(1))
  turn = np.sqrt(-2 * np.log(np.abs(np.exp(2j * several.theta).mean()))) / 2  # circular standard deviation
  angle = f"turned by {shape.theta:.2f} +- {turn:.2f} radians" if turn < _UNTOLD else "at an angle that cannot be told"
  doubt = "unsure" if (error > _UNSURE * sigmas).any() else "sure"
  widths = f"{sigmas[0]:.2f} +- {error[0]:.2f} by {sigmas[1]:.2f} +- {error[1]:.2f} HR pixels"
  text = f"{preface}blur of {widths}, {angle}, {doubt}"
  return Estimate(np.float32(kernel), np.float32(sigmas), float(shape.theta), np.float32(error), text)


def save(estimate: Estimate, path_stem: str | os.PathLike, overwrite: bool = False) -> None:
  """Writes the kernel as a MATLAB file (variable Kernel) and as a picture of its largest value in white: STEM.mat, STEM.png.

  Raises:
    UserError: see `files.write_whole`; then neither is written, but for a full disk.
  """
  contents = encode(estimate, path_stem)
  for path in contents:
    files.check_writable(path, overwrite)
  for path, content in contents.items():
    files.write_whole(path, content, overwrite)


def encode(estimate: Estimate, path_stem: str | os.PathLike) -> dict[pathlib.Path, bytes]:
  """The files that `save` writes, by their paths."""
  import scipy.io  # takes a moment, which only files need

  buffer = io.BytesIO()
  scipy.io.savemat(buffer, {"Kernel": estimate.kernel.astype(np.float64)})
  return dict(zip(files_of(path_stem), (buffer.getvalue(), images.encode_png(picture(estimate.kernel)))))


def files_of(path_stem: str | os.PathLike) -> tuple[pathlib.Path, pathlib.Path]:
  """What `save` writes."""
  stem = pathlib.Path(path_stem)
  return stem.with_name(f"{stem.name}.mat"), stem.with_name(f"{stem.name}.png")


def picture(kernel: Float[np.ndarray, "k k"]) -> images.Pixels:
  """A kernel as gray pixels, enlarged to about 200 a side, its largest value white."""
  gray = np.round(np.clip(kernel / kernel.max(), 0, 1) * 255).astype(np.uint8)
  side = len(kernel) * max(round(_SHOWN / len(kernel)), 1)
  return np.array(Image.fromarray(gray).resize((side, side), Image.Resampling.NEAREST).convert("RGB"))
