"""Conjugate gradients under the spectral norm: the steps, their derivatives, and that whoever takes rates takes these."""

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
from test_maml import TINY, make_tasks, random_params

from mzsr_jax import weights
from mzsr_jax.core import adapt as adapt_lib
from mzsr_jax.core import inner_rules, maml, model
from mzsr_jax.core.inner_rules import Spectral
from mzsr_jax.errors import UserError
from mzsr_jax.inference.tiled import TiledAdapter
from mzsr_jax.photo import kernel_files

RNG = np.random.default_rng(0)
STEEPEST = lambda gradient: inner_rules._steepest(gradient, jax.tree.map(lambda _: np.float32(1), gradient))
UNIT = 0.02


@pytest.mark.parametrize("shape", [(3, 3, 3, 64), (3, 3, 16, 16), (3, 3, 16, 3), (5, 7)])
def test_singular_values_become_nearly_equal_and_a_step_grows_with_the_gradient(shape):
  gradient = RNG.standard_normal(shape).astype(np.float32)
  made = np.asarray(STEEPEST({"kernel": gradient})["kernel"])
  matrix = made.reshape(-1, shape[-1])
  values = np.linalg.svd(matrix, compute_uv=False)
  assert values.max() < 1.8 * values.min()
  u, singular_values, v = np.linalg.svd(gradient.reshape(matrix.shape), full_matrices=False)
  assert np.abs(u.T @ matrix @ v.T - np.diag(np.diag(u.T @ matrix @ v.T))).max() < 2e-3 * values.max(), "same singular vectors"
  # What Newton-Schulz leaves of exactness, 0.7 to 1.2, counts twice: in the direction and in the slope along it.
  exact = UNIT**2 * max(matrix.shape) * singular_values.sum()
  assert 0.7**2 * exact < values.min() < values.max() < 1.2**2 * exact
  for size in (1e-4, 1e4):
    np.testing.assert_allclose(STEEPEST({"kernel": size * gradient})["kernel"], size * made, rtol=1e-3, atol=1e-4 * size)


def test_layers_step_equally_far_however_the_gradient_is_shared_among_them():
  gradient = [size * RNG.standard_normal((3, 3, 8, 16)).astype(np.float32) for size in (1.0, 1e-3)]
  near, far = (np.linalg.norm(layer) for layer in STEEPEST(gradient))
  assert 0.8 < near / far < 1.25


def test_biases_are_scaled_and_zeros_stay():
  bias = STEEPEST(np.float32([3e-5, -4e-5]))
  np.testing.assert_allclose(bias, np.array([3e-5, -4e-5]) * 2 * UNIT**2, rtol=1e-5)
  for shape in ((3,), (3, 3, 3, 8)):
    np.testing.assert_array_equal(STEEPEST(np.zeros(shape, np.float32)), 0)


@pytest.mark.slow
def test_derivatives_of_second_order_agree_with_finite_differences():
  with jax.enable_x64(True):
    params, (x, y, query_x, query_y) = random_params(jnp.float64), (t[0] for t in make_tasks(1, jnp.float64))
    flat, unravel = jax.flatten_util.ravel_pytree((params, jnp.array([0.05, 0.03])))

    def loss(vector):
      theta, rates = unravel(vector)
      adapted, _ = maml.adapt(lambda p: adapt_lib.l1(p, x, y, TINY), theta, Spectral(rates))
      return adapt_lib.l1(adapted, query_x, query_y, TINY)

    value, gradient = jax.jit(loss), jax.jit(jax.grad(loss))(flat)
    for direction in (*RNG.standard_normal((3, flat.size)), np.eye(flat.size)[-1]):
      step = 1e-7
      numeric = (value(flat + step * direction) - value(flat - step * direction)) / (2 * step)
      np.testing.assert_allclose(gradient @ direction, numeric, rtol=1e-4, atol=1e-7)


search = inner_rules.parabolic_line_search


def test_a_line_search_finds_the_bottom_of_a_parabola_and_goes_no_further_than_sixteen_times():
  loss = lambda p: ((p["a"] - 3) ** 2).sum()
  params, gradient = {"a": jnp.zeros(4)}, {"a": jnp.full(4, -6.0)}
  at = lambda length: {"a": jnp.full(4, -length)}  # subtracted; 3 is the bottom
  for length in (1.0, 2.0, 6.0, 50.0):
    change = at(length)
    tried = loss({"a": params["a"] - change["a"]})
    np.testing.assert_allclose(search(change, gradient, loss(params), tried)["a"], at(3.0)["a"], rtol=1e-4)
  near = search(at(0.125), gradient, loss(params), loss({"a": params["a"] + 0.125}))["a"]
  np.testing.assert_allclose(near, at(2.0)["a"])
  falling = search(at(1.0), gradient, 10.0, -1000.0)["a"]  # along a line that bends downwards
  np.testing.assert_allclose(falling, at(16.0)["a"])
  assert not search(at(1.0), gradient, 10.0, np.float32(np.inf))["a"].any()
  assert np.isnan(search(at(1.0), gradient, 10.0, np.float32(np.nan))["a"]).all()
  assert not search({"a": jnp.zeros(4)}, {"a": jnp.zeros(4)}, 1.0, 1.0)["a"].any()


def test_the_second_step_turns_as_polak_and_ribiere_say_and_downhill_where_that_would_climb():
  ones = lambda value: {"a": jnp.full(4, value, jnp.float32)}
  rate, size = {"a": np.float32(1)}, UNIT  # of a bias, the direction has this size
  first = inner_rules._conjugate(ones(3.0), rate, inner_rules.init_state(Spectral(rate), ones(0.0)))
  steepest = lambda g: 4 * size * abs(g) * size * np.sign(g)  # the slope along the direction, times that
  np.testing.assert_allclose(first.trial["a"], steepest(3.0), rtol=1e-5)
  np.testing.assert_allclose(first.slope, 4 * 3 * steepest(3.0), rtol=1e-5)
  second = inner_rules._conjugate({"a": jnp.float32([2, 2, -2, -2])}, rate, first)  # at right angles: nothing in common with 3
  kept = (4 * 2 * steepest(2.0)) / (4 * 3 * steepest(3.0))
  expected = steepest(2.0) * np.float32([1, 1, -1, -1]) + kept * steepest(3.0)
  np.testing.assert_allclose(second.trial["a"], expected, rtol=1e-5)
  same = inner_rules._conjugate(ones(3.0), rate, first)  # a step that changed nothing leaves nothing to keep
  np.testing.assert_allclose(same.trial["a"], steepest(3.0), rtol=1e-5)
  back = inner_rules._conjugate(ones(-1.0), rate, first)  # kept whole, the last would climb
  np.testing.assert_allclose(back.trial["a"], steepest(-1.0), rtol=1e-5)


def test_an_adaptation_in_stages_remembers_as_one_in_a_whole_does():
  lr = scipy.ndimage.gaussian_filter(np.random.default_rng(0).random((24, 24, 3), np.float32), (1, 1, 0))
  degradation, params, adapter = kernel_files.load_degradation("g20d"), random_params(), TiledAdapter()
  rates = np.full(4, 0.05, np.float32)
  whole = adapter.adapt(params, lr, degradation, 2, Spectral(rates))
  *_, (last, _) = adapter.iterate(params, lr, degradation, 2, Spectral(rates))
  jax.tree.map(np.testing.assert_array_equal, last, whole)
  forgetful = params
  for step in range(4):
    forgetful = adapter.adapt(forgetful, lr, degradation, 2, Spectral(rates[step : step + 1]))
  assert max(np.linalg.norm(a - b) for a, b in zip(*map(jax.tree.leaves, (whole, forgetful)))) > 1e-3


def test_of_rates_that_are_far_too_large_a_step_still_lowers_the_loss():
  params, (x, y, *_) = random_params(), (t[0] for t in make_tasks(1))
  loss = lambda p: adapt_lib.l1(p, x, y, TINY)
  adapt = jax.jit(lambda rate: maml.adapt(loss, params, Spectral(jnp.full(3, rate)))[0])
  for rate in (1e-3, 0.05, 100.0):
    assert loss(adapt(rate)) < loss(params), rate


def test_windows_step_as_the_whole_image_does():
  lr, degradation, net = RNG.random((70, 90, 3), np.float32), kernel_files.load_degradation("g20d"), TINY
  params, rates = model.init(jax.random.key(0), net), Spectral(np.float32([0.05, 0.1]))
  adapter = TiledAdapter()
  adapter.limit_tiles(40)
  expected = adapt_lib.adapt(params, lr, degradation, 2, rates, model=net)
  adapted = adapter.adapt(params, lr, degradation, 2, rates)
  for a, b, start in zip(*map(jax.tree.leaves, (adapted, expected, params)), strict=True):
    assert np.linalg.norm(a - b) < 1e-2 * np.linalg.norm(b - start)


def test_weights_say_how_they_step(tmp_path):
  params = model.init(jax.random.key(0))
  save = lambda rule: weights.save_weights(tmp_path / "w.safetensors", params, {"inner_lrs": "[0.05]", "inner_rule": rule})
  save("spectral")
  rates = weights.load(tmp_path / "w.safetensors").inner_lrs(3)
  assert isinstance(rates, Spectral)
  np.testing.assert_array_equal(rates.rates, np.float32([0.05] * 3))
  plain = tmp_path / "plain.safetensors"
  learned = jax.tree.map(lambda p: np.full(2, 0.03, np.float32), params)
  weights.save_weights(plain, params, {"inner_rule": "gradient"}, learned)
  spectral = weights.load(f"{weights.SPECTRAL}{plain}")
  rates = spectral.inner_lrs(3)
  assert isinstance(rates, Spectral) and spectral.metadata["inner_rule"] == "spectral"
  np.testing.assert_array_equal(rates.rates, np.full(3, weights.SPECTRAL_RATE, np.float32))
  as_trained = weights.load(plain)
  assert as_trained.metadata["inner_rule"] == "gradient" and not isinstance(as_trained.inner_lrs(3), Spectral)
  save("newton")
  with pytest.raises(UserError, match="the rule 'newton'"):
    weights.load(tmp_path / "w.safetensors").inner_lrs(3)
