"""Times one meta-step in the ways that it can be computed, and PyTorch eager doing the same; writes a table and JSON.

    python -m experiments.bench.meta_step --tasks=2 --patches=4 --out=results/meta_step.json

Each variant differs from the default in what its name says: convolution rules, task batching, inner loop, rematerialisation,
precision, number of devices, order of the gradient, convolutions by oneDNN (on a CPU, where this version of jax can). They run
in turn in one process; ratios are medians over turns. FLOP are counted from the shapes, those of convolutions alone, with what
second order adds and without what nobody needs; "temp MB" is what XLA plans, over all devices; "peak MB" (--memory) is by how
much a process of its own grows during the call. Loss and gradient norm are compared with the default's. PyTorch computes the
meta-gradient alone, this package degradation and Adam too.
"""

import importlib.util
import json
import os

import jax
import numpy as np
from absl import flags

from configs import meta_x2
from experiments import outputs
from experiments.bench import timing
from mzsr_jax import cli, devices
from mzsr_jax.errors import UserError
from mzsr_jax.training import mesh as mesh_lib
from mzsr_jax.training import step as step_lib

_TASKS = flags.DEFINE_integer("tasks", 2, "tasks in a meta-step")
_PATCHES = flags.DEFINE_integer("patches", 4, "support patches, and query patches, of a task")
_PATCH_SIZE = flags.DEFINE_integer("patch_size", 64, "side of a patch, pixels")
_INNER_STEPS = flags.DEFINE_integer("inner_steps", 5, "inner gradient steps")
_ONLY = flags.DEFINE_list("only", [], "variants to run beside the default; empty: all that suit the backend")
_REPEATS = flags.DEFINE_integer("repeats", 5, "timed runs of each variant")
_MEMORY = flags.DEFINE_bool("memory", False, "measure the peak memory of each, in a process of its own")
outputs.define_flags()
_PEAK_OF = flags.DEFINE_string("peak_of", "", "internal: print the peak memory of this one")

# By name: changes of the config, and "devices" (0: all), "first_order" and "onednn", for which
# `devices.compiler_options` decides where it is not said.
VARIANTS = {
    "default": {},
    "xla": {"model.convolution": "xla"},
    "im2col": {"model.convolution": "im2col"},
    "im2col vmap": {"model.convolution": "im2col", "meta.task_batching": "vmap"},
    "tasks map": {"meta.task_batching": "map"},
    "tasks vmap": {"meta.task_batching": "vmap"},
    "tasks vmap xla": {"meta.task_batching": "vmap", "model.convolution": "xla"},
    "tasks unroll": {"meta.task_batching": "unroll"},
    "steps unroll": {"meta.inner_loop": "unroll"},
    "onednn": {"onednn": True},
    "ynnpack": {"onednn": False},
    "onednn xla": {"onednn": True, "model.convolution": "xla"},
    "onednn tasks vmap": {"onednn": True, "meta.task_batching": "vmap"},
    "onednn steps unroll": {"onednn": True, "meta.inner_loop": "unroll"},
    "remat": {"meta.remat": True},
    "tf32": {"model.precision": "tf32"},
    "bfloat16": {"model.precision": "bfloat16"},
    "one device": {"devices": 1},
    "one device unrolled": {"devices": 1, "meta.task_batching": "unroll", "meta.inner_loop": "unroll"},
    "first order": {"first_order": True},
}
# Minutes a step, on a CPU, for what is known: grouped convolutions run there one output channel at a time.
SLOW_ON_CPU = ("tasks vmap", "tasks vmap xla")
# What XLA does without `devices.ONEDNN`.
_YNNPACK = {
    "xla_cpu_experimental_onednn_custom_call": False,
    "xla_cpu_use_xnnpack": True,
    "xla_cpu_experimental_ynn_fusion_type": ",".join(
        f"LIBRARY_FUSION_TYPE_{kind}" for kind in ("INDIVIDUAL_DOT", "INDIVIDUAL_CONVOLUTION", "REDUCE")
    ),
}
_COMPILED = {None: None, True: devices.ONEDNN, False: _YNNPACK}  # by "onednn"
# By name: channels last, bfloat16 by autocast.
TORCH = {"torch": (False, False), "torch channels last": (True, False), "torch bfloat16": (True, True)}


def make_config(overrides):
  config = meta_x2.get_config()
  config.init_weights = ""
  config.data.patch_size = _PATCH_SIZE.value
  config.meta.tasks = _TASKS.value
  config.meta.support_patches = config.meta.query_patches = _PATCHES.value
  config.meta.num_inner_steps = _INNER_STEPS.value
  config.meta.loss_weights = "constant"
  config.update_from_flattened_dict({k: v for k, v in overrides.items() if "." in k})
  return config


def gigaflop(first_order: bool = False) -> float:
  """10^9 operations of the convolutions in one meta-step, a multiplication and an addition being two."""
  features = make_config({}).model.features
  channels = [3] + [features] * (make_config({}).model.depth - 1) + [3]
  support = query = forward = 0
  for i, (c, d) in enumerate(zip(channels, channels[1:])):
    one = 2 * 9 * c * d * _PATCH_SIZE.value**2
    inner, outer = i > 0, i < len(channels) - 2  # layers with a gradient for their input, with one that is not constant
    forward += one
    query += one * (2 + inner)
    # Convolution, gradients of weights and input; then, for each of the three, what it passes on to its two arguments.
    second = (1 + inner) + (outer + inner) + inner * (1 + outer)
    support += one * (2 + inner + (0 if first_order else second))
  patches = _TASKS.value * _PATCHES.value
  return patches * (_INNER_STEPS.value * (support + query) + forward) / 1e9


def jax_run(overrides):
  """(run, numbers): run() makes a step, on to the next state; numbers() are of the first one."""
  config = make_config(overrides)
  mesh = mesh_lib.make(config, jax.devices()[: overrides.get("devices") or None])
  step = step_lib.jit_step(config, overrides.get("first_order", False), mesh)
  shape = (step_lib.patches_per_step(config), _PATCH_SIZE.value, _PATCH_SIZE.value, 3)
  patches = mesh_lib.patch_placer(config, mesh)(np.random.default_rng(0).integers(0, 256, shape, np.uint8))
  key = np.asarray(jax.random.key_data(jax.random.key(0)))
  states = [mesh_lib.replicate(step_lib.init_state(config, step_lib.init_params(config)), mesh)]
  compiled = step.lower(states[0], patches, key).compile(_COMPILED[overrides.get("onednn")])
  first = []

  def run():
    states[0], metrics = jax.block_until_ready(compiled(states[0], patches, key))
    if not first:
      first.append({"loss": float(metrics["loss"]), "grad_norm": float(metrics["grad_norm"])})

  memory = compiled.memory_analysis()
  temp = None if memory is None else memory.temp_size_in_bytes * mesh.size / 1e6
  return run, lambda: first[0] | {"temp_mb": temp, "devices": mesh.size}


def torch_run(channels_last: bool, bfloat16: bool):
  """As `jax_run`, on the pairs that the default makes of the same patches."""
  import torch

  from experiments.bench import torch_peer
  from mzsr_jax.core import tasks
  from mzsr_jax.core.degradation import Degrader

  config = make_config({})
  shape = (_TASKS.value, 2 * _PATCHES.value, _PATCH_SIZE.value, _PATCH_SIZE.value, 3)
  patches = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
  degrader = Degrader(config.data.patch_size, config.degradation.scales, config.degradation.subsample)
  key = jax.random.fold_in(jax.random.key(0), 1)
  distribution = tasks.Distribution(degrader, config.degradation.kernels)
  pairs = jax.device_get(jax.jit(lambda x: tasks.sample(key, x, distribution))(patches))
  torch.set_num_threads(len(os.sched_getaffinity(0)))
  device = "cuda" if torch.cuda.is_available() else "cpu"
  order = torch.channels_last if channels_last else torch.contiguous_format
  tensor = lambda x: torch_peer.image(x).to(device=device, memory_format=order)
  n = _PATCHES.value
  sets = [((tensor(x[:n]), tensor(y[:n])), (tensor(x[n:]), tensor(y[n:]))) for x, y in zip(*pairs)]
  params = torch_peer.from_jax(step_lib.init_params(config))
  params = [p.detach().to(device).requires_grad_() for p in params]
  first = []

  def run():
    with torch.autocast(device, torch.bfloat16, enabled=bfloat16):
      loss, gradient = torch_peer.meta_gradient(params, sets, config.meta.inner_lr, config.meta.num_inner_steps)
    if not first:
      first.append({"loss": loss, "grad_norm": float(torch.sqrt(sum((g**2).sum() for g in gradient)))})

  return run, lambda: first[0] | {"temp_mb": None, "devices": None}


def make(name: str):
  return torch_run(*TORCH[name]) if name in TORCH else jax_run(VARIANTS[name])


def peak_of(name: str) -> float | None:
  """Peak memory of one variant, from a process of its own."""
  same = [f"--{flag.name}={flag.value}" for flag in (_TASKS, _PATCHES, _PATCH_SIZE, _INNER_STEPS)]
  return timing.in_new_process("experiments.bench.meta_step", f"--peak_of={name}", *same)


def has_torch() -> bool:
  return importlib.util.find_spec("torch") is not None


def chosen() -> list[str]:
  """Names of the variants to run, the default first."""
  known = [*VARIANTS, *(TORCH if has_torch() else [])]
  if unknown := set(_ONLY.value) - {*VARIANTS, *TORCH}:
    raise UserError(f"--only: no such variant: {', '.join(unknown)}; there are {', '.join(known)}")
  if _ONLY.value:
    return [name for name in known if name in (*_ONLY.value, "default") and is_possible(name)]
  return [name for name in known if suits(name)]


def is_possible(name: str) -> bool:
  """Whether this version of jax has the way to compute."""
  if "onednn" not in VARIANTS.get(name, {}):
    return True
  return jax.default_backend() == "cpu" and devices.uses_onednn(devices.ONEDNN, "float32")


def suits(name: str) -> bool:
  """Whether a step does not take minutes, either."""
  return is_possible(name) and not (jax.default_backend() == "cpu" and name in SLOW_ON_CPU)


def main(_):
  devices.use_all_cores()
  if _PEAK_OF.value:
    run, _ = make(_PEAK_OF.value)
    print(json.dumps(timing.peak_memory(run)))
    return
  outputs.check()
  names = chosen()
  made = {name: make(name) for name in names}
  runs = {name: run for name, (run, _) in made.items()}
  timing.first_calls(runs)
  summary = timing.summary(timing.alternate(runs, _REPEATS.value), "default")
  reference = made["default"][1]()
  rows = []
  for name in names:
    numbers = made[name][1]()
    first_order = VARIANTS.get(name, {}).get("first_order", False)
    far = {key: f"{abs(numbers[key] / reference[key] - 1):.0e}" for key in ("loss", "grad_norm")}
    rows.append({
        "variant": name,
        "devices": numbers["devices"],
        "median s": summary[name]["median_s"],
        "ratio": summary[name]["ratio"],
        "GFLOP/s": gigaflop(first_order) / summary[name]["median_s"],
        "temp MB": numbers["temp_mb"],
        "peak MB": peak_of(name) if _MEMORY.value else None,
        "loss differs": far["loss"],
        "gradient norm differs": far["grad_norm"],
    })  # fmt: skip
  title = (
      f"{_TASKS.value} tasks, {_PATCHES.value} + {_PATCHES.value} patches of {_PATCH_SIZE.value}x{_PATCH_SIZE.value}, "
      f"{_INNER_STEPS.value} inner steps: {gigaflop():.0f} GFLOP ({gigaflop(True):.0f} in first order)"
  )
  settings = {f.name: f.value for f in (_TASKS, _PATCHES, _PATCH_SIZE, _INNER_STEPS, _REPEATS)}
  timing.report(title, rows, flags.FLAGS.out, settings=settings, gigaflop=gigaflop())


if __name__ == "__main__":
  cli.run(main)
