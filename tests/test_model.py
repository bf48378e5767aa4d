"""The network's size, its residual form and its reach; the convolution rules at every order."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mzsr_jax.core import conv, model


def test_parameter_count_is_the_papers():
  assert model.count(model.init(jax.random.key(0))) == 225_091


def test_zero_parameters_return_the_input():
  params = jax.tree.map(jnp.zeros_like, model.init(jax.random.key(0)))
  x = jax.random.uniform(jax.random.key(1), (1, 9, 7, 3))
  np.testing.assert_array_equal(model.NET.reconstruct(params, x), x)


def test_receptive_field_is_eight_pixels_to_each_side():
  """By gradient: an output pixel depends on the 17x17 inputs around it, and on nothing else."""
  params = model.init(jax.random.key(0))
  x = jax.random.uniform(jax.random.key(1), (1, 25, 25, 3))
  touched = np.abs(jax.grad(lambda x: model.NET.reconstruct(params, x)[0, 12, 12].sum())(x)[0]).sum(-1) > 0
  expected = np.zeros((25, 25), bool)
  expected[4:21, 4:21] = True
  np.testing.assert_array_equal(touched, expected)


def test_convolutions_agree():
  params = model.init(jax.random.key(0))
  x = jax.random.uniform(jax.random.key(1), (2, 11, 13, 3))
  outputs = [model.MZSRNet(convolution=name).reconstruct(params, x) for name in model.CONVOLUTIONS]
  for output in outputs[1:]:
    np.testing.assert_allclose(outputs[0], output, atol=1e-6)


@pytest.mark.parametrize(
    "channels, size, damping",  # of sums over many pixels, whose sine would else be that of rounding errors
    [((3, 4), (5, 7), 1), ((9, 8), (5, 7), 1), ((9, 3), (5, 7), 1), ((3, 9), (5, 7), 1), ((9, 8), (32, 33), 32)],
)
@pytest.mark.parametrize("order", [1, 2, 3])
def test_closed_rules_are_right_at_every_order(order, channels, size, damping):
  """Against XLA's own derivatives, nested up to three deep, on images with unequal sides, small ones and larger ones."""
  dims = ("NHWC", "HWIO", "NHWC")
  reference = lambda x, w: jax.lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=dims)
  x = jax.random.normal(jax.random.key(0), (2, *size, channels[0]))
  w = jax.random.normal(jax.random.key(1), (3, 3, *channels)) / 3

  def nested(convolution):
    f = lambda x, w: jnp.sum(jnp.sin(convolution(x, w)))
    for _ in range(order - 1):
      g = jax.grad(f, (0, 1))
      f = lambda x, w, g=g: sum(jnp.sum(jnp.sin(d / damping)) for d in g(x, w))
    return jax.grad(f, (0, 1))(x, w)

  for ours, theirs in zip(nested(conv.conv), nested(reference)):
    np.testing.assert_allclose(ours, theirs, rtol=2e-3, atol=2e-3 * float(jnp.abs(theirs).max()))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_relu_is_jaxs_own(dtype):
  x, g = jax.random.normal(jax.random.key(0), (2, 1000)).astype(dtype)
  x = x.at[:3].set(jnp.array([0, -0.0, jnp.nan], dtype))
  for ours, theirs in zip(*(jax.tree.leaves((f(x), jax.vjp(f, x)[1](g))) for f in (conv.relu, jax.nn.relu))):
    assert ours.dtype == dtype
    np.testing.assert_array_equal(np.float32(ours), np.float32(theirs))  # NumPy compares no NaN of bfloat16
