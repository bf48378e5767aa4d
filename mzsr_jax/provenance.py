"""Which code made a result."""

import importlib.metadata
import pathlib
import platform
import subprocess


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
