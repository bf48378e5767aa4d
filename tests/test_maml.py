"""The meta-gradient: second order, against finite differences in float64; every way of computing it agrees."""

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest

from mzsr_jax.core import adapt as adapt_lib
from mzsr_jax.core import maml, model

TINY = model.MZSRNet(depth=3, features=4)
RATES = (0.05, 0.03)
WEIGHTS = (0.25, 0.75)


def make_tasks(count=3, dtype=jnp.float32):
  images = np.random.default_rng(0).random((count, 4, 2, 8, 8, 3))
  return tuple(jnp.asarray(images[:, i], dtype) for i in range(4))  # support inputs, targets, query inputs, targets


def meta_gradient(params, tasks, batching="vmap", first_order=False, net=TINY, inner_loop="scan", remat=False):
  def of_task(task):
    x, y, query_x, query_y = task
    rates, weights = jnp.asarray(RATES, x.dtype), jnp.asarray(WEIGHTS, x.dtype)

    def loss(params):
      support = lambda p: adapt_lib.l1(p, x, y, net)
      query = lambda p: adapt_lib.l1(p, query_x, query_y, net)
      how = dict(first_order=first_order, inner_loop=inner_loop, remat=remat)
      return maml.meta_loss(params, support, query, rates, weights, **how)

    return jax.value_and_grad(loss, has_aux=True)(params)

  return maml.mean_over_tasks(of_task, tasks, batching)


def random_params(dtype=jnp.float32, net=TINY):
  # Ten times the usual scale, so that the terms of second order are not lost beside those of the first.
  return jax.tree.map(lambda p: (3 * p).astype(dtype), model.init(jax.random.key(1), net))


def relative_difference(a, b):
  a, b = (jax.flatten_util.ravel_pytree(t)[0] for t in (a, b))
  return float(jnp.linalg.norm(a - b) / jnp.linalg.norm(b))


def test_second_order_gradient_agrees_with_finite_differences():
  with jax.enable_x64(True):
    params, tasks = random_params(jnp.float64), make_tasks(2, jnp.float64)
    flat, unravel = jax.flatten_util.ravel_pytree(params)
    value = jax.jit(lambda v: meta_gradient(unravel(v), tasks)[0][0])
    run = jax.jit(meta_gradient, static_argnums=(2, 3))
    _, gradient = run(params, tasks, "vmap", False)
    _, first_order = run(params, tasks, "vmap", True)
    analytic, approximate = (jax.flatten_util.ravel_pytree(g)[0] for g in (gradient, first_order))
    directions = np.random.default_rng(2).standard_normal((6, flat.size))
    step = 1e-6  # small, since the L1 loss and the ReLU have kinks
    numeric = [(value(flat + step * d) - value(flat - step * d)) / (2 * step) for d in directions]
    np.testing.assert_allclose(directions @ analytic, numeric, rtol=1e-5, atol=1e-8)
    errors = np.abs(directions @ approximate - np.array(numeric)) / np.abs(numeric)
    assert errors.max() > 0.01, "first order should differ from the true gradient"


def test_jit_equals_no_jit():
  net = model.MZSRNet(depth=2, features=4)  # without jit each operation is compiled by itself
  params, tasks = random_params(net=net), make_tasks(2)
  with jax.disable_jit():
    _, plain = meta_gradient(params, tasks, net=net)
  _, jitted = jax.jit(lambda params, tasks: meta_gradient(params, tasks, net=net))(params, tasks)
  assert relative_difference(jitted, plain) < 1e-5


@pytest.mark.parametrize("convolution,first_order", [("closed", True), *((name, False) for name in model.CONVOLUTIONS)])
@pytest.mark.slow
def test_all_task_batchings_and_convolutions_agree(convolution, first_order):
  params, tasks = random_params(), make_tasks()
  run = jax.jit(meta_gradient, static_argnums=(2, 3, 4))
  reference = run(params, tasks, "vmap", first_order, model.MZSRNet(3, 4, 3, "xla"))
  net = model.MZSRNet(3, 4, 3, convolution)
  for batching in maml.TASK_BATCHINGS if convolution == "closed" else ("vmap", "map"):
    out = run(params, tasks, batching, first_order, net)
    assert relative_difference(out, reference) < 1e-5, batching


@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("inner_loop,remat", [("unroll", False), ("unroll", True), ("scan", True)])
@pytest.mark.slow
def test_all_inner_loops_agree(inner_loop, remat, first_order):
  params, tasks = random_params(), make_tasks(2)
  run = jax.jit(meta_gradient, static_argnums=(2, 3, 4, 5, 6))
  reference = run(params, tasks, "map", first_order, TINY, "scan", False)
  assert relative_difference(run(params, tasks, "map", first_order, TINY, inner_loop, remat), reference) < 1e-5


@pytest.mark.slow
def test_lower_precision_is_near_float32_and_results_stay_float32():
  params, tasks = random_params(), make_tasks(2)
  run = jax.jit(meta_gradient, static_argnums=(2, 3, 4))
  reference = run(params, tasks, "map", False, TINY)
  for convolution in model.CONVOLUTIONS:
    for precision, limit in (("tf32", 2e-3), ("bfloat16", 0.1)):
      out = run(params, tasks, "map", False, model.MZSRNet(3, 4, 3, convolution, precision))
      assert {x.dtype for x in jax.tree.leaves(out)} == {jnp.dtype(jnp.float32)}
      assert relative_difference(out, reference) < limit, (convolution, precision)


def test_the_meta_gradient_holds_for_a_query_loss_differentiated_late_too():
  """The query gradient that `meta_loss` takes at once is the one that plain differentiation through `adapt` gives."""
  params, tasks = random_params(), make_tasks(1)
  x, y, query_x, query_y = (t[0] for t in tasks)
  query = lambda p: adapt_lib.l1(p, query_x, query_y, TINY)

  def plain(params):
    rates = jnp.asarray(RATES)
    _, (_, losses) = maml.adapt(lambda p: adapt_lib.l1(p, x, y, TINY), params, rates, observe=query)
    return jnp.dot(jnp.asarray(WEIGHTS), losses)

  _, gradient = jax.jit(meta_gradient)(params, tasks)
  assert relative_difference(jax.jit(jax.grad(plain))(params), gradient) < 1e-5


def test_adaptation_is_differentiable_in_both_modes_and_twice():
  def final(x):
    adapted, _ = maml.adapt(lambda p: jnp.sum(jnp.sin(p) ** 2 * p), x * jnp.ones(2), jnp.asarray([0.1, 0.2, 0.05]))
    return jnp.sum(adapted**2)

  with jax.enable_x64(True):
    x, step = jnp.float64(0.7), 1e-4
    numeric = (final(x + step) - final(x - step)) / (2 * step)
    numeric2 = (final(x + step) - 2 * final(x) + final(x - step)) / step**2
    np.testing.assert_allclose([jax.grad(final)(x), jax.jacfwd(final)(x)], [numeric] * 2, rtol=1e-5)
    np.testing.assert_allclose(jax.hessian(final)(x), numeric2, rtol=1e-4)


def test_one_step_of_the_inner_loop_is_gradient_descent_and_rates_may_differ_by_leaf():
  loss = lambda p: jnp.sum((p["a"] - 3.0) ** 2) + jnp.sum(p["b"] ** 2)
  params = {"a": jnp.ones(2), "b": jnp.ones(3)}
  adapted, (losses, observed) = maml.adapt(loss, params, jnp.asarray([0.1, 0.2]), observe=loss)
  a, b = 1 + 0.1 * 4, 1 - 0.1 * 2
  np.testing.assert_allclose(losses, [2 * 4 + 3, 2 * (a - 3) ** 2 + 3 * b**2], rtol=1e-5)
  np.testing.assert_allclose(observed[0], losses[1], rtol=1e-6)
  np.testing.assert_allclose(adapted["a"], a - 0.2 * 2 * (a - 3), rtol=1e-5)
  by_leaf, _ = maml.adapt(loss, params, {"a": jnp.asarray([0.1, 0.2]), "b": jnp.zeros(2)})
  np.testing.assert_allclose(by_leaf["a"], adapted["a"], rtol=1e-6)
  np.testing.assert_array_equal(by_leaf["b"], params["b"])


def test_loss_weights_are_annealed_to_the_last_step():
  at = lambda step, schedule: np.asarray(maml.loss_weights(step, 5, schedule, 3300, 0.03))
  for schedule in maml.WEIGHT_SCHEDULES:
    for step in (0, 1000, 3300, 10**6):
      np.testing.assert_allclose(at(step, schedule).sum(), 1, rtol=1e-6)
  np.testing.assert_allclose(at(0, "annealed"), np.full(5, 0.2), rtol=1e-6)
  np.testing.assert_allclose(at(10**6, "annealed"), [0.006] * 4 + [0.976], rtol=1e-5)
  np.testing.assert_allclose(at(1650, "annealed")[0], (0.2 + 0.006) / 2, rtol=1e-5)
  np.testing.assert_array_equal(at(0, "last"), [0, 0, 0, 0, 1])


def test_reptile_steps_towards_the_adapted_parameters():
  params, (x, y, query_x, query_y) = random_params(), (t[0] for t in make_tasks(1))
  support = lambda p: adapt_lib.l1(p, x, y, TINY)
  query = lambda p: adapt_lib.l1(p, query_x, query_y, TINY)
  (loss, metrics), gradient = maml.reptile_gradient(params, support, query, jnp.asarray(RATES))
  adapted = params
  for rate in RATES:
    adapted = jax.tree.map(lambda p, g, rate=rate: p - rate * g, adapted, jax.grad(support)(adapted))
  assert relative_difference(jax.tree.map(jnp.subtract, params, gradient), adapted) < 1e-6
  np.testing.assert_allclose(metrics["query_losses"][jnp.asarray([0, -1])], [query(params), query(adapted)], rtol=1e-5)
  assert loss == metrics["query_losses"][-1] and metrics["support_losses"].shape == (2,)
