"""Named parameter files: safetensors with what they were trained on in the header."""

import hashlib
import json
import os
import pathlib
import tempfile

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy
from jaxtyping import Float

from mzsr_jax.errors import UserError
from mzsr_jax.model import Params

SHIPPED = pathlib.Path(__file__).parent / "weights"
SUFFIX = ".safetensors"


def names() -> list[str]:
  """Names of the weights that come with the package."""
  return sorted(p.stem for p in SHIPPED.glob(f"*{SUFFIX}"))


def resolve(name_or_path: str | os.PathLike) -> pathlib.Path:
  """The file behind a shipped name or a path. Raises UserError where there is none."""
  shipped = SHIPPED / f"{name_or_path}{SUFFIX}"
  if shipped.is_file():
    return shipped
  path = pathlib.Path(name_or_path)
  if path.is_file():
    return path
  raise UserError(f"no weights '{name_or_path}': neither a file nor one of {', '.join(names()) or 'the shipped names'}")


def load_weights(name_or_path: str | os.PathLike) -> Params:
  """Reads parameters.

  Args:
    name_or_path: shipped name, such as "x2_direct", or the path of a .safetensors file.

  Returns:
    Nested dict of float32 arrays, {"conv1": {"kernel": (3, 3, 3, 64), "bias": (64,)}, ...}.

  Raises:
    UserError: no such file, not a safetensors file, or not the parameters of this network.
  """
  path = resolve(name_or_path)
  try:
    flat = safetensors.numpy.load_file(path)
  except Exception as e:  # safetensors raises its own error type and OSError alike
    raise UserError(f"weights '{path}' cannot be read: {e}") from e
  expected = ("kernel", "bias")
  if not flat or any(key.partition(".")[2] not in expected for key in flat):
    raise UserError(f"weights '{path}' do not hold the parameters of this network (names such as conv1.kernel)")
  return jax.tree.map(jnp.asarray, flax.traverse_util.unflatten_dict(flat, sep="."))


def save_weights(path: str | os.PathLike, params: Params, metadata: dict[str, str]) -> None:
  """Writes parameters and metadata; the file appears whole or not at all, and replaces what was there.

  Args:
    path: of the .safetensors file; its folder is made.
    params: nested dict of arrays.
    metadata: strings; `load_weights` needs none of them, see `read_metadata` for what the programs use.
  """
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  flat = {k: np.asarray(v) for k, v in flax.traverse_util.flatten_dict(params, sep=".").items()}
  with tempfile.TemporaryDirectory(dir=path.parent) as folder:
    partial = pathlib.Path(folder) / path.name
    safetensors.numpy.save_file(flat, partial, metadata)
    os.replace(partial, path)


def read_metadata(name_or_path: str | os.PathLike) -> dict[str, str]:
  """What the weights say of themselves.

  Returns:
    Strings, among them "stage" (pretrain or meta), "scales" (JSON list), "subsample", "inner_lrs" (JSON list: meta-test
    learning rate of each step, the last one repeating), "steps", "data", "config" (JSON), "commit".
  """
  path = resolve(name_or_path)
  try:
    with safetensors.safe_open(path, framework="numpy") as f:
      return f.metadata() or {}
  except Exception as e:
    raise UserError(f"weights '{path}' cannot be read: {e}") from e


def sha256(name_or_path: str | os.PathLike) -> str:
  """Hex digest of the weights file."""
  return hashlib.sha256(resolve(name_or_path).read_bytes()).hexdigest()


def inner_lrs(metadata: dict[str, str], num_steps: int) -> Float[np.ndarray, " n"]:
  """Meta-test learning rates of the first `num_steps` steps: the weights' own, else the paper's alpha, 0.01."""
  schedule = json.loads(metadata.get("inner_lrs", "[]")) or [0.01]
  return np.asarray((schedule + schedule[-1:] * num_steps)[:num_steps], np.float32)


def check_scale(metadata: dict[str, str], scale: float) -> None:
  """Raises UserError where the weights were not trained for `scale`; a list of scales covers all between its ends."""
  scales = json.loads(metadata.get("scales", "[]"))
  if scales and not min(scales) <= scale <= max(scales):
    trained = f"x{scales[0]:g}" if len(scales) == 1 else f"x{min(scales):g} to x{max(scales):g}"
    raise UserError(f"scale {scale:g} does not fit these weights, trained for {trained}: choose other weights or scale")
