"""Weights files: what is written is read, damage is said, shipped files are whole."""

import jax
import numpy as np
import pytest

from mzsr_jax import weights
from mzsr_jax.core import model
from mzsr_jax.errors import UserError


def test_round_trip_is_exact_and_keeps_the_metadata(tmp_path):
  params = model.init(jax.random.key(0))
  path = tmp_path / "w.safetensors"
  weights.save_weights(path, params, {"stage": "meta", "inner_lrs": "[0.02, 0.01]"})
  loaded = weights.load(path)
  jax.tree.map(np.testing.assert_array_equal, loaded.params, params)
  assert loaded.metadata["stage"] == "meta"
  np.testing.assert_allclose(loaded.inner_lrs(4), [0.02, 0.01, 0.01, 0.01])
  np.testing.assert_allclose(loaded.inner_lrs(1), [0.02])
  assert [p.name for p in tmp_path.iterdir()] == ["w.safetensors"]


def test_parameters_may_lie_in_memory_in_any_order(tmp_path):
  columns = np.arange(12.0, dtype=np.float32).reshape(3, 4)[:, [2, 0]]
  weights.save_weights(tmp_path / "w.safetensors", {"bias": columns, "scale": np.float32(2)}, {})
  np.testing.assert_array_equal(weights.load_arrays(tmp_path / "w.safetensors")["bias"], columns)


def test_learned_rates_come_back_shaped_like_the_parameters(tmp_path):
  params = model.init(jax.random.key(0))
  rates = jax.tree.map(lambda p: np.float32([0.02, 0.03]), params)
  weights.save_weights(tmp_path / "w.safetensors", params, {}, rates)
  loaded = weights.load(tmp_path / "w.safetensors")
  jax.tree.map(np.testing.assert_array_equal, loaded.params, params)
  jax.tree.map(lambda lrs, p: np.testing.assert_allclose(lrs, [0.02, 0.03, 0.03]), loaded.inner_lrs(3), params)


def test_weights_that_know_no_rates_get_the_papers(tmp_path):
  weights.save_weights(tmp_path / "w.safetensors", model.init(jax.random.key(0)), {})
  np.testing.assert_allclose(weights.load(tmp_path / "w.safetensors").inner_lrs(2), [0.01, 0.01])


@pytest.mark.parametrize("content", [b"", b"no weights", bytes(100)])
def test_damaged_files_are_refused(tmp_path, content):
  path = tmp_path / "w.safetensors"
  path.write_bytes(content)
  with pytest.raises(UserError, match="w.safetensors"):
    weights.load(path)


def test_foreign_parameters_are_refused(tmp_path):
  path = tmp_path / "w.safetensors"
  weights.save_weights(path, {"layer": {"gamma": np.ones(3, np.float32)}}, {})
  with pytest.raises(UserError, match="do not hold"):
    weights.load(path)


def test_unknown_names_list_the_known_ones():
  with pytest.raises(UserError, match="no_such_weights"):
    weights.load("no_such_weights")


def test_scales_outside_the_training_are_refused():
  of = lambda scales: weights.Weights({}, "gradient", [0.01], {"scales": scales}, "")
  of("[2.0]").check_scale(2)
  of("[2.0, 3.0, 4.0]").check_scale(3.5)
  with pytest.raises(UserError, match="x2"):
    of("[2.0]").check_scale(4)


@pytest.mark.parametrize("value", ["oops", "2", '["a"]', "[NaN]", "[-1]", "null"])
def test_damaged_metadata_is_refused(tmp_path, value):
  path = tmp_path / "w.safetensors"
  weights.save_weights(path, model.init(jax.random.key(0)), {"inner_lrs": value})
  with pytest.raises(UserError, match="inner_lrs"):
    weights.load(path).inner_lrs(2)
  weights.save_weights(path, model.init(jax.random.key(0)), {"scales": value})
  with pytest.raises(UserError, match="scales"):
    weights.load(path).check_scale(2)


def test_weights_of_another_network_are_refused():
  with pytest.raises(UserError, match="another shape"):
    weights.check_network(model.init(jax.random.key(0), model.MZSRNet(features=8)))


@pytest.mark.parametrize("name", weights.names())
def test_shipped_weights_are_whole_and_say_what_they_are(name):
  loaded = weights.load(name)
  params, metadata = loaded.params, loaded.metadata
  count, most = model.count(params), {"universal": 225_091, "universal_large": 600_000}
  assert count <= most[name] if name in most else count == 225_091
  assert all(np.isfinite(p).all() for p in jax.tree.leaves(params))
  assert metadata["stage"] in ("pretrain", "meta") and int(metadata["steps"]) > 0 and metadata["data"]
