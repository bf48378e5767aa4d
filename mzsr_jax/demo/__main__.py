"""Serves a page on this machine: drop a photo, see a part of it enlarged at once, compare, enlarge the whole, download.

  python -m mzsr_jax.demo                # http://127.0.0.1:7860; needs pip install '.[demo]'

Nothing leaves the machine, and what a page was given or has made is deleted when it is closed. `work` enlarges,
`jobs` keeps visitors and files apart, and both know of no page; `page` is the page. Gradio is imported only when this is run.
"""

import contextlib
import errno
import logging
import math
import os
import pathlib
import signal
import socket
import tempfile
import threading
from collections.abc import Iterator

from absl import flags

from mzsr_jax import cli
from mzsr_jax.demo.jobs import JobManager
from mzsr_jax.demo.work import Limits
from mzsr_jax.errors import UserError

_FILES = "files"  # of the pages, in the temporary folder
_TRIED_PORTS = 20


def define_flags() -> None:
  """Defines the flags of this entry."""
  flags.DEFINE_integer(
      "port", 7860, f"port to listen on, or the next free one of {_TRIED_PORTS}; 0: any", lower_bound=0, upper_bound=65535
  )
  flags.DEFINE_string("host", "127.0.0.1", "address to listen on; others than 127.0.0.1 let other machines in")
  flags.DEFINE_float("max_megapixels", 24.0, "largest photo that is taken, before it is enlarged", lower_bound=0)
  flags.DEFINE_float("max_seconds", 3600.0, "time after which a job is stopped", lower_bound=0)
  cli.define_memory_flag()
  cli.define_cache_flag()


def main(argv: list[str]) -> None:
  """Reads the flags and serves the page until interrupted."""
  del argv
  args = flags.FLAGS
  for name in ("max_megapixels", "max_seconds"):
    if not 0 < getattr(args, name) < math.inf:
      raise UserError(f"--{name}={getattr(args, name):g}: it must be a number above 0")
  previous = signal.signal(signal.SIGTERM, _interrupt)
  try:
    with contextlib.suppress(KeyboardInterrupt), tempfile.TemporaryDirectory(prefix="mzsr_jax_demo_") as folder:
      folder = pathlib.Path(folder).resolve()
      with _gradio_in(folder):
        _serve(folder, Limits(args.max_megapixels, args.max_seconds))
  finally:
    signal.signal(signal.SIGTERM, previous)


def _interrupt(*_) -> None:
  """As Ctrl-C, once: so that files are deleted in either case."""
  signal.signal(signal.SIGTERM, signal.SIG_IGN)
  raise KeyboardInterrupt


def _serve(folder: pathlib.Path, limits: Limits) -> None:
  from mzsr_jax.demo import page  # not before Gradio is set up

  host, port = flags.FLAGS.host, free_port(flags.FLAGS.host, flags.FLAGS.port)
  cli.start_jax()
  cli.memory_limit(int(limits.megapixels * 1e6), 0, 0)  # a part of the largest photo can be worked on, or this says so
  manager = JobManager(folder / _FILES, limits, cli.memory_limit)
  served = page.serve(manager, host, port)
  try:
    print(f"The demo is at {served.local_url} (Ctrl-C ends it)", flush=True)
    threading.Event().wait()
  finally:
    manager.close()
    served.close(verbose=False)


@contextlib.contextmanager
def _gradio_in(folder: pathlib.Path) -> Iterator[None]:
  """Has Gradio loaded, with its files in a folder, and none of its settings from the environment.

  Raises:
    UserError: it is not installed.
  """
  kept, tempdir = dict(os.environ), tempfile.tempdir
  for name in [name for name in os.environ if name.startswith("GRADIO_")]:
    del os.environ[name]
  os.environ |= {
      "GRADIO_TEMP_DIR": f"{folder / _FILES}", "GRADIO_EXAMPLES_CACHE": f"{folder / 'examples'}",
      "GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_RUN_HISTORY": "False", "HF_HUB_DISABLE_TELEMETRY": "1",
  }  # fmt: skip
  tempfile.tempdir = f"{folder}"
  logging.getLogger("httpx").setLevel(logging.WARNING)  # by which Gradio asks itself whether it is there
  try:
    try:
      import gradio  # noqa: F401
    except ImportError as e:
      raise UserError("the demo needs Gradio: pip install 'gradio>=6.31', or '.[demo]' in this repository") from e
    yield
  finally:
    tempfile.tempdir = tempdir
    os.environ.clear()
    os.environ |= kept


def free_port(host: str, port: int) -> int:
  """`port`, or the next one that is free; any free one for 0.

  Raises:
    UserError: no port is free, or `host` is not an address of this machine.
  """
  for candidate in range(port, min(port + _TRIED_PORTS, 65536)) if port else [0]:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as attempt:
      attempt.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
      try:
        attempt.bind((host, candidate))
        return attempt.getsockname()[1]
      except PermissionError as e:
        raise UserError(f"--port={port}: the system does not allow it: choose one from 1024 on") from e
      except OSError as e:
        if isinstance(e, socket.gaierror) or e.errno == errno.EADDRNOTAVAIL:
          raise UserError(f"--host={host} is no address of this machine: use 127.0.0.1") from e
  raise UserError(f"--port={port} and the {_TRIED_PORTS - 1} after it are taken: choose another")


if __name__ == "__main__":
  define_flags()
  cli.run(main)
