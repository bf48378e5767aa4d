"""Checkpoints by orbax, and nothing else of orbax anywhere: training state, data iterator and config, kept to N, async."""

import contextlib
import dataclasses
import pathlib
import shutil
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from jax.experimental import multihost_utils

from mzsr_jax import provenance
from mzsr_jax.errors import UserError

_DIGEST = "digest"  # the item of a checkpoint that has the checksum of the others
_BESIDES = 2**17  # bytes of a checkpoint that are no arrays, or more

# Orbax reports each file that it writes at the level of our progress lines.
logging.get_absl_logger().addFilter(lambda record: "orbax" not in record.pathname or record.levelname in ("WARNING", "ERROR"))


def _tree(state: Any) -> dict[str, Any]:
  """The fields of a state that it has; so that one without a later field is stored as it was before there was that field."""
  fields = {field.name: getattr(state, field.name) for field in dataclasses.fields(state)}
  return {name: value for name, value in fields.items() if value is not None}


def _first_says(flag: bool) -> bool:
  """The flag of the first process: all must decide alike, since they write together and wait for each other."""
  return flag if jax.process_count() == 1 else bool(multihost_utils.broadcast_one_to_all(np.int32(flag)))


def exists(workdir: pathlib.Path) -> bool:
  """Whether a workdir holds a complete checkpoint."""
  directory = pathlib.Path(workdir).resolve() / "checkpoints"
  return directory.is_dir() and bool(ocp.utils.checkpoint_steps(directory))


class Checkpoints:
  """The checkpoints of one workdir, in `<workdir>/checkpoints/<step>/`."""

  def __init__(self, workdir: pathlib.Path, keep: int):
    """Args: folder of the run; how many of the newest checkpoints to keep."""
    self.directory = pathlib.Path(workdir).resolve() / "checkpoints"
    self._manager = ocp.CheckpointManager(self.directory, options=ocp.CheckpointManagerOptions(max_to_keep=keep))
    self._unwritten: int | None = None  # step whose checkpoint is being written, or could not be
    self._failure: str | None = None

  @property
  def steps(self) -> list[int]:
    """Steps of all complete checkpoints, in order."""
    return sorted(self._manager.all_steps())

  @property
  def latest(self) -> int | None:
    """Step of the newest complete checkpoint, or None."""
    return self._manager.latest_step()

  def save(self, step: int, state: Any, data: dict, config: dict) -> None:
    """Starts writing a checkpoint in the background; a step that is already there is left alone.

    Where the disk refuses, as one does that is full, an error is logged, here or at the next call, and what was kept stays.
    """
    self._wait()
    if step == self.latest:
      return
    items = {"state": ocp.args.StandardSave(_tree(state)), "data": ocp.args.JsonSave(data), "config": ocp.args.JsonSave(config)}
    items[_DIGEST] = ocp.args.JsonSave({"sha256": provenance.digest([_tree(state), data, config])})
    self._unwritten = step
    free = shutil.disk_usage(self.directory).free
    enough = free >= 2 * sum(leaf.nbytes for leaf in jax.tree.leaves(_tree(state))) + _BESIDES
    if not _first_says(enough):  # before half of it is written
      self._report(OSError(f"No space left on device: {free / 2**20:.1f} MiB are free"))
      return
    try:
      self._manager.save(step, args=ocp.args.Composite(**items))
    except Exception as e:  # orbax and what it stands on have a zoo of exceptions for a full disk
      self._report(e)

  def config(self, step: int | None = None) -> dict:
    """The config that a checkpoint, the newest if no step is given, was written with. Raises UserError as `restore` does."""
    step = self.latest if step is None else step
    return self._read(step, {"config": ocp.args.JsonRestore()})["config"]

  def restore(self, like: Any, step: int | None = None) -> tuple[Any, dict, dict]:
    """Reads a checkpoint, the newest if no step is given.

    Args:
      like: a dataclass of the same structure, shapes and dtypes.
      step: which checkpoint.

    Returns:
      (state, data, config).

    Raises:
      UserError: the checkpoint is damaged, or of another state.
    """
    abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, _tree(like))
    items = {"state": ocp.args.StandardRestore(abstract), "data": ocp.args.JsonRestore(), "config": ocp.args.JsonRestore()}
    step = self.latest if step is None else step
    if checked := (self.directory / str(step) / _DIGEST).exists():  # which checkpoints of earlier versions lack
      items[_DIGEST] = ocp.args.JsonRestore()
    restored = self._read(step, items)
    digest = provenance.digest([restored[name] for name in ("state", "data", "config")])
    if checked and restored[_DIGEST] != {"sha256": digest}:
      raise self._damaged(step, "its content does not have the checksum that it was written with")
    return dataclasses.replace(like, **restored["state"]), restored["data"], restored["config"]

  def _read(self, step: int, items: dict) -> Any:
    try:
      return self._manager.restore(step, args=ocp.args.Composite(**items))
    except Exception as e:  # orbax and what it stands on have a zoo of exceptions for damaged files
      raise self._damaged(step, e) from e

  def _damaged(self, step: int, reason: object) -> UserError:
    reason = " ".join(str(reason).split())[:200]
    path = self.directory / str(step)
    return UserError(f"checkpoint '{path}' cannot be restored ({reason}): remove it to go on from an older one")

  def close(self) -> None:
    """Waits for the writing to end.

    Raises:
      UserError: the last checkpoint could not be written.
    """
    self._wait()
    with contextlib.suppress(Exception):  # which has been reported
      self._manager.close()
    if self._failure:
      raise UserError(self._failure)

  def _wait(self) -> None:
    """Until what is being written is there, or has failed."""
    try:
      self._manager.wait_until_finished()
    except Exception as e:
      self._report(e)
    else:
      if self._unwritten is not None and self._unwritten == self.latest:
        self._unwritten = self._failure = None

  def _report(self, error: Exception) -> None:
    shutil.rmtree(self.directory / f"{self._unwritten}.orbax-checkpoint-tmp", ignore_errors=True)  # a part of it
    reason = " ".join(str(error).split())[:200]
    kept = f"the newest one is of step {self.latest}" if self.latest is not None else "there is none yet"
    self._failure = f"the checkpoint of step {self._unwritten} could not be written to '{self.directory}' ({reason}); {kept}"
    logging.error("%s", self._failure)
