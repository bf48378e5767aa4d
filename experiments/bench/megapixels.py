"""Time and memory of the whole `upscale` command over the size of the photo.

    pip install '.[bench]' && python -m experiments.bench.megapixels --megapixels=0.25,1,4 --out=runs/bench_megapixels.json

Each photo is enlarged by a process of its own, under the default memory limit; with 24 megapixels that takes several minutes
on two cores. Beside them stands the floor: a pass of the network over one tile of 256x256 pixels on each device, without what
tiles overlap by, files and compilation. Beside the JSON file goes a plot of the same name.
"""

import os
import subprocess
import sys
import tempfile
import time

import jax
import numpy as np
import skimage.data
from absl import flags

import mzsr_jax as mz
from experiments import outputs
from experiments.bench import timing
from mzsr_jax import cli, devices, images
from mzsr_jax.core import networks

_SIDE = 256  # LR pixels, of what the floor is measured with

_MEGAPIXELS = flags.DEFINE_list("megapixels", ["0.25", "1", "4"], "sizes of LR photos")
_WEIGHTS = flags.DEFINE_string("weights", "universal", "of the network")
_STEPS = flags.DEFINE_integer("steps", 0, "adaptation steps")
_LIMIT = flags.DEFINE_string("memory_limit", None, "passed on to the command, GiB")
outputs.define_flags()


def floor() -> float:
  """Seconds of a pass of the network for 10^6 LR pixels, all devices at work."""
  params, degradation = mz.load_weights(_WEIGHTS.value).params, mz.load_degradation("g20d")
  net = networks.of(params)
  told = net.tell(degradation, 2)
  _, sides, axes = zip(*(net.tile_axis(degradation, 2, axis, _SIDE, 2 * _SIDE, 0, 2 * _SIDE) for axis in (0, 1)))
  lr = images.to_float(skimage.data.astronaut()[:_SIDE, :_SIDE])
  lr = np.pad(lr, [*((0, side - _SIDE) for side in sides), (0, 0)])
  enlarge = jax.jit(lambda params, lr, axes, told: net.reconstruct(params, net.observe_tile(lr, *axes, told)))
  placed = [jax.device_put((params, lr, axes, told), device) for device in jax.local_devices()]
  run = lambda: jax.block_until_ready([enlarge(*given) for given in placed])
  timing.first_calls({"": run})
  return timing.summary(timing.alternate({"": run}, 3), "")[""]["median_s"] / (len(placed) * _SIDE**2 / 1e6)


def main(_):
  picture = outputs.check(".png")
  devices.use_all_cores()
  least = floor()
  rows = []
  for megapixels in map(float, _MEGAPIXELS.value):
    with tempfile.TemporaryDirectory() as folder:
      timing.photo(megapixels).save(f"{folder}/photo.png")
      command = [sys.executable, "-m", "mzsr_jax.upscale", f"--input={folder}/photo.png", f"--output={folder}/out.png"]
      command += ["--kernel=g20d", f"--weights={_WEIGHTS.value}", f"--steps={_STEPS.value}"]
      command += [f"--memory_limit={_LIMIT.value}"] if _LIMIT.value else []
      start = time.perf_counter()
      process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
      _, status, usage = os.wait4(process.pid, 0)
      if status:
        raise SystemExit(f"the command failed: {' '.join(command)}")
      seconds = time.perf_counter() - start
    peak = usage.ru_maxrss / 2**20
    each = seconds / megapixels
    row = {"megapixels": megapixels, "s": seconds, "s per megapixel": each, "peak GiB": peak}
    rows.append(row | {"a pass, s per megapixel": least, "ratio": each / least})
  title = f"The upscale command, {_WEIGHTS.value}, x2, {_STEPS.value} steps, start of Python included"
  timing.report(title, rows, flags.FLAGS.out)
  if picture:
    plot(rows, picture)


def plot(rows, path) -> None:
  """Seconds and memory over megapixels, on logarithmic axes."""
  import matplotlib

  matplotlib.use("Agg")
  import matplotlib.pyplot as plt

  figure, axes = plt.subplots(1, 2, figsize=(9, 3.5), layout="constrained")
  for axis, key, label in zip(axes, ("s", "peak GiB"), ("seconds", "peak memory, GiB")):
    axis.loglog([r["megapixels"] for r in rows], [r[key] for r in rows], "o-")
    axis.set(xlabel="megapixels of the photo", ylabel=label)
    axis.grid(True, which="both", alpha=0.3)
  figure.savefig(path, dpi=120)


if __name__ == "__main__":
  cli.run(main)
