"""Meta-test as a library: pure, and under jit, vmap and grad."""

import operator

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest

import mzsr_jax as mz
from mzsr_jax.core import adapt as adapt_lib
from mzsr_jax.core import inner_rules, maml, model
from mzsr_jax.core.kernels import Degradation

NET = model.MZSRNet(depth=3, features=8)
KERNEL = mz.gaussian(2.0, 2.0, 0.0, 5)


@pytest.fixture(scope="module")
def params():
  return model.init(jax.random.key(0), NET)


def photo(height=12, width=14, seed=0):
  smooth = jax.random.uniform(jax.random.key(seed), (4, 5, 3))
  return jnp.clip(jax.image.resize(smooth, (height, width, 3), "cubic"), 0, 1)


def adapt_(params, lr, kernel=KERNEL, **options):
  return mz.adapt(params, lr, kernel, **{"model": NET, "num_steps": 2, "inner_lrs": 0.05, **options})


def assert_trees_close(a, b, **tolerance):
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, **tolerance), a, b)


@pytest.mark.parametrize("height,width", [(12, 14), (11, 13), (5, 3), (1, 1)])
@pytest.mark.parametrize("scale", [2, 4])
def test_any_size_adapts_and_enlarges(params, height, width, scale):
  lr = photo(height, width)
  sr = mz.super_resolve(adapt_(params, lr, scale=scale), lr, scale=scale, model=NET)
  assert sr.shape == (scale * height, scale * width, 3)
  assert float(sr.min()) >= 0 and float(sr.max()) <= 1 and bool(jnp.isfinite(sr).all())


@pytest.mark.parametrize("shape,dtype", [((8, 8, 3), np.uint8), ((8, 8), np.float32), ((1, 8, 8, 3), np.float32)])
@pytest.mark.usefixtures("unchecked")
def test_what_is_no_float_image_is_refused(params, shape, dtype):
  lr = np.zeros(shape, dtype)
  with pytest.raises(ValueError, match="float array"):
    adapt_(params, lr)
  with pytest.raises(ValueError, match="float array"):
    mz.super_resolve(params, lr, model=NET)


def test_zero_steps_change_nothing(params):
  assert_trees_close(adapt_(params, photo(), num_steps=0), params, rtol=0)


def test_steps_lower_the_loss_on_the_lr_son(params):
  lr = photo()
  son = mz.lr_son(lr, KERNEL)[None]
  losses = [float(adapt_lib.l1(adapt_(params, lr, num_steps=n), son, lr[None], NET)) for n in (0, 1, 5)]
  assert losses[0] > losses[1] > losses[2]


def test_a_rate_for_each_step_is_obeyed(params):
  lr = photo()
  together = adapt_(params, lr, inner_lrs=jnp.asarray([0.05, 0.02]))
  first = adapt_(params, lr, num_steps=1, inner_lrs=0.05)
  assert_trees_close(together, adapt_(first, lr, num_steps=1, inner_lrs=0.02), rtol=1e-5, atol=1e-7)


def test_rates_for_each_leaf_are_obeyed(params):
  lr = photo()
  rates = jax.tree.map(lambda p: jnp.zeros(2), params)
  rates["conv3"]["bias"] = jnp.asarray([0.05, 0.02])
  adapted = adapt_(params, lr, inner_lrs=rates)
  assert_trees_close(adapted["conv1"], params["conv1"], rtol=0)
  assert float(jnp.abs(adapted["conv3"]["bias"] - params["conv3"]["bias"]).max()) > 0


def test_looking_at_intermediate_steps_does_not_change_the_last(params):
  lr, rates = photo(), np.float32([0.05, 0.02, 0.01])
  once = adapt_lib.trajectory(params, lr, KERNEL, [3], 2, rates, model=NET)
  staged = adapt_lib.trajectory(params, lr, KERNEL, [0, 1, 3], 2, rates, model=NET)
  assert list(staged) == [0, 1, 3]
  np.testing.assert_array_equal(staged[3], once[3])
  np.testing.assert_array_equal(staged[0], mz.super_resolve(params, lr, model=NET))


def test_jit_equals_no_jit(params):
  lr = photo()
  jitted = jax.jit(adapt_, static_argnames=("num_steps", "scale"))
  assert_trees_close(jitted(params, lr, KERNEL, num_steps=3), adapt_(params, lr, num_steps=3), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("axes", [(0, None), (None, 0), (0, 0)], ids=["images", "kernels", "both"])
def test_vmap_over_images_and_kernels_equals_one_at_a_time(params, axes):
  lrs = jnp.stack([photo(seed=s) for s in range(2)])
  kernels = jnp.stack([mz.gaussian(v, 1.0, 0.3, 5) for v in (1.0, 3.0)])
  solve = lambda lr, kernel: mz.super_resolve(adapt_(params, lr, kernel), lr, model=NET)
  pick = lambda stack, axis, i: stack[i if axis == 0 else 0]
  arguments = [s if a == 0 else s[0] for s, a in zip((lrs, kernels), axes)]
  together = jax.vmap(solve, in_axes=axes)(*arguments)
  for i in range(2):
    alone = solve(pick(lrs, axes[0], i), pick(kernels, axes[1], i))
    np.testing.assert_allclose(together[i], alone, atol=1e-5)


@pytest.mark.parametrize("subsample", ["direct", "bicubic"])
def test_gradient_through_the_adaptation(params, subsample):
  """With respect to parameters and kernel, against finite differences in float64."""
  with jax.enable_x64(True):
    double = lambda tree: jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), tree)
    point, hr = double((params, KERNEL)), double(photo(24, 28, seed=3))
    lr = jnp.clip(mz.degrade(hr, point[1], 2, subsample), 0.01, 0.99)

    @jax.jit
    def loss(point):
      adapted = adapt_(point[0], lr, Degradation(point[1], subsample))
      return jnp.mean((mz.super_resolve(adapted, lr, model=NET) - hr) ** 2)

    gradient = jax.grad(loss)(point)
    for argument in (0, 1):
      slope, unravel = jax.flatten_util.ravel_pytree(gradient[argument])
      start = jax.flatten_util.ravel_pytree(point[argument])[0]
      norm = float(jnp.linalg.norm(slope))
      ahead, behind = (
          loss(tuple(unravel(start + t * slope / norm) if i == argument else p for i, p in enumerate(point)))
          for t in (1e-7, -1e-7)
      )
      np.testing.assert_allclose((ahead - behind) / 2e-7, norm, rtol=1e-4)


def test_a_moved_kernel_with_its_offset_trains_and_enlarges_as_the_centred_one(params):
  """The network's inputs are the same, away from borders; of 4 pixels at x2, the LR image is moved by 2, the son by 2 more."""
  offset = (4, -4)
  hr, centred, moved = photo(120, 120), *(jnp.roll(jnp.pad(KERNEL, 4), by, (0, 1)) for by in ((0, 0), offset))
  lr, lr_moved = (mz.degrade(hr, kernel, 2, "direct") for kernel in (centred, moved))
  inside = lambda image, v=0, h=0: np.asarray(image)[16 + v : 40 + v, 16 + h : 40 + h]
  np.testing.assert_allclose(inside(lr_moved), inside(lr, 2, -2), atol=1e-6)
  told = Degradation(moved, offset=offset)
  son = mz.lr_son(lr_moved, told)
  np.testing.assert_allclose(inside(son), inside(mz.lr_son(lr, centred), 2, -2), atol=1e-6)
  sr = mz.super_resolve(params, lr_moved, 2, told, NET)
  np.testing.assert_allclose(inside(sr), inside(mz.super_resolve(params, lr, model=NET)), atol=1e-6)
  assert np.abs(inside(mz.super_resolve(params, lr_moved, model=NET)) - inside(sr)).max() > 0.02


def test_the_offset_reaches_every_step(params):
  lr, rates, degradation = photo(), np.float32([0.05, 0.02]), Degradation(KERNEL, offset=(0.5, -1.5))
  adapted = adapt_(params, lr, degradation, inner_lrs=rates)
  state, son = (params, None), mz.lr_son(lr, degradation)
  for step in range(2):
    own = jax.tree.map(operator.itemgetter(step), inner_rules.per_leaf(rates, params))
    state, _ = maml.step(lambda p: adapt_lib.l1(p, son, lr, NET), own, state)
  assert_trees_close(adapted, state[0], rtol=1e-5, atol=1e-7)
  shown = adapt_lib.trajectory(params, lr, degradation, [1, 2], 2, rates, model=NET)
  np.testing.assert_allclose(shown[2], mz.super_resolve(adapted, lr, 2, degradation, NET), atol=1e-6)


def test_fewer_rates_than_steps_are_refused(params):
  with pytest.raises(ValueError, match="3 steps need as many"):
    adapt_(params, photo(), inner_lrs=np.float32([0.05, 0.02]), num_steps=3)


def test_the_son_keeps_the_size_and_is_no_sharper():
  lr = photo(13, 9)
  son = mz.lr_son(lr, KERNEL)
  variation = lambda x: float(jnp.abs(jnp.diff(x, axis=0)).mean())
  assert son.shape == lr.shape and variation(son) < variation(lr)
