"""Named parameter files: safetensors with what they were trained on in the header."""

import functools
import hashlib
import json
import math
import os
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import flax.traverse_util
import jax
import numpy as np
import safetensors.numpy
from jaxtyping import Float, PyTree

from mzsr_jax import files, provenance
from mzsr_jax.core import inner_rules, networks
from mzsr_jax.core.inner_rules import Rates, Spectral
from mzsr_jax.core.model import NET, MZSRNet
from mzsr_jax.core.network import Network, Params
from mzsr_jax.errors import UserError

SHIPPED = pathlib.Path(__file__).parent / "weights"
SUFFIX = ".safetensors"
# Shipped beside the others, but no networks that enlarge: see `kernel_net` and `response`.
KERNEL_ESTIMATOR, PHOTO_ESTIMATOR = "kernel_estimator", "photo_estimator"
DEFAULT = "universal"  # for every scale, kernel and noise
SPECTRAL = "spectral:"  # before a name or path: the same parameters, adapted by such steps (`inner_rules.Spectral`)
SPECTRAL_RATE = 0.04  # of them all, where training learned none of this kind
_RATES = "inner_lrs."  # before the names of learned rates
_DIGEST = "content_sha256"  # of everything else in a file; what others wrote may lack it


def names() -> list[str]:
  """Names of the weights that come with the package and enlarge images."""
  return sorted(p.stem for p in SHIPPED.glob(f"*{SUFFIX}") if p.stem not in (KERNEL_ESTIMATOR, PHOTO_ESTIMATOR))


def is_shipped(name: str) -> bool:
  """Whether a name, after `SPECTRAL` or not, is one of `names`."""
  return name.removeprefix(SPECTRAL) in names()


def resolve(name_or_path: str | os.PathLike) -> pathlib.Path:
  """The file behind a shipped name or a path, after `SPECTRAL` or not. Raises UserError where it is missing."""
  name = os.fspath(name_or_path).removeprefix(SPECTRAL)
  shipped = SHIPPED / f"{name}{SUFFIX}"
  if shipped.is_file():
    return shipped
  path = pathlib.Path(name)
  if path.is_file():
    return path
  raise UserError(f"no weights '{name_or_path}': neither a file nor one of {', '.join(names()) or 'the shipped names'}")


class Weights(NamedTuple):
  """What a weights file holds, read and hashed once: all who load it are given the same, and change nothing of it.

  Attributes:
    params: nested dict of float32 arrays, {"conv1": {"kernel": (3, 3, 3, 64), "bias": (64,)}, ...}.
    inner_rule: how they are to be adapted, one of `inner_rules.RULES`.
    rates: learning rates of the steps that the file knows: a list for all parameters, or where training learned them a tree
      of lists, shaped like the parameters.
    metadata: what the file says of itself, see `save_weights`.
    digest: SHA-256 of the file, hex.
  """

  params: Params
  inner_rule: str
  rates: list[float] | PyTree
  metadata: dict[str, str]
  digest: str

  @property
  def scales(self) -> list[float]:
    """Scale factors that the weights were trained for; empty where they do not say."""
    return _numbers(self.metadata, "scales")

  def inner_lrs(self, num_steps: int) -> Rates | Spectral:
    """Learning rates for the first `num_steps` steps of the meta-test; beyond those that the weights know, the last repeats.

    Returns:
      (num_steps,) float32, or a tree shaped like the parameters with a (num_steps,) array for each leaf; `Spectral`, where
      training stepped like that, or where the name began with `SPECTRAL`.
    """
    extended = jax.tree.map(lambda lrs: extend_schedule(lrs, num_steps), self.rates, is_leaf=lambda x: isinstance(x, list))
    return inner_rules.rates_of(self.inner_rule, extended)

  def check_scale(self, scale: float) -> None:
    """Raises UserError where the weights were not trained for `scale`; a list of scales covers all between its ends."""
    known = self.scales
    if known and not min(known) <= scale <= max(known):
      trained = f"x{known[0]:g}" if len(known) == 1 else f"x{min(known):g} to x{max(known):g}"
      raise UserError(f"scale {scale:g} does not fit these weights, trained for {trained}: choose other weights or scale")


def load(name_or_path: str | os.PathLike) -> Weights:
  """Reads weights.

  Args:
    name_or_path: shipped name, such as "x2_direct", or the path of a .safetensors file. `SPECTRAL` before it changes how they
      are to be adapted, not the parameters.

  Raises:
    UserError: no such file, not a safetensors file, not the parameters of this network, damaged metadata, or steps of a rule
      that this version does not know.
  """
  path = resolve(name_or_path)
  stat = path.stat()
  return _load(path, os.fspath(name_or_path).startswith(SPECTRAL), stat.st_mtime_ns, stat.st_size)


def load_checked(name_or_path: str | os.PathLike) -> Weights:
  """As `load`, and also raises UserError for parameters of the wrong shapes.

  That traces the network, a third of a second: not worth it for weights that come with the package.
  """
  loaded = load(name_or_path)
  if not is_shipped(os.fspath(name_or_path)):
    check_network(loaded.params)
  return loaded


@functools.lru_cache(maxsize=8)
def _load(path: pathlib.Path, spectral: bool, *_) -> Weights:
  tensors, metadata, digest = _read(path)
  flat = {key: value for key, value in tensors.items() if not key.startswith(_RATES)}
  params = _nest(flat)
  try:
    networks.of(params)
  except (ValueError, KeyError, TypeError, AttributeError, IndexError) as e:
    raise UserError(f"weights '{path}' do not hold the parameters of a network (names such as conv1.kernel)") from e
  learned = {key.removeprefix(_RATES): value.tolist() for key, value in tensors.items() if key.startswith(_RATES)}
  rule = metadata.get("inner_rule", "gradient")
  if rule not in inner_rules.RULES:
    known = ", ".join(inner_rules.RULES)
    raise UserError(f"weights are to be adapted by the rule '{rule}', and this version knows {known} alone")
  if spectral and rule != "spectral":
    rule, learned = "spectral", {}
    metadata |= {"inner_rule": rule, "inner_lrs": json.dumps([SPECTRAL_RATE])}
  rates = flax.traverse_util.unflatten_dict(learned, sep=".") if learned else _numbers(metadata, "inner_lrs") or [0.01]
  return Weights(params, rule, rates, metadata, digest)


def load_arrays(name_or_path: str | os.PathLike) -> dict:
  """All that a file holds, of whatever network, as a nested dict. Raises UserError where it is missing or damaged."""
  return _nest(_read(resolve(name_or_path))[0])


def extend_schedule(lrs: Sequence[float], num_steps: int) -> Float[np.ndarray, " n"]:
  """The first `num_steps` of a list of learning rates, float32, the last of which repeats."""
  return np.asarray((list(lrs) + [lrs[-1]] * num_steps)[:num_steps], np.float32)


def save_weights(path: str | os.PathLike, params: Params, metadata: dict[str, str], inner_lrs: PyTree | None = None) -> None:
  """Writes parameters and metadata; the file appears whole or not at all, and replaces what was there.

  Args:
    path: of the .safetensors file; its folder is made.
    params: nested dict of arrays.
    metadata: strings, among them "stage" (pretrain or meta), "scales" (JSON list), "subsample", "inner_lrs" (JSON list:
      learning rate of each step of the meta-test, the last one repeating), "inner_rule" (one of `inner_rules.RULES`; gradient
      steps where it is missing), "steps", "data", "config" (JSON), "commit".
    inner_lrs: learned rates of the inner steps, shaped like `params` with an axis of steps.
  """
  flat = flax.traverse_util.flatten_dict(params, sep=".")
  if inner_lrs is not None:
    flat |= {_RATES + k: v for k, v in flax.traverse_util.flatten_dict(inner_lrs, sep=".").items()}
  flat = {k: np.asarray(v, order="C") for k, v in flat.items()}  # safetensors writes memory as it lies
  data = safetensors.numpy.save(flat, metadata | {_DIGEST: provenance.digest([flat, metadata])})
  files.write_whole(path, data, overwrite=True)


def _read(path: pathlib.Path) -> tuple[dict[str, np.ndarray], dict[str, str], str]:
  """Arrays, metadata and digest of a file. Raises UserError where it is damaged."""
  try:
    content = path.read_bytes()
    tensors = safetensors.numpy.load(content)
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
  except Exception as e:  # safetensors raises its own error type and OSError alike
    raise UserError(f"weights '{path}' cannot be read: {e}") from e
  metadata = dict(header.get("__metadata__") or {})
  expected = metadata.pop(_DIGEST, None)
  if expected is not None and expected != provenance.digest([tensors, metadata]):
    raise UserError(f"weights '{path}' are damaged: their content does not have the checksum that they were written with")
  return tensors, metadata, hashlib.sha256(content).hexdigest()


def _nest(flat: dict[str, np.ndarray]) -> dict:
  # Not jnp.asarray, which compiles a program for each shape.
  return jax.device_put(flax.traverse_util.unflatten_dict(flat, sep="."))


def _numbers(metadata: dict[str, str], key: str) -> list[float]:
  """A JSON list of finite, non-negative numbers."""
  try:
    values = [float(value) for value in json.loads(metadata.get(key, "[]"))]
  except (ValueError, TypeError):
    values = [math.nan]
  if not all(0 <= value < math.inf for value in values):
    raise UserError(f"weights have damaged metadata: '{key}' is '{metadata[key][:80]}', not a list of numbers")
  return values


def check_network(params: Params, network: Network | None = None) -> None:
  """Raises UserError where parameters are not those of a network; by default the paper's or an unrolled one."""
  own = networks.of(params)
  network = network or (NET if isinstance(own, MZSRNet) else own)
  shapes = lambda tree: jax.tree.map(lambda p: p.shape, tree)
  if shapes(params) != shapes(jax.eval_shape(network.init_params, jax.random.key(0))):
    raise UserError("the weights have another shape than the network of the config, or than the paper's")
