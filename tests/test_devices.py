"""What XLA is told: options that it knows, and only where they gain something."""

from mzsr_jax import devices

options = devices.compiler_options.__wrapped__


def test_only_bfloat16_on_a_cpu_asks_for_onednn():
  assert options("gpu", "bfloat16") == {}
  assert devices._ONEDNN.items() <= options("cpu", "bfloat16").items()
  assert not devices._ONEDNN.keys() & options("cpu", "float32").keys()


def test_a_version_that_does_not_know_an_option_goes_without_it_in_silence(monkeypatch, capfd):
  monkeypatch.setattr(devices, "_ONEDNN", {"xla_cpu_no_such_option": True})
  assert options("cpu", "bfloat16") == options("cpu", "float32") == devices._LEAST_MEMORY
  assert capfd.readouterr().err == ""
