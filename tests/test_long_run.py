"""Long runs in one process: after the warm-up neither memory nor the number of compiled programs grows."""

import ctypes
import gc
import os
import pathlib

import jax
import numpy as np
import pytest
from test_cli import run_entry
from test_train import tiny

from configs import meta_x2
from mzsr_jax import images, upscale, weights
from mzsr_jax.core import model
from mzsr_jax.training import loop

LONG = bool(os.environ.get("MZSR_LONG"))  # 2,000 meta-steps and 1,000 images take a quarter of an hour
STATM = pathlib.Path("/proc/self/statm")
MAY_GROW = 8 * 2**20  # bytes over the second half of a run, allocators not being exact

pytestmark = pytest.mark.skipif(not STATM.exists(), reason="resident memory is read from /proc")


class Watch:
  """Resident memory, bytes, and programs compiled so far, each time that it is called."""

  def __init__(self):
    self.memory, self.programs, self._compiled = [], [], 0
    jax.monitoring.register_event_duration_secs_listener(self._note)

  def _note(self, event: str, *_, **__) -> None:
    self._compiled += event == "/jax/core/compile/backend_compile_duration"

  def __call__(self) -> None:
    gc.collect()
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):  # glibc: what is free goes back to the system
      trim(0)
    self.memory.append(int(STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE"))
    self.programs.append(self._compiled)

  def check(self, what: str) -> None:
    """Asserts that the second half was as the first had left it, and prints by how much memory grew in it."""
    half = self.memory[len(self.memory) // 2 :]
    slope = np.polyfit(np.arange(len(half)), half, 1)[0]
    total = f"{half[-1] / 2**20:.0f} MiB, {self.programs[-1]} programs"
    print(f"{len(self.memory)} {what}: {slope / 1024:+.2f} KiB each, {total}")
    assert 0 < self.programs[-1] == self.programs[len(self.programs) // 2], "the last half compiles nothing"
    assert slope * len(half) < MAY_GROW


@pytest.mark.slow
def test_meta_steps(tmp_path, monkeypatch):
  """With checkpoints, events and validations, as in any run."""
  watch, original = Watch(), loop._Progress.pend

  def pend(progress, number, metrics):
    watch()
    original(progress, number, metrics)

  monkeypatch.setattr(loop._Progress, "pend", pend)
  steps = 2000 if LONG else 60
  regular = {"run.checkpoint_every": steps // 20, "run.eval_every": steps // 10, "run.eval_size": 32, "run.eval_images": 1}
  loop.train(tiny(meta_x2, steps, **regular), tmp_path)
  assert len(watch.memory) == steps
  watch.check("meta-steps")


@pytest.mark.slow
def test_upscales(tmp_path, monkeypatch):
  """Images of five sizes, whose kernels are estimated."""
  weights.save_weights(tmp_path / "w.safetensors", model.init(jax.random.key(0)), {"stage": "meta", "scales": "[2.0]"})
  rng, count = np.random.default_rng(0), 1000 if LONG else 40
  for i in range(count):
    images.write_png(tmp_path / "photos" / f"{i:04}.png", rng.integers(0, 256, (40 + 4 * (i % 5), 44, 3), dtype=np.uint8))
  watch, original = Watch(), upscale._run

  def run(*args, **settings):
    watch()
    return original(*args, **settings)

  monkeypatch.setattr(upscale, "_run", run)
  arguments = [f"--input={tmp_path}/photos", f"--output={tmp_path}/out", f"--weights={tmp_path}/w.safetensors", "--steps=1"]
  assert run_entry(monkeypatch, upscale.main, upscale.define_flags, *arguments, arguments=10**6) == 0
  assert len(list((tmp_path / "out").glob("*[0-9].png"))) == len(watch.memory) == count
  watch.check("upscales")
