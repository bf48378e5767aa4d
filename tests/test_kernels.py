"""The Gaussian family, the training distribution, and kernel files good and bad."""

import jax
import numpy as np
import pytest
import scipy.io

from mzsr_jax import kernels
from mzsr_jax.errors import UserError


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


@pytest.mark.parametrize("name", kernels.NAMES)
def test_named_kernels_sum_to_one(name):
  kernel, subsample, offset = kernels.load_degradation(name)
  assert offset == kernels.load_degradation(name, shift="centre_of_mass").offset == (0, 0)
  assert kernel.shape[0] == kernel.shape[1] and kernel.shape[0] % 2 == 1
  assert abs(kernel.sum() - 1) < 1e-6 and subsample in kernels.SUBSAMPLINGS


def test_subsampling_may_be_chosen_and_defaults_to_the_names_own():
  assert kernels.load_degradation("g13b").subsample == "bicubic"
  assert kernels.load_degradation("g13b", "direct").subsample == "direct"
  assert kernels.load_degradation("bicubic").kernel.shape == (1, 1)


@pytest.mark.parametrize("suffix", [".npy", ".mat"])
def test_files_round_trip_and_are_normalised(tmp_path, suffix):
  kernel = np.asarray(kernels.gaussian(3.0, 1.0, 0.5, 7))
  path = tmp_path / f"k{suffix}"
  if suffix == ".npy":
    np.save(path, 5 * kernel)
  else:
    scipy.io.savemat(path, {"K": 5 * kernel})
  np.testing.assert_allclose(kernels.read_kernel(path), kernel, atol=1e-7)


@pytest.mark.parametrize("spec,name", [("gaussian:2", "g20d"), ("gaussian:4x1x-0.5", "gani"), ("gaussian:2e-1x0.2x0", "g02d")])
def test_gaussians_by_their_parameters_are_the_named_ones(spec, name):
  given, named = kernels.load_degradation(spec), kernels.load_degradation(name)
  np.testing.assert_array_equal(given.kernel, named.kernel)
  assert given.subsample == "direct" and kernels.load_degradation(spec, "bicubic").subsample == "bicubic"


@pytest.mark.parametrize("least,most", [("1e-9", "11.1")])
def test_all_variances_that_are_taken_fit_the_grid(least, most):
  """No more than 1 in 100 of a Gaussian lies beyond it, and the smallest is no blur."""
  exact = np.exp(-(np.arange(-60, 61) ** 2) / 2 / float(most))
  assert exact[50:71].sum() / exact.sum() > 0.99
  kernel = kernels.load_degradation(f"gaussian:{most}x{least}x0").kernel
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
    kernels.load_degradation(spec)
  assert f"'{spec}'" in str(e.value) and "\n" not in str(e.value)


def test_the_offset_is_measured_from_the_middle_down_and_right(tmp_path):
  kernel = np.zeros((5, 7))
  kernel[1, 5], kernel[1, 6] = 3, 1
  np.save(tmp_path / "k.npy", kernel)
  assert kernels.load_degradation(f"{tmp_path}/k.npy", shift="centre_of_mass").offset == (-1, 2.25)
  assert kernels.load_degradation(f"{tmp_path}/k.npy").offset == (0, 0)


@pytest.mark.parametrize("shape,middle", [((4, 4), (2, 2)), ((3, 6), (1, 3)), ((5, 2), (2, 1)), ((1, 1), (0, 0))])
def test_even_and_unequal_sides_are_padded_around_the_middle_of_scipy(tmp_path, shape, middle):
  kernel = np.random.default_rng(0).random(shape)
  np.save(tmp_path / "k.npy", kernel)
  padded = kernels.read_kernel(tmp_path / "k.npy")
  assert padded.shape[0] == padded.shape[1] <= max(shape) + 1 and padded.shape[0] % 2 == 1
  half = padded.shape[0] // 2
  assert padded[half, half] == pytest.approx(kernel[middle] / kernel.sum(), abs=1e-6)
  assert padded.sum() == pytest.approx(1) and np.count_nonzero(padded) == kernel.size


def test_the_centre_of_an_even_kernel_is_half_a_pixel_from_its_middle(tmp_path):
  axis = np.arange(12) - 5.5
  np.save(tmp_path / "k.npy", np.exp(-(axis**2) / 4)[:, None] * np.exp(-(axis**2) / 4))
  assert kernels.load_degradation(f"{tmp_path}/k.npy", shift="centre_of_mass").offset == (-0.5, -0.5)


BAD = {
    "vector": np.ones(5),
    "cube": np.ones((3, 3, 3)),
    "nan": np.array([[0, 0, 0], [0, np.nan, 0], [0, 0, 0]]),
    "infinite": np.array([[0, 0, 0], [0, np.inf, 0], [0, 0, 0]]),
    "sums to zero": np.array([[0, 0, 0], [-1.0, 0, 1], [0, 0, 0]]),
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
    kernels.load_degradation(str(path))
  assert "k.npy" in str(e.value) and "\n" not in str(e.value)


@pytest.mark.parametrize("content", [b"", b"not a kernel", b"\x93NUMPY\x01\x00", b"MATLAB 5.0 MAT-file" + bytes(200)])
@pytest.mark.parametrize("suffix", [".npy", ".mat"])
def test_damaged_kernel_files_are_refused(tmp_path, content, suffix):
  path = tmp_path / f"k{suffix}"
  path.write_bytes(content)
  with pytest.raises(UserError, match="k" + suffix):
    kernels.read_kernel(path)


def test_two_matrices_in_a_mat_file_are_ambiguous(tmp_path):
  scipy.io.savemat(tmp_path / "k.mat", {"a": np.ones((3, 3)), "b": np.ones((5, 5))})
  with pytest.raises(UserError, match="one 2-D array"):
    kernels.read_kernel(tmp_path / "k.mat")


@pytest.mark.parametrize("spec", ["g99", "", "nowhere.mat", "photo.png"])
def test_unknown_names_and_missing_files_are_refused(spec):
  with pytest.raises(UserError):
    kernels.load_degradation(spec)
