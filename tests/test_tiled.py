"""Windows, padding, buckets and devices change nothing: results are those of the plain functions of arrays."""

import itertools
import threading

import jax
import numpy as np
import optax
import pytest

import mzsr_jax as mz
from mzsr_jax import images, weights
from mzsr_jax.core import adapt as adapt_lib
from mzsr_jax.core import degradation as degradation_lib
from mzsr_jax.core import model
from mzsr_jax.core.unrolled import UnrolledNet
from mzsr_jax.errors import UserError
from mzsr_jax.inference import plain, pool, tiled, tiles
from mzsr_jax.inference.tiled import TiledAdapter
from mzsr_jax.photo import kernel_files
from mzsr_jax.training import data

NET = model.MZSRNet(depth=3, features=8)
RATES = np.float32([0.05, 0.02])
# LR sizes of Set5 and Set14 at x2.
BENCHMARK_SIZES = [
    (256, 256), (144, 144), (128, 128), (140, 140), (172, 114), (240, 250), (288, 360), (256, 256), (144, 176), (180, 125),
    (138, 138), (181, 250), (144, 176), (256, 256), (256, 256), (256, 384), (256, 256), (328, 264), (195, 293),
]  # fmt: skip


@pytest.fixture(scope="module")
def params():
  return model.init(jax.random.key(0), NET)


@pytest.fixture(scope="module", params=[1, 2], ids=["one device", "two devices"])
def windowed(request):
  """An adapter whose tiles have no more than 64x64 pixels and their halo."""
  adapter = TiledAdapter(jax.devices()[: request.param])
  adapter.limit_tiles(64)
  return adapter


def noise(height, width):
  return np.random.default_rng(0).random((height, width, 3), np.float32)


def assembled(adapter, params, lr, scale, degradation=None):
  sr = np.full((*mz.enlarge(lr, scale).shape[:2], 3), np.nan, np.float32)
  for rows, columns, window in adapter.enlarge(params, lr, scale, degradation):
    assert np.isnan(sr[rows, columns]).all(), "cores overlap"
    sr[rows, columns] = window
  return sr


def difference(a, b):
  return max(float(np.abs(np.asarray(x) - np.asarray(y)).max()) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b)))


# In turn: fits a window, odd sides, tiny, a single pixel, a strip, and several windows both ways.
@pytest.mark.parametrize("size", [(12, 14), (31, 33), (5, 3), (1, 1), (2, 90), (100, 130)])
@pytest.mark.parametrize("scale,name", [(2, "g20d"), (2, "g13b"), (4, "g20d"), (2.2, "bicubic")])
@pytest.mark.slow
def test_adapts_and_enlarges_as_without_windows(windowed, params, size, scale, name):
  lr, degradation = noise(*size), kernel_files.load_degradation(name)
  expected = mz.adapt(params, lr, degradation, scale, RATES, model=NET)
  assert difference(windowed.adapt(params, lr, degradation, scale, RATES), expected) < 1e-6
  sr = mz.super_resolve(expected, lr, scale, model=NET)
  assert difference(assembled(windowed, expected, lr, scale), sr) < 1e-5
  assert difference(plain.enlarge(lr, scale, np.float32), np.clip(mz.enlarge(lr, scale), 0, 1)) < 1e-5
  clean = degradation_lib.degrade(lr, degradation.kernel, scale, degradation.subsample)
  assert difference(tiled.degrade(lr, degradation, scale), clean) < 1e-6


@pytest.mark.parametrize("scale,name,offset", [(2, "g20d", (0.5, -0.5)), (2.2, "g13b", (0.0, 13.25))])
def test_an_offset_does_as_without_windows(windowed, params, scale, name, offset):
  lr, degradation = noise(100, 130), kernel_files.load_degradation(name).replace(offset=offset)
  expected = mz.adapt(params, lr, degradation, scale, RATES, model=NET)
  assert difference(windowed.adapt(params, lr, degradation, scale, RATES), expected) < 1e-6
  sr = mz.super_resolve(expected, lr, scale, degradation, NET)
  assert difference(assembled(windowed, expected, lr, scale, degradation), sr) < 1e-5
  assert difference(assembled(windowed, expected, lr, scale), sr) > 1e-2
  shown = windowed.trajectory(params, lr, degradation, [2], scale, RATES)[2]
  assert np.abs(shown - np.asarray(sr) * 255).max() < 0.51


@pytest.mark.parametrize("size", [(31, 33), (100, 130)])
def test_noise_is_that_of_the_plain_functions(windowed, params, size):
  lr = noise(*size)
  clean = kernel_files.load_degradation("g20d")
  noisy = clean.replace(noise_std=0.1)
  expected = mz.adapt(params, lr, noisy, 2, RATES, model=NET)
  assert difference(windowed.adapt(params, lr, noisy, 2, RATES), expected) < 1e-6
  assert difference(mz.adapt(params, lr, clean, 2, RATES, model=NET), expected) > 1e-4


def test_the_gradient_summed_over_windows_is_that_of_the_whole_image(windowed, params):
  lr, degradation = noise(150, 170), kernel_files.load_degradation("gani")
  one = np.ones(1, np.float32)
  step = lambda adapted: np.concatenate([np.ravel(a - p) for a, p in zip(*map(jax.tree.leaves, (adapted, params)))])
  summed = step(windowed.adapt(params, lr, degradation, 2, one))
  whole = step(mz.adapt(params, lr, degradation, 2, one, model=NET))
  assert np.linalg.norm(summed - whole) < 1e-5 * np.linalg.norm(whole)


@pytest.mark.slow
def test_an_idle_device_changes_nothing_of_a_network_that_is_told_the_degradation():
  net = UnrolledNet(passes=1, features=8, blocks=1)
  drawn = net.init_params(jax.random.key(0))
  params = jax.tree.map(lambda p: p + 0.02 * jax.random.normal(jax.random.key(p.size), p.shape), drawn)
  lr, degradation = noise(20, 24), kernel_files.load_degradation("g20d").replace(noise_std=0.01)
  one, two = (TiledAdapter(jax.devices()[:n]).adapt(params, lr, degradation, 2, 0.01, 1) for n in (1, 2))
  assert difference(one, params) > 1e-5
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), one, two)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["universal", "universal_large"])
@pytest.mark.parametrize("kernel,scale", [("bicubic", 2), ("g20d", 3), ("bicubic", 4)])
def test_shipped_weights_see_no_further_than_their_reach(name, kernel, scale):
  """With kernels and scales whose data steps have converged; the reach is less than what the layers see."""
  params, of = weights.load(name).params, kernel_files.load_degradation(kernel)
  photo = images.center_crop(images.read_image(data.sample_photos()[0]), 408)
  lr = images.to_float(tiled.make_lr(photo, of, scale))
  whole, cut = TiledAdapter(jax.devices()[:1]), TiledAdapter(jax.devices()[:1])
  cut.limit_tiles(136)
  assert len(list(cut.enlarge(params, lr, scale, of))) > 1 == len(list(whole.enlarge(params, lr, scale, of)))
  parts, expected = (assembled(adapter, params, lr, scale, of) for adapter in (cut, whole))
  assert np.abs(parts - expected).max() < 1e-4


def test_buckets_pad_without_a_trace(params):
  sizes = [(40, 30), (22, 27), (9, 40)]
  bucketed, degradation = TiledAdapter(sizes=sizes, max_buckets=1), kernel_files.load_degradation("g20d")
  for size in sizes:
    assert bucketed.bucket(size) == (40, 40)
    lr = noise(*size)
    expected = mz.adapt(params, lr, degradation, 2, RATES, model=NET)
    assert difference(bucketed.adapt(params, lr, degradation, 2, RATES), expected) < 1e-6
    assert difference(assembled(bucketed, expected, lr, 2), mz.super_resolve(expected, lr, 2, model=NET)) < 1e-5


@pytest.mark.slow
def test_nineteen_sizes_compile_each_program_four_times_at_most(params):
  tiny = model.MZSRNet(depth=2, features=2)  # a program is as many programs as it is for the real network
  params = model.init(jax.random.key(0), tiny)
  assert len(set(BENCHMARK_SIZES)) > 10
  programs = (tiled._add.jitted("cpu", "float32"), tiled._run.jitted("cpu", "float32"), tiled._degrade)
  before = [program._cache_size() for program in programs]
  adapter = TiledAdapter(sizes=BENCHMARK_SIZES)
  for i, size in enumerate(BENCHMARK_SIZES):
    degradation = kernel_files.load_degradation(kernel_files.NAMES[i % len(kernel_files.NAMES)], "direct")
    rates = np.linspace(0.01, 0.02 + i, 4, dtype=np.float32) / 9
    adapter.trajectory(params, noise(*size), degradation, [i % 2, 2 + i % 3], 2, rates)
  compiled = [program._cache_size() - n for program, n in zip(programs, before)]
  assert all(0 < n <= 4 for n in compiled), compiled
  padded = sum(np.prod(adapter.bucket(size)) for size in BENCHMARK_SIZES) / sum(np.prod(size) for size in BENCHMARK_SIZES)
  assert padded < 1.25


def test_steps_rates_and_trajectories(windowed, params):
  lr, degradation = noise(20, 24), kernel_files.load_degradation("g20d")
  srs = windowed.trajectory(params, lr, degradation, [0, 1, 2], 2, RATES)
  np.testing.assert_array_equal(srs[0], windowed.super_resolve(params, lr, 2))
  np.testing.assert_array_equal(srs[2], windowed.trajectory(params, lr, degradation, [2], 2, RATES)[2])
  by_leaf = jax.tree.map(lambda p: np.zeros(2, np.float32), params)
  by_leaf["conv3"]["bias"] = np.float32([0.05, 0.02])
  adapted = windowed.adapt(params, lr, degradation, 2, by_leaf)
  assert difference(adapted["conv1"], params["conv1"]) == 0
  assert difference(adapted["conv3"]["bias"], params["conv3"]["bias"]) > 0


def test_fine_tuning_by_sgd_is_adaptation_and_by_adam_is_optax(windowed, params):
  lr, degradation = noise(100, 90), kernel_files.load_degradation("g20d")
  sgd = list(itertools.islice(windowed.fine_tune(params, lr, degradation, 2, optax.sgd(0.05)), 2))
  assert difference(sgd[1], windowed.adapt(params, lr, degradation, 2, np.float32([0.05, 0.05]))) < 1e-6
  son = adapt_lib.lr_son(lr, degradation, 2)[None]
  optimizer = optax.adam(1e-2)
  expected, state = params, optimizer.init(params)
  for tuned in itertools.islice(windowed.fine_tune(params, lr, degradation, 2, optimizer), 3):
    gradient = jax.grad(adapt_lib.l1)(expected, son, lr[None], NET)
    with jax.numpy_dtype_promotion("standard"):
      updates, state = optimizer.update(gradient, state)
    expected = optax.apply_updates(expected, updates)
    far = difference(tuned, expected)
    assert far < 1e-4, far
  assert difference(tuned, params) > 1e-2


def test_without_steps_there_is_nothing_to_adapt(windowed, params):
  degradation = kernel_files.load_degradation("g20d")
  windowed.warm_up(params, (20, 24), degradation, 2, np.zeros(0, np.float32))
  adapted = windowed.adapt(params, noise(20, 24), degradation, 2, RATES, 0)
  assert difference(adapted, params) == 0


def test_progress_adds_up_to_the_work(windowed, params):
  passes = []
  windowed.on_progress = passes.append
  windowed.adapt(params, noise(100, 90), kernel_files.load_degradation("g20d"), 2, RATES)
  windowed.super_resolve(params, noise(100, 90), 2)
  windowed.on_progress = lambda passes: None
  assert sum(passes) == pytest.approx(tiled.network_passes(2, 1, 2)) == pytest.approx(10) and len(passes) > 4


def test_a_limit_below_the_smallest_window_is_refused():
  with pytest.raises(UserError, match="MiB higher"):
    TiledAdapter(jax.devices()[:1], 64 * 64 * 1000)


@pytest.mark.usefixtures("unchecked")  # names stand for adapters
def test_a_folder_is_spread_in_order_with_one_image_for_an_adapter_at_a_time():
  busy, lock = set(), threading.Lock()

  def work(adapter, item):
    with lock:
      assert adapter not in busy
      busy.add(adapter)
    threading.Event().wait(0.01 * (item % 3))
    with lock:
      busy.remove(adapter)
    return adapter, item

  results = list(pool.map_images(work, range(12), ["a", "b", "c"]))
  assert [item for _, item in results] == list(range(12)) and {s for s, _ in results} == {"a", "b", "c"}

  def fails(adapter, item):
    raise UserError(str(item))

  with pytest.raises(UserError, match="0"):
    list(pool.map_images(fails, range(3), ["a"]))


def test_an_adapter_for_each_device_gives_the_same(params):
  lr, degradation = noise(20, 24), kernel_files.load_degradation("g20d")
  each = [TiledAdapter([device]) for device in jax.devices()[:2]]
  work = lambda adapter, lr: adapter.trajectory(params, lr, degradation, [2], 2, RATES)[2]
  first, second = pool.map_images(work, [lr, lr], each)
  np.testing.assert_array_equal(first, second)


def test_windows_are_small_enough_for_a_large_photo():
  """Of 24 megapixels, cut under the default limit."""
  window = tiles.fit((4000, 6000), int(2**31 / 2 / 4200), 8, 2)
  assert window[0] * window[1] * 4200 <= 2**30
