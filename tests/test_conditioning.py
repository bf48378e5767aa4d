"""Parameters that depend on the kernel: what they start as, that all of the meta-test knows, and that training moves them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_train import tiny

from configs import conditioned_x2, meta_reptile, meta_x2
from mzsr_jax import weights
from mzsr_jax.core import adapt as adapt_lib
from mzsr_jax.core import conditioning, degradation, kernels, model, tasks
from mzsr_jax.core.inner_rules import Spectral
from mzsr_jax.errors import UserError
from mzsr_jax.inference.tiled import TiledAdapter
from mzsr_jax.photo import enhance, kernel_files
from mzsr_jax.training import loop
from mzsr_jax.training import step as step_lib

NET = model.init(jax.random.key(0))
LR = np.random.default_rng(0).random((24, 20, 3)).astype(np.float32)
KIND = kernel_files.load_degradation("gani")


def shaken(params, size=0.02):
  """Parameters that do depend on the kernel."""
  flat, tree = jax.tree.flatten(params)
  keys = jax.random.split(jax.random.key(1), len(flat))
  return tree.unflatten([x + size * jax.random.normal(key, x.shape) for key, x in zip(keys, flat)])


@pytest.fixture(scope="module")
def conditioned():
  return shaken(conditioning.init(jax.random.key(0), NET))


def gap(a, b):
  return max(jax.tree.leaves(jax.tree.map(lambda x, y: float(np.abs(x - y).max()), a, b)))


def test_they_begin_as_what_they_were_made_of_for_every_kernel():
  params = conditioning.init(jax.random.key(0), NET)
  assert conditioning.is_conditioned(params) and not conditioning.is_conditioned(NET)
  assert conditioning.network(params) == NET and conditioning.start(NET, KIND.kernel, 2) is NET
  for name in kernel_files.NAMES:
    jax.tree.map(np.testing.assert_array_equal, conditioning.start(params, kernel_files.load_degradation(name).kernel, 2), NET)


def test_each_kernel_scale_and_noise_then_has_its_own(conditioned):
  other = kernel_files.load_degradation("g20d").kernel
  made = conditioning.start(conditioned, KIND.kernel, 2)
  assert jax.tree.map(np.shape, made) == jax.tree.map(np.shape, NET)
  others = [(other, 2), (KIND.kernel, 2.5), (KIND.replace(noise_std=0.02), 2)]
  assert min(gap(made, conditioning.start(conditioned, *degradation)) for degradation in others) > 1e-3
  assert gap(made, conditioning.start(conditioned, np.pad(KIND.kernel, 3), 2)) < 1e-6


@pytest.mark.parametrize("variances,theta", [((2.0, 2.0), 0.0), ((4.0, 1.0), -0.5), ((4.0, 1.0), np.pi / 2)])
def test_a_description_is_the_root_of_the_covariance(variances, theta):
  kernel = kernels.gaussian(*variances, theta, 41)
  horizontal, vertical, mixed, scale, noise = np.asarray(conditioning.describe(kernel, 2.0, 0.03)) + [1.3, 1.3, 0, 2, 0]
  turn = np.array([[np.cos(theta), -np.sin(theta)], [np.sin(theta), np.cos(theta)]])
  root = turn @ np.diag(np.sqrt(variances)) @ turn.T
  np.testing.assert_allclose([horizontal, mixed, vertical], [root[0, 0], root[0, 1], root[1, 1]], atol=2e-3)
  np.testing.assert_allclose([scale, noise], [2, 0.5], rtol=1e-6)


def test_a_description_knows_no_place_and_no_kernel_wider_than_those_of_training():
  moved = np.roll(np.pad(KIND.kernel, 5), (2, -3), (0, 1))
  np.testing.assert_allclose(*(conditioning.describe(jnp.asarray(k), 2.0) for k in (moved, KIND.kernel)), atol=1e-4)
  wide, widest = (conditioning.describe(kernels.gaussian(v, v / 2, 0.3, 61), 2.0) for v in (20.0, 5.0))
  np.testing.assert_allclose(wide, widest, atol=1e-3)


@pytest.mark.parametrize("kernel", [np.ones((1, 1), np.float32), kernel_files.load_degradation("g20d").kernel])
def test_sharp_and_round_kernels_have_finite_derivatives(kernel):
  jacobian = jax.jacobian(conditioning.describe)(jnp.asarray(kernel), 2.0)
  assert np.isfinite(jacobian).all() and np.isfinite(conditioning.describe(jnp.asarray(kernel), 2.0)).all()
  with_bicubic_lobes = np.outer(lobes := np.float32([-0.2, 0.2, 1, 0.2, -0.2]), lobes)
  assert np.isfinite(conditioning.describe(jnp.asarray(with_bicubic_lobes), 2.0)).all()


@pytest.mark.parametrize("rates", [np.float32([0.02, 0.01]), Spectral(np.float32([0.04, 0.04]))])
def test_all_of_the_meta_test_begins_at_what_they_are_for_the_kernel(conditioned, rates):
  begun, adapter = conditioning.start(conditioned, KIND.kernel, 2), TiledAdapter()
  jax.tree.map(np.testing.assert_array_equal, adapt_lib.adapt(conditioned, LR, KIND, 2, num_steps=0), begun)
  expected = adapt_lib.adapt(begun, LR, KIND, 2, rates)
  assert gap(adapt_lib.adapt(conditioned, LR, KIND, 2, rates), expected) < 1e-6
  assert gap(adapter.adapt(conditioned, LR, KIND, 2, rates), expected) < 1e-4
  assert adapter.error(conditioned, LR, KIND, 2) == pytest.approx(adapter.error(begun, LR, KIND, 2), rel=1e-5)
  adapter.warm_up(conditioned, LR.shape[:2], KIND, 2, rates)
  recipe = enhance.Recipe(conditioned, rates, KIND, 2, 2)
  none, two = enhance.adapt(adapter, LR, recipe, [0, 2])
  assert gap(none, begun) < 1e-6 and gap(two, expected) < 1e-4


def test_they_may_be_batched_over_kernels_and_differentiated(conditioned):
  names = ["g20d", "gani"]
  stacked = jnp.stack([kernel_files.load_degradation(name).kernel for name in names])
  run = lambda kernel: adapt_lib.super_resolve(adapt_lib.adapt(conditioned, LR, kernel, 2, 0.01, 1), LR, 2)
  both = jax.jit(jax.vmap(run))(stacked)
  np.testing.assert_allclose(both, [run(kernel) for kernel in stacked], atol=1e-4)
  slope = jax.grad(lambda kernel: conditioning.start(conditioned, kernel, 2)["conv4"]["kernel"].sum())(stacked[1])
  assert np.isfinite(slope).all() and np.abs(slope).max() > 0


def test_files_keep_them_and_refuse_half_of_them(tmp_path, conditioned):
  path = tmp_path / "w.safetensors"
  weights.save_weights(path, conditioned, {"scales": "[2.0]"})
  jax.tree.map(np.testing.assert_array_equal, weights.load_weights(path), conditioned)
  weights.check_network(conditioned)
  broken = conditioned | {conditioning.KEY: {"hidden": conditioned[conditioning.KEY]["hidden"]}}
  with pytest.raises(UserError, match="another shape"):
    weights.check_network(broken)
  weights.save_weights(path, {conditioning.KEY: conditioned[conditioning.KEY]}, {})
  with pytest.raises(UserError, match="do not hold the parameters"):
    weights.load_weights(path)


def test_training_is_told_the_kernels_that_its_patches_were_blurred_by():
  """The blur of an impulse is the kernel."""
  patches = np.zeros((5, 1, 31, 31, 3), np.uint8)
  patches[:, :, 15, 15] = 255
  distribution = tasks.Distribution(degradation.Degrader(31, (1.0,), "direct"), "gaussian")
  numbers, key = jnp.arange(3, 8), jax.random.key(0)
  blurred = tasks.sample(key, patches, distribution, numbers).inputs[:, 0, 8:-8, 8:-8, 0]
  told = tasks.sample_degradations(key, distribution, numbers)
  np.testing.assert_allclose(told.degradation.kernel[:, ::-1, ::-1], blurred, atol=1e-6)  # correlation turns it
  assert (told.scale == 1).all() and (told.degradation.noise_std == 0).all()
  assert gap(told.degradation.kernel[0], told.degradation.kernel[1]) > 1e-3


def test_training_is_told_the_noise_of_its_patches_which_half_of_the_tasks_have():
  patches = np.full((200, 1, 32, 32, 3), 128, np.uint8)
  distribution = tasks.Distribution(degradation.Degrader(32, (1.0,), "direct"), "bicubic", max_noise_std=0.06)
  lr = tasks.sample(jax.random.key(0), patches, distribution).inputs
  told = tasks.sample_degradations(jax.random.key(0), distribution, jnp.arange(200)).degradation.noise_std
  np.testing.assert_allclose(lr.std(axis=(1, 2, 3, 4)), told, rtol=0.08, atol=1e-6)
  assert 0.4 < (told == 0).mean() < 0.6 and 0.05 < told.max() <= 0.06


CASES = {
    "blind": (conditioned_x2, {}),
    "blind, one kernel": (conditioned_x2, {"degradation.kernels": "bicubic"}),
    "maml": (meta_x2, {"meta.learn_inner_lrs": True}),
    "maml, sons": (meta_x2, {"meta.support": "lr_sons", "meta.inner_rule": "spectral"}),
    "reptile": (meta_reptile, {}),
}


@pytest.mark.parametrize("name", CASES)
def test_all_ways_of_training_move_what_depends_on_the_kernel(name):
  module, changes = CASES[name]
  config = tiny(module, **{"model.conditioned": True, "optimizer.learning_rate": 1e-3, **changes})
  state = step_lib.init_state(config, step_lib.init_params(config))
  before = jax.device_get(state.learned["params"])  # steps use up arrays
  patches = np.random.default_rng(0).integers(0, 256, (step_lib.patches_per_step(config), 16, 16, 3), np.uint8)
  state, metrics = step_lib.make_step(config)(state, patches, jax.random.key(0))
  learned = jax.device_get(state.learned["params"])
  changes = learned[conditioning.KEY]["changes"]
  rate = 1e-3  # an update of Adam, and as large a one of Muon, is about its rate
  assert all(0.01 * rate < np.abs(change).max() < 20 * rate for change in jax.tree.leaves(changes))
  wide, narrow = (kernel_files.load_degradation(kernel) for kernel in ("g20d", "g02d"))
  starts = [conditioning.start(learned, kernel, 2) for kernel in (wide, narrow)]
  assert gap(*starts) > 0.1 * rate and gap(starts[0], conditioning.network(before)) > 0.1 * rate
  assert np.isfinite(metrics["loss"])


def test_a_blind_step_is_the_mean_over_patches_of_each_ones_gradient():
  config = tiny(conditioned_x2, batch_size=4)
  params, net = jax.device_get(shaken(step_lib.init_params(config), 0.05)), step_lib.network(config)  # steps use up arrays
  patches = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3), np.uint8)
  _, metrics = step_lib.make_step(config)(step_lib.init_state(config, params), patches, jax.random.key(0))
  key, numbers = jax.random.fold_in(jax.random.key(0), 1), jnp.arange(4)
  distribution = step_lib._problem(config, False, "cpu").distribution
  pairs = tasks.sample(key, patches[:, None], distribution, numbers)
  drawn = tasks.sample_degradations(key, distribution, numbers)
  own = lambda i: jax.tree.map(lambda x: x[i], drawn)

  def loss(params):
    each = [
        adapt_lib.l1(conditioning.start(params, *own(i)), pairs.inputs[i], pairs.targets[i], net)
        for i in range(4)
    ]
    return sum(each) / 4

  value, gradient = jax.value_and_grad(loss)(params)
  norm = np.sqrt(sum(float((g * g).sum()) for g in jax.tree.leaves(gradient)))
  assert float(metrics["loss"]) == pytest.approx(float(value), rel=1e-5)
  assert float(metrics["grad_norm"]) == pytest.approx(norm, rel=1e-4)


@pytest.mark.slow
def test_runs_start_from_either_kind_of_weights_but_do_not_drop_what_depends_on_the_kernel(tmp_path):
  plain = tiny(meta_x2)
  begun = loop.train(plain, tmp_path / "plain").result["params"]
  config = tiny(conditioned_x2, init_weights=str(tmp_path / "plain" / loop.WEIGHTS_NAME))
  jax.tree.map(np.testing.assert_array_equal, conditioning.network(loop._initial_state(config).result["params"]), begun)
  loop.train(config, tmp_path / "conditioned")
  path = str(tmp_path / "conditioned" / loop.WEIGHTS_NAME)
  assert conditioning.is_conditioned(weights.load_weights(path))
  loop.train(tiny(meta_x2, init_weights=path, **{"model.conditioned": True, "run.eval_every": 2}), tmp_path / "on")
  with pytest.raises(UserError, match="are conditioned: set config.model.conditioned to True"):
    loop.train(tiny(meta_x2, init_weights=path), tmp_path / "refused")
