"""The unrolled network: what it starts as, tiles and padding, scales, gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mzsr_jax.core import degradation, networks, resize, unrolled
from mzsr_jax.core.kernels import Degradation
from mzsr_jax.core.unrolled import UnrolledNet
from mzsr_jax.photo.kernel_files import load_degradation

SMALL = UnrolledNet(passes=2, features=8, blocks=1)
COARSE = UnrolledNet(passes=1, features=8, blocks=1, coarse_features=8, coarse_blocks=2)


def _image(size, seed=0):
  return jnp.asarray(np.random.default_rng(seed).random((*size, 3), np.float32))


def _drawn(net):
  """Random parameters whose passes change something."""
  drawn = net.init_params(jax.random.key(0))
  return jax.tree.map(lambda p: p + 0.02 * jax.random.normal(jax.random.key(p.size), p.shape), drawn)


@pytest.fixture(scope="module")
def params():
  return _drawn(SMALL)


@pytest.fixture(scope="module")
def coarse_params():
  return _drawn(COARSE)


def test_the_default_has_no_more_parameters_than_the_papers_network():
  shapes = jax.eval_shape(UnrolledNet().init_params, jax.random.key(0))
  assert sum(np.prod(x.shape) for x in jax.tree.leaves(shapes)) <= 225_091


def test_parameters_tell_their_network(params):
  assert networks.of(params) == SMALL
  assert networks.of(UnrolledNet().init_params(jax.random.key(0))) == UnrolledNet()
  coarse_alone = UnrolledNet(passes=0, coarse_features=8, coarse_blocks=1)
  for net in (COARSE, COARSE.clone(coarse_rounds=3), coarse_alone, SMALL.clone(rounds=3)):
    assert networks.of(net.init_params(jax.random.key(0))) == net
  assert UnrolledNet(blocks=5).reach(2) > UnrolledNet().reach(2)
  with pytest.raises(ValueError, match="no parameters of a network"):
    networks.of({"dense": jnp.zeros(3)})


@pytest.mark.slow
def test_start_is_the_bicubic_enlargement_on_the_grid_of_the_operator():
  lr = _image((12, 15))
  direct = SMALL.observe(lr, Degradation(jnp.ones((1, 1))), 2)
  np.testing.assert_allclose(direct.start, degradation.enlarge(lr, 2, offset=(-0.5, -0.5)), atol=1e-5)
  shrunk = SMALL.observe(lr, Degradation(jnp.ones((1, 1)), "bicubic"), 2.5)
  np.testing.assert_allclose(shrunk.start, degradation.enlarge(lr, 2.5), atol=1e-5)
  moved = jnp.zeros((5, 5)).at[3, 1].set(1.0)  # one pixel down, one to the left
  off = SMALL.observe(lr, Degradation(moved, "bicubic"), 2)
  np.testing.assert_allclose(off.start, degradation.enlarge(lr, 2, offset=(1.0, -1.0)), atol=1e-5)


@pytest.mark.parametrize(("scale", "subsample"), [(1, "direct"), (2, "direct"), (2.5, "bicubic"), (4, "direct")])
@pytest.mark.slow
def test_size_of_the_result(params, scale, subsample):
  lr = _image((12, 15))
  of = load_degradation("g20d", subsample)
  made = SMALL.reconstruct(params, SMALL.observe(lr, of, scale))
  assert made.shape == (resize.enlarged_size(12, scale), resize.enlarged_size(15, scale), 3)
  assert np.isfinite(made).all()


def test_lr_image_of_the_result_is_the_given_one_where_there_is_no_noise(params):
  truth = _image((32, 40))
  of = load_degradation("g20d")
  lr = degradation.degrade(truth, of.kernel, 2, "direct")
  trusting = params | {"log_mu": jnp.full_like(params["log_mu"], -12.0)}
  net = UnrolledNet(passes=2, features=8, blocks=1, iterations=60)
  made = net.reconstruct(trusting, net.observe(lr, of, 2))
  assert jnp.abs(degradation.degrade(made, of.kernel, 2, "direct") - lr).max() < 5e-3


@pytest.mark.parametrize("net", [SMALL, COARSE, COARSE.clone(coarse_rounds=2)])
@pytest.mark.slow
def test_padding_is_not_seen(net):
  net, params = net.clone(iterations=20), _drawn(net)  # padding changes the preconditioner
  lr, of = _image((13, 16)), load_degradation("gani").replace(noise_std=0.05)
  told = net.tell(of, 2)
  kernel = jnp.matmul(told.taps.columns.T, told.taps.rows, precision="highest")  # a tile's lacks its least terms
  expected = net.reconstruct(params, net.observe(lr, of.replace(kernel=kernel), 2))
  rows, columns = (net.tile_axis(of, 2, i, n, 2 * n, 0, side) for i, (n, side) in enumerate([(13, 40), (16, 48)]))
  padded = jnp.pad(lr, ((0, rows[1] - 13), (0, columns[1] - 16), (0, 0)))
  mask = jnp.zeros((40, 48, 1)).at[:26, :32].set(1.0)
  made = net.reconstruct(params, net.observe_tile(padded, rows[2], columns[2], told), mask)
  np.testing.assert_allclose(made[:26, :32], expected, atol=1e-4)


@pytest.mark.slow
def test_one_image_is_as_in_a_group_of_several(params):
  of = load_degradation("g20d")
  observations = [SMALL.observe(_image((8, 10), seed), of, 2) for seed in (1, 2)]
  together = SMALL.apply({"params": params}, (jax.tree.map(lambda *x: jnp.stack(x), *observations),))
  for made, observation in zip(together, observations):
    np.testing.assert_allclose(made, SMALL.reconstruct(params, observation), atol=1e-3)


def test_gradients_of_all_parameters_are_finite_and_not_zero(params):
  of = load_degradation("gani").replace(noise_std=0.02)
  observation, target = SMALL.observe(_image((12, 12)), of, 2), _image((24, 24), 1)
  loss = lambda params: ((SMALL.reconstruct(params, observation) - target) ** 2).mean()
  for path, gradient in jax.tree_util.tree_leaves_with_path(jax.grad(loss)(params)):
    assert np.isfinite(gradient).all(), path
    if "pass1']['carried" not in jax.tree_util.keystr(path):  # the first pass is given no features
      assert jnp.abs(gradient).max() > 0, path


def test_a_noisier_image_is_trusted_less(params):
  """More noise, less of the LR image in the result: the data step's mu grows with the noise."""
  lr, of = _image((12, 12)), load_degradation("g20d")
  distance = []
  for noise_std in (0.0, 0.02, 0.1):
    made = SMALL.reconstruct(params, SMALL.observe(lr, of.replace(noise_std=noise_std), 2))
    distance.append(float(jnp.abs(degradation.degrade(made, of.kernel, 2, "direct") - lr).mean()))
  assert distance[0] < distance[1] < distance[2]


def test_another_round_is_as_passes_of_the_same_weights(params):
  again = SMALL.clone(passes=4)
  copied = again.init_params(jax.random.key(0)) | params | {"pass3": params["pass1"], "pass4": params["pass2"]}
  copied["log_mu"] = jnp.concatenate([params["log_mu"], params["log_mu"][1:]])
  copied["bias"] = jax.tree.map(lambda x: jnp.concatenate([x, x], -1), params["bias"])
  own = {name: value for name, value in copied.items() if name not in ("pass3", "pass4")}
  net, observation = SMALL.clone(rounds=2), SMALL.observe(_image((9, 7)), load_degradation("g20d"), 2)
  np.testing.assert_array_equal(net.reconstruct(own, observation), again.reconstruct(copied, observation))
  assert (net.reach(2), net.activations) == (again.reach(2), again.activations)


def test_a_coarse_pass_changes_nothing_at_first():
  """But that the data step is done twice."""
  plain = UnrolledNet(passes=1, features=8, blocks=1)
  drawn = COARSE.init_params(jax.random.key(0))
  observation = COARSE.observe(_image((9, 7)), load_degradation("g20d"), 4)
  own = {name: value for name, value in drawn.items() if not name.startswith("coarse")}
  np.testing.assert_allclose(COARSE.reconstruct(drawn, observation), plain.reconstruct(own, observation), atol=0.01)


def test_another_coarse_round_works_on_the_result_and_the_features_of_the_one_before():
  net = COARSE.clone(coarse_rounds=2)
  params, observation = _drawn(net), COARSE.observe(_image((9, 7)), load_degradation("g20d"), 4)
  one = lambda x: x[..., :8]
  coarse = params["coarse"] | {"log_mu": params["coarse"]["log_mu"][:1], "bias": jax.tree.map(one, params["coarse"]["bias"])}
  del coarse["carried"]
  made, first = net.reconstruct(params, observation), COARSE.reconstruct(params | {"coarse": coarse}, observation)
  assert made.shape == first.shape and jnp.abs(made - first).max() > 1e-3
  gradient = jax.grad(lambda p: (net.reconstruct(p, observation) ** 2).mean())(params)["coarse"]
  for path, own in jax.tree_util.tree_leaves_with_path(gradient):
    assert jnp.abs(own).max() > 0, path
  assert jnp.abs(gradient["bias"]["bias"][8:]).min() > 0  # the second round has its own
  assert net.reach(4) > COARSE.reach(4) and net.activations > COARSE.activations


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.slow
def test_a_tile_that_begins_at_a_cell_is_as_the_image_is(coarse_params, scale):
  """Near the data steps' tolerance, and not so where it begins within a cell."""
  net, of, lr = COARSE.clone(iterations=20), load_degradation("g20d"), _image((160 // scale, 40 // scale))
  whole = net.reconstruct(coarse_params, net.observe(lr, of, scale))
  told, cell = net.tell(of, scale), net.cell(scale)
  height, width = (scale * length for length in lr.shape[:2])
  columns = net.tile_axis(of, scale, 1, lr.shape[1], width, 0, width)

  def difference(start):
    rows = net.tile_axis(of, scale, 0, lr.shape[0], height, start, height - start)
    part = jnp.pad(lr, ((0, rows[1]), (0, columns[1]), (0, 0)))[rows[0] : rows[0] + rows[1], : columns[1]]
    made = net.reconstruct(coarse_params, net.observe_tile(part, rows[2], columns[2], told))
    return float(jnp.abs(made - whole[start:])[40:].max())  # beyond the reach, and what data steps spread

  assert difference(3 * cell) < 1e-3 < 5e-3 < difference(3 * cell + cell // 2)


@pytest.mark.parametrize(("scale", "side"), [(1, 2), (2, 2), (2.4, 2), (2.5, 3), (3, 3), (4, 4)])
def test_cells_of_all_sides_hold_their_pixels(scale, side):
  image, places = _image((9, 6))[None], jnp.asarray(unrolled.cell_places(scale))
  cells = unrolled._to_cells(image, places)
  assert cells.shape[1:3] == (-(-9 // side), -(-6 // side))
  np.testing.assert_allclose(cells[0, 1, 0, :3], image[0, side, 0])  # the first pixel of the cell below the first
  mean = lambda x: x[:, : 9 // side * side].mean((1, 2))
  np.testing.assert_allclose(mean(unrolled._from_cells(cells, places)[:, :9, :6]), mean(image), rtol=1e-5)
  if side != 3:  # whose pixels share places
    np.testing.assert_allclose(unrolled._from_cells(cells, places)[:, :9, :6], image, rtol=1e-6)
