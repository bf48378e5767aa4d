"""What the timing scripts share: runs in turn, tables, files of results."""

import json
import logging
import math
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from PIL import Image

from mzsr_jax import files, provenance

logging.getLogger("jax").setLevel(logging.WARNING)  # it tells of each kind of accelerator that it did not find


def alternate(runs: dict[str, Callable[[], Any]], repeats: int, until: float = math.inf) -> dict[str, list[float]]:
  """Seconds of each call, the runs taking turns so that whatever else the machine does meets all of them alike.

  Each function must wait for its own result (jax.block_until_ready). None is called before: compile first. After `until`
  (time.monotonic) no turn begins but the first.
  """
  seconds = {name: [] for name in runs}
  for turn in range(repeats):
    if turn and time.monotonic() > until:
      break
    for name, run in runs.items():
      start = time.perf_counter()
      run()
      seconds[name].append(time.perf_counter() - start)
  return seconds


def first_calls(runs: dict[str, Callable[[], Any]]) -> dict[str, float]:
  """Seconds of the first call of each, compilation included."""
  return {name: times[0] for name, times in alternate(runs, 1).items()}


def summary(seconds: dict[str, list[float]], reference: str) -> dict[str, dict[str, float]]:
  """By run: "median_s", "min_s", and "ratio", how much of the reference's time it takes, as the median over turns."""
  return {
      name: {
          "median_s": statistics.median(times),
          "min_s": min(times),
          "ratio": statistics.median(t / r for t, r in zip(times, seconds[reference])),
      }
      for name, times in seconds.items()
  }


def table(rows: Sequence[dict[str, Any]]) -> str:
  """Markdown; the columns are the keys of the first row. Floats have three significant digits; None is left empty."""
  columns = list(rows[0])
  show = lambda x: "" if x is None else f"{x:#.3g}".rstrip(".") if isinstance(x, float) else str(x)
  lines = [columns, ["---"] * len(columns), *([show(row.get(c)) for c in columns] for row in rows)]
  return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def machine() -> dict[str, Any]:
  """What the numbers depend on: processor, cores, devices, versions."""
  cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
  found = {
      "cpu": _cpu_model(),
      "cores": cores,
      "devices": f"{len(jax.devices())} x {jax.devices()[0].device_kind}",
      "python": platform.python_version(),
      "jax": jax.__version__,
      "commit": provenance.git_revision()[:12],
  }
  if "torch" in sys.modules:
    found["torch"] = sys.modules["torch"].__version__
  return found


def describe() -> str:
  """`machine` as one line."""
  return ", ".join(f"{name} {value}" for name, value in machine().items())


def _cpu_model() -> str:
  """The CPU's name, and, where Linux tells them, family and model: clouds call several generations by one name."""
  try:
    first = pathlib.Path("/proc/cpuinfo").read_text().split("\n\n")[0]
  except OSError:
    return platform.processor()
  found = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in first.splitlines())}
  numbers = [f"{key} {found[name]}" for key, name in (("family", "cpu family"), ("model", "model")) if name in found]
  return ", ".join([found.get("model name", platform.processor()), *numbers])


def write_json(path: str | pathlib.Path, content: dict[str, Any]) -> None:
  """Writes results with the `machine` they were taken on; makes the folder it needs."""
  files.write_whole(path, (json.dumps({"machine": machine(), **content}, indent=2) + "\n").encode(), overwrite=True)


def report(title: str, rows: Sequence[dict[str, Any]], out: str | None, **more: Any) -> None:
  """Prints a title, the machine and the rows as a table; writes them, and whatever more there is, as JSON where `out` says."""
  print(f"{title}\n{describe()}\n\n{table(rows)}")
  if out:
    write_json(out, {"title": title, **more, "rows": list(rows)})


def photo(megapixels: float) -> Image.Image:
  """A photo of 3:2 with that many pixels, with grain, so that it does not compress as a smooth one would."""
  import skimage.data

  height = round((megapixels * 1e6 / 1.5) ** 0.5)
  size = (round(1.5 * height), height)
  pixels = np.asarray(Image.fromarray(skimage.data.astronaut()).resize(size, Image.Resampling.BICUBIC)).astype(np.int16)
  grain = np.random.default_rng(0).integers(-6, 7, pixels.shape, np.int16)
  return Image.fromarray(np.clip(pixels + grain, 0, 255).astype(np.uint8))


def in_new_process(module: str, *args: str) -> Any:
  """Runs `python -m module args`, returns the JSON value that is the last line it prints."""
  output = subprocess.run([sys.executable, "-m", module, *args], check=True, stdout=subprocess.PIPE, text=True).stdout
  return json.loads(output.splitlines()[-1])


def peak_memory(run: Callable[[], Any]) -> float | None:
  """10^6 bytes of memory by which this process grows at the most during a call; None where the system does not tell.

  To be called in a process of its own: memory that was freed before, and kept, would be used again unseen.
  """
  status = pathlib.Path("/proc/self/status")
  try:
    pathlib.Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
    before = _kilobytes(status, "VmRSS")
    run()
    return (_kilobytes(status, "VmHWM") - before) / 1e3
  except OSError:
    return None


def _kilobytes(status: pathlib.Path, name: str) -> int:
  return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith(name + ":"))
