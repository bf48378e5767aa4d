"""Many devices: how a step's patches are spread over them, and what of a batch a process holds.

A mesh has two axes. Along "tasks", devices hold different tasks; along "patches", they hold different patches of the same
tasks, support and query alike. Parameters are on every device. With one device, all is the same on a mesh of one.
"""

from collections.abc import Callable, Sequence

import jax
import ml_collections
import numpy as np
from absl import logging
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Int, PyTree, UInt8

from mzsr_jax.errors import UserError

AXES = ("tasks", "patches")
REPLICATED = PartitionSpec()


def patches_per_task(config: ml_collections.ConfigDict) -> int:
  """HR patches of a task of stage 2: where the inner steps learn from LR sons, support and query are of the same patches."""
  c = config.meta
  return max(c.support_patches, c.query_patches) if c.support == "lr_sons" else c.support_patches + c.query_patches


def rows(config: ml_collections.ConfigDict) -> PyTree[Int[np.ndarray, "..."]]:
  """Where in the flat batch of a step each patch comes from.

  Returns:
    Row numbers, shaped as the patches are taken: stage 1 (batch,), stage 2 ((tasks, support), (tasks, query)), the patches of
    a task being next to each other, support first; or the same ones, see `patches_per_task`.
  """
  if config.stage == "pretrain":
    return np.arange(config.batch_size)
  c = config.meta
  numbers = np.arange(c.tasks * patches_per_task(config)).reshape(c.tasks, -1)
  return numbers[:, : c.support_patches], numbers[:, -c.query_patches :]


def spec(config: ml_collections.ConfigDict) -> PartitionSpec:
  """How the arrays of `rows` lie on a mesh."""
  return PartitionSpec(AXES) if config.stage == "pretrain" else PartitionSpec(*AXES)


def shape(config: ml_collections.ConfigDict, num_devices: int, patches_first: bool) -> tuple[int, int] | None:
  """Devices along (tasks, patches), or None where that many devices cannot have equal shares.

  Args:
    config: of the training.
    num_devices: all of which are to be used.
    patches_first: spread patches over as many devices as can be, then tasks (the memory of one task is then shared by all);
      else the other way round (less to communicate).
  """
  if config.stage == "pretrain":
    return None if config.batch_size % num_devices else (num_devices, 1)
  c = config.meta
  patches = np.gcd(c.support_patches, c.query_patches)
  fits = [p for p in range(1, num_devices + 1) if num_devices % p == 0 == patches % p and c.tasks % (num_devices // p) == 0]
  if not fits:
    return None
  along_patches = max(fits) if patches_first else min(fits)
  return num_devices // along_patches, along_patches


def make(config: ml_collections.ConfigDict, devices: Sequence[jax.Device] | None = None) -> Mesh:
  """The mesh of a training: over all devices of all processes, or over as many as can have equal shares.

  Args:
    config: see `config`.
    devices: to use; all by default.

  Raises:
    UserError: several processes, and their devices cannot have equal shares.
  """
  devices = list(jax.devices() if devices is None else devices)
  patches_first = devices[0].platform == "cpu"
  usable = next(n for n in range(len(devices), 0, -1) if shape(config, n, patches_first))
  if usable < len(devices):
    fields = "batch_size" if config.stage == "pretrain" else "meta.tasks, meta.support_patches and meta.query_patches"
    if jax.process_count() > 1:
      raise UserError(
          f"the patches of a step cannot be shared equally by {len(devices)} devices, but by {usable}: change config "
          f"{fields} so that the number of devices is a divisor of "
          + ("batch_size" if config.stage == "pretrain" else "tasks, of both numbers of patches, or a product of such")
      )
    logging.warning("Using %d of %d devices: %s cannot be shared equally by more.", usable, len(devices), fields)
  return jax.make_mesh(
      shape(config, usable, patches_first), AXES, axis_types=(jax.sharding.AxisType.Auto,) * 2, devices=devices[:usable]
  )


def own_rows(config: ml_collections.ConfigDict, mesh: Mesh) -> Int[np.ndarray, " n"]:
  """Rows of the flat batch that the devices of this process hold, ascending."""
  sharding = NamedSharding(mesh, spec(config))
  shares = [
      numbers[index].ravel()
      for numbers in jax.tree.leaves(rows(config))
      for index in sharding.addressable_devices_indices_map(numbers.shape).values()
  ]
  return np.unique(np.concatenate(shares))


def patch_placer(config: ml_collections.ConfigDict, mesh: Mesh) -> Callable[[UInt8[np.ndarray, "n p p 3"]], PyTree[Array]]:
  """A function that puts this process's patches, those of `own_rows`, on its devices: arrays shaped as in `rows`."""
  sharding = NamedSharding(mesh, spec(config))
  own, batch_rows = own_rows(config, mesh), rows(config)

  def place(patches):
    patches = np.asarray(patches)
    if patches.shape[0] != own.size:
      raise ValueError(f"this process holds {own.size} patches of a step, not {patches.shape[0]}")
    return jax.tree.map(
        lambda numbers: jax.make_array_from_callback(
            numbers.shape + patches.shape[1:],
            sharding,
            lambda index: patches[np.searchsorted(own, numbers[index[: numbers.ndim]])],
        ),
        batch_rows,
    )

  return place


def replicate(tree: PyTree, mesh: Mesh) -> PyTree[Array]:
  """Host arrays, the same on every process, on every device."""
  sharding = NamedSharding(mesh, REPLICATED)
  whole = lambda x: jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])
  return jax.tree.map(lambda x: whole(np.asarray(x)), tree)


def largest(mesh: Mesh) -> Callable[[int], Int[Array, ""]]:
  """A function of a number of each process: the largest of all. The result need not be waited for at once.

  All processes must call it at the same point of their program.
  """
  sharding = NamedSharding(mesh, PartitionSpec(AXES))
  maximum = jax.jit(lambda numbers: numbers.max(), out_shardings=NamedSharding(mesh, REPLICATED))
  return lambda number: maximum(
      jax.make_array_from_callback((mesh.size,), sharding, lambda index: np.full(1, number, np.int32))
  )
