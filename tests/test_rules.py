"""Orthogonalised steps: what they are, their derivatives, and that whoever takes rates takes these."""

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest
from test_maml import TINY, make_tasks, random_params

from mzsr_jax import kernels, maml, meta_test, model, rules, weights
from mzsr_jax.errors import UserError
from mzsr_jax.rules import Orthogonal
from mzsr_jax.solver import Solver

RNG = np.random.default_rng(0)
ORTHOGONAL = rules.direction(Orthogonal(1.0))


@pytest.mark.parametrize("shape", [(3, 3, 3, 64), (3, 3, 16, 16), (3, 3, 16, 3), (5, 7)])
def test_singular_values_become_nearly_equal_whatever_the_size_of_the_gradient(shape):
  gradient = RNG.standard_normal(shape).astype(np.float32)
  made = np.asarray(ORTHOGONAL({"kernel": gradient})["kernel"])
  assert 0.007 < np.sqrt((made**2).mean()) < 0.012
  matrix = made.reshape(-1, shape[-1])
  values = np.linalg.svd(matrix, compute_uv=False)
  assert values.max() < 1.8 * values.min()
  u, _, v = np.linalg.svd(gradient.reshape(matrix.shape), full_matrices=False)
  assert np.abs(u.T @ matrix @ v.T - np.diag(np.diag(u.T @ matrix @ v.T))).max() < 1e-4, "the same singular vectors"
  for size in (1e-6, 1e6):
    np.testing.assert_allclose(ORTHOGONAL({"kernel": size * gradient})["kernel"], made, rtol=1e-3, atol=1e-5)


def test_biases_are_scaled_and_zeros_stay():
  bias = ORTHOGONAL(np.float32([3e-5, -4e-5]))
  np.testing.assert_allclose(bias, np.array([3, -4]) * 0.01 / np.sqrt(12.5), rtol=1e-5)
  for shape in ((3,), (3, 3, 3, 8)):
    np.testing.assert_array_equal(ORTHOGONAL(np.zeros(shape, np.float32)), 0)


def test_derivatives_of_second_order_agree_with_finite_differences():
  with jax.enable_x64(True):
    params, (x, y, query_x, query_y) = random_params(jnp.float64), (t[0] for t in make_tasks(1, jnp.float64))
    flat, unravel = jax.flatten_util.ravel_pytree((params, jnp.array([0.05, 0.03])))

    def loss(vector):
      theta, rates = unravel(vector)
      adapted, _ = maml.adapt(lambda p: meta_test.l1(p, x, y, TINY), theta, Orthogonal(rates))
      return meta_test.l1(adapted, query_x, query_y, TINY)

    value, gradient = jax.jit(loss), jax.jit(jax.grad(loss))(flat)
    for direction in (*RNG.standard_normal((3, flat.size)), np.eye(flat.size)[-1]):
      step = 1e-7
      numeric = (value(flat + step * direction) - value(flat - step * direction)) / (2 * step)
      np.testing.assert_allclose(gradient @ direction, numeric, rtol=1e-4, atol=1e-7)


def test_windows_step_as_the_whole_image_does():
  lr, kind, net = RNG.random((70, 90, 3), np.float32), kernels.load_degradation("g20d"), TINY
  params, rates = model.init(jax.random.key(0), net), Orthogonal(np.float32([0.05, 0.1]))
  solver = Solver(net=net)
  solver.limit_windows(40)
  expected = meta_test.adapt(params, lr, kind.kernel, 2, 2, rates, model=net)
  for a, b, start in zip(*map(jax.tree.leaves, (solver.adapt(params, lr, kind, 2, rates), expected, params)), strict=True):
    assert np.linalg.norm(a - b) < 1e-2 * np.linalg.norm(b - start)


def test_weights_say_how_they_step(tmp_path):
  params = model.init(jax.random.key(0))
  save = lambda rule: weights.save_weights(tmp_path / "w.safetensors", params, {"inner_lrs": "[0.05]", "inner_rule": rule})
  save("orthogonal")
  rates = weights.load_inner_lrs(tmp_path / "w.safetensors", 3)
  assert isinstance(rates, Orthogonal)
  np.testing.assert_array_equal(rates.rates, np.float32([0.05] * 3))
  save("newton")
  with pytest.raises(UserError, match="the rule 'newton'"):
    weights.load_inner_lrs(tmp_path / "w.safetensors", 3)
