"""Arguments that would give wrong pictures in silence are refused, alike by all public functions."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mzsr_jax as mz
from mzsr_jax.core import model
from mzsr_jax.photo import blind, refine

pytestmark = pytest.mark.usefixtures("unchecked")
KERNEL = mz.load_degradation("g20d").kernel
LR = np.random.default_rng(0).random((12, 14, 3), np.float32)
SR = np.random.default_rng(1).random((24, 28, 3), np.float32)
NET = model.MZSRNet(depth=3, features=4)


@functools.cache
def params():
  return NET.init_params(jax.random.key(0))


@functools.cache
def adapter():
  return mz.TiledAdapter()


OF_IMAGES = {
    "adapt": lambda lr: mz.adapt(params(), lr, KERNEL, num_steps=1, model=NET),
    "super_resolve": lambda lr: mz.super_resolve(params(), lr, model=NET),
    "lr_son": lambda lr: mz.lr_son(lr, KERNEL),
    "TiledAdapter.adapt": lambda lr: adapter().adapt(params(), lr, KERNEL, num_steps=1),
    "TiledAdapter.super_resolve": lambda lr: adapter().super_resolve(params(), lr, 2),
    "TiledAdapter.error": lambda lr: adapter().error(params(), lr, mz.Degradation(KERNEL), 2),
    "back_project": lambda lr: refine.back_project(SR, lr, mz.Degradation(KERNEL), 2, 1),
    "blind.estimate": lambda lr: blind.estimate(lr, 2),
}
IMAGES = {
    "8 bits": (np.uint8(255 * LR), "float array"),
    "float of 8 bits": (255 * LR, "divide 8-bit values by 255"),
    "NaN": (np.where(LR > 0.9, np.float32(np.nan), LR), "0, 1|finite"),
    "a batch": (LR[None], r"\(H, W, 3\)"),
}


@pytest.mark.parametrize("image", IMAGES)
@pytest.mark.parametrize("function", OF_IMAGES)
def test_images_of_another_range_or_type_are_refused(function, image):
  pixels, words = IMAGES[image]
  with pytest.raises(ValueError, match=words):
    OF_IMAGES[function](pixels)


OF_KERNELS = {
    "adapt": lambda kernel: mz.adapt(params(), LR, kernel, num_steps=1, model=NET),
    "super_resolve": lambda kernel: mz.super_resolve(params(), LR, 2, kernel, model=NET),
    "lr_son": lambda kernel: mz.lr_son(LR, kernel),
    "TiledAdapter.adapt": lambda kernel: adapter().adapt(params(), LR, kernel, num_steps=1),
    "back_project": lambda kernel: refine.back_project(SR, LR, mz.Degradation(kernel), 2, 1),
    "degrade": lambda kernel: mz.degrade(LR, kernel, 2, "direct"),
}


NO_KERNELS = [(255 * KERNEL, "sum 1, not 255"), (KERNEL * np.nan, "sum 1"), (KERNEL[:20], "odd"), (KERNEL[:20, :20], "odd")]


@pytest.mark.parametrize("function", OF_KERNELS)
@pytest.mark.parametrize("kernel,words", NO_KERNELS)
def test_kernels_that_are_none_are_refused(function, kernel, words):
  with pytest.raises(ValueError, match=words):
    OF_KERNELS[function](kernel)


@pytest.mark.parametrize("function", [lambda x: mz.degrade(x, KERNEL, 2, "direct"), lambda x: mz.enlarge(x, 2)])
def test_what_is_linear_takes_floats_of_any_range(function):
  for pixels in (np.uint8(255 * LR), np.uint16(255 * LR), LR[..., 0]):
    with pytest.raises(ValueError, match=r"float array \(\.\.\., H, W, C\)"):
      function(pixels)
  np.testing.assert_allclose(function(255 * LR), 255 * function(LR), rtol=1e-4, atol=1e-2)
  np.testing.assert_allclose(function(LR[None])[0], function(LR), atol=1e-6)


@pytest.mark.parametrize("arguments", [(0, 1, 0, 21), (1, -1, 0, 21), (np.nan, 1, 0, 21), (1, np.inf, 0, 21), (1, 1, 0, 20)])
def test_gaussians_that_are_none_are_refused(arguments):
  with pytest.raises(ValueError, match="above 0|must be odd"):
    mz.gaussian(*arguments)
  assert np.isfinite(jax.jit(lambda variance: mz.gaussian(variance, 1, 0, 21))(2.0)).all()


def test_in_jit_type_and_shape_are_checked_and_values_pass():
  run = jax.jit(lambda lr: mz.super_resolve(params(), lr, model=NET))
  np.testing.assert_allclose(run(LR), mz.super_resolve(params(), LR, model=NET), atol=1e-5)
  with pytest.raises(ValueError, match="float array"):
    run(np.uint8(255 * LR))
  constants = jnp.asarray(LR), jnp.asarray(KERNEL)
  closed = jax.jit(lambda: mz.lr_son(*constants))
  np.testing.assert_allclose(closed(), mz.lr_son(*constants), atol=1e-6)
  slope = jax.grad(lambda kernel: mz.lr_son(LR, kernel).sum())(jnp.asarray(KERNEL))
  assert np.isfinite(slope).all()
