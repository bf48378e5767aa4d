"""Which code made a result, and checksums of what is kept."""

import hashlib
import importlib.metadata
import json
import pathlib
import platform
import subprocess
from typing import Any

import jax
import numpy as np


def git_revision() -> str:
  """Commit of the source tree, with "+" after it where files differ from that; "unknown" outside a checkout."""
  here = pathlib.Path(__file__).resolve().parent

  def git(*args):
    return subprocess.run(("git", *args), cwd=here, capture_output=True, text=True, check=True).stdout.strip()

  try:
    if pathlib.Path(git("rev-parse", "--show-toplevel")).resolve() != here.parent:
      return "unknown"  # installed into an environment that lies inside another project's checkout
    return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "-uno") else "")
  except (OSError, subprocess.CalledProcessError):
    return "unknown"


def versions() -> dict[str, str]:
  """Versions of Python and of the packages that numbers depend on."""
  packages = ("jax", "jaxlib", "flax", "optax", "numpy", "orbax-checkpoint")
  return {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in packages}


def digest(tree: Any) -> str:
  """SHA-256 of a tree of arrays, numbers and texts: of their places in it, types, shapes and values. Hex digits."""
  total = hashlib.sha256()
  for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
    total.update(jax.tree_util.keystr(path).encode())
    if hasattr(leaf, "dtype"):
      array = np.ascontiguousarray(leaf)
      total.update(f"{array.dtype} {array.shape}".encode() + array.tobytes())
    else:
      total.update(json.dumps(leaf).encode())
  return total.hexdigest()
