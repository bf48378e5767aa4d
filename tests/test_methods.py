"""Methods by name: each gives what the functions behind it give, once for each number of steps."""

import itertools

import jax
import numpy as np
import pytest

from mzsr_jax import images, weights
from mzsr_jax.core import adapt as adapt_lib
from mzsr_jax.core import model
from mzsr_jax.errors import UserError
from mzsr_jax.evaluation import methods, zssr
from mzsr_jax.inference import tiled
from mzsr_jax.photo import kernel_files, refine

LR = np.random.default_rng(0).random((20, 24, 3)).astype(np.float32)
CASE = methods.Case("image", "g20d", LR, kernel_files.load_degradation("g20d"), 2)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
  path = tmp_path_factory.mktemp("weights") / "w.safetensors"
  weights.save_weights(path, model.init(jax.random.key(0)), {"scales": "[2.0]", "inner_lrs": "[0.02, 0.01]"})
  return path


def _solve(method):
  run = tiled.TiledAdapter()
  method.warm_up(run, CASE)
  return {result.steps: result for result in method.solve(run, CASE)}


def test_adapted_weights_after_several_numbers_of_steps(path):
  results = _solve(methods.parse(f"mzsr:{path}", [3, 0, 1, 3], 2))
  assert list(results) == [0, 1, 3]
  for steps, result in results.items():
    loaded = weights.load(path)
    adapted = adapt_lib.adapt(loaded.params, LR, CASE.degradation, 2, loaded.inner_lrs(steps), steps)
    expected = images.to_uint8(np.asarray(adapt_lib.super_resolve(adapted, LR, 2)))
    assert (np.abs(result.sr.astype(int) - expected) <= 1).all() and (result.sr == expected).mean() > 0.99
  # Each as if it had been the only one: the time of enlarging is in all of them, that of three steps in the last.
  assert 0 < results[0].seconds < results[3].seconds


@pytest.mark.parametrize("name", ["adam", "sgd"])
def test_fine_tuned_weights(path, name):
  results = _solve(methods.parse(f"{name}:{path}", [0, 2], 2))
  params, run = weights.load(path).params, tiled.TiledAdapter()
  tuned = run.fine_tune(params, LR, CASE.degradation, 2, methods._OPTIMIZERS[name])
  after_two = list(itertools.islice(tuned, 2))[-1]
  assert (results[0].sr == run.super_resolve(params, LR, 2)).all()
  assert (results[2].sr == run.super_resolve(after_two, LR, 2)).all() and (results[2].sr != results[0].sr).any()


def test_back_projection_may_follow(path):
  name = f"mzsr:{path}+back_projection=3"
  assert methods.weights_of(name) == str(path) and methods.weights_of("zssr:back_projection=3") is None
  run, loaded = tiled.TiledAdapter(), weights.load(path)
  adapted = run.adapt(loaded.params, LR, CASE.degradation, 2, loaded.inner_lrs(1))
  sr = run.super_resolve(adapted, LR, 2, dtype=np.float32)
  expected = images.to_uint8(refine.back_project(sr, LR, CASE.degradation, 2, 3))
  made = _solve(methods.parse(name, [1], 2))[1].sr
  np.testing.assert_array_equal(made, expected)
  assert (made != images.to_uint8(sr)).any()
  with pytest.raises(UserError, match="unknown method"):
    methods.parse(f"mzsr:{path}+back_projection=x", [1], 2)


def test_methods_without_steps():
  (bicubic,) = _solve(methods.parse("bicubic", [1, 10], 2)).items()
  assert bicubic[0] == 0 and bicubic[1].sr.shape == (40, 48, 3)
  (made,) = _solve(methods.parse("zssr:max_steps=2+crop=16+self_ensemble=false", [1, 10], 2)).values()
  options = zssr.DEFAULTS._replace(max_steps=2, crop=16, self_ensemble=False)
  assert (made.sr == images.to_uint8(zssr.super_resolve(LR, CASE.degradation, 2, options=options))).all() and made.seconds > 0


def test_options_of_zssr():
  parse = methods._options
  assert parse("") == zssr.DEFAULTS
  assert parse("factors=1x1.5/2x2+noise_std=0.01").factors == ((1.0, 1.5), (2.0, 2.0))
  assert parse("factors=gradual").factors == zssr.GRADUAL_X2
  for wrong in ("max_steps=1.5", "rotate=yes", "factors=2", "=3"):
    with pytest.raises(UserError, match="is no option of zssr"):
      parse(wrong)


def test_labels_tell_steps_where_there_are_any():
  labels = [methods.label(name, 10) for name in ("bicubic", "zssr", "mzsr", "mzsr:x2_direct", "adam:a", "RCAN")]
  assert labels == ["bicubic", "zssr", "mzsr (10)", "mzsr:x2_direct (10)", "adam:a (10)", "RCAN"]
