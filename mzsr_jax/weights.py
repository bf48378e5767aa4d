"""Named parameter files: safetensors with what they were trained on in the header."""

import hashlib
import json
import math
import os
import pathlib
from collections.abc import Sequence

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy
from jaxtyping import Float, PyTree

from mzsr_jax import files, provenance
from mzsr_jax.core import conditioning, inner_rules
from mzsr_jax.core.inner_rules import Rates, Spectral
from mzsr_jax.core.model import NET, MZSRNet, Params, init
from mzsr_jax.errors import UserError

SHIPPED = pathlib.Path(__file__).parent / "weights"
SUFFIX = ".safetensors"
KERNEL_ESTIMATOR = "kernel_estimator"  # shipped beside the others, but no network that enlarges: see `kernel_net`
SPECTRAL = "spectral:"  # before a name or path: the same parameters, adapted by such steps (`inner_rules.Spectral`)
SPECTRAL_RATE = 0.04  # of them all, where training learned none of this kind
_RATES = "inner_lrs."  # before the names of learned rates
_DIGEST = "content_sha256"  # of everything else in a file; what others wrote may lack it


def names() -> list[str]:
  """Names of the weights that come with the package and enlarge images."""
  return sorted(p.stem for p in SHIPPED.glob(f"*{SUFFIX}") if p.stem != KERNEL_ESTIMATOR)


def is_shipped(name: str) -> bool:
  """Whether a name, after `SPECTRAL` or not, is one of `names`."""
  return name.removeprefix(SPECTRAL) in names()


def resolve(name_or_path: str | os.PathLike) -> pathlib.Path:
  """The file behind a shipped name or a path, after `SPECTRAL` or not. Raises UserError where there is none."""
  name = os.fspath(name_or_path).removeprefix(SPECTRAL)
  shipped = SHIPPED / f"{name}{SUFFIX}"
  if shipped.is_file():
    return shipped
  path = pathlib.Path(name)
  if path.is_file():
    return path
  raise UserError(f"no weights '{name_or_path}': neither a file nor one of {', '.join(names()) or 'the shipped names'}")


def load_weights(name_or_path: str | os.PathLike) -> Params:
  """Reads parameters.

  Args:
    name_or_path: shipped name, such as "x2_direct", or the path of a .safetensors file; `SPECTRAL` before it changes nothing
      of the parameters.

  Returns:
    Nested dict of float32 arrays, {"conv1": {"kernel": (3, 3, 3, 64), "bias": (64,)}, ...}; of conditioned parameters, with
    one more entry (`conditioning.KEY`).

  Raises:
    UserError: no such file, not a safetensors file, or not the parameters of this network.
  """
  flat = {key: value for key, value in _read(name_or_path)[0].items() if not key.startswith(_RATES)}
  own = [key for key in flat if not key.startswith(f"{conditioning.KEY}.")]
  if not own or any(key.partition(".")[2] not in ("kernel", "bias") for key in own):
    raise UserError(f"weights '{name_or_path}' do not hold the parameters of this network (names such as conv1.kernel)")
  return _nest(flat)


def load_arrays(name_or_path: str | os.PathLike) -> dict:
  """All that a file holds, of whatever network, as a nested dict. Raises UserError as `load_weights`."""
  return _nest(_read(name_or_path)[0])


def load_inner_lrs(name_or_path: str | os.PathLike, num_steps: int) -> Rates | Spectral:
  """Learning rates for the first `num_steps` steps of the meta-test; beyond those that the weights know, the last repeats.

  Returns:
    (num_steps,) float32; or, where training learned them, a tree shaped like the parameters with a (num_steps,) array for
    each leaf. Weights that know none get the paper's alpha, 0.01. `Spectral`, where training stepped like that, or where the
    name begins with `SPECTRAL`.

  Raises:
    UserError: no such file, not a safetensors file, or steps of a kind that this version does not know.
  """
  tensors, metadata = _read(name_or_path)
  learned = {k.removeprefix(_RATES): v.tolist() for k, v in tensors.items() if k.startswith(_RATES)}
  if learned:
    rates = _nest({key: extend_schedule(lrs, num_steps) for key, lrs in learned.items()})
  else:
    rates = extend_schedule(_numbers(metadata, "inner_lrs") or [0.01], num_steps)
  return inner_rules.rates_of(inner_rule(metadata), rates)


def inner_rule(metadata: dict[str, str]) -> str:
  """How weights are to be adapted, one of `inner_rules.RULES`. Raises UserError where this version does not know it."""
  rule = metadata.get("inner_rule", "gradient")
  if rule not in inner_rules.RULES:
    known = ", ".join(inner_rules.RULES)
    raise UserError(f"weights are to be adapted by the rule '{rule}', and this version knows {known} alone")
  return rule


def extend_schedule(lrs: Sequence[float], num_steps: int) -> Float[np.ndarray, " n"]:
  """The first `num_steps` of a list of learning rates, float32, the last of which repeats."""
  return np.asarray((list(lrs) + [lrs[-1]] * num_steps)[:num_steps], np.float32)


def save_weights(path: str | os.PathLike, params: Params, metadata: dict[str, str], inner_lrs: PyTree | None = None) -> None:
  """Writes parameters and metadata; the file appears whole or not at all, and replaces what was there.

  Args:
    path: of the .safetensors file; its folder is made.
    params: nested dict of arrays.
    metadata: strings; see `read_metadata` for what the programs use.
    inner_lrs: learned rates of the inner steps, shaped like `params` with an axis of steps.
  """
  flat = flax.traverse_util.flatten_dict(params, sep=".")
  if inner_lrs is not None:
    flat |= {_RATES + k: v for k, v in flax.traverse_util.flatten_dict(inner_lrs, sep=".").items()}
  flat = {k: np.asarray(v) for k, v in flat.items()}
  data = safetensors.numpy.save(flat, metadata | {_DIGEST: provenance.digest([flat, metadata])})
  files.write_whole(path, data, overwrite=True)


def _read(name_or_path: str | os.PathLike) -> tuple[dict[str, np.ndarray], dict[str, str]]:
  """Arrays and metadata of a file. Raises UserError where there is none or it is damaged."""
  path = resolve(name_or_path)
  try:
    with safetensors.safe_open(path, framework="numpy") as f:
      tensors, metadata = {key: f.get_tensor(key) for key in f.keys()}, f.metadata() or {}
  except Exception as e:  # safetensors raises its own error type and OSError alike
    raise UserError(f"weights '{path}' cannot be read: {e}") from e
  expected = metadata.pop(_DIGEST, None)
  if expected is not None and expected != provenance.digest([tensors, metadata]):
    raise UserError(f"weights '{path}' are damaged: their content does not have the checksum that they were written with")
  if os.fspath(name_or_path).startswith(SPECTRAL) and metadata.get("inner_rule") != "spectral":
    tensors = {key: value for key, value in tensors.items() if not key.startswith(_RATES)}
    metadata |= {"inner_rule": "spectral", "inner_lrs": json.dumps([SPECTRAL_RATE])}
  return tensors, metadata


def _nest(flat: dict[str, np.ndarray]) -> dict:
  return jax.tree.map(jnp.asarray, flax.traverse_util.unflatten_dict(flat, sep="."))


def read_metadata(name_or_path: str | os.PathLike) -> dict[str, str]:
  """What the weights say of themselves.

  Returns:
    Strings, among them "stage" (pretrain or meta), "scales" (JSON list), "subsample", "inner_lrs" (JSON list: meta-test
    learning rate of each step, the last one repeating), "inner_rule" (one of `inner_rules.RULES`; gradient steps where it is
    missing), "steps", "data", "config" (JSON), "commit".
  """
  return _read(name_or_path)[1]


def sha256(name_or_path: str | os.PathLike) -> str:
  """Hex digest of the weights file."""
  return hashlib.sha256(resolve(name_or_path).read_bytes()).hexdigest()


def scales(metadata: dict[str, str]) -> list[float]:
  """Scale factors that the weights were trained for; empty where they do not say. Raises UserError for damaged metadata."""
  return _numbers(metadata, "scales")


def _numbers(metadata: dict[str, str], key: str) -> list[float]:
  """A JSON list of finite, non-negative numbers."""
  try:
    values = [float(value) for value in json.loads(metadata.get(key, "[]"))]
  except (ValueError, TypeError):
    values = [math.nan]
  if not all(0 <= value < math.inf for value in values):
    raise UserError(f"weights have damaged metadata: '{key}' is '{metadata[key][:80]}', not a list of numbers")
  return values


def check_network(params: Params, model: MZSRNet = NET) -> None:
  """Raises UserError where parameters, conditioned or not, are not those of the given network, by default the paper's."""
  shapes = lambda tree: jax.tree.map(lambda p: p.shape, tree)
  key = jax.random.key(0)
  initial = lambda: conditioning.init(key, init(key, model)) if conditioning.is_conditioned(params) else init(key, model)
  expected = jax.eval_shape(initial)
  if shapes(params) != shapes(expected):
    raise UserError(f"the weights have another shape than the network of {model.depth} layers and {model.features} channels")


def check_scale(metadata: dict[str, str], scale: float) -> None:
  """Raises UserError where the weights were not trained for `scale`; a list of scales covers all between its ends."""
  known = scales(metadata)
  if known and not min(known) <= scale <= max(known):
    trained = f"x{known[0]:g}" if len(known) == 1 else f"x{min(known):g} to x{max(known):g}"
    raise UserError(f"scale {scale:g} does not fit these weights, trained for {trained}: choose other weights or scale")
