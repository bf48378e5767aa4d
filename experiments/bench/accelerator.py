"""Checks and times on an accelerator what training and meta-test do, in one command of at most nine minutes.

    pip install '.[bench]' && python -m experiments.bench.accelerator --out=runs/bench_accelerator.json
    python -m experiments.bench.accelerator --out=runs/bench_accelerator.json --overwrite --train=configs/universal.py \\
        --workdir=runs/universal

Results are compared with the CPU's in float32. Rates stand beside that of a large matrix product of the same precision, the
ceiling. The meta-steps are those of `bench/meta_step.py`, whose flags count here too. What there is no time for is left out and
named. With --train, timing ends at half of the minutes; then a training goes on from the state in its workdir, or begins, until
they are over, and leaves its state there.
"""

import functools
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import skimage.data
from absl import flags

import mzsr_jax as mz
from configs import universal
from experiments import outputs
from experiments.bench import meta_step, timing
from mzsr_jax import cli, devices, images, weights
from mzsr_jax.core import networks
from mzsr_jax.core.conv import PRECISIONS
from mzsr_jax.errors import UserError
from mzsr_jax.photo import kernel_files
from mzsr_jax.training import mesh as mesh_lib
from mzsr_jax.training import step as step_lib

flags.adopt_module_key_flags(meta_step)  # --help lists them
_SIDE = flags.DEFINE_integer("side", 256, "side of the HR image, pixels")
_PRODUCT = flags.DEFINE_integer("product", 8192, "side of the matrices of the ceiling")
_TRAIN = flags.DEFINE_string("train", "", "config of a training that goes on after the timing")
_WORKDIR = flags.DEFINE_string("workdir", "", "folder of that training")
_MINUTES = flags.DEFINE_float("minutes", 9, "of the whole command, training included", lower_bound=1)
SCALE, STEPS = 2, 10
_SAVING = 45  # seconds, at the most, that a training takes to end
TOLERANCE = {"float32": 1e-4, "tf32": 5e-3, "bfloat16": 5e-2}  # of pixels in [0, 1]
MATMUL = {"float32": "highest", "tf32": "tensorfloat32", "bfloat16": "bfloat16"}
NAMES = {"x2_direct": PRECISIONS, "universal": ("float32", "bfloat16")}
WAYS = ("default", "tasks map", "tasks vmap", "steps unroll", "tf32", "bfloat16")


def product(precision: str):
  """A large product, as fast as the device makes any."""
  dtype = jnp.bfloat16 if precision == "bfloat16" else jnp.float32
  a = jnp.ones((_PRODUCT.value,) * 2, dtype)
  multiply = jax.jit(lambda a: jnp.matmul(a, a, precision=None if precision == "bfloat16" else MATMUL[precision]))
  return lambda: multiply(a).block_until_ready()


def enlarge(name: str, precision: str, steps: int, lr, degradation):
  """Meta-test of one image: `steps` steps, then the pass that enlarges it."""
  params = weights.load(name).params
  net = networks.of(params).clone(precision=precision)

  def run():
    adapted = mz.adapt(params, lr, degradation, SCALE, 0.01, steps, model=net) if steps else params
    return jax.block_until_ready(mz.super_resolve(adapted, lr, SCALE, degradation, model=net))

  return run


def train_step(precision: str):
  """A training step of the unrolled network."""
  config = universal.get_config("cpu" if jax.default_backend() == "cpu" else None)
  config.init_weights = ""
  config.model.precision = precision
  config.data.patch_size = min(config.data.patch_size, _SIDE.value)
  mesh = mesh_lib.make(config)
  step = step_lib.make_step(config, mesh=mesh)
  shape = (step_lib.patches_per_step(config), *(config.data.patch_size,) * 2, 3)
  patches = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
  states = [mesh_lib.replicate(step_lib.init_state(config, step_lib.init_params(config)), mesh)]

  def run():
    states[0], _ = jax.block_until_ready(step(states[0], patches, jax.random.key(0)))

  return run


def checks(lr, degradation) -> list[dict]:
  """How far results are from those of the CPU in float32."""
  rows = []
  for name, precisions in NAMES.items():
    for steps in (0, 1) if name == "x2_direct" else (0,):
      with jax.default_device(jax.devices("cpu")[0]):
        expected = np.asarray(enlarge(name, "float32", steps, lr, degradation)())
      for precision in precisions:
        far = float(np.abs(np.asarray(enlarge(name, precision, steps, lr, degradation)()) - expected).max())
        ok = far <= TOLERANCE[precision]
        rows.append({"network": name, "steps": steps, "precision": precision, "largest difference": far, "as it should": ok})
  return rows


def alternatives(lr, degradation) -> dict[str, Callable[[], Callable]]:
  """What makes each run, by name; what matters most comes first."""
  makers = {f"product, {precision}": functools.partial(product, precision) for precision in PRECISIONS}
  ways = [way for way in WAYS if meta_step.suits(way)]
  for way in [*ways, *(meta_step.TORCH if meta_step.has_torch() else ())]:
    makers[f"meta-step, {way}"] = lambda way=way: meta_step.make(way)[0]
  for name, precisions in NAMES.items():
    for precision in precisions:
      make = functools.partial(enlarge, name, precision, lr=lr, degradation=degradation)
      makers[f"pass, {name}, {precision}"] = functools.partial(make, steps=0)
      if name == "x2_direct":
        makers[f"{STEPS} steps and pass, {name}, {precision}"] = functools.partial(make, steps=STEPS)
      else:
        makers[f"training step, {name}, {precision}"] = functools.partial(train_step, precision)
  return makers


def timings(makers: dict[str, Callable[[], Callable]], until: float) -> tuple[list[dict], list[str]]:
  """Rows of all that can be compiled and timed before `until` (time.monotonic), taking turns; and names of the rest."""
  first, runs = {}, {}
  compile_until = time.monotonic() + 0.7 * (until - time.monotonic())
  for name, make in makers.items():
    if not runs or time.monotonic() < compile_until:
      runs[name] = make()
      first |= timing.first_calls({name: runs[name]})
  seconds = timing.alternate(runs, flags.FLAGS.repeats, until) if runs else {}
  summary = timing.summary(seconds, next(iter(runs), ""))
  rows = []
  for name in runs:
    kind, precision = name.split(",")[0], next((p for p in PRECISIONS if name.endswith(p)), "float32")
    gigaflop = {"product": 2e-9 * _PRODUCT.value**3, "meta-step": meta_step.gigaflop()}.get(kind)
    rate = gigaflop / summary[name]["median_s"] if gigaflop else None
    ceiling = summary.get(f"product, {precision}")
    rows.append({
        "what": name, "first call s": first[name], "median ms": 1e3 * summary[name]["median_s"], "GFLOP/s": rate,
        "of the ceiling": rate and ceiling and rate / (2e-9 * _PRODUCT.value**3 / ceiling["median_s"]),
    })  # fmt: skip
  return rows, [name for name in makers if name not in runs]


def train(until: float) -> None:
  """The product's own training, stopped as a user would, so that it has ended at `until`; its state is then in the workdir."""
  seconds = until - time.monotonic() - _SAVING
  if seconds < _SAVING:
    print("no time is left for training")
    return
  command = [sys.executable, "-m", "mzsr_jax.main", f"--config={_TRAIN.value}", f"--workdir={_WORKDIR.value}"]
  process = subprocess.Popen(command)
  try:
    status = process.wait(seconds)
  except subprocess.TimeoutExpired:
    process.terminate()
    try:
      status = process.wait(_SAVING)
    except subprocess.TimeoutExpired:  # its last checkpoint is whole
      process.kill()
      status = process.wait()
  if status not in (0, 143):
    raise SystemExit(f"the training failed with code {status}: {' '.join(command)}")


def _give_up() -> None:
  """Ends the process from another thread: a call that compiles or computes cannot be interrupted."""
  print(f"the {_MINUTES.value:g} minutes are over: nothing is written", file=sys.stderr, flush=True)
  os._exit(1)


def main(_):
  if _TRAIN.value and not _WORKDIR.value:
    raise UserError("--train needs --workdir, the folder of the training")
  outputs.check()
  end = time.monotonic() + 60 * _MINUTES.value
  limit = threading.Timer(60 * _MINUTES.value, _give_up)
  limit.daemon = True
  limit.start()
  devices.use_all_cores()
  degradation = kernel_files.load_degradation("g20d")
  side = _SIDE.value // SCALE
  lr = images.to_float(skimage.data.astronaut()[:side, :side])
  checked = checks(lr, degradation)
  print(timing.table(checked), "\n")
  title = f"Work on an accelerator; images of {_SIDE.value}x{_SIDE.value} after enlargement"
  share = 0.5 if _TRAIN.value else 0.9
  rows, left_out = timings(alternatives(lr, degradation), end - (1 - share) * 60 * _MINUTES.value)
  timing.report(title, rows, flags.FLAGS.out, checks=checked, left_out=left_out)
  if left_out:
    print(f"no time was left for {'; '.join(left_out)}")
  if not all(row["as it should"] for row in checked):
    raise SystemExit("results differ from the CPU's by more than their precision: see the first table")
  limit.cancel()
  if _TRAIN.value:
    train(end)


if __name__ == "__main__":
  cli.run(main)
