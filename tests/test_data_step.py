"""The forward operator and the data step: exact against the degradation and against dense float64 algebra."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mzsr_jax.core import degradation, forward_operator, kernel_families, resize
from mzsr_jax.core.data_step import data_step
from mzsr_jax.photo.kernel_files import load_degradation

CASES = [("g20d", 2, "direct"), ("gani", 2.5, "direct"), ("g13b", 2, "bicubic"), ("gani", 2.2, "bicubic")]
CASES += [("g02d", 3, "direct")]
SIZE = 25, 32  # pixels, HR


def _operator(name, scale, subsample, size=SIZE, rank=None):
  kernel = jnp.asarray(load_degradation(name).kernel)
  whole = lambda n: forward_operator.whole_axis(n, resize.shrunk_size(n, scale), scale, subsample, len(kernel))
  axes = map(whole, size)
  return kernel, forward_operator.make(forward_operator.separable(kernel, rank), *axes)


def _periodic(name, size):
  """The operator of x2 where the image goes on periodically."""
  kernel = jnp.asarray(load_degradation(name).kernel)
  seen = (np.arange(size)[:, None] + np.arange(len(kernel)) - len(kernel) // 2) % size
  axis = forward_operator.Axis(resize.shrink(size, 2, "direct"), seen)
  return forward_operator.make(forward_operator.separable(kernel), axis, axis)


def _image(size, seed=0):
  return np.random.default_rng(seed).random((*size, 3), np.float32)


def _dense(a):
  """A as a float64 matrix of (P Q, H W)."""
  rows, columns = (np.asarray(m.blocks[:, 0], np.float64) for m in (a.rows, a.columns))
  matrix = np.einsum("rph,rqw->pqhw", rows, columns)
  return matrix.reshape(matrix.shape[0] * matrix.shape[1], -1)


@pytest.mark.parametrize("case", CASES)
def test_operator_is_the_degradation(case):
  name, scale, subsample = case
  kernel, a = _operator(*case)
  image = _image(SIZE)
  expected = degradation.degrade(image, kernel, scale, subsample)
  np.testing.assert_allclose(forward_operator.forward(a, image), expected, atol=2e-6)


@pytest.mark.parametrize("case", CASES)
def test_adjoint_identity(case):
  _, a = _operator(*case)
  x = _image(SIZE)
  y = _image(forward_operator.forward(a, x).shape[:2], 1)
  left = np.vdot(np.asarray(forward_operator.forward(a, x), np.float64), y)
  right = np.vdot(x, np.asarray(forward_operator.adjoint(a, y), np.float64))
  assert left == pytest.approx(right, rel=1e-5)


def test_adjoint_is_jax_transpose():
  _, a = _operator("gani", 2, "direct")
  y = _image((13, 16), 1)
  transposed = jax.linear_transpose(functools.partial(forward_operator.forward, a), jnp.zeros((*SIZE, 3)))
  np.testing.assert_allclose(forward_operator.adjoint(a, y), transposed(jnp.asarray(y))[0], atol=1e-6)


def test_low_rank_keeps_the_sum_and_isotropic_gaussians():
  kernel, exact = _operator("g20d", 2, "direct")
  _, one = _operator("g20d", 2, "direct", rank=1)
  image = _image(SIZE)
  np.testing.assert_allclose(forward_operator.forward(one, image), forward_operator.forward(exact, image), atol=1e-6)
  _, coarse = _operator("gani", 2, "direct", rank=2)
  flat = jnp.full((*SIZE, 3), 0.3)
  np.testing.assert_allclose(forward_operator.forward(coarse, flat), 0.3, atol=1e-5)


def test_periodic_operator_commutes_with_shifts():
  a = _periodic("gani", 32)
  image = _image((32, 32))
  shifted = forward_operator.forward(a, np.roll(image, (4, 6), (0, 1)))
  np.testing.assert_allclose(shifted, np.roll(forward_operator.forward(a, image), (2, 3), (0, 1)), atol=1e-6)


@pytest.mark.parametrize("mu", [1e-3, 0.1])
@pytest.mark.parametrize("case", CASES)
def test_equals_a_dense_float64_solve(case, mu):
  _, a = _operator(*case)
  truth, z = _image(SIZE), _image(SIZE, 1)
  y = forward_operator.forward(a, truth)
  matrix = _dense(a)
  residual = np.asarray(y, np.float64).reshape(-1, 3) - matrix @ z.reshape(-1, 3)
  w = np.linalg.solve(matrix @ matrix.T + mu * np.eye(len(matrix)), residual)
  expected = z + (matrix.T @ w).reshape(z.shape)
  np.testing.assert_allclose(data_step(z, y, a, mu, iterations=60), expected, atol=2e-3)


@pytest.mark.parametrize("case", CASES)
def test_result_has_the_given_lr_image_as_mu_vanishes(case):
  _, a = _operator(*case)
  y = forward_operator.forward(a, _image(SIZE))
  errors = [
      float(jnp.abs(forward_operator.forward(a, data_step(_image(SIZE, 1), y, a, mu, iterations=80)) - y).max())
      for mu in (1e-1, 1e-3, 1e-5)
  ]
  assert errors[0] > errors[1] > errors[2]
  assert errors[2] < 3e-3


@pytest.mark.parametrize("case", CASES)
def test_operator_of_a_tile_is_that_of_the_image_away_from_its_ends(case):
  name, scale, subsample = case
  kernel, image, start, side = jnp.asarray(load_degradation(name).kernel), _image((120, 40)), 37, 64
  expected = degradation.degrade(image, kernel, scale, subsample)
  rows = forward_operator.tile_axis(
      120, len(expected), scale, subsample, len(kernel), start, side, round(side / scale) + 6
  )
  columns = forward_operator.tile_axis(
      40, expected.shape[1], scale, subsample, len(kernel), 0, 48, round(48 / scale) + 2  # beyond the image
  )
  a = forward_operator.make(forward_operator.separable(kernel), rows, columns)
  made = forward_operator.forward(a, np.pad(image[start : start + side], ((0, 0), (0, 8), (0, 0))))
  lr_start = int(rows.lr_start)
  known_rows, known_columns = (np.asarray(k) for k in forward_operator.known(a))
  assert known_columns.sum() == expected.shape[1]
  inner = np.flatnonzero(known_rows)
  inner = inner[(scale * (inner + lr_start) >= start + 16) & (scale * (inner + lr_start) < start + side - 16)]
  assert len(inner) >= 6
  np.testing.assert_allclose(made[inner][:, known_columns], expected[inner + lr_start], atol=2e-6)


@pytest.mark.parametrize("case", CASES)
def test_a_tile_in_blocks_is_one_in_dense_matrices(case):
  name, scale, subsample = case
  kernel = jnp.asarray(load_degradation(name).kernel)
  lr_length, side = resize.shrunk_size(400, scale), 200
  axis = forward_operator.tile_axis(400, lr_length, scale, subsample, len(kernel), 120, side, round(side / scale) + 6)
  assert all(len(windows) > 1 for windows in axis.windows)
  taps = forward_operator.separable(kernel)
  blocks, dense = (forward_operator.make(taps, a, a) for a in (axis, axis._replace(windows=None)))
  x, y = _image((side, side)), _image(axis.down.shape[:1] * 2, 1)
  np.testing.assert_allclose(forward_operator.forward(blocks, x), forward_operator.forward(dense, x), atol=2e-6)
  np.testing.assert_allclose(forward_operator.adjoint(blocks, y), forward_operator.adjoint(dense, y), atol=2e-6)


def test_few_iterations_are_enough_where_borders_are_periodic():
  a = _periodic("gani", 32)
  z, y = _image((32, 32)), forward_operator.forward(a, _image((32, 32), 1))
  np.testing.assert_allclose(data_step(z, y, a, 2e-3, iterations=1), data_step(z, y, a, 2e-3, iterations=30), atol=2e-3)


def test_iterations_go_on_where_they_are_too_few():
  """For a fraction with direct subsampling, and not for a whole scale."""
  z, mu = _image(SIZE), 1e-3
  for scale in (1.5, 3):
    _, a = _operator("g20d", scale, "direct")
    y = forward_operator.forward(a, _image(SIZE, 1))
    few, made, exact = (data_step(z, y, a, mu, *numbers) for numbers in ((3,), (3, None, 60), (200,)))
    assert jnp.array_equal(made, few) == (scale == 3)
    assert jnp.linalg.norm(made - exact) < 0.3 * jnp.linalg.norm(z - exact)


def test_iterations_go_on_for_each_image_under_vmap():
  _, a = _operator("g20d", 1.5, "direct")
  y = forward_operator.forward(a, _image(SIZE, 1))
  z = jnp.stack([jnp.asarray(_image(SIZE)), forward_operator.adjoint(a, y)])
  step = functools.partial(data_step, y=y, a=a, mu=1e-3)
  made = jax.jit(jax.vmap(functools.partial(step, iterations=1, most_iterations=40)))(z)
  for own, before in zip(made, z):
    exact = step(before, iterations=200)
    assert jnp.linalg.norm(own - exact) < 0.3 * jnp.linalg.norm(before - exact)


@pytest.mark.parametrize("name", ["g20d", "gani"])
def test_a_tile_with_unknown_pixels_converges_as_a_whole_image_does(name):
  """With mu as small as the network's, to what many more iterations make of it."""
  kernel = jnp.asarray(load_degradation(name).kernel)
  rows = forward_operator.tile_axis(120, 60, 2, "direct", len(kernel), 30, 64, 38)  # LR pixels before and behind
  columns = forward_operator.tile_axis(40, 20, 2, "direct", len(kernel), 0, 64, 38)  # beyond the image
  a = forward_operator.make(forward_operator.separable(kernel), rows, columns)
  assert not all(np.asarray(known).all() for known in forward_operator.known(a))
  y, z = forward_operator.forward(a, _image((64, 64))), _image((64, 64), 1)
  np.testing.assert_allclose(data_step(z, y, a, 3e-4, iterations=36), data_step(z, y, a, 3e-4, iterations=80), atol=1e-4)


def test_gradients_are_those_of_finite_differences():
  with jax.enable_x64(True):
    _, a = _operator("gani", 2, "direct")
    wide = lambda x: jnp.asarray(x, jnp.float64) if jnp.issubdtype(x.dtype, jnp.floating) else x
    a, z, y, v = jax.tree.map(wide, (a, _image(SIZE), _image((13, 16), 1), _image(SIZE, 2)))
    value = lambda z, y, log_mu: (data_step(z, y, a, jnp.exp(log_mu), iterations=80) * v).sum()
    at = z, y, jnp.log(0.05)
    gradients = jax.grad(value, argnums=(0, 1, 2))(*at)
    for i, direction in enumerate((v[::-1], y[::-1], jnp.float64(1))):
      moved = lambda t, i=i, direction=direction: value(*(x + t * direction if j == i else x for j, x in enumerate(at)))
      slope = (moved(1e-4) - moved(-1e-4)) / 2e-4
      assert float((gradients[i] * direction).sum()) == pytest.approx(float(slope), rel=1e-5)


def test_second_derivatives_exist_under_jit_and_vmap():
  _, a = _operator("g20d", 2, "direct")
  y = jnp.asarray(_image((13, 16)))

  def curvature(z):
    first = jax.grad(lambda m: (data_step(z, y, a, m, iterations=20) ** 2).sum())
    return jax.grad(first)(0.05)

  z = jnp.stack([jnp.asarray(_image(SIZE, seed)) for seed in (1, 2)])
  batched = jax.jit(jax.vmap(curvature))(z)
  np.testing.assert_allclose(batched, [curvature(x) for x in z], rtol=1e-2)
  assert (jnp.abs(batched) > 0).all()


@pytest.mark.parametrize("family", range(len(kernel_families.FAMILIES)))
def test_kernel_families_have_sum_one_and_the_centre_asked_for(family):
  weights = np.eye(len(kernel_families.FAMILIES))[family]
  for seed in range(4):
    centre = jnp.array([0.0, 0.0]) if seed % 2 == 0 else jnp.array([0.5, -0.5])
    kernel = np.asarray(kernel_families.sample(jax.random.key(seed), 2.0, centre, weights))
    axis = np.arange(kernel_families.SIZE) - kernel_families.SIZE // 2
    assert kernel.shape == (kernel_families.SIZE,) * 2
    assert (kernel >= 0).all() or kernel_families.FAMILIES[family] == "sharpened"
    assert kernel.sum() == pytest.approx(1, abs=1e-5)
    tolerance = 0.3 if kernel_families.FAMILIES[family] == "perturbed" else 0.1
    np.testing.assert_allclose([kernel.sum(1) @ axis, kernel.sum(0) @ axis], centre, atol=tolerance)
