"""Blur kernels by name and from files: the paper's evaluation kernels, Gaussians by parameters, arrays and pictures."""

import functools
import math
import pathlib
import re
from collections.abc import Iterator

import numpy as np
from absl import logging
from jaxtyping import Float

from mzsr_jax import files, images
from mzsr_jax.core.kernels import EVALUATION_SIZE, SUBSAMPLINGS, Degradation, centre_of_mass, exact_gaussian
from mzsr_jax.errors import UserError
from mzsr_jax.photo import file as photo_file

_MAX_SIZE = 999  # of a file's kernel: what is longer is no kernel, and may be too long to be made square
_LEAST_SUM = 1e-3  # of the absolute sum: the sum of float32 values would not be exact below
_MAX_PICTURE = 101  # of a picture: what is larger is a photo, or a kernel that was enlarged to be looked at
_MAX_LISTED = 12  # of a file's arrays, in a message
_MAX_SHIFT = 0.25  # pixels, of a kernel's centre of mass: what is further off is on purpose, or a fault
_MAX_CORNER = 0.05  # of a picture's brightest pixel: what is brighter is no background
ARRAYS = (".mat", ".npy")
PICTURES = (".png", ".tif", ".tiff", ".bmp")  # not those that are lossy: their noise around a kernel adds up
EXTENSIONS = ARRAYS + PICTURES
SHIFTS = ("ignore", "centre_of_mass")

# (lambda1, lambda2, theta, subsampling) of the paper's evaluation kernels. The paper states lambda1 = 4 for g^d_ani; its
# BSD100 and Urban100 columns follow from 5 instead, hence `gani5`.
_EVALUATION = {
    "g02d": (0.2, 0.2, 0.0, "direct"),
    "g20d": (2.0, 2.0, 0.0, "direct"),
    "gani": (4.0, 1.0, -0.5, "direct"),
    "gani5": (5.0, 1.0, -0.5, "direct"),
    "g13b": (1.3, 1.3, 0.0, "bicubic"),
}
NAMES = ("bicubic", *_EVALUATION)
# Gaussians by their parameters; commas are for lists of kernels, and slashes for files.
_PREFIX = "gaussian:"
_FORMS = f"{_PREFIX}VARIANCE, {_PREFIX}VARIANCExVARIANCExRADIANS"
_MAX_VARIANCE = (EVALUATION_SIZE // 2 / 3) ** 2  # three standard deviations from the middle to the border
_NUMBERED = re.compile(rf"(.+(?:{'|'.join(map(re.escape, ARRAYS))})):([0-9]+)", re.IGNORECASE)
SHARP = "sharp"  # of photos alone: no blur but that each pixel is the mean of what it covers
SPECS = f"{', '.join(NAMES)}, {_FORMS}, or a file ({', '.join(EXTENSIONS)})"  # what `load_degradation` takes, for messages


def load_degradation(
    spec: str,
    subsample: str | None = None,
    shift: str = "ignore",
    photo_scale: float | None = None,
    flip: bool = False,
) -> Degradation:
  """The degradation that a command line names.

  Args:
    spec: one of `NAMES`; `SHARP`, for photos alone; "gaussian:L" or "gaussian:L1xL2xTHETA", the arguments of `gaussian` on the
      grid of the named kernels ("gaussian:4x1x-0.5" is "gani"); or the path of a file that `read_kernel` takes.
    subsample: "direct" or "bicubic"; None takes the name's own, and "direct" for a file or "gaussian:".
    shift: one of `SHIFTS`: "ignore" treats the middle pixel as the kernel's centre, and logs a warning where a file's is
      another; "centre_of_mass" measures it.
    photo_scale: for photos, by which the image is enlarged: Gaussians with direct subsampling are put on their grid, see
      `cell_centre`, and a file's kernel that has its centre there, as estimated ones have, is left there. None is for images
      on the grid of the paper's benchmarks.
    flip: turn a file's kernel by 180 degrees about its middle, as one must be that is for a convolution: a degradation
      correlates with its kernel.

  Raises:
    UserError: unknown name or subsampling, variances that are not positive or too large for the grid, or a file that holds no
      usable kernel.
  """
  if subsample is not None and subsample not in SUBSAMPLINGS:
    raise UserError(f"unknown subsampling '{subsample}': use one of {', '.join(SUBSAMPLINGS)}")
  own = _EVALUATION[spec][-1] if spec in _EVALUATION else "bicubic" if spec == "bicubic" else "direct"
  subsample = subsample or own
  if spec == SHARP:
    if not photo_scale or subsample != "direct":
      raise UserError(f"kernel '{SHARP}' is for photos alone, without --subsample: elsewhere, 'bicubic' is what is not blurred")
    return Degradation(area_kernel(photo_scale), "direct", cell_centre(photo_scale, "direct"))
  shape = _shape(spec)
  photo_centre = cell_centre(photo_scale, subsample) if photo_scale else (0.0, 0.0)
  kernel = np.float32(exact_gaussian(shape, centre=photo_centre)) if shape else _other(spec)
  if shape and photo_centre != (0, 0):
    return Degradation(kernel, subsample, photo_centre)
  kernel = kernel[::-1, ::-1] if flip else kernel  # those by name are symmetric
  centre = centre_of_mass(kernel)
  if shift == "centre_of_mass":
    return Degradation(kernel, subsample, centre)
  if math.dist(centre, photo_centre) <= _MAX_SHIFT < math.hypot(*centre):
    return Degradation(kernel, subsample, photo_centre)
  if math.hypot(*centre) > _MAX_SHIFT:
    _warn(f"kernel '{spec}' has its centre of mass {centre[0]:+.2f} pixels down and {centre[1]:+.2f} to the right of its "
          "middle, and moves the image by that: pass --kernel_shift=centre_of_mass to make up for it")
  return Degradation(kernel, subsample)


def cell_centre(scale: float, subsample: str) -> tuple[float, float]:
  """(dy, dx) of a kernel's centre where LR pixels are the middles of the cells of s x s HR pixels that they stand for.

  Photos, and enlargements by other programs, are so. Direct subsampling of the paper's benchmarks keeps the first pixel of each
  cell instead; bicubic subsampling has the middles in itself.
  """
  return ((scale - 1) / 2,) * 2 if subsample == "direct" else (0.0, 0.0)


def area_kernel(scale: float) -> Float[np.ndarray, "k k"]:
  """The mean over the cell of an LR pixel as a blur that direct subsampling follows, about `cell_centre`: for whole scales,
  what programs call "area" or "box"."""
  size = max(EVALUATION_SIZE, 2 * math.ceil(scale) + 1)
  (centre, _), place = cell_centre(scale, "direct"), np.arange(size) - size // 2
  taps = np.clip(np.minimum(place + 0.5, centre + scale / 2) - np.maximum(place - 0.5, centre - scale / 2), 0, None)
  return np.outer(taps, taps).astype(np.float32) / np.float32(scale**2)


def widened(spec: str, factor: float) -> Degradation:
  """The degradation of a Gaussian by name, its standard deviations `factor` times as large: one that is told wrongly.

  Raises:
    UserError: see `load_degradation`; for another factor than 1, no Gaussian, or one that does not fit the grid.
  """
  own = load_degradation(spec)
  if factor == 1:
    return own
  if (shape := _shape(spec)) is None:
    raise UserError(f"kernel '{spec}' is no Gaussian, whose width could be another: use {_FORMS}, or the name of one")
  first, second, theta = shape
  return load_degradation(f"{_PREFIX}{first * factor**2}x{second * factor**2}x{theta}", own.subsample)


def _shape(spec: str) -> tuple[float, float, float] | None:
  """Variances and angle of the Gaussian that a command line names; None for other kernels."""
  if spec in _EVALUATION:
    return _EVALUATION[spec][:3]
  return _parameters(spec) if spec.startswith(_PREFIX) else None


def _other(spec: str) -> np.ndarray:
  """No blur, or a file's kernel."""
  if spec == "bicubic":
    return np.ones((1, 1), np.float32)
  if _NUMBERED.fullmatch(spec) or pathlib.Path(spec).suffix.lower() in EXTENSIONS:
    return read_kernel(spec)
  raise UserError(f"unknown kernel '{spec}': use one of {SPECS}")


def _parameters(spec: str) -> tuple[float, float, float]:
  """Variances and angle of "gaussian:L" or "gaussian:L1xL2xTHETA"."""
  try:
    numbers = [float(part) for part in spec.removeprefix(_PREFIX).split("x")]
  except ValueError:
    numbers = []
  if len(numbers) not in (1, 3) or not all(map(math.isfinite, numbers)):
    raise UserError(f"unknown kernel '{spec}': write one of {_FORMS}, such as {_PREFIX}4x1x-0.5")
  *variances, theta = numbers if len(numbers) == 3 else (*numbers, *numbers, 0.0)
  if not all(0 < variance <= _MAX_VARIANCE for variance in variances):
    raise UserError(f"kernel '{spec}': variances must be above 0, and at most {_MAX_VARIANCE:.1f} to fit its {EVALUATION_SIZE}x"
                    f"{EVALUATION_SIZE} pixels")
  return *variances, theta


def find_kernels(folder: str | pathlib.Path) -> list[pathlib.Path]:
  """The kernel files under a folder and its subfolders, sorted; hidden files left out.

  Where there are .mat or .npy files, images are none of them: pictures of the same kernels, or what was made with them.

  Raises:
    UserError: no such folder, or no such file in it.
  """
  found = files.find(folder, EXTENSIONS, "kernel")
  return [path for path in found if path.suffix.lower() in ARRAYS] or found


def read_kernel(path: str | pathlib.Path) -> Float[np.ndarray, "k k"]:
  """Reads a blur kernel from a .npy file, a MATLAB .mat file, or a picture of it on black.

  Of a .mat file, it is the one matrix, beside which scalars, text, stacks and cells may be; or the one array of a stack or
  cell.
  Axes of length 1 beyond two do not count. "FILE:N" is the N-th array of a .mat or .npy file with several, from 1, as the
  message lists them: those of a stack (n, k, k) or (k, k, n), and of a cell down its columns.

  An even side becomes odd, and a shorter side as long as the other, by zeros around: the middle of the result is pixel k // 2
  of a side of k pixels, as in SciPy's `ndimage.correlate`. A picture's gray levels, or the luma of its colours, are the
  kernel's values, pixel for pixel. What is odd about an array, but may be meant, is logged as a warning: a sum that is not 1,
  or much that is negative.

  Returns:
    (k, k) float32 kernel, k odd, normalised to sum 1.

  Raises:
    UserError: no such file, not readable, no or several 2-D arrays, longer than 999, not finite, or of sum 0; a picture that
      is larger than 101x101 or bright in its corners.
  """
  numbered = _NUMBERED.fullmatch(str(path))
  file = pathlib.Path(numbered[1] if numbered else path)
  if not file.is_file():
    raise UserError(f"kernel file '{file}' does not exist")
  picture = file.suffix.lower() in PICTURES
  kernel = (_picture(file) if picture else _matrix(file, numbered and int(numbered[2]))).astype(np.float64)
  height, width = kernel.shape
  if max(height, width) > _MAX_SIZE:
    raise UserError(f"kernel in '{path}' is {height}x{width}: it may have at most {_MAX_SIZE} pixels a side")
  if not np.isfinite(kernel).all():
    raise UserError(f"kernel in '{path}' holds NaN or infinite values")
  total = kernel.sum()
  if not math.isfinite(total) or total <= _LEAST_SUM * np.abs(kernel).sum():
    raise UserError(f"kernel in '{path}' has sum {total:.3g}: beside its values too little to be normalised to 1")
  if not picture and abs(total - 1) > 1e-3:
    _warn(f"kernel in '{path}' has sum {total:.4g}, not 1: it is divided by that")
  if (negative := np.maximum(-kernel, 0).sum() / np.abs(kernel).sum()) > 0.01:
    _warn(f"kernel in '{path}' is negative in {negative:.1%} of its absolute mass: no blur of a lens or of motion is, though "
          "a bicubic kernel, or an estimated one, may be; see that it is the right one")
  side = max(kernel.shape) // 2 * 2 + 1
  before = [side // 2 - length // 2 for length in kernel.shape]
  padding = [(first, side - length - first) for first, length in zip(before, kernel.shape)]
  return np.pad(kernel / total, padding).astype(np.float32)


@functools.cache
def _warn(line: str) -> None:
  """Logs a warning, once: a benchmark names the same kernel many times."""
  logging.warning("%s", line)


def _picture(path: pathlib.Path) -> Float[np.ndarray, "h w"]:
  """Gray levels of an image of a kernel, in [0, 1]. Raises UserError where it is not one."""
  height, width = images.image_size(path) or (0, 0)
  if max(height, width) > _MAX_PICTURE:
    if (array := path.with_suffix(".mat")).is_file():
      raise UserError(f"'{path}' is a kernel enlarged to be looked at: give '{array}', which holds the kernel itself")
    raise UserError(f"'{path}' is {width}x{height}: a picture of a kernel may have at most {_MAX_PICTURE} pixels a side, each "
                    "one of the kernel's own; give a larger kernel as a .npy file, and photos to --input")
  photo = photo_file.read(path)
  gray = photo.rgb @ np.array(images.LUMA)
  gray *= 1 if photo.alpha is None else photo.alpha  # as on black
  # A line of motion may end in two corners.
  if sorted(gray[[0, 0, -1, -1], [0, -1, 0, -1]])[1] > _MAX_CORNER * gray.max():
    raise UserError(f"'{path}' is bright in its corners, as photos are: a picture of a kernel must be on black; if it is one, "
                    "add a black border, or give it as a .npy file")
  return gray


def _matrix(path: pathlib.Path, number: int | None) -> np.ndarray:
  """The real, 2-D array of a kernel file, or that of a number. Raises UserError where there is no such, or are several."""
  try:
    arrays = _arrays(path)
  except Exception as e:  # each reader has its own zoo of exceptions for damaged files
    raise UserError(f"kernel file '{path}' cannot be read: {' '.join(str(e).split())[:200]}") from e
  found = [entry for name, array in arrays.items() for entry in _matrices(name, array)]
  found = [entry for entry in found if entry[1].size > 1] or found
  if number is not None and 1 <= number <= len(found):
    return found[number - 1][1]
  plain = [matrix for name, matrix in found if name in arrays]
  for candidates in (plain, [matrix for _, matrix in found]):
    if number is None and len(candidates) == 1:
      return candidates[0]
  if not found:
    held = [f"'{name}' {array.dtype} {array.shape}" for name, array in arrays.items()]
    raise UserError(f"kernel file '{path}' holds no 2-D array of real numbers; it holds: {_listed(held) or 'nothing'}")
  held = [f"{i}: '{name}' {matrix.shape[0]}x{matrix.shape[1]}" for i, (name, matrix) in enumerate(found, 1)]
  missing = f"holds no 2-D array number {number}" if number is not None else f"must hold one 2-D array, or be '{path}:NUMBER'"
  raise UserError(f"kernel file '{path}' {missing}; it holds {_listed(held)}")


def _listed(entries: list[str]) -> str:
  """Some text of all, or of the first and the last."""
  return ", ".join(entries if len(entries) <= _MAX_LISTED else [*entries[: _MAX_LISTED - 1], "...", entries[-1]])


def _matrices(name: str, array: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
  """(name, 2-D array of real numbers) of a variable: its own, those of a stack, or those of a cell."""
  if array.dtype == object:
    for i, item in enumerate(array.ravel(order="F"), 1):
      if isinstance(item, np.ndarray) and item.dtype != object:
        yield from _matrices(f"{name}{{{i}}}", item)
    return
  while array.ndim > 2 and 1 in array.shape:
    array = array.squeeze(array.shape.index(1))
  if array.dtype.kind not in "fiu" or array.ndim not in (2, 3) or not array.size:
    return
  if array.ndim == 2:
    yield name, array
    return
  first, last = array.shape[1] == array.shape[2], array.shape[0] == array.shape[1]
  if first != last:  # else nothing tells which axis counts them
    for i, matrix in enumerate(array if first else np.moveaxis(array, -1, 0), 1):
      yield f"{name}[{i}]", matrix


def _arrays(path: pathlib.Path) -> dict[str, np.ndarray]:
  """What a .npy file, or a .mat file of any version, holds, by name; cells are arrays of objects."""
  if path.suffix.lower() == ".npy":
    if not isinstance(array := np.load(path, allow_pickle=False), np.ndarray):
      raise ValueError("it is an archive of arrays (.npz): save one of them with numpy.save")
    return {path.stem: array}
  import h5py  # only .mat files need these two, and they take a moment to load
  import scipy.io

  if not h5py.is_hdf5(path):
    return {name: array for name, array in scipy.io.loadmat(path).items() if isinstance(array, np.ndarray)}
  with h5py.File(path) as file:  # v7.3; MATLAB's first axis is the last there
    datasets = {name: item for name, item in file.items() if isinstance(item, h5py.Dataset)}
    return {name: array for name, item in datasets.items() if (array := _v73(file, item)) is not None}


def _v73(file, dataset) -> np.ndarray | None:
  """An array of numbers, or a cell of such, of a v7.3 file; None for what is neither."""
  import h5py

  if _is_numeric(dataset):
    return dataset[()].T
  if dataset.dtype != h5py.ref_dtype or dataset.attrs.get("MATLAB_empty", 0):
    return None
  items = [file[reference] if reference else None for reference in dataset[()].T.ravel(order="F")]
  cell = np.empty(len(items), object)
  cell[:] = [item[()].T if isinstance(item, h5py.Dataset) and _is_numeric(item) else None for item in items]
  return cell


def _is_numeric(dataset) -> bool:
  """Whether a dataset of a v7.3 file is an array of numbers, not text, a cell's references, or the size of what is empty."""
  kind = np.asarray(dataset.attrs.get("MATLAB_class", "double")).astype(str)
  return dataset.dtype.kind in "fiu" and bool(kind != "char") and not dataset.attrs.get("MATLAB_empty", 0)
