"""What happens around the network: scales, transparency, refinements, noise, in one go or in parts."""

import jax
import numpy as np
import pytest
import skimage.registration
from PIL import Image

from mzsr_jax import images, weights
from mzsr_jax.core import adapt as adapt_lib
from mzsr_jax.core import degradation as degradation_lib
from mzsr_jax.core import model
from mzsr_jax.core.kernels import Degradation
from mzsr_jax.errors import UserError
from mzsr_jax.evaluation import metrics
from mzsr_jax.inference.tiled import TiledAdapter
from mzsr_jax.photo import enhance, kernel_files, refine
from mzsr_jax.photo import file as photo_file
from mzsr_jax.photo.enhance import Recipe
from mzsr_jax.training import data

RNG = np.random.default_rng(0)
NET = model.MZSRNet(depth=2, features=4)
KIND = kernel_files.load_degradation("g20d")
RATES = np.float32([0.05, 0.05])


@pytest.fixture(scope="module")
def adapter():
  return TiledAdapter()


def smooth(height, width):
  y, x = np.mgrid[:height, :width] / 6
  return (0.5 + 0.4 * np.stack([np.sin(x + y), np.cos(x * y / 4), np.sin(2 * x)], -1)).astype(np.float32)


def recipe(**fields):
  params = model.init(jax.random.key(0), NET)
  return Recipe(params, RATES, KIND, 2.0, 2.0)._replace(**fields)


def test_plain_enlargement_is_the_networks(adapter):
  lr, plain = smooth(14, 17), recipe()
  states = list(enhance.adapt(adapter, lr, plain, [0, 2]))
  each = [params for params, _ in adapter.iterate(plain.params, lr, KIND, 2.0, RATES)]
  for params, expected in zip(states, each[::2]):
    made = enhance.enlarge(adapter, params, photo_file.Photo(lr), plain).rgb
    assert made.dtype == np.uint8
    np.testing.assert_array_equal(made, adapter.super_resolve(expected, lr, 2.0))
  deep = enhance.enlarge(adapter, states[1], photo_file.Photo(lr, bits=16), plain).rgb
  assert deep.dtype == np.uint16 and np.abs(deep / 257 - made).max() < 0.51


@pytest.mark.parametrize("scale,net_scale", [(1, 2.0), (1.5, 2.0), (2.7, 2.0), (3, 2.0), (8, 4.0), (2.5, 2.5)])
def test_any_scale_is_reached_and_lies_where_bicubic_does(adapter, scale, net_scale):
  """By a network that changes nothing of the bicubic enlargement that it is given."""
  lr, idle = smooth(13, 18), jax.tree.map(np.zeros_like, recipe().params)
  wanted = recipe(scale=scale, net_scale=net_scale, second_stage=idle)
  made = enhance.enlarge(adapter, idle, photo_file.Photo(lr), wanted).rgb
  size = tuple(int(np.ceil(n * scale - 1e-9)) for n in lr.shape[:2])
  assert made.shape == (*size, 3)
  made = made / 255 if made.dtype == np.uint8 else made
  expected = np.clip(degradation_lib.enlarge(lr, scale), 0, 1)
  if scale >= 2:
    assert np.abs(made - expected).mean() < 0.01
  with_network = enhance.enlarge(adapter, recipe().params, photo_file.Photo(lr), wanted).rgb
  assert with_network.shape == made.shape


@pytest.mark.parametrize("scale", [1, 2, 2.7, 8])
@pytest.mark.parametrize("bits", [8, 16])
def test_a_plain_enlargement_is_bicubic(scale, bits):
  lr = smooth(301, 18)
  expected = np.clip(degradation_lib.enlarge(lr, scale), 0, 1)
  made = enhance.enlarge_plainly(photo_file.Photo(lr, bits=bits), scale).rgb
  assert made.dtype == f"uint{bits}"
  np.testing.assert_allclose(made / np.iinfo(made.dtype).max, expected, atol=0.51 / np.iinfo(made.dtype).max)


def test_scales_and_weights_that_fit():
  of = lambda metadata: weights.Weights({}, "gradient", [0.01], metadata, "")
  two, many = of({"scales": "[2.0]"}), of({"scales": "[2.0, 3.0, 4.0]"})
  assert [enhance.network_scale(two, s) for s in (1, 2, 3.5, 8)] == [2, 2, 2, 2]
  assert [enhance.network_scale(many, s) for s in (1.5, 2.5, 8)] == [2, 2.5, 4]
  assert enhance.network_scale(of({}), 3) == 3
  for scale in (0.5, 9, float("nan")):
    with pytest.raises(UserError, match="from 1 to 8"):
      enhance.network_scale(two, scale)


@pytest.mark.parametrize("scale", [2.0, 1.5])
@pytest.mark.parametrize("bits", [8, 16])
def test_transparency_stays_beside_colour(adapter, scale, bits):
  """Where all is opaque it stays so, where all is hidden too; the edge lies where the colours' edge does."""
  alpha = np.zeros((16, 16), np.float32)
  alpha[:, 8:] = 1
  photo = photo_file.Photo(smooth(16, 16), alpha, bits=bits)
  made = enhance.enlarge(adapter, recipe().params, photo, recipe(scale=scale))
  side = int(16 * scale)
  assert made.alpha.shape == made.rgb.shape[:2] == (side, side)
  assert (made.alpha[:, : int(6.5 * scale)] == 0).all() and (made.alpha[:, int(9.5 * scale) :] == 1).all()
  opaque = enhance.enlarge(adapter, recipe().params, photo._replace(alpha=np.ones_like(alpha)), recipe(scale=scale))
  assert (opaque.alpha == 1).all()
  np.testing.assert_array_equal(opaque.rgb, made.rgb)
  pixels = images.to_float(photo_file.on_white(opaque))
  np.testing.assert_allclose(pixels, photo_file.as_float(opaque.rgb), atol=0.51 / 255)


def test_no_dark_fringe_around_what_is_cut_out(adapter, tmp_path):
  """A bright disk on nothing, which its file holds as black: over white, no pixel is darker than the disk."""
  y, x = np.mgrid[:24, :24] - 11.5
  pixels = np.zeros((24, 24, 4), np.uint8)
  pixels[x**2 + y**2 < 64] = (200, 180, 220, 255)
  from PIL import Image

  Image.fromarray(pixels).save(tmp_path / "disk.png")
  photo = photo_file.read(tmp_path / "disk.png")
  params = jax.tree.map(lambda p: 0 * p, recipe().params)  # bicubic enlargement by way of the network
  seen = photo_file.on_white(enhance.enlarge(adapter, params, photo, recipe()))
  assert seen.min(axis=(0, 1)).tolist() == [200, 180, 220]


def test_self_ensemble_is_the_mean_over_turns(adapter):
  lr, photo = smooth(12, 15), photo_file.Photo(smooth(12, 15))
  made = enhance.enlarge(adapter, recipe().params, photo, recipe(self_ensemble=True)).rgb
  one = lambda image, of: adapter.super_resolve(recipe().params, image, 2.0, of, np.float32)
  expected = np.mean(list(refine.each_turn(one, lr, KIND, 2.0)), axis=0)
  np.testing.assert_allclose(made, expected, atol=1e-6)


def test_back_projection_makes_the_result_agree_with_the_photo(adapter):
  lr = smooth(16, 18)
  shrunk = lambda sr: np.asarray(degradation_lib.degrade(photo_file.as_float(sr), KIND.kernel, 2, "direct"))
  misfit = lambda sr: np.abs(shrunk(sr) - lr).mean()
  results = [enhance.enlarge(adapter, recipe().params, photo_file.Photo(lr), recipe(back_projection=n)).rgb for n in (0, 10)]
  assert misfit(results[1]) < 0.5 * misfit(results[0])


@pytest.mark.parametrize("strength,passes", [(0, 0), (0.5, 1), (1, 1)])
def test_strength_costs_no_further_pass_of_the_network(strength, passes):
  lr, cost = smooth(12, 15), []
  counted = TiledAdapter()
  counted.on_progress = lambda count: cost.append(count) if count else None
  enhance.enlarge(counted, recipe().params, photo_file.Photo(lr), recipe(strength=strength))
  assert len(cost) == passes


def test_noise_is_that_of_the_sons_and_the_same_in_parts(adapter):
  lr = smooth(20, 20)
  noisy = recipe(degradation=KIND.replace(noise_std=0.1))
  clean, whole = ([*enhance.adapt(adapter, lr, r, [2])][0] for r in (recipe(), noisy))
  parts = [*enhance.adapt(adapter, lr, noisy, [1, 2])][1]
  leaves = lambda tree: np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree)])
  assert np.abs(leaves(clean) - leaves(whole)).max() > 1e-5
  np.testing.assert_array_equal(leaves(parts), leaves(whole))


def test_steps_that_are_too_long_are_told_and_the_best_state_before_is_kept(adapter, caplog):
  lr, plain = smooth(20, 20), recipe()
  finite = lambda tree: all(np.isfinite(x).all() for x in jax.tree.leaves(tree))
  error = lambda params: adapter.error(params, lr, KIND, 2.0)
  good = adapter.adapt(plain.params, lr, KIND, 2.0, RATES)
  assert error(good) < error(plain.params)
  for rates in ([0.05, 0.05, 1e6], [0.05, 0.05, np.inf, 1.0], [1e3, 1e30, 1e38]):
    rates = np.float32(rates)
    caplog.clear()
    (kept,) = enhance.adapt(adapter, lr, recipe(inner_lrs=rates), [len(rates)])
    assert "diverged" in caplog.text and finite(kept)
    expected = plain.params if rates[0] > 1 else good
    for a, b in zip(jax.tree.leaves(kept), jax.tree.leaves(expected)):
      np.testing.assert_array_equal(a, b)
  caplog.clear()
  list(enhance.adapt(adapter, lr, plain, [0, 1, 2]))
  assert not caplog.text


def test_the_error_is_that_of_the_whole_image():
  lr, cut = smooth(150, 90), TiledAdapter()
  cut.limit_tiles(64)
  params = recipe().params
  expected = adapt_lib.l1(params, adapt_lib.lr_son(lr, KIND, 2), lr, NET)
  np.testing.assert_allclose(cut.error(params, lr, KIND, 2), expected, rtol=1e-5)


def test_windows_of_a_limited_side_make_the_same_picture():
  lr = smooth(150, 90)
  whole, cut = TiledAdapter(), TiledAdapter()
  cut.limit_tiles(64)
  assert cut._tile_size(NET.reach(2), (150, 90), 1000)[0] < whole._tile_size(NET.reach(2), (150, 90), 1000)[0]
  plain = recipe()
  results = []
  for adapter in (whole, cut):
    (params,) = enhance.adapt(adapter, lr, plain, [2])
    results.append(enhance.enlarge(adapter, params, photo_file.Photo(lr), plain).rgb.astype(int))
  assert np.abs(results[0] - results[1]).max() <= 1


def _half(truth):
  return images.to_float(np.asarray(Image.fromarray(truth).resize((64, 64), Image.Resampling.BICUBIC)))


@pytest.fixture(scope="module")
def halves():
  """(photo, its half by Pillow) of three sample photos, 128x128 pixels of each."""
  truths = [images.center_crop(images.read_image(path), 128) for path in data.sample_photos()[:3]]
  return [(truth, _half(truth)) for truth in truths]


def _default(lr, **given):
  """What the commands make of a photo by default."""
  recipe = enhance.make_recipe(weights.load(weights.DEFAULT), given.get("degradation", Degradation(None)), 2, 0)
  return list(enhance.run(TiledAdapter(), photo_file.Photo(lr), recipe, [0]))[-1].photo.rgb


def test_photos_that_a_program_shrank_become_better_than_by_bicubic(halves, optimised):
  bicubic = lambda lr: images.to_uint8(np.clip(degradation_lib.enlarge(lr, 2), 0, 1))
  gains = [metrics.psnr_y(_default(lr), truth, 2) - metrics.psnr_y(bicubic(lr), truth, 2) for truth, lr in halves]
  assert np.mean(gains) > 0.5 and min(gains) > -0.1


def _displacement(lr, of):
  """How far the result lies from the bicubic enlargement, pixels."""
  made, bicubic = (np.asarray(x, np.float64).mean(-1) for x in (_default(lr, degradation=of), degradation_lib.enlarge(lr, 2)))
  shift, *_ = skimage.registration.phase_cross_correlation(bicubic, made, upsample_factor=100)
  return np.abs(shift).max()


@pytest.mark.parametrize("name", ["g20d", "bicubic"])
@pytest.mark.slow
def test_the_result_lies_on_the_bicubic_enlargement(halves, optimised, name):
  of = kernel_files.load_degradation(name, photo_scale=2)
  assert max(_displacement(lr, of) for _, lr in halves) <= 0.05


@pytest.mark.slow
def test_the_default_lies_on_the_bicubic_enlargement(optimised):
  photos = [images.read_image(path) for path in data.sample_photos()]
  parts = [photo[y : y + 128, x : x + 128] for photo in photos for y in (0, 150) for x in (20, 300)]
  assert len(parts) == 20
  assert max(_displacement(_half(part), Degradation(None)) for part in parts) <= 0.05
