"""Finding files by extension; writing them whole or not at all, never over an existing file unasked; locking folders."""

import contextlib
import os
import pathlib
import secrets
from collections.abc import Collection, Iterator

try:
  import fcntl
except ImportError:  # Windows
  fcntl = None

from absl import logging

from mzsr_jax.errors import UserError


def find(folder: str | pathlib.Path, extensions: Collection[str], what: str) -> list[pathlib.Path]:
  """The files of some extensions under a folder and its subfolders, sorted; hidden files left out.

  Args:
    folder: where to look.
    extensions: in lower case, with their dots.
    what: such a file is, for messages.

  Raises:
    UserError: no such folder, or no such file in it.
  """
  folder = pathlib.Path(folder)
  if not folder.is_dir():
    raise UserError(f"folder '{folder}' does not exist")
  # Hidden ones are mostly "._photo.jpg", which macOS leaves on foreign disks and which hold nothing of their kind.
  found = [p for p in folder.rglob("*") if p.suffix.lower() in extensions and p.name[0] != "." and p.is_file()]
  if not found:
    raise UserError(f"folder '{folder}' holds no {what}: looked, in subfolders too, for {', '.join(extensions)}")
  return sorted(found)


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
  partial = path.with_name(f".{os.getpid()}-{secrets.token_hex(4)}.partial")  # short: `path` may be as long as names may be
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial.write_bytes(data)
    os.replace(partial, path)
  except OSError as e:
    raise UserError(f"output '{path}' cannot be written: {e.strerror}") from e
  finally:
    with contextlib.suppress(OSError):
      partial.unlink()


def shrink(folder: str | pathlib.Path, pattern: str, most: int) -> None:
  """Deletes files of a folder, those first that were not used for longest, until the others have at most `most` bytes.

  Args:
    folder: which need not exist.
    pattern: of the names of the files that count.
    most: bytes.
  """
  found = []
  for path in pathlib.Path(folder).glob(pattern):
    with contextlib.suppress(OSError):  # another process deletes too
      about = path.stat()
      found.append((max(about.st_atime, about.st_mtime), about.st_size, path))
  too_many = sum(size for _, size, _ in found) - most
  for _, size, path in sorted(found):
    if too_many <= 0:
      break
    with contextlib.suppress(OSError):
      path.unlink()
    too_many -= size


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
