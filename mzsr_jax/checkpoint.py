"""Checkpoints by orbax, and nothing else of orbax anywhere: training state, data iterator and config, kept to N, async."""

import dataclasses
import pathlib
from typing import Any

import jax
import orbax.checkpoint as ocp
from absl import logging

from mzsr_jax import provenance
from mzsr_jax.errors import UserError

_DIGEST = "digest"  # the item of a checkpoint that has the checksum of the others

# Orbax reports each file that it writes at the level of our progress lines.
logging.get_absl_logger().addFilter(lambda record: "orbax" not in record.pathname or record.levelname in ("WARNING", "ERROR"))


def _tree(state: Any) -> dict[str, Any]:
  """The fields of a state that it has; so that one without a later field is stored as it was before there was that field."""
  fields = {field.name: getattr(state, field.name) for field in dataclasses.fields(state)}
  return {name: value for name, value in fields.items() if value is not None}


class Checkpoints:
  """The checkpoints of one workdir, in `<workdir>/checkpoints/<step>/`."""

  def __init__(self, workdir: pathlib.Path, keep: int):
    """Args: folder of the run; how many of the newest checkpoints to keep."""
    self.directory = pathlib.Path(workdir).resolve() / "checkpoints"
    self._manager = ocp.CheckpointManager(self.directory, options=ocp.CheckpointManagerOptions(max_to_keep=keep))

  @property
  def steps(self) -> list[int]:
    """Steps of all complete checkpoints, in order."""
    return sorted(self._manager.all_steps())

  @property
  def latest(self) -> int | None:
    """Step of the newest complete checkpoint, or None."""
    return self._manager.latest_step()

  def save(self, step: int, state: Any, data: dict, config: dict) -> None:
    """Starts writing a checkpoint in the background; a step that is already there is left alone."""
    if step == self.latest:
      return
    items = {"state": ocp.args.StandardSave(_tree(state)), "data": ocp.args.JsonSave(data), "config": ocp.args.JsonSave(config)}
    items[_DIGEST] = ocp.args.JsonSave({"sha256": provenance.digest([_tree(state), data, config])})
    self._manager.save(step, args=ocp.args.Composite(**items))

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
    try:
      restored = self._manager.restore(step, args=ocp.args.Composite(**items))
      if checked and restored[_DIGEST]["sha256"] != provenance.digest([restored[name] for name in ("state", "data", "config")]):
        raise ValueError("its content does not have the checksum that it was written with")
    except Exception as e:  # orbax and what it stands on have a zoo of exceptions for damaged files
      raise UserError(
          f"checkpoint '{self.directory / str(step)}' cannot be restored ({' '.join(str(e).split())[:200]}): remove it to go "
          "on from an older one"
      ) from e
    return dataclasses.replace(like, **restored["state"]), restored["data"], restored["config"]

  def close(self) -> None:
    """Waits for the writing to end."""
    self._manager.close()
