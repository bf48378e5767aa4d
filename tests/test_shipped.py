"""What the shipped weights are worth, on the authors' own LR images."""

import jax.numpy as jnp
import numpy as np
import pytest

from experiments import documents
from mzsr_jax import images, weights
from mzsr_jax.core import networks
from mzsr_jax.evaluation import benchmark, methods, metrics
from mzsr_jax.inference.tiled import TiledAdapter, degrade
from mzsr_jax.photo import enhance, kernel_files, noise
from mzsr_jax.training import data


@pytest.mark.parametrize("method,kernel,scale,steps", [
    ("bicubic", "g20d", 2, 0), ("x2_direct", "g20d", 2, 1), ("spectral:x2_direct", "g20d", 2, 10),
    ("pretrain_x2", "bicubic", 2, 0), ("x2_bicubic", "g13b", 2, 1), ("x4_direct", "g20d", 4, 1),
    ("universal", "g20d", 2, 0), ("universal", "g13b", 2, 0), ("universal", "g20d", 4, 0),
    ("universal_large", "g20d", 2, 0), ("universal_large", "bicubic", 2, 0), ("universal_large", "g20d", 4, 0),
])  # fmt: skip
@pytest.mark.slow
def test_results_of_the_documents_are_what_the_shipped_weights_give(data_dir, optimised, method, kernel, scale, steps):
  """On one image of those that `experiments/results` has."""
  shown = documents.read()["Set5", method, scale, kernel, steps]
  (expected,) = (image["psnr"] for image in shown["images"] if image["name"] == "butterfly")
  samples = [s for s in benchmark.load_hr(data_dir / "Set5" / "GT", scale) if s.name == "butterfly"]
  compared = methods.parse(method if method == "bicubic" else f"mzsr:{method}", (steps,), scale)
  scores = benchmark.run(samples, {kernel: kernel_files.load_degradation(kernel)}, [compared], scale)
  (result,) = benchmark.summarise(scores, scale)
  assert result["psnr"] == pytest.approx(expected, abs=0.02)


def test_steps_by_default_are_those_that_gain():
  """Means over images of all results of this package: ten steps gain with weights that take them by default."""
  psnr = {key: result["psnr"] for key, result in documents.read().items()}
  compared = [(key, key[:4] + (10,)) for key in psnr if key[4] == 0 and key[:4] + (10,) in psnr]
  assert len(compared) > 8
  for before, after in compared:
    assert psnr[after] > psnr[before] and enhance.default_steps(weights.load(before[1])) == 10
  assert {enhance.default_steps(weights.load(name)) for name in ("universal", "universal_large", "pretrain_x2")} == {0}


@pytest.mark.slow
def test_one_step_beats_bicubic_by_5_db_and_ten_steps_beat_one(data_dir):
  folder = data_dir / "Set5"
  samples = [s for s in benchmark.load_pairs(folder / "g20_direct_x2", folder / "GT", 2) if s.name in ("butterfly", "woman")]
  degradation = kernel_files.load_degradation(str(folder / "g20_direct_x2" / "kernel.mat"), "direct")
  steps = {"x2_direct": (1,), "spectral:x2_direct": (1, 10)}
  compared = [methods.bicubic(), *(methods.parse(f"mzsr:{name}", count, 2) for name, count in steps.items())]
  results = benchmark.summarise(benchmark.run(samples, {"kernel.mat": degradation}, compared, 2), 2)
  assert len(results[0]["images"]) == 2
  bicubic, plain, one, ten = (result["psnr"] for result in results)
  assert min(plain, one) >= bicubic + 5
  assert ten > one


@pytest.mark.slow
def test_a_line_search_makes_the_first_step_long_enough_for_what_training_hardly_saw(data_dir):
  samples = benchmark.load_hr(data_dir / "Set5" / "GT", 2)[1:2]  # bird
  compared = [methods.parse(f"mzsr:{way}x2_direct", (1,), 2) for way in ("", weights.SPECTRAL)]
  scores = benchmark.run(samples, {"g02d": kernel_files.load_degradation("g02d")}, compared, 2)
  plain, spectral = (result["psnr"] for result in benchmark.summarise(scores, 2))
  assert spectral > plain + 2


def test_the_default_weights_know_noise(data_dir):
  gt = images.center_crop(benchmark.load_hr(data_dir / "Set5" / "GT", 2)[1].gt, 160)  # bird
  adapter, degradation, params = TiledAdapter(), kernel_files.load_degradation("g20d"), weights.load(weights.DEFAULT).params
  clean = degrade(images.to_float(gt), degradation, 2)
  lr = images.to_float(images.to_uint8(clean + np.random.default_rng(0).normal(0, 5 / 255, clean.shape)))
  told = lambda std: adapter.super_resolve(params, lr, 2, degradation.replace(noise_std=std))
  assert metrics.psnr_y(told(5 / 255), gt, 2) > metrics.psnr_y(told(0.0), gt, 2) + 3


@pytest.mark.slow
def test_a_noisy_photo_is_not_made_worse_where_its_noise_is_estimated(data_dir):
  gt = images.center_crop(benchmark.load_hr(data_dir / "Set5" / "GT", 2)[1].gt, 160)  # bird
  adapter, degradation = TiledAdapter(), kernel_files.load_degradation("g20d")
  lr = degrade(images.to_float(gt), degradation, 2)
  lr = images.to_float(images.to_uint8(lr + np.random.default_rng(0).normal(0, 5 / 255, lr.shape)))
  loaded = weights.load("spectral:x2_direct")
  params, rates = loaded.params, loaded.inner_lrs(10)

  def psnrs(noise_std, steps):
    recipe = enhance.Recipe(params, rates, degradation.replace(noise_std=noise_std), 2, 2)
    return [metrics.psnr_y(adapter.super_resolve(p, lr, 2), gt, 2) for p in enhance.adapt(adapter, lr, recipe, steps)]

  before, blindly = psnrs(0.0, [0, 10])
  (told,) = psnrs(noise.estimate(lr), [10])
  assert told > before + 1 and told > blindly + 1


def test_stage_1_beats_bicubic_on_what_it_was_trained_for(data_dir):
  samples = benchmark.load_hr(data_dir / "Set5" / "GT", 2)[1:3]  # bird and butterfly
  compared = [methods.bicubic(), methods.parse("mzsr:pretrain_x2", (0,), 2)]
  scores = benchmark.run(samples, {"bicubic": kernel_files.load_degradation("bicubic")}, compared, 2)
  bicubic, network = (result["psnr"] for result in benchmark.summarise(scores, 2))
  assert network > bicubic + 2.5


@pytest.mark.parametrize("name,kernel,scale", [
    ("x2_bicubic", "g13b", 2), ("spectral:x2_bicubic", "bicubic", 2), ("x4_direct", "g20d", 4),
    ("spectral:multiscale", "g20d", 3),
])  # fmt: skip
@pytest.mark.slow
def test_other_models_beat_bicubic_by_1_db_in_one_step(data_dir, name, kernel, scale):
  samples = benchmark.load_hr(data_dir / "Set5" / "GT", scale)[2:3]  # butterfly
  compared = [methods.bicubic(), methods.parse(f"mzsr:{name}", (1,), scale)]
  scores = benchmark.run(samples, {kernel: kernel_files.load_degradation(kernel)}, compared, scale)
  bicubic, one = (result["psnr"] for result in benchmark.summarise(scores, scale))
  assert one > bicubic + 1
  known = weights.load(name).scales
  assert known == ([scale] if "multiscale" not in name else pytest.approx([2 + i / 5 for i in range(11)]))


@pytest.mark.slow
def test_a_fraction_takes_as_many_iterations_of_data_steps_as_it_needs():
  """With six, direct subsampling by a fraction loses over half a decibel."""
  params, of, scale = weights.load("universal").params, kernel_files.load_degradation("g20d"), 1.5
  net = networks.of(params)
  gt = images.center_crop(images.read_image(data.sample_photos()[0]), 96)
  observation = net.observe(jnp.asarray(degrade(images.to_float(gt), of, scale)), of, scale)
  psnr = lambda net: metrics.psnr_y(images.to_uint8(net.reconstruct(params, observation)), gt, 2)
  assert psnr(net) > psnr(net.clone(most_iterations=0)) + 0.5
  assert psnr(net) > psnr(net.clone(iterations=200)) - 0.2
