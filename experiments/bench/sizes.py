"""What different image sizes cost: compilations and time of a folder, by buckets, image by image, and from the cache.

    python -m experiments.bench.sizes --sizes=LR_SIZES --steps=1 --out=runs/bench_sizes.json

`--sizes` lists LR sizes, such as 256x256,144x144; the default are those of Set5 and Set14 at x2. Each way runs in a process of
its own: buckets with an empty cache of compiled programs, the same again with that cache, and the plain functions of arrays,
which are compiled for each size. Pixels are noise: their values cost nothing.
"""

import json
import tempfile
import time

import jax
import numpy as np
from absl import flags

import mzsr_jax as mz
from experiments import outputs
from experiments.bench import timing
from mzsr_jax import cli, devices, images, progress, weights
from mzsr_jax.inference.tiled import TiledAdapter
from mzsr_jax.photo import kernel_files

_SET5_SET14 = (
    "256x256,144x144,128x128,140x140,172x114,240x250,288x360,256x256,144x176,180x125,138x138,181x250,144x176,256x256,256x256,"
    "256x384,256x256,328x264,195x293"
)
_SIZES = flags.DEFINE_list("sizes", _SET5_SET14.split(","), "LR sizes, height x width")
_STEPS = flags.DEFINE_integer("steps", 1, "adaptation steps")
outputs.define_flags()
_WAY = flags.DEFINE_enum("way", None, ["buckets", "plain"], "run one way and print its figures as JSON; for the script itself")
_CACHE = flags.DEFINE_string("cache", None, "with --way: folder of the compilation cache")
SCALE = 2


def one_way(way: str) -> dict[str, float]:
  """Runs all images; seconds in all, and those of the first and the second pass over them."""
  devices.use_all_cores()
  if _CACHE.value:
    jax.config.update("jax_compilation_cache_dir", _CACHE.value)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
  compiled = []
  jax.monitoring.register_event_duration_secs_listener(
      lambda name, s, **_: compiled.append(s) if name == progress.COMPILED else None
  )
  params, degradation = weights.load("x2_direct").params, kernel_files.load_degradation("g20d")
  rates = np.full(_STEPS.value, 0.01, np.float32)
  sizes = [tuple(map(int, size.split("x"))) for size in _SIZES.value]
  adapter = TiledAdapter(sizes=sizes)
  rng = np.random.default_rng(0)
  seconds = []
  for _ in range(2):
    start = time.perf_counter()
    for size in sizes:
      lr = rng.random((*size, 3), np.float32)
      if way == "buckets":
        adapter.super_resolve(adapter.adapt(params, lr, degradation, SCALE, rates), lr, SCALE)
      else:
        images.to_uint8(mz.super_resolve(mz.adapt(params, lr, degradation, SCALE, rates), lr, SCALE))
    seconds.append(time.perf_counter() - start)
  buckets = {adapter.bucket(size) for size in sizes} if way == "buckets" else set(sizes)
  figures = {"sizes": len(buckets), "programs": len(compiled), "compiling s": sum(compiled)}
  return figures | {"first pass s": seconds[0], "second pass s": seconds[1]}


def main(_):
  if _WAY.value:
    print(json.dumps(one_way(_WAY.value)))
    return
  outputs.check()
  shared = [f"--sizes={','.join(_SIZES.value)}", f"--steps={_STEPS.value}"]
  with tempfile.TemporaryDirectory() as cache:
    rows = []
    for name, way in {"buckets": "buckets", "buckets, second process": "buckets", "image by image": "plain"}.items():
      cached = [f"--cache={cache}"] if way == "buckets" else []
      figures = timing.in_new_process("experiments.bench.sizes", f"--way={way}", *shared, *cached)
      rows.append({"way": name, **figures})
  title = f"{len(_SIZES.value)} images by x2_direct, steps: {_STEPS.value}, twice: programs compiled or loaded, and seconds"
  timing.report(title, rows, flags.FLAGS.out)


if __name__ == "__main__":
  cli.run(main)
