"""Times the meta-test of one image: adaptation and enlargement, from the LR image to the SR image, both on the host.

    pip install '.[bench]' && python -m experiments.bench.adaptation --side=256 --steps=0,1,10 --out=runs/bench_adaptation.json

The alternatives run in turn in one process: the tiled adapter on all devices and on one, the plain functions of arrays
(`mz.adapt`, `mz.super_resolve`), and PyTorch in eager mode, if it is installed; bfloat16 where this CPU computes it. All make
the same image, but for spectral steps and bfloat16 (PyTorch's by autocast). Without steps it is the enlargement alone. Work is
counted from the shapes: three passes a step over the LR image (forward, input gradient, weight gradient; spectral steps have
another forward pass), one over the SR image.
"""

import jax
import numpy as np
import skimage.data
from absl import flags

import mzsr_jax as mz
from experiments import outputs
from experiments.bench import timing
from mzsr_jax import cli, devices, images, weights
from mzsr_jax.core import resize
from mzsr_jax.inference.tiled import TiledAdapter
from mzsr_jax.photo import kernel_files

try:
  import torch

  from experiments.bench import torch_peer
except ImportError:
  torch = None

_SIDE = flags.DEFINE_integer("side", 256, "side of the LR image, pixels")
_STEPS = flags.DEFINE_list("steps", ["0", "1", "10"], "adaptation steps to time")
_REPEATS = flags.DEFINE_integer("repeats", 5, "timed runs of each alternative")
_BATCH = flags.DEFINE_integer("batch", 0, "also time so many images at once, by jax.vmap (slow on a CPU)")
outputs.define_flags()
SCALE = 2


def with_torch(params, lr, kernel, rates, bfloat16=False):
  """The same work by PyTorch: blur, subsampling, enlargement, adaptation, final pass."""
  matrices = [torch.tensor(resize.enlarge(side, SCALE)) for side in (lr.shape[0] // SCALE, lr.shape[0])]
  blur = torch.tensor(kernel)[None, None]
  parameters = torch_peer.from_jax(params)
  pad = kernel.shape[0] // 2

  def solve():
    planes = torch_peer.image(lr[None])
    padded = torch_peer.image(np.pad(lr, ((pad, pad), (pad, pad), (0, 0)), mode="symmetric")[None])
    son = torch.nn.functional.conv2d(padded[0][:, None], blur)[:, 0, ::SCALE, ::SCALE].clamp(0, 1)
    inputs = (matrices[0] @ son @ matrices[0].T)[None]
    enlarged = matrices[1] @ planes @ matrices[1].T
    with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
      adapted = torch_peer.adapt(parameters, (inputs, planes), rates)
      with torch.no_grad():
        sr = torch_peer.network(adapted, enlarged).clamp(0, 1)
    return images.to_uint8(sr[0].numpy().transpose(1, 2, 0))

  return solve


def batched(params, lr, kernel, rates):
  """Several copies of the image, adapted to and enlarged at once; returns the first."""

  @jax.jit
  @jax.vmap
  def solve(lr):
    return mz.super_resolve(mz.adapt(params, lr, kernel, SCALE, rates), lr, SCALE)

  lrs = np.stack(_BATCH.value * [lr])
  return lambda: images.to_uint8(solve(lrs))[0]


def main(_):
  outputs.check()
  devices.use_all_cores()
  params = weights.load("x2_direct").params
  degradation = kernel_files.load_degradation("g20d")
  photo = skimage.data.astronaut()
  lr = images.to_float(np.tile(photo, (4, 4, 1))[: _SIDE.value, : _SIDE.value])
  rows = []
  macs = sum(layer["kernel"].size for layer in params.values())
  for steps in map(int, _STEPS.value):
    rates = np.full(steps, 0.01, np.float32)

    def with_adapter(adapter, rates=rates):
      return lambda: adapter.super_resolve(adapter.adapt(params, lr, degradation, SCALE, rates), lr, SCALE)

    def plain(rates=rates, steps=steps):
      return images.to_uint8(mz.super_resolve(mz.adapt(params, lr, degradation, SCALE, rates, steps), lr, SCALE))

    spectral = mz.Spectral(np.full(steps, weights.SPECTRAL_RATE, np.float32))
    runs = {"tiled adapter": with_adapter(TiledAdapter())}
    if steps:
      runs["tiled adapter, spectral steps"] = with_adapter(TiledAdapter(), spectral)
    bfloat16 = TiledAdapter(precision="bfloat16")
    has_bfloat16 = bfloat16.precision == "bfloat16"
    if has_bfloat16:
      runs["tiled adapter, bfloat16"] = with_adapter(bfloat16)
    if jax.local_device_count() > 1:
      runs["tiled adapter, one device"] = with_adapter(TiledAdapter(jax.local_devices()[:1]))
    runs["plain functions"] = plain
    if _BATCH.value:
      runs[f"{_BATCH.value} images by vmap"] = batched(params, lr, degradation.kernel, rates)
    if torch:
      runs["PyTorch eager"] = with_torch(params, lr, degradation.kernel, rates)
      if has_bfloat16:
        runs["PyTorch eager, bfloat16"] = with_torch(params, lr, degradation.kernel, rates, bfloat16=True)
    results = {name: run() for name, run in runs.items()}
    for name, result in results.items():  # rounding to 8 bits may fall either way
      assert "spectral" in name or "bfloat16" in name or np.abs(result.astype(int) - results["tiled adapter"]).max() <= 1, name
    summary = timing.summary(timing.alternate(runs, _REPEATS.value), "tiled adapter")
    seconds = {name: s["median_s"] / (_BATCH.value if "vmap" in name else 1) for name, s in summary.items()}
    passes = {name: (3 + ("spectral" in name)) * steps + SCALE**2 for name in runs}
    gflop = {name: 2e-9 * macs * lr.shape[0] * lr.shape[1] * count for name, count in passes.items()}
    reference = seconds.get("PyTorch eager", seconds["tiled adapter"])
    rows += [
        {"steps": steps, "by": name, "median s": s, "GFLOP/s": gflop[name] / s, "speed-up": reference / s}
        for name, s in seconds.items()
    ]
  against = "PyTorch" if torch else "the tiled adapter"
  title = f"Meta-test of a {_SIDE.value}x{_SIDE.value} image at x{SCALE}, medians of {_REPEATS.value}; speed-up over {against}"
  timing.report(title, rows, flags.FLAGS.out)


if __name__ == "__main__":
  cli.run(main)
