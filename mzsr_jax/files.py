"""Writing files: whole or not at all, never over what is there unless told to, and folders by one process at a time."""

import contextlib
import os
import pathlib
from collections.abc import Iterator

try:
  import fcntl
except ImportError:  # Windows
  fcntl = None

from absl import logging

from mzsr_jax.errors import UserError


def check_writable(path: str | pathlib.Path, overwrite: bool) -> None:
  """Says before slow work what would stop its result from being written.

  Raises:
    UserError: the file exists and may not be overwritten, or its folder cannot be written to.
  """
  path = pathlib.Path(path)
  if path.is_dir():
    raise UserError(f"output '{path}' is a folder: name a file")
  if path.exists() and not overwrite:
    raise UserError(f"output '{path}' exists: pass --overwrite to replace it, or name another file")
  folder = next(p for p in path.absolute().parents if p.exists())
  if not (folder.is_dir() and os.access(folder, os.W_OK)):
    raise UserError(f"output '{path}' cannot be written: '{folder}' is not a folder that you may write to")


def write_whole(path: str | pathlib.Path, data: bytes | memoryview, overwrite: bool = False) -> None:
  """Writes a file that appears complete or not at all; makes the folders it needs.

  Raises:
    UserError: see `check_writable`; or the disk refuses.
  """
  path = pathlib.Path(path)
  check_writable(path, overwrite)
  partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial.write_bytes(data)
    os.replace(partial, path)
  except OSError as e:
    raise UserError(f"output '{path}' cannot be written: {e.strerror}") from e
  finally:
    partial.unlink(missing_ok=True)


@contextlib.contextmanager
def lock(folder: pathlib.Path) -> Iterator[None]:
  """While entered, no other process can enter for the same folder. The system lets go of it when the process ends, however.

  On Windows, and on file systems without locks, nothing is locked.

  Raises:
    UserError: another process has entered.
  """
  with (folder / ".lock").open("w") as file:
    try:
      if fcntl:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as e:
      raise UserError(f"'{folder}' is in use by another process: wait until it ends, or name another folder") from e
    except OSError as e:
      logging.warning("'%s' cannot be locked (%s): see to it that no other run uses it.", folder, e.strerror)
    yield
