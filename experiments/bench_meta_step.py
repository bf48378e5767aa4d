"""Times one meta-step in the ways that it can be computed: convolution rules x task batching x order of the gradient.

    python -m experiments.bench_meta_step --tasks=2 --patches=2 --patch_size=48 --inner_steps=3

All variants of one order compute the same gradient; they run in turn in one process, and medians are printed beside the
ratio to the default. On a CPU "map" and "vmap" take minutes: leave them out with --batchings=unroll.
"""

import statistics
import time

import jax
import numpy as np
from absl import app, flags

from configs import meta_x2
from mzsr_jax import learner

_TASKS = flags.DEFINE_integer("tasks", 2, "tasks in a meta-step")
_PATCHES = flags.DEFINE_integer("patches", 2, "support patches, and query patches, of a task")
_PATCH_SIZE = flags.DEFINE_integer("patch_size", 48, "side of a patch, pixels")
_INNER_STEPS = flags.DEFINE_integer("inner_steps", 3, "inner gradient steps")
_BATCHINGS = flags.DEFINE_list("batchings", ["unroll", "vmap", "map"], "task batchings to compare")
_REPEATS = flags.DEFINE_integer("repeats", 3, "timed runs of each variant")


def variant(convolution: str, batching: str, first_order: bool):
  """A function that runs one meta-step on fixed patches."""
  config = meta_x2.get_config()
  config.model.convolution = convolution
  config.data.patch_size = _PATCH_SIZE.value
  config.meta.tasks = _TASKS.value
  config.meta.support_patches = config.meta.query_patches = _PATCHES.value
  config.meta.num_inner_steps = _INNER_STEPS.value
  config.meta.task_batching = batching
  shape = (learner.patches_per_step(config), _PATCH_SIZE.value, _PATCH_SIZE.value, 3)
  patches = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
  step = learner.make_step(config, first_order)
  params = learner.init_params(config)
  # The step uses its state up; a new one costs next to nothing beside it.
  fresh = lambda: learner.init_state(config, jax.tree.map(lambda p: p.copy(), params))
  return lambda: jax.block_until_ready(step(fresh(), patches, jax.random.key(0)))


def main(_):
  names = [(c, b, f) for b in _BATCHINGS.value for c in ("closed", "xla") for f in (False, True)]
  runs = {name: variant(*name) for name in names}
  seconds = {name: [] for name in names}
  compilation = {}
  for name, run in runs.items():
    start = time.perf_counter()
    run()
    compilation[name] = time.perf_counter() - start
  for _ in range(_REPEATS.value):
    for name, run in runs.items():
      start = time.perf_counter()
      run()
      seconds[name].append(time.perf_counter() - start)
  best = statistics.median(seconds[names[0]])
  print(f"{jax.devices()[0].device_kind}, jax {jax.__version__}: {_TASKS.value} tasks, {_PATCHES.value} + {_PATCHES.value} "
        f"patches of {_PATCH_SIZE.value}x{_PATCH_SIZE.value}, {_INNER_STEPS.value} inner steps")
  print("| convolution | tasks | order | median s | ratio | first call s |\n|---|---|---|---|---|---|")
  for name in names:
    median = statistics.median(seconds[name])
    convolution, batching, first_order = name
    order = "first" if first_order else "second"
    print(f"| {convolution} | {batching} | {order} | {median:.3f} | {median / best:.2f} | {compilation[name]:.1f} |")


if __name__ == "__main__":
  app.run(main)
