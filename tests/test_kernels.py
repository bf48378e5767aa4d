"""The Gaussian family, the training distribution, and kernel files good and bad."""

import logging
import re

import h5py
import imagecodecs
import jax
import numpy as np
import pytest
import scipy.io
import scipy.ndimage
import tifffile
from PIL import Image

from mzsr_jax.core import degradation, kernels
from mzsr_jax.errors import UserError
from mzsr_jax.photo import kernel_files
from mzsr_jax.training import data


def test_gaussian_has_the_variances_and_angle_it_was_given():
  size, theta = 61, 0.3
  k = np.asarray(kernels.gaussian(6.0, 2.0, theta, size), np.float64)
  y, x = np.mgrid[:size, :size] - size // 2
  covariance = np.array([[(k * x * x).sum(), (k * x * y).sum()], [(k * x * y).sum(), (k * y * y).sum()]])
  rotation = np.array([[np.cos(theta), -np.sin(theta)], [np.sin(theta), np.cos(theta)]])
  np.testing.assert_allclose(k.sum(), 1, atol=1e-6)
  np.testing.assert_allclose(covariance, rotation @ np.diag([6.0, 2.0]) @ rotation.T, atol=1e-3)


# On the grid of pixels, a Gaussian of variance 0.2 has one of 0.14.
@pytest.mark.parametrize("least,on_grid", [(1.0, 1.0), (0.2, 0.14)])
def test_samples_span_the_training_distribution(least, on_grid):
  scale, keys = 2.0, jax.random.split(jax.random.key(0), 300)
  ks = np.asarray(jax.vmap(lambda key: kernels.sample(key, scale, least, size=41))(keys), np.float64)
  y, x = np.mgrid[:41, :41] - 20
  moments = [(ks * m).sum((1, 2)) for m in (x * x, x * y, y * y)]
  eigenvalues = np.linalg.eigvalsh(np.array([[moments[0], moments[1]], [moments[1], moments[2]]]).transpose(2, 0, 1))
  assert eigenvalues.min() > on_grid - 0.02 and eigenvalues.max() < 2.5 * scale + 0.02
  assert eigenvalues[:, 1].max() > 4.5 and eigenvalues[:, 0].min() < on_grid + 0.1
  np.testing.assert_allclose(eigenvalues[:, 1].mean(), (least + 2.5 * scale) / 2, atol=0.25)


@pytest.mark.parametrize("name", kernel_files.NAMES)
def test_named_kernels_sum_to_one(name):
  degradation = kernel_files.load_degradation(name)
  kernel, subsample, offset = degradation.kernel, degradation.subsample, degradation.offset
  assert offset == kernel_files.load_degradation(name, shift="centre_of_mass").offset == (0, 0)
  assert kernel.shape[0] == kernel.shape[1] and kernel.shape[0] % 2 == 1
  assert abs(kernel.sum() - 1) < 1e-6 and subsample in kernels.SUBSAMPLINGS


@pytest.mark.parametrize("name", ["g20d", "gani", "gaussian:3"])
def test_gaussians_of_photos_lie_in_the_middle_of_the_cell(name):
  for scale in (1.5, 2, 4):
    degradation = kernel_files.load_degradation(name, photo_scale=scale)
    assert degradation.offset == ((scale - 1) / 2,) * 2
    np.testing.assert_allclose(kernels.centre_of_mass(degradation.kernel), degradation.offset, atol=0.01)
  assert kernel_files.load_degradation(name, "bicubic", photo_scale=2).offset == (0, 0)
  assert kernel_files.load_degradation("bicubic", photo_scale=2).kernel.shape == (1, 1)


def test_subsampling_may_be_chosen_and_defaults_to_the_names_own():
  assert kernel_files.load_degradation("g13b").subsample == "bicubic"
  assert kernel_files.load_degradation("g13b", "direct").subsample == "direct"
  assert kernel_files.load_degradation("bicubic").kernel.shape == (1, 1)


@pytest.mark.parametrize("suffix", [".npy", ".mat"])
def test_files_round_trip_and_are_normalised(tmp_path, suffix):
  kernel = np.asarray(kernels.gaussian(3.0, 1.0, 0.5, 7))
  path = tmp_path / f"k{suffix}"
  if suffix == ".npy":
    np.save(path, 5 * kernel)
  else:
    scipy.io.savemat(path, {"K": 5 * kernel})
  np.testing.assert_allclose(kernel_files.read_kernel(path), kernel, atol=1e-7)


@pytest.mark.parametrize("spec,name", [("gaussian:2", "g20d"), ("gaussian:4x1x-0.5", "gani"), ("gaussian:2e-1x0.2x0", "g02d")])
def test_gaussians_by_their_parameters_are_the_named_ones(spec, name):
  given, named = kernel_files.load_degradation(spec), kernel_files.load_degradation(name)
  np.testing.assert_array_equal(given.kernel, named.kernel)
  assert given.subsample == "direct" and kernel_files.load_degradation(spec, "bicubic").subsample == "bicubic"


def test_a_widened_gaussian_has_other_standard_deviations_and_all_else_the_same():
  wide = kernel_files.widened("gani", 1.5)
  np.testing.assert_array_equal(wide.kernel, kernel_files.load_degradation("gaussian:9x2.25x-0.5").kernel)
  assert kernel_files.widened("g13b", 0.8).subsample == "bicubic"
  np.testing.assert_array_equal(kernel_files.widened("bicubic", 1).kernel, [[1]])
  for spec, factor, words in (("bicubic", 0.8, "no Gaussian"), ("gaussian:8", 1.5, "at most")):
    with pytest.raises(UserError, match=words):
      kernel_files.widened(spec, factor)


@pytest.mark.parametrize("least,most", [("1e-9", "11.1")])
def test_all_variances_that_are_taken_fit_the_grid(least, most):
  """No more than 1 in 100 of a Gaussian lies beyond it, and the smallest is no blur."""
  exact = np.exp(-(np.arange(-60, 61) ** 2) / 2 / float(most))
  assert exact[50:71].sum() / exact.sum() > 0.99
  kernel = kernel_files.load_degradation(f"gaussian:{most}x{least}x0").kernel
  np.testing.assert_allclose(kernel[10], exact[50:71] / exact[50:71].sum(), atol=1e-6)
  assert np.count_nonzero(kernel.sum(1)) == 1


@pytest.mark.parametrize(
    "spec,words",
    [
        *((f"gaussian:{text}", "gaussian:VARIANCE") for text in ("", "x", "2x1", "1x2x3x4", "a", "nan", "2xinfx0", "2x1xnan")),
        *((f"gaussian:{text}", "above 0") for text in ("0", "-1", "12", "2x0x1", "1x100x0")),
        ("gaussian:100", "at most 11.1"),
        ("gaussian", "gaussian:VARIANCE"),
    ],
)
def test_gaussians_of_no_use_are_refused(spec, words):
  with pytest.raises(UserError, match=words) as e:
    kernel_files.load_degradation(spec)
  assert f"'{spec}'" in str(e.value) and "\n" not in str(e.value)


def test_the_offset_is_measured_from_the_middle_down_and_right(tmp_path):
  kernel = np.zeros((5, 7))
  kernel[1, 5], kernel[1, 6] = 3, 1
  np.save(tmp_path / "k.npy", kernel)
  assert kernel_files.load_degradation(f"{tmp_path}/k.npy", shift="centre_of_mass").offset == (-1, 2.25)
  assert kernel_files.load_degradation(f"{tmp_path}/k.npy").offset == (0, 0)


@pytest.mark.parametrize("shape,middle", [((4, 4), (2, 2)), ((3, 6), (1, 3)), ((5, 2), (2, 1)), ((1, 1), (0, 0))])
def test_even_and_unequal_sides_are_padded_around_the_middle_of_scipy(tmp_path, shape, middle):
  kernel = np.random.default_rng(0).random(shape)
  np.save(tmp_path / "k.npy", kernel)
  padded = kernel_files.read_kernel(tmp_path / "k.npy")
  assert padded.shape[0] == padded.shape[1] <= max(shape) + 1 and padded.shape[0] % 2 == 1
  half = padded.shape[0] // 2
  assert padded[half, half] == pytest.approx(kernel[middle] / kernel.sum(), abs=1e-6)
  assert padded.sum() == pytest.approx(1) and np.count_nonzero(padded) == kernel.size


def test_the_centre_of_an_even_kernel_is_half_a_pixel_from_its_middle(tmp_path):
  axis = np.arange(12) - 5.5
  np.save(tmp_path / "k.npy", np.exp(-(axis**2) / 4)[:, None] * np.exp(-(axis**2) / 4))
  assert kernel_files.load_degradation(f"{tmp_path}/k.npy", shift="centre_of_mass").offset == (-0.5, -0.5)


def many(count: int, side: int = 5) -> np.ndarray:
  """Kernels of sum 1, no two alike."""
  stack = np.random.default_rng(0).random((count, side, side))
  return stack / stack.sum((1, 2), keepdims=True)


BAD = {
    "vector": np.ones(5),
    "cube": np.ones((3, 3, 3)),
    "nan": np.array([[0, 0, 0], [0, np.nan, 0], [0, 0, 0]]),
    "infinite": np.array([[0, 0, 0], [0, np.inf, 0], [0, 0, 0]]),
    "sums to zero": np.array([[0, 0, 0], [-1.0, 0, 1], [0, 0, 0]]),
    "sums to next to nothing": np.concatenate([many(2, 20)[0], -many(2, 20)[1] + 1e-9]) * 100,
    "all zero": np.zeros((3, 3)),
    "complex": np.ones((3, 3), complex),
    "text": np.array([["a"]]),
    "pickled": np.array([[None]], object),
    "a long list": np.ones((1, 10**6)),
    "empty": np.zeros((0, 0)),
}


@pytest.mark.parametrize("name", BAD)
def test_unusable_kernel_files_are_refused_in_one_line(tmp_path, name):
  path = tmp_path / "k.npy"
  np.save(path, BAD[name], allow_pickle=True)
  with pytest.raises(UserError) as e:
    kernel_files.load_degradation(str(path))
  assert "k.npy" in str(e.value) and "\n" not in str(e.value)


def test_an_archive_by_the_name_of_an_array_is_refused(tmp_path):
  np.savez(tmp_path / "k.npz", np.eye(3))
  (tmp_path / "k.npz").rename(tmp_path / "k.npy")
  with pytest.raises(UserError, match=r"k\.npy.*archive"):
    kernel_files.read_kernel(tmp_path / "k.npy")


@pytest.mark.parametrize("content", [b"", b"not a kernel", b"\x93NUMPY\x01\x00", b"MATLAB 5.0 MAT-file" + bytes(200)])
@pytest.mark.parametrize("suffix", [".npy", ".mat"])
def test_damaged_kernel_files_are_refused(tmp_path, content, suffix):
  path = tmp_path / f"k{suffix}"
  path.write_bytes(content)
  with pytest.raises(UserError, match="k" + suffix):
    kernel_files.read_kernel(path)


def cell(arrays) -> np.ndarray:
  made = np.empty((1, len(arrays)), object)
  made[0] = [*arrays]
  return made


def save_v73_cell(path, arrays):
  """A cell as MATLAB saves it: references to what lies beside."""
  save_v73(path, {})
  with h5py.File(path, "r+") as file:
    references = file.create_dataset("kernels", (len(arrays), 1), h5py.ref_dtype)  # 1 x n in MATLAB
    references.attrs["MATLAB_class"] = np.bytes_("cell")
    for i, array in enumerate(arrays):
      file[f"#refs#/{i}"] = array.T
      references[i, 0] = file[f"#refs#/{i}"].ref


LAYOUTS = {
    "a cell.mat": lambda path, k: scipy.io.savemat(path, {"kernels": cell(k)}),
    "a cell of v7.3.mat": save_v73_cell,
    "the last axis counts.mat": lambda path, k: scipy.io.savemat(path, {"k": np.moveaxis(k, 0, -1), "sigma": 2.0}),
    "the first axis counts.npy": np.save,
    "axes of one.npy": lambda path, k: np.save(path, k[:, None, :, None]),
    "variables.mat": lambda path, k: scipy.io.savemat(path, {f"k{i}": each for i, each in enumerate(k)} | {"scale": 2.0}),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_one_of_several_kernels_is_chosen_by_number(tmp_path, layout):
  kernels_12, path = many(12), tmp_path / layout
  LAYOUTS[layout](path, kernels_12)
  for number in (1, 3, 12):
    read = kernel_files.load_degradation(f"{path}:{number}").kernel
    np.testing.assert_allclose(read, kernels_12[number - 1], atol=1e-7)
  with pytest.raises(UserError, match=r"NUMBER.*it holds 1: .*5x5, 2: .*, 12: "):
    kernel_files.load_degradation(str(path))
  for number in (0, 13):
    with pytest.raises(UserError, match=f"number {number}; it holds 1: .*, 12: "):
      kernel_files.load_degradation(f"{path}:{number}")


@pytest.mark.parametrize(
    "variables",
    [
        {"kernel": many(1)[None]},
        {"kernel": many(1), "note": "USRNet"},
        {"Kernel": many(1)[0], "scale": 2.0, "sf": np.array([[4]], np.uint8)},
        {"kernels": cell(many(1))},
        {"Kernel": many(1)[0], "others": cell(many(4))},
    ],
)
def test_the_one_kernel_of_a_mat_file_is_read_however_it_lies_there(tmp_path, variables):
  scipy.io.savemat(tmp_path / "k.mat", variables)
  np.testing.assert_allclose(kernel_files.read_kernel(tmp_path / "k.mat"), many(1)[0], atol=1e-7)


def test_two_matrices_in_a_mat_file_are_ambiguous(tmp_path):
  scipy.io.savemat(tmp_path / "k.mat", {"a": np.ones((3, 3)), "b": np.ones((5, 5))})
  with pytest.raises(UserError, match="one 2-D array, or be '.*k.mat:NUMBER'; it holds 1: 'a' 3x3, 2: 'b' 5x5"):
    kernel_files.read_kernel(tmp_path / "k.mat")


def test_a_long_list_of_kernels_is_cut_short(tmp_path):
  np.save(tmp_path / "k.npy", many(50))
  with pytest.raises(UserError, match=r"11: 'k\[11\]' 5x5, \.\.\., 50: 'k\[50\]' 5x5$"):
    kernel_files.read_kernel(tmp_path / "k.npy")


@pytest.mark.parametrize("side", [5, 6])
def test_a_kernel_of_a_convolution_is_turned(tmp_path, side):
  hr = np.random.default_rng(1).random((24, 20, 3))
  np.save(tmp_path / "k.npy", many(1, side)[0])
  convolved = scipy.ndimage.convolve(hr, many(1, side)[0][..., None], mode="reflect")[::2, ::2]
  for flip in (True, False):
    kernel = kernel_files.load_degradation(f"{tmp_path}/k.npy", flip=flip).kernel
    off = np.abs(np.asarray(degradation.degrade(hr.astype(np.float32), kernel, 2, "direct")) - convolved).max()
    assert off < 1e-5 if flip else off > 0.05
  for name in kernel_files.NAMES:
    np.testing.assert_array_equal(kernel_files.load_degradation(name, flip=True).kernel,
                                  kernel_files.load_degradation(name).kernel)


def test_sharp_photos_are_means_of_cells():
  sharp = kernel_files.load_degradation("sharp", photo_scale=3)
  image = np.random.default_rng(0).random((24, 36, 3), np.float32)
  made = degradation.degrade(image, sharp.kernel, 3, sharp.subsample)
  np.testing.assert_allclose(made, image.reshape(8, 3, 12, 3, 3).mean((1, 3)), atol=1e-6)
  for scale in (1, 1.5, 2, 7.3):
    sharp = kernel_files.load_degradation("sharp", photo_scale=scale)
    assert abs(sharp.kernel.sum() - 1) < 1e-6 and sharp.offset == ((scale - 1) / 2,) * 2
    if scale % 1 == 0:
      np.testing.assert_allclose(kernels.centre_of_mass(sharp.kernel), sharp.offset, atol=1e-5)
  for wrong in ({}, {"photo_scale": 2, "subsample": "bicubic"}):
    with pytest.raises(UserError, match="bicubic"):
      kernel_files.load_degradation("sharp", **wrong)


@pytest.mark.parametrize("spec", ["g99", "", "nowhere.mat", "photo.png"])
def test_unknown_names_and_missing_files_are_refused(spec):
  with pytest.raises(UserError):
    kernel_files.load_degradation(spec)


def save_v73(path, variables):
  """As MATLAB does: text before the HDF5 part, each array's first axis last, its class beside it. None is an empty matrix."""
  with h5py.File(path, "w", userblock_size=512) as file:
    for name, array in variables.items():
      text = isinstance(array, str)
      stored = np.frombuffer(array.encode("utf-16-le"), np.uint16)[:, None] if text else np.transpose(array)
      file[name] = np.zeros(2, np.uint64) if array is None else stored
      file[name].attrs["MATLAB_class"] = np.bytes_("char" if text else "double")
      if array is None:
        file[name].attrs["MATLAB_empty"] = np.uint8(1)
  with path.open("r+b") as file:
    file.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + b"\x00\x02IM")


def test_hdf5_mat_files_are_turned_as_matlab_shows_them(tmp_path):
  kernel = np.asarray(kernels.gaussian(3.0, 1.0, 0.5, 7))
  assert np.abs(kernel - kernel.T).max() > 1e-3
  save_v73(tmp_path / "k.mat", {"Kernel": kernel, "note": "a kernel", "list": np.ones((2, 2, 2)), "none": None})
  np.testing.assert_allclose(kernel_files.read_kernel(tmp_path / "k.mat"), kernel, atol=1e-7)
  with h5py.File(tmp_path / "k.mat", "r+") as file:  # a struct, a cell and sparse matrices have groups or references
    file["struct/kernel"] = np.ones((3, 3))
    cell = file.create_dataset("cell", (2, 2), h5py.ref_dtype)
    cell[0, 0] = file["struct/kernel"].ref
    cell.attrs["MATLAB_class"] = np.bytes_("cell")
    file["complex"] = np.ones((2, 2), [("real", float), ("imag", float)])
  np.testing.assert_allclose(kernel_files.read_kernel(tmp_path / "k.mat"), kernel, atol=1e-7)


@pytest.mark.parametrize(
    "variables,words",
    [
        ({"a": np.ones((3, 3)), "b": np.ones((5, 4))}, "1: 'a' 3x3, 2: 'b' 5x4"),
        ({"text": "kernel"}, "no 2-D array"),
        ({"empty": None}, "no 2-D array"),
        ({}, "it holds: nothing"),
    ],
)
def test_hdf5_mat_files_without_just_one_matrix_are_refused(tmp_path, variables, words):
  save_v73(tmp_path / "k.mat", variables)
  with pytest.raises(UserError, match=words):
    kernel_files.read_kernel(tmp_path / "k.mat")
  whole = (tmp_path / "k.mat").read_bytes()
  (tmp_path / "k.mat").write_bytes(whole[: len(whole) // 2])
  with pytest.raises(UserError, match="k.mat"):
    kernel_files.read_kernel(tmp_path / "k.mat")


@pytest.mark.parametrize(
    "suffix,mode", [*((".png", m) for m in ("L", "P", "RGB", "RGBA", "LA")), (".bmp", "L"), (".tif", "L"), (".tiff", "RGB")]
)
def test_pictures_are_gray_levels(tmp_path, suffix, mode):
  kernel = np.asarray(kernels.gaussian(3.0, 1.0, 0.5, 15), np.float64)
  kernel[-1, 0] = kernel.max() / 2  # a corner alone is no background
  gray = np.round(255 * kernel / kernel.max()).astype(np.uint8)
  Image.fromarray(gray).convert(mode).save(tmp_path / f"k{suffix}")
  read = kernel_files.load_degradation(f"{tmp_path}/k{suffix}")
  assert read.subsample == "direct"
  np.testing.assert_allclose(read.kernel, gray / gray.sum(dtype=np.float64), atol=1e-7)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("suffix,write", [(".png", imagecodecs.imwrite), (".TIFF", tifffile.imwrite)])
def test_pictures_are_read_with_all_their_bits(tmp_path, suffix, write, channels):
  kernel = np.asarray(kernels.gaussian(3.0, 1.0, 0.5, 15), np.float64)
  gray = np.round(65535 * kernel / kernel.max()).astype(np.uint16)
  write(tmp_path / f"k{suffix}", gray if channels == 1 else gray[..., None].repeat(3, -1))
  np.testing.assert_allclose(kernel_files.read_kernel(tmp_path / f"k{suffix}"), gray / gray.sum(dtype=np.float64), atol=1e-8)


def test_what_is_transparent_is_black(tmp_path):
  kernel = np.asarray(kernels.gaussian(3.0, 1.0, 0.5, 15), np.float64)
  alpha = np.round(255 * kernel / kernel.max()).astype(np.uint8)
  Image.fromarray(np.stack([np.full_like(alpha, 255), alpha], -1), "LA").save(tmp_path / "k.png")
  np.testing.assert_allclose(kernel_files.read_kernel(tmp_path / "k.png"), alpha / alpha.sum(dtype=np.float64), atol=1e-7)


def test_colours_count_by_their_luma(tmp_path):
  picture = np.zeros((3, 5, 3), np.uint8)
  picture[1, 1:4] = 200 * np.eye(3)
  Image.fromarray(picture).save(tmp_path / "k.png")
  np.testing.assert_allclose(kernel_files.read_kernel(tmp_path / "k.png")[2], [0, 0.299, 0.587, 0.114, 0], atol=2e-3)


def test_a_picture_may_be_even_and_off_its_middle(tmp_path):
  picture = np.zeros((6, 8), np.uint8)
  picture[2, 5] = 9
  Image.fromarray(picture).save(tmp_path / "k.png")
  assert kernel_files.load_degradation(f"{tmp_path}/k.png", shift="centre_of_mass").offset == (-1, 1)


@pytest.mark.parametrize("name", ["photo", "part of a photo", "enlarged", "white around", "nothing around", "black"])
def test_what_is_no_picture_of_a_kernel_is_refused_in_one_line(tmp_path, name):
  kernel = np.asarray(kernels.gaussian(3.0, 1.0, 0.5, 15))
  gray = np.round(255 * kernel / kernel.max()).astype(np.uint8)
  photo = np.asarray(Image.open(data.sample_photos()[1]))
  made, words = {
      "photo": (photo, "451x300.*at most 101.*--input"),
      "part of a photo": (photo[:64, :64], "bright in its corners"),
      "enlarged": (np.kron(gray, np.ones((7, 7), np.uint8)), "105x105.*at most 101"),
      "white around": (255 - gray, "on black"),
      "nothing around": (np.full((5, 5), 9, np.uint8), "black border.*.npy"),
      "black": (0 * gray, "sum 0"),
  }[name]
  Image.fromarray(made).save(tmp_path / "k.png")
  with pytest.raises(UserError, match=words) as e:
    kernel_files.load_degradation(f"{tmp_path}/k.png")
  assert "k.png" in str(e.value) and "\n" not in str(e.value)


@pytest.mark.parametrize("suffix", kernel_files.PICTURES)
def test_damaged_pictures_are_refused(tmp_path, suffix):
  Image.fromarray(np.pad(np.full((9, 9), 255, np.uint8), 9)).save(tmp_path / f"k{suffix}")
  whole = (tmp_path / f"k{suffix}").read_bytes()
  for content in (b"", b"not a kernel", whole[: len(whole) // 2]):
    (tmp_path / f"k{suffix}").write_bytes(content)
    with pytest.raises(UserError, match="k" + suffix):
      kernel_files.read_kernel(tmp_path / f"k{suffix}")


def test_pictures_count_in_a_folder_without_arrays_alone(tmp_path):
  (tmp_path / "sub").mkdir()
  for name in ("b_kernel.png", "a.PNG", "sub/c.tif", "photo.jpg", "notes.txt"):
    (tmp_path / name).touch()
  names = lambda: [path.relative_to(tmp_path).as_posix() for path in kernel_files.find_kernels(tmp_path)]
  assert names() == ["a.PNG", "b_kernel.png", "sub/c.tif"]
  (tmp_path / "sub" / "b_kernel.mat").touch()
  assert names() == ["sub/b_kernel.mat"]
  (tmp_path / "a.npy").touch()
  assert names() == ["a.npy", "sub/b_kernel.mat"]


KERNEL = np.asarray(kernels.gaussian(2.0, 1.0, 0.3, 9), np.float64)


@pytest.mark.parametrize(
    "kernel,words",
    [
        (KERNEL, []),
        (KERNEL * 1.0009, []),
        (KERNEL * 2, ["sum 2, not 1"]),
        (np.roll(KERNEL, 1, 0), [r"\+1.00 pixels down and \+0.00 to the right.*--kernel_shift=centre_of_mass"]),
        (np.ones((4, 4)) / 16, ["-0.50 pixels down and -0.50 to"]),
        (1.005 * KERNEL - 0.005 / 81, []),
        (1.1 * KERNEL - 0.1 / 81, ["negative in [1-9].[0-9]% of its absolute mass"]),
        (np.roll(1.3 * KERNEL, -2, 1) - 0.2 / 81, ["sum 1.1, not 1", "negative", "-2..."]),
    ],
)
def test_what_is_odd_about_a_kernel_is_said_once(tmp_path, caplog, kernel, words):
  np.save(tmp_path / "k.npy", kernel)
  for _ in range(2):
    with caplog.at_level(logging.WARNING):
      kernel_files.load_degradation(f"{tmp_path}/k.npy")
  said = [record.getMessage() for record in caplog.records]
  assert len(said) == len(words), said
  for line, word in zip(said, words):
    assert "k.npy" in line and "\n" not in line
    assert re.search(word, line)


def test_a_centre_that_is_made_up_for_and_levels_of_a_picture_need_no_warning(tmp_path, caplog):
  np.save(tmp_path / "k.npy", np.roll(KERNEL, 1, 0))
  Image.fromarray(np.round(255 * KERNEL / KERNEL.max()).astype(np.uint8)).save(tmp_path / "k.png")
  with caplog.at_level(logging.WARNING):
    kernel_files.load_degradation(f"{tmp_path}/k.npy", shift="centre_of_mass")
    kernel_files.load_degradation(f"{tmp_path}/k.png")
  assert not caplog.records
