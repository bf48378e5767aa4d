"""What XLA is told: options that it knows, and only where they gain something; and what is computed in bfloat16."""

import collections
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mzsr_jax import devices, weights
from mzsr_jax.core import networks
from mzsr_jax.core.degradation import degrade
from mzsr_jax.inference.tiled import TiledAdapter
from mzsr_jax.photo import kernel_files

options = devices.compiler_options.__wrapped__
computed = devices.computed_precision.__wrapped__


def test_onednn_is_for_bfloat16_and_for_long_work_on_cpus_with_avx512(monkeypatch, tmp_path):
  assert options("gpu", "bfloat16", True) == {}
  monkeypatch.setattr(devices, "_program", lambda options, precision="float32": "onednn$convolution")
  monkeypatch.setattr(devices, "_CPU_INFO", tmp_path / "cpuinfo")
  every = {"float32", "tf32", "bfloat16"}
  for told, lasting, precisions in (
      ("flags : avx2 fma", True, {"bfloat16"}),
      ("flags : avx2 avx512f", True, every),
      ("flags : avx2 avx512f", False, {"bfloat16"}),
  ):
    devices._CPU_INFO.write_text(told)
    assert {p for p in every if devices.ONEDNN.items() <= options("cpu", p, lasting).items()} == precisions


def test_a_version_that_does_not_know_an_option_goes_without_it_in_silence(monkeypatch, capfd):
  monkeypatch.setattr(devices, "ONEDNN", {"xla_cpu_no_such_option": True})
  assert options("cpu", "bfloat16", True) == options("cpu", "float32", True) == devices._LEAST_MEMORY
  assert capfd.readouterr().err == ""


def test_bfloat16_is_float32_with_one_warning_where_the_cpu_or_the_version_has_nothing_for_it(monkeypatch, tmp_path, caplog):
  assert computed("gpu", "bfloat16") == "bfloat16"
  assert computed("cpu", "float32") == "float32" and computed("cpu", "tf32") == "tf32"
  monkeypatch.setattr(devices, "_CPU_INFO", tmp_path / "cpuinfo")
  for told, program, reason in (
      (None, "onednn$convolution", "this CPU has none of the instructions amx_bf16, avx512_bf16"),
      ("flags : avx512f avx512_bf16_like", "onednn$convolution", "this CPU has none"),
      ("flags : avx512f avx512_bf16", "a plain convolution", f"jax {jax.__version__} makes no use"),
      ("flags : avx512f amx_bf16", None, f"jax {jax.__version__} makes no use"),
  ):
    if told:
      devices._CPU_INFO.write_text(told)
    monkeypatch.setattr(devices, "_program", lambda options, precision="float32", program=program: program)
    caplog.clear()
    assert computed("cpu", "bfloat16") == "float32"
    (record,) = caplog.records
    assert "float32 is computed in the place of bfloat16" in record.getMessage() and reason in record.getMessage()
  monkeypatch.setattr(devices, "_program", lambda options, precision="float32": "onednn$convolution")
  assert computed("cpu", "bfloat16") == "bfloat16"


@pytest.mark.parametrize("name,inner,ends", [("x2_direct", 6, 2), ("universal", 54, 6)])
def test_bfloat16_of_a_cpu_is_computed_as_such(name, inner, ends):
  if devices.computed_precision("cpu", "bfloat16") != "bfloat16":
    pytest.skip("this CPU, or this version of jax, has none")
  loaded = weights.load(name)
  net = networks.of(loaded.params).clone(precision="bfloat16")
  observation = net.observe(jnp.zeros((32, 32, 3)), kernel_files.load_degradation("g20d"), 2)
  run = jax.jit(net.reconstruct, compiler_options=devices.compiler_options("cpu", "bfloat16"))
  program = run.lower(loaded.params, observation).compile().as_text()
  types = collections.Counter(re.findall(r"= \((\w+)\[.*onednn\$convolution", program))
  assert types == {"bf16": inner, "f32": ends}


@pytest.mark.parametrize("name,steps", [("x2_direct", 2), ("universal", 0)])
@pytest.mark.slow
def test_results_in_bfloat16_are_near_those_in_float32_but_not_the_same(name, steps):
  """Of an LR image that the kernel made: of another, rounding decides how much `universal` believes of it."""
  degradation, loaded = kernel_files.load_degradation("g20d"), weights.load(name)
  hr = np.random.default_rng(0).random((80, 96, 3), np.float32)
  lr = np.asarray(degrade(hr, degradation.kernel, 2, degradation.subsample))

  def run(precision):
    adapter = TiledAdapter(precision=precision)
    params = adapter.adapt(loaded.params, lr, degradation, 2, 0.01, steps) if steps else loaded.params
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype(np.float32)}
    return adapter.super_resolve(params, lr, 2, degradation, np.uint16) / 65535, adapter.precision

  (exact, _), (near, precision) = run("float32"), run("bfloat16")
  assert np.sqrt(np.square(near - exact).mean()) < 0.01
  assert (near == exact).all() == (precision == "float32")
