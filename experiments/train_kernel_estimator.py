"""Trains the network that estimates blur kernels (`mzsr_jax/photo/kernel_net.py`) on random Gaussians and any folder of photos.

    python -m experiments.train_kernel_estimator --data_root=photos --data="what they are" --out=my_estimator.safetensors

A step is one scale, each patch has a kernel of its own, half of them are subsampled directly and half by bicubic; a quarter has
noise, and half are compressed as JPEG does. At the end the uncertainty of whole images is fitted on the sample photos of
scikit-image, as they are and as JPEG files, which the file holds beside the parameters. The same command makes the
same file, but for the time that it took.
"""

import functools
import time
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax
import scipy.optimize
from absl import flags
from jax import lax

from experiments import camera
from mzsr_jax import cli, files, images, provenance, weights
from mzsr_jax.core import degradation, jpeg, kernels, resize
from mzsr_jax.photo import kernel_net
from mzsr_jax.training import data

HR_SIZE = 288  # pixels, side of what is read
MARGIN = 16  # HR pixels on each side that the blur's wrapping round spoils
_ORDER = (2, 3, 2, 4)  # scales of the steps, over and over
_MOST_NOISE = 0.02
_QUALITIES = 40, 98  # of JPEG, least and most
_LOSSLESS = 1e-3  # step of a quantisation that changes nothing


def define_flags() -> None:
  flags.DEFINE_string("data_root", None, "folder of HR photos", required=True)
  flags.DEFINE_string("data", None, "what they are, in words, for the metadata", required=True)
  flags.DEFINE_string("out", None, "the .safetensors file to write", required=True)
  flags.DEFINE_integer("steps", 12000, "training steps", lower_bound=1)
  flags.DEFINE_integer("batch", 24, "HR patches a step, even", lower_bound=2)
  flags.DEFINE_float("learning_rate", 2e-3, "of Adam at its highest; it falls to 0 by a cosine")
  flags.DEFINE_integer("seed", 0, "of everything random", lower_bound=0)
  flags.DEFINE_bool("overwrite", False, "replace the output file if it exists")
  cli.define_cache_flag()


def jpeg_tables(qualities: np.ndarray) -> np.ndarray:
  """(B, 8, 8) steps of the luma's quantisation at qualities from 1 to 100."""
  return np.asarray(jax.vmap(jpeg.steps, (0, None))(jnp.asarray(qualities, jnp.float32), jpeg.LUMA_STEPS))


def compress(lr, tables, corner):
  """Luma with what JPEG does to it, not yet rounded.

  Args:
    lr: (B, h, w) in [0, 1], sides multiples of 8.
    tables: (B, 8, 8) steps of the quantisation.
    corner: (2,) how far before the image the blocks begin, 0 to 7 pixels; may be traced.
  """
  b, h, w = lr.shape
  padded = jnp.pad(lr, ((0, 0), (8, 8), (8, 8)), mode="symmetric")
  x = lax.dynamic_slice(padded, (0, *(8 - corner)), (b, h + 8, w + 8)) * 255 - 128
  x = jax.vmap(jpeg.quantised)(x, tables)
  return lax.dynamic_slice((x + 128) / 255, (0, *corner), (b, h, w))


@functools.partial(jax.jit, static_argnames="scale")
def make_patches(hr, kernel, noise_std, tables, key, *, scale: int):
  """LR patches: (B, group, P, P) luma, the first half of B directly subsampled, the second by bicubic.

  Args:
    hr: (B, 288, 288, 3) uint8.
    kernel: (B, k, k).
    noise_std: (B,).
    tables: (B, 8, 8), see `compress`.
    key: of the noise, and of where JPEG's blocks begin.
    scale: a group is what patches of one photo with one kernel there is room for: 2 at x2, else 1.
  """
  p = kernel_net.PATCH
  group = (HR_SIZE - 2 * MARGIN) // scale // p
  height, width = p * scale, group * p * scale
  hr = hr[:, : height + 2 * MARGIN, : width + 2 * MARGIN].astype(jnp.float32) / 255
  hr = kernel_net.luma(hr)
  # Kernels are symmetric, so that convolving is correlating.
  padded = jnp.zeros_like(hr).at[:, : kernel.shape[1], : kernel.shape[2]].set(kernel)
  spectrum = jnp.fft.rfft2(jnp.roll(padded, (-(kernel.shape[1] // 2), -(kernel.shape[2] // 2)), (1, 2)))
  blurred = jnp.fft.irfft2(jnp.fft.rfft2(hr) * spectrum, s=hr.shape[1:])[:, MARGIN:-MARGIN, MARGIN:-MARGIN]
  half = len(hr) // 2
  rows, columns = (jnp.asarray(resize.shrink(length, scale, "bicubic")) for length in (height, width))
  lr = jnp.concatenate([blurred[:half, ::scale, ::scale], rows @ blurred[half:] @ columns.T])
  # The luma is rounded, instead of the three channels: a third of the work, and errors of the same kind.
  to_8_bits = lambda x: jnp.round(jnp.clip(x, 0, 1) * 255) / 255
  lr = to_8_bits(lr + noise_std[:, None, None] * jax.random.normal(key, lr.shape))
  lr = to_8_bits(compress(lr, tables, jax.random.randint(jax.random.fold_in(key, 0), (2,), 0, 8)))
  return lr.reshape(-1, p, group, p).transpose(0, 2, 1, 3)


def likelihood(error, log_variance):
  """Negative logarithm of a Gaussian's density, but for a constant."""
  return (error**2 * jnp.exp(-log_variance) + log_variance) / 2


def loss_of(params, lr, condition, code, net):
  """Of each patch, and of the patches of a group combined."""
  b, n, p, _ = lr.shape
  repeated = jnp.repeat(condition, n, axis=0)
  mean, log_variance = kernel_net.mean_and_log_variance(params, lr.reshape(b * n, p, p), repeated, net)
  error = mean - jnp.repeat(code, n, axis=0)
  # Weighted by the deviation (beta-NLL): the plain likelihood gives up on what it finds difficult at first.
  single = (likelihood(error, log_variance) * lax.stop_gradient(jnp.exp(log_variance / 2))).mean()
  shaped = lambda x: x.reshape(b, n, -1)
  combined, variance = kernel_net.combine(shaped(mean), jnp.exp(shaped(log_variance)))
  return single + 0.25 * likelihood(combined - code, jnp.log(variance)).mean(), jnp.abs(combined - code).mean(0)


def conditions(batch: int, scale: int) -> np.ndarray:
  """(B, 2), first half direct, second half bicubic."""
  return np.repeat(np.stack([kernel_net.condition(scale, mode) for mode in kernels.SUBSAMPLINGS]), batch // 2, axis=0)


def calibrate(params) -> np.ndarray:
  """(2, 3), see `kernel_net.calibrated`, most likely for photos that the network has not seen."""
  rng, found = np.random.default_rng(1), []
  for path in data.sample_photos():
    for scale in kernel_net.SCALES:
      for mode in kernels.SUBSAMPLINGS:
        hr = images.to_float(images.crop_to_multiple(images.read_image(path), int(scale)))
        shapes = kernel_net.draw(rng, scale, 6)
        for shape, quality in zip(zip(*shapes), (None, 95, None, 85, None, 75)):
          lr = images.to_uint8(degradation.degrade(hr, kernel_net.kernel(kernel_net.Gaussian(*shape)), scale, mode))
          taken = camera.taken(images.to_float(lr), 0, quality)
          prediction = kernel_net.predict(params, taken.rgb, scale, mode)
          found.append((prediction.mean - kernel_net.encode(kernel_net.Gaussian(*shape), scale), prediction.variance))
  return likeliest(*map(np.array, zip(*found)))


def likeliest(error: np.ndarray, variance: np.ndarray) -> np.ndarray:
  """The calibration under which the errors (n, d) of whole images are most likely. Args: the variances that were predicted."""
  print("whole photos: mean error", error.mean(0), "root of mean square", np.sqrt((error**2).mean(0)))

  def fit(e2, v):
    def cost(logs):
      total = np.exp(logs[0]) * v + np.exp(logs[1])
      return (e2 / total + np.log(total)).sum()
    return np.exp(scipy.optimize.minimize(cost, [0.0, np.log(e2.mean())], method="Nelder-Mead").x)

  return np.stack([fit(error[:, i] ** 2, variance[:, i]) for i in range(error.shape[1])], -1).astype(np.float32)


_make_kernels = jax.jit(jax.vmap(functools.partial(kernels.gaussian, size=kernels.EVALUATION_SIZE)))


def batch_of(hr, rng: np.random.Generator, key, scale: int):
  """What a step learns from, see `train`."""
  count = len(hr)
  shapes = kernel_net.draw(rng, scale, count)
  noise = np.float32(rng.uniform(0, _MOST_NOISE, count) * (rng.random(count) < 0.25))
  gaussians = _make_kernels(*(np.float32(part) for part in shapes))
  qualities = rng.integers(*_QUALITIES, count, endpoint=True)
  tables = np.where(rng.random((count, 1, 1)) < 0.5, jpeg_tables(qualities), _LOSSLESS).astype(np.float32)
  lr = make_patches(hr, gaussians, noise, tables, key, scale=scale)
  return lr, conditions(count, scale), np.float32(kernel_net.encode(shapes, scale))


def train(net: kernel_net.KernelNet, batch_of: Callable, calibrate: Callable, order: Sequence[int], besides: str = "") -> None:
  """Trains a network, calibrates it, writes the file.

  Args:
    net: the network.
    batch_of: of HR patches (B, 288, 288, 3) uint8, a NumPy generator, a JAX key and a scale: LR patches, conditions, codes.
    calibrate: of parameters, see `kernel_net.calibrated`.
    order: scales of the steps, over and over.
    besides: what is learned from besides the folder, for the metadata.
  """
  args = flags.FLAGS
  cli.use_compilation_cache()
  files.check_writable(args.out, args.overwrite)
  start, commit = time.monotonic(), provenance.git_revision()
  batches = data.make_patch_iterator(
      args.data_root, patch_size=HR_SIZE, batch_size=args.batch, seed=args.seed, cache_mb=400, num_threads=1, prefetch=2
  )
  optimizer = optax.adam(optax.warmup_cosine_decay_schedule(0.0, args.learning_rate, min(200, args.steps // 4), args.steps))
  params = kernel_net.init(jax.random.key(args.seed), net)
  state = optimizer.init(params)

  @jax.jit
  def step(params, state, lr, condition, code):
    (loss, error), gradient = jax.value_and_grad(loss_of, has_aux=True)(params, lr, condition, code, net)
    updates, state = optimizer.update(gradient, state, params)
    return optax.apply_updates(params, updates), state, loss, error

  rng, key = np.random.default_rng(args.seed), jax.random.key(args.seed)
  recent = []
  for number in range(args.steps):
    scale = order[number % len(order)]
    batch = batch_of(next(batches), rng, jax.random.fold_in(key, number), scale)
    params, state, loss, error = step(params, state, *batch)
    recent.append((loss, error, scale))
    if (number + 1) % 200 == 0:
      losses, errors, scales = jax.device_get(tuple(map(jnp.stack, zip(*recent))))
      by_scale = {s: errors[scales == s].mean(0).round(3).tolist() for s in sorted(set(order))}
      print(number + 1, f"loss {losses.mean():.4f}", "mean errors", by_scale, f"{time.monotonic() - start:.0f} s", flush=True)
      recent = []
  calibration = calibrate(params)
  print("calibration", calibration.tolist())
  seconds = time.monotonic() - start
  learned_from = f"{args.data}{besides}; {args.batch} crops of {HR_SIZE}x{HR_SIZE} HR pixels a step"
  metadata = {
      "stage": "kernel_estimator",
      "scales": str(list(kernel_net.SCALES)),
      "steps": str(args.steps),
      "data": f"{learned_from}; calibrated on sample photos of scikit-image",
      "seconds": f"{seconds:.0f}",
      "seed": str(args.seed),
      "learning_rate": str(args.learning_rate),
      "commit": commit,
  }
  files.check_writable(args.out, args.overwrite)
  weights.save_weights(args.out, {"net": params, "calibration": calibration}, metadata)
  print(f"wrote {args.out} after {seconds:.0f} s")


def main(argv: list[str]) -> None:
  """Trains, calibrates, writes."""
  del argv
  train(kernel_net.NET, batch_of, calibrate, _ORDER)


if __name__ == "__main__":
  define_flags()
  cli.run(main)
