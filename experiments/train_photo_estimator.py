"""Trains the network that estimates blur and sharpening of photos (`mzsr_jax/photo/response.py`) on any folder.

    python -m experiments.train_photo_estimator --data_root=photos --data="what they are" --out=my_estimator.safetensors

Photos, and some drawings, are shrunk as cameras and programs do: Gaussian optics, area, bicubic or Lanczos shrinking, in linear
light or not, noise that is smooth or white, unsharp masking, JPEG once or twice. Each patch has all of these of its own. At the
end the uncertainty of whole images is fitted on the sample photos of scikit-image. The same command makes the same file, but
for the time that it took.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import pipelines
from experiments import train_kernel_estimator as gaussians
from experiments.train_kernel_estimator import HR_SIZE, MARGIN
from mzsr_jax import cli, images
from mzsr_jax.core import resize
from mzsr_jax.photo import kernel_net, response
from mzsr_jax.training import data

_ORDER = (2, 3, 2, 2, 4, 2)  # scales of the steps, over and over
_FILTERS = ("point", "area", "bicubic", "Lanczos")
_SHARES = (0.15, 0.45, 0.2, 0.2)
_DRAWN = 60  # drawings
_DRAWINGS = 0.12  # share of them
_GAMMA = 2.2
_QUALITIES = 55, 97  # of JPEG, least and most
_CALIBRATIONS = 40  # pipelines that each sample photo goes through


class Draws(NamedTuple):
  """What happens to each HR patch of a batch.

  Attributes:
    which: number of one of `_FILTERS`.
    sigma: (B, 3), variances xx, yy and xy of the optics, LR pixels^2.
    gamma: of the light that is blurred.
    noise: standard deviation, in [0, 1] units.
    smooth: standard deviation of the Gaussian that the noise went through, LR pixels.
    amount: of the unsharp mask.
    radius: of it, LR pixels.
    tables: (2, B, 8, 8), of JPEG once and again.
  """

  which: np.ndarray
  sigma: np.ndarray
  gamma: np.ndarray
  noise: np.ndarray
  smooth: np.ndarray
  amount: np.ndarray
  radius: np.ndarray
  tables: np.ndarray


def draw(rng: np.random.Generator, count: int) -> Draws:
  """Random pipelines."""
  chance = lambda share: rng.random(count) < share
  which = rng.choice(len(_FILTERS), count, p=_SHARES)
  blurred = chance(np.choose(which, [1, 0.65, 0.3, 0.3]))
  first = np.where(which == 0, 0.3, 0) + rng.random(count) * np.where(which == 0, 0.75, 0.95)
  second = first * np.where(chance(0.4), rng.uniform(0.5, 1, count), 1)
  a, b, angle = blurred * first**2, blurred * second**2, np.pi * rng.random(count)
  half, cosine, sine = (a - b) / 2, np.cos(2 * angle), np.sin(2 * angle)
  sigma = np.stack([(a + b) / 2 + half * cosine, (a + b) / 2 - half * cosine, half * sine], -1)
  noise = 9 / 255 * rng.random(count) ** 2 * chance(0.5)
  smooth = np.where(chance(0.7), rng.uniform(0.4, 0.9, count), 0.01)
  amount = rng.uniform(0.15, 1.5, count) * chance(0.5)
  lossy = chance(0.7)
  tables = [
      np.where((lossy & again)[:, None, None], gaussians.jpeg_tables(rng.integers(*_QUALITIES, count, endpoint=True)), 1e-3)
      for again in (True, chance(0.3))
  ]
  numbers = sigma, np.where(chance(0.4), _GAMMA, 1.0), noise, smooth, amount, rng.uniform(0.5, 2, count), np.stack(tables[::-1])
  return Draws(which, *(np.float32(x) for x in numbers))


def filter_waves(scale: int, waves: np.ndarray) -> np.ndarray:
  """(filters, n) responses of `_FILTERS` about the middle of a cell, real, at frequencies in radians per HR pixel."""
  place = np.arange(-3 * scale, 4 * scale) - (scale - 1) / 2
  lanczos = np.where(np.abs(place) < 3 * scale, np.sinc(place / scale) * np.sinc(place / scale / 3), 0)
  taps = np.stack([np.abs(place) < scale / 2, resize.cubic(place / scale), lanczos])
  responses = taps / taps.sum(1, keepdims=True) @ np.cos(np.outer(place, waves))
  return np.concatenate([np.ones((1, len(waves))), responses])  # a point passes all alike


def responses(draws: Draws, scale: int) -> np.ndarray:
  """(B, f) responses at `response.FREQUENCIES`, along an axis, of the mean variance."""
  f = response.FREQUENCIES
  optics = np.exp(-(f**2) / 2 * draws.sigma[:, :2].mean(1, keepdims=True))
  alias = np.minimum(f, 2 * np.pi - f)
  sharper = 1 + draws.amount[:, None] * (1 - np.exp(-(alias**2) / 2 * draws.radius[:, None] ** 2))
  return optics * filter_waves(scale, f / scale)[draws.which] * sharper


@functools.partial(jax.jit, static_argnames="scale")
def make_patches(hr, draws: Draws, key, *, scale: int):
  """LR patches (B, group, P, P), luma.

  Args:
    hr: (B, 288, 288) luma in [0, 1].
    draws: what happens to each.
    key: of the noise, and of where JPEG's blocks begin.
    scale: a group is what patches of one photo there is room for: 2 at x2, else 1.
  """
  p = kernel_net.PATCH
  group = (HR_SIZE - 2 * MARGIN) // scale // p
  height, width = p * scale + 2 * MARGIN // scale * scale, group * p * scale + 2 * MARGIN // scale * scale
  margin = MARGIN // scale
  hr = hr[:, :height, :width]
  each = lambda x: x[:, None, None]
  axes = [2 * np.pi * np.fft.fftfreq(height), 2 * np.pi * np.fft.rfftfreq(width)]
  wy, wx = np.meshgrid(*axes, indexing="ij")
  xx, yy, xy = (each(draws.sigma[:, i]) * scale**2 for i in range(3))
  optics = jnp.exp(-(xx * wx[None] ** 2 + 2 * xy * (wx * wy)[None] + yy * wy[None] ** 2) / 2)
  rows, columns = (jnp.asarray(filter_waves(scale, w), jnp.float32)[draws.which] for w in axes)
  phase = np.exp(1j * (scale - 1) / 2 * (wx + wy)).astype(np.complex64)
  gain = (optics * rows[:, :, None] * columns[:, None]).astype(jnp.complex64) * phase[None]
  light = jnp.fft.rfft2(hr ** each(draws.gamma)) * gain
  lr = jnp.fft.irfft2(light, s=hr.shape[1:])[:, ::scale, ::scale]
  clean = jnp.clip(lr, 1e-6, 1) ** (1 / each(draws.gamma))
  fy, fx = np.meshgrid(2 * np.pi * np.fft.fftfreq(clean.shape[1]), 2 * np.pi * np.fft.rfftfreq(clean.shape[2]), indexing="ij")
  low = lambda deviation: jnp.exp(-(fy**2 + fx**2)[None] / 2 * each(deviation) ** 2)
  filtered = lambda x, gain: jnp.fft.irfft2(jnp.fft.rfft2(x) * gain.astype(jnp.complex64), s=clean.shape[1:])
  noise = filtered(jax.random.normal(key, clean.shape), low(draws.smooth))
  noise *= each(draws.noise) / jnp.std(noise, (1, 2), keepdims=True) * (0.5 / jnp.clip(clean, 0.1, 1)) ** 0.1
  to_8_bits = lambda x: jnp.round(jnp.clip(x, 0, 1) * 255) / 255
  sharpen = lambda x: filtered(x, 1 + each(draws.amount) * (1 - low(draws.radius)))
  inside = lambda x: x[:, margin : margin + p, margin : margin + group * p]
  made = inside(to_8_bits(sharpen(clean + noise)))
  corner = jax.random.randint(jax.random.fold_in(key, 0), (2,), 0, 8)
  for tables in draws.tables:
    made = to_8_bits(gaussians.compress(made, tables, corner))
  return made.reshape(-1, p, group, p).transpose(0, 2, 1, 3)


def codes(draws: Draws, scale: int) -> np.ndarray:
  """(B, d), see `response.encode`."""
  anisotropy = np.stack([(draws.sigma[:, 0] - draws.sigma[:, 1]) / 2, draws.sigma[:, 2]], -1)
  return np.float32(response.encode(responses(draws, scale), anisotropy))


@functools.cache
def drawings(count: int) -> np.ndarray:
  """(n, H, H) luma of drawings, other ones than those of `pipelines`."""
  kinds = pipelines.text, pipelines.line_art, pipelines.screenshot
  made = [kinds[i % len(kinds)](np.random.default_rng(1000 + i), HR_SIZE) for i in range(count)]
  return kernel_net.luma(images.to_float(np.stack(made)))


def calibrate(params) -> np.ndarray:
  """(2, d), see `kernel_net.calibrated`, most likely for photos that the network has not seen: their four corners."""
  rng, found = np.random.default_rng(1), []
  told = np.tile(kernel_net.condition(2, "direct"), (8, 1))
  predict = jax.jit(lambda patches: kernel_net.mean_and_log_variance(params, patches, told, response.NET))
  for path in data.sample_photos():
    photo = kernel_net.luma(images.to_float(images.read_image(path)))
    ends = slice(HR_SIZE), slice(-HR_SIZE, None)
    corners = np.stack([photo[y, x] for y in ends for x in ends])
    for number in range(_CALIBRATIONS):
      one = draw(rng, 1)
      draws = Draws(*(np.repeat(x, len(corners), axis=-3 if x.ndim == 4 else 0) for x in one))
      lr = make_patches(corners, draws, jax.random.key(number), scale=2)
      mean, log_variance = map(np.asarray, predict(lr.reshape(-1, *lr.shape[2:])))
      mean, variance = kernel_net.combine(mean.astype(np.float64), np.exp(log_variance.astype(np.float64)))
      found.append((mean - codes(one, 2)[0], variance))
  return gaussians.likeliest(*map(np.array, zip(*found)))


def batch_of(hr, rng: np.random.Generator, key, scale: int):
  """What a step learns from, see `gaussians.train`: some of the photos are replaced by drawings."""
  hr = kernel_net.luma(images.to_float(hr))
  replaced = np.flatnonzero(rng.random(len(hr)) < _DRAWINGS)
  hr[replaced] = drawings(_DRAWN)[rng.integers(0, _DRAWN, len(replaced))]
  draws = draw(rng, len(hr))
  lr = make_patches(hr, draws, key, scale=scale)
  return lr, np.tile(kernel_net.condition(scale, "direct"), (len(hr), 1)), codes(draws, scale)


def main(argv: list[str]) -> None:
  """Trains, calibrates, writes."""
  del argv
  gaussians.train(response.NET, batch_of, calibrate, _ORDER, ", and drawings")


if __name__ == "__main__":
  gaussians.define_flags()
  cli.run(main)
