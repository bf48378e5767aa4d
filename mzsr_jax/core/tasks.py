"""The task distribution p(T), on device: HR patches in, degraded training pairs out.

A task is one random degradation; its patches share the kernel and the scale (Sec. 3.2). Stage 1 uses the same code with the
one task "bicubic".

The inner steps of a task learn either from other HR patches, or, as they will at meta-test, from LR patches and their sons.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int, UInt8

from mzsr_jax.core import kernels
from mzsr_jax.core.degradation import Degrader
from mzsr_jax.core.kernels import Degradation

KERNEL_FAMILIES = ("bicubic", "gaussian")
SUPPORTS = ("patches", "lr_sons")
_SON = 2**31 - 1  # folded into a key: no patch has that number


class Pairs(NamedTuple):
  """Network inputs (degraded, enlarged) and what they should become, float32, targets in [0, 1]."""

  inputs: Float[Array, "... p p 3"]
  targets: Float[Array, "... p p 3"]


class Distribution(NamedTuple):
  """p(T): what tasks are drawn from.

  Attributes:
    degrader: scales and subsampling.
    kernel_family: "gaussian" draws a kernel for each task (`kernels.sample`), "bicubic" blurs nothing.
    min_variance: of the Gaussians, see `kernels.sample`.
    noise_std: of the noise on the LR patches, in [0, 1] units.
  """

  degrader: Degrader
  kernel_family: str
  min_variance: float = 1.0
  noise_std: float = 0.0

  @property
  def is_one_degradation(self) -> bool:
    """Whether all tasks have the same kernel and scale."""
    return self.kernel_family == "bicubic" and len(self.degrader.scales) == 1


class _Drawn(NamedTuple):
  """What a task is, its LR patches, and keys for what else is drawn of each patch (by folding in its number)."""

  lr: Float[Array, "n q q 3"]
  degradation: Degradation
  scale_index: Int[Array, ""]
  crop_key: jax.Array
  son_key: jax.Array


def sample(
    key,
    patches: UInt8[ArrayLike, "t n p p 3"],
    distribution: Distribution,
    task_numbers: Int[Array, " t"] | None = None,
    patch_numbers: Int[Array, " n"] | None = None,
    size: int | None = None,
) -> Pairs:
  """Degrades the patches of each of T tasks by a scale, kernel and noise of its own.

  Args:
    key: jax.random key.
    patches: uint8 HR patches; the N of a task share one kernel and one scale.
    distribution: of the tasks.
    task_numbers: of the tasks, where these are a part of all. The draws depend on key and numbers alone.
    patch_numbers: of the patches within their task, where these are a part of all.
    size: keep a random square of that many pixels of each pair; None keeps all.
  """

  def pair(drawn: _Drawn, hr, numbers) -> Pairs:
    pairs = Pairs(distribution.degrader.enlarge(drawn.lr, drawn.scale_index), hr)
    if size is None:
      return pairs

    def cut(pair: Pairs, number):
      corner = jax.random.randint(jax.random.fold_in(drawn.crop_key, number), (2,), 0, hr.shape[1] - size + 1)
      return jax.tree.map(lambda x: jax.lax.dynamic_slice(x, (*corner, 0), (size, size, 3)), pair)

    return jax.vmap(cut)(pairs, numbers)

  return _sample(pair, key, patches, distribution, task_numbers, patch_numbers)


def sample_lr_sons(
    key,
    patches: UInt8[ArrayLike, "t n p p 3"],
    distribution: Distribution,
    task_numbers: Int[Array, " t"] | None = None,
    patch_numbers: Int[Array, " n"] | None = None,
    *,
    son_degrader: Degrader,
) -> Pairs:
  """What `sample` draws for the same arguments, seen as at meta-test (Algorithm 2): the LR patches, to be made of their sons.

  Args:
    son_degrader: for patches of the `least_size` of the distribution's degrader, with its scales and subsampling.
    others: see `sample`.

  Returns:
    Pairs of that size, which are the top left of the LR patches where their scale gives more.
  """

  def pair(drawn: _Drawn, hr, numbers) -> Pairs:
    size = distribution.degrader.least_size
    lr = drawn.lr[:, :size, :size]
    son = _degrade(son_degrader, lr, drawn.degradation, drawn.scale_index, drawn.son_key, numbers)
    return Pairs(son_degrader.enlarge(son, drawn.scale_index), lr)

  return _sample(pair, key, patches, distribution, task_numbers, patch_numbers)


def _draw(scale_key, kernel_key, distribution: Distribution) -> tuple[Int[Array, ""], Degradation]:
  """The index of a task's scale, and its degradation."""
  scale_index = jax.random.randint(scale_key, (), 0, len(distribution.degrader.scales))
  scale = jnp.asarray(distribution.degrader.scales)[scale_index]
  if distribution.kernel_family == "gaussian":
    kernel = kernels.sample(kernel_key, scale, distribution.min_variance)
  elif distribution.kernel_family == "bicubic":
    kernel = jnp.ones((1, 1))
  else:
    raise ValueError(f"kernel family must be one of {', '.join(KERNEL_FAMILIES)}, not {distribution.kernel_family!r}")
  return scale_index, Degradation(kernel, distribution.degrader.subsample, noise_std=distribution.noise_std)


def _degrade(degrader: Degrader, patches, degradation: Degradation, scale_index, key, numbers):
  """LR patches; the noise of each depends on the key and its number alone."""
  if not degradation.noise_std:
    return degrader.shrink(patches, degradation.kernel, scale_index)
  noisy = lambda patch, number: degrader.shrink(
      patch[None], degradation.kernel, scale_index, degradation.noise_std, jax.random.fold_in(key, number)
  )[0]
  return jax.vmap(noisy)(patches, numbers)


def _sample(pair: Callable, key, patches, distribution: Distribution, task_numbers, patch_numbers) -> Pairs:
  """pair(drawn, HR patches in [0, 1], their numbers) of each task."""

  def task(number, patches):
    scale_key, kernel_key, noise_key, crop_key = jax.random.split(jax.random.fold_in(key, number), 4)
    scale_index, degradation = _draw(scale_key, kernel_key, distribution)
    hr = patches.astype(jnp.float32) / 255
    lr = _degrade(distribution.degrader, hr, degradation, scale_index, noise_key, patch_numbers)
    return pair(_Drawn(lr, degradation, scale_index, crop_key, jax.random.fold_in(noise_key, _SON)), hr, patch_numbers)

  task_numbers = jnp.arange(patches.shape[0]) if task_numbers is None else task_numbers
  patch_numbers = jnp.arange(patches.shape[1]) if patch_numbers is None else patch_numbers
  # A loop on a CPU: under vmap, a kernel for each task makes the blur a grouped convolution, which is slow there.
  loop = lambda *arrays: jax.lax.map(lambda args: task(*args), arrays)
  return jax.lax.platform_dependent(task_numbers, patches, cpu=loop, default=jax.vmap(task))
