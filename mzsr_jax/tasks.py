"""The task distribution p(T), on device: HR patches in, degraded training pairs out.

A task is one random degradation; its patches share the kernel and the scale (Sec. 3.2). Stage 1 uses the same code with the
one task "bicubic".
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt8

from mzsr_jax import kernels
from mzsr_jax.degradation import Degrader

KERNEL_FAMILIES = ("bicubic", "gaussian")


class Pairs(NamedTuple):
  """Network inputs (degraded, enlarged) and the HR patches they should become, float32, targets in [0, 1]."""

  inputs: Float[Array, "... p p 3"]
  targets: Float[Array, "... p p 3"]


def sample(
    key,
    patches: UInt8[Array, "t n p p 3"],
    degrader: Degrader,
    kernel_family: str,
    min_variance: float = 1.0,
    noise_std: float = 0.0,
    task_numbers: Int[Array, " t"] | None = None,
    patch_numbers: Int[Array, " n"] | None = None,
) -> Pairs:
  """Degrades the patches of each of T tasks by a scale, kernel and noise of its own.

  Args:
    key: jax.random key.
    patches: uint8 HR patches; the N of a task share one kernel and one scale.
    degrader: scales and subsampling.
    kernel_family: "gaussian" draws a kernel for each task (`kernels.sample`), "bicubic" blurs nothing.
    min_variance: of the Gaussians, see `kernels.sample`.
    noise_std: of the noise on the LR patches, in [0, 1] units.
    task_numbers: of the tasks, where these are a part of all: what is drawn depends on key and numbers alone.
    patch_numbers: of the patches within their task, likewise.
  """

  def task(number, patches):
    scale_key, kernel_key, noise_key = jax.random.split(jax.random.fold_in(key, number), 3)
    scale_index = jax.random.randint(scale_key, (), 0, len(degrader.scales))
    if kernel_family == "gaussian":
      kernel = kernels.sample(kernel_key, jnp.asarray(degrader.scales)[scale_index], min_variance)
    elif kernel_family == "bicubic":
      kernel = jnp.ones((1, 1))
    else:
      raise ValueError(f"kernel family must be one of {', '.join(KERNEL_FAMILIES)}, not {kernel_family!r}")
    hr = patches.astype(jnp.float32) / 255
    if not noise_std:
      return Pairs(degrader(hr, kernel, scale_index), hr)
    noisy = lambda hr, number: degrader(hr[None], kernel, scale_index, noise_std, jax.random.fold_in(noise_key, number))[0]
    return Pairs(jax.vmap(noisy)(hr, patch_numbers), hr)

  task_numbers = jnp.arange(patches.shape[0]) if task_numbers is None else task_numbers
  patch_numbers = jnp.arange(patches.shape[1]) if patch_numbers is None else patch_numbers
  # A loop, not vmap: a kernel for each task would make the blur a grouped convolution, which is slow on a CPU.
  return jax.lax.map(lambda args: task(*args), (task_numbers, patches))
