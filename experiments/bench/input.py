"""Times the training step with patches read from image files against the step with one fixed batch: does data starve it?

    python -m experiments.bench.input --root=/path/to/HR --out=results/input.json

Both run in turn, in blocks of steps, with the same compiled step; the target is a median ratio below 1.03. The iterator's own
rate is measured with nothing else running, after one epoch, with the cache of decoded images full or not as it is.
"""

import time

import jax
import numpy as np
from absl import flags

from configs import meta_x2, pretrain_x2
from experiments import outputs
from experiments.bench import timing
from mzsr_jax import cli, devices
from mzsr_jax.training import data
from mzsr_jax.training import mesh as mesh_lib
from mzsr_jax.training import step as step_lib

_ROOT = flags.DEFINE_string("root", "", "folder of HR images; empty takes the sample photos")
_STAGE = flags.DEFINE_enum("stage", "meta", ["meta", "pretrain"], "which step")
_VARIANT = flags.DEFINE_string("variant", "cpu", "of configs/meta_x2.py or configs/pretrain_x2.py; empty is the full size")
_CACHE_MB = flags.DEFINE_integer("cache_mb", 1000, "10^6 bytes of decoded images to keep; 0 decodes at each visit")
_STEPS = flags.DEFINE_integer("steps", 5, "steps in a block")
_REPEATS = flags.DEFINE_integer("repeats", 8, "blocks of each")
outputs.define_flags()


def main(_):
  outputs.check()
  devices.use_all_cores()
  module = {"meta": meta_x2, "pretrain": pretrain_x2}[_STAGE.value]
  config = module.get_config(_VARIANT.value or None)
  config.init_weights = ""
  size, per_step = config.data.patch_size, step_lib.patches_per_step(config)
  batches = data.make_patch_iterator(
      _ROOT.value, patch_size=size, batch_size=per_step, seed=0, cache_mb=_CACHE_MB.value,
      num_threads=config.data.num_threads, prefetch=config.data.prefetch,
  )  # fmt: skip
  alone = rate(batches, per_step)

  mesh = mesh_lib.make(config)
  step = step_lib.make_step(config, mesh=mesh)
  states = [mesh_lib.replicate(step_lib.init_state(config, step_lib.init_params(config)), mesh)]
  fixed = np.random.default_rng(0).integers(0, 256, (per_step, size, size, 3), np.uint8)
  key = jax.random.key(0)

  def block(next_batch):
    # As the loop does it: the metrics are waited for one step late.
    previous = None
    for _ in range(_STEPS.value):
      states[0], metrics = step(states[0], next_batch(), key)
      jax.block_until_ready(previous)
      previous = metrics
    jax.block_until_ready(states[0])

  runs = {"fixed batch": lambda: block(lambda: fixed), "image files": lambda: block(lambda: next(batches))}
  timing.first_calls(runs)
  summary = timing.summary(timing.alternate(runs, _REPEATS.value), "fixed batch")
  rows = [
      {"patches from": name, "s a step": s["median_s"] / _STEPS.value, "ratio": s["ratio"]} for name, s in summary.items()
  ]
  title = (
      f"{per_step} patches of {size}x{size} a step; the iterator alone makes {alone:.0f} patches/s, "
      f"the step takes {per_step / rows[0]['s a step']:.0f}"
  )
  timing.report(title, rows, flags.FLAGS.out, patches_per_second_alone=alone)


def rate(batches, per_step: int) -> float:
  """Patches per second of the iterator alone, over five seconds after two of warming up."""
  start = time.perf_counter()
  while time.perf_counter() < start + 2:
    next(batches)
  count, start = 0, time.perf_counter()
  while time.perf_counter() < start + 5:
    next(batches)
    count += per_step
  return count / (time.perf_counter() - start)


if __name__ == "__main__":
  cli.run(main)
