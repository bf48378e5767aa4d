"""Checks and times on an accelerator what training and meta-test do, in one command of at most nine minutes.

    pip install '.[bench]' && python -m experiments.bench.accelerator --out=runs/bench_accelerator.json
    python -m experiments.bench.accelerator --out=runs/bench_accelerator.json --train=configs/universal.py \\
        --workdir=runs/universal --minutes=8

Results are compared with the CPU's in float32. Rates stand beside that of a large matrix product of the same precision, the
ceiling. The meta-steps are those of `bench/meta_step.py`, whose flags count here too. With --train, a training goes on from
the state in its workdir, or begins, until its minutes are over, and leaves its state there.
"""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import skimage.data
from absl import app, flags

import mzsr_jax as mz
from configs import universal
from experiments.bench import meta_step, timing
from mzsr_jax import devices, images, weights
from mzsr_jax.core import networks
from mzsr_jax.core.conv import PRECISIONS
from mzsr_jax.photo import kernel_files
from mzsr_jax.training import mesh as mesh_lib
from mzsr_jax.training import step as step_lib

_SIDE = flags.DEFINE_integer("side", 256, "side of the HR image, pixels")
_PRODUCT = flags.DEFINE_integer("product", 8192, "side of the matrices of the ceiling")
_TRAIN = flags.DEFINE_string("train", "", "config of a training that goes on after the timing")
_WORKDIR = flags.DEFINE_string("workdir", "", "folder of that training")
_MINUTES = flags.DEFINE_float("minutes", 8, "how long it goes on")
SCALE, STEPS = 2, 10
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


def timings(lr, degradation) -> list[dict]:
  """Seconds of everything, all taking turns."""
  runs = {f"product, {precision}": product(precision) for precision in PRECISIONS}
  for way in [way for way in WAYS if not (jax.default_backend() == "cpu" and way in meta_step.SLOW_ON_CPU)]:
    runs[f"meta-step, {way}"] = meta_step.make(way)[0]
  if meta_step.has_torch():
    runs |= {f"meta-step, {way}": meta_step.make(way)[0] for way in meta_step.TORCH}
  for name, precisions in NAMES.items():
    for precision in precisions:
      runs[f"pass, {name}, {precision}"] = enlarge(name, precision, 0, lr, degradation)
      if name == "x2_direct":
        runs[f"{STEPS} steps and pass, {name}, {precision}"] = enlarge(name, precision, STEPS, lr, degradation)
      else:
        runs[f"training step, {name}, {precision}"] = train_step(precision)
  first = timing.first_calls(runs)
  summary = timing.summary(timing.alternate(runs, flags.FLAGS.repeats), "meta-step, default")
  ceilings = {p: 2e-9 * _PRODUCT.value**3 / summary[f"product, {p}"]["median_s"] for p in PRECISIONS}
  rows = []
  for name in runs:
    precision = next((p for p in PRECISIONS if name.endswith(p)), "float32")
    gigaflop = {"product": 2e-9 * _PRODUCT.value**3, "meta-step": meta_step.gigaflop()}.get(name.split(",")[0])
    rate = gigaflop / summary[name]["median_s"] if gigaflop else None
    rows.append({
        "what": name, "first call s": first[name], "median ms": 1e3 * summary[name]["median_s"], "GFLOP/s": rate,
        "of the ceiling": rate and rate / ceilings[precision],
    })  # fmt: skip
  return rows


def train() -> None:
  """The product's own training, stopped as a user would; its state is then in the workdir."""
  command = [sys.executable, "-m", "mzsr_jax.main", f"--config={_TRAIN.value}", f"--workdir={_WORKDIR.value}"]
  process = subprocess.Popen(command)
  try:
    status = process.wait(60 * _MINUTES.value)
  except subprocess.TimeoutExpired:
    process.terminate()
    status = process.wait()
  if status not in (0, 143):
    raise SystemExit(f"the training failed with code {status}: {' '.join(command)}")


def main(_):
  if _TRAIN.value and not _WORKDIR.value:
    raise app.UsageError("--train needs --workdir, the folder of the training")
  devices.use_all_cores()
  degradation = kernel_files.load_degradation("g20d")
  side = _SIDE.value // SCALE
  lr = images.to_float(skimage.data.astronaut()[:side, :side])
  checked = checks(lr, degradation)
  print(timing.table(checked), "\n")
  title = f"Work on an accelerator; images of {_SIDE.value}x{_SIDE.value} after enlargement"
  timing.report(title, timings(lr, degradation), flags.FLAGS.out, checks=checked)
  if not all(row["as it should"] for row in checked):
    raise SystemExit("results differ from the CPU's by more than their precision: see the first table")
  if _TRAIN.value:
    train()


if __name__ == "__main__":
  app.run(main)
