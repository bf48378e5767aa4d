"""What the timing scripts share: alternatives in turn in one process, medians, tables, JSON with the machine named."""

import json
import logging
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

from mzsr_jax import files, provenance

logging.getLogger("jax").setLevel(logging.WARNING)  # it tells of each kind of accelerator that it did not find


def alternate(runs: dict[str, Callable[[], Any]], repeats: int) -> dict[str, list[float]]:
  """Seconds of `repeats` runs of each alternative, all in turn, after one run of each that is not counted."""
  for run in runs.values():
    run()
  seconds: dict[str, list[float]] = {name: [] for name in runs}
  for _ in range(repeats):
    for name, run in runs.items():
      start = time.perf_counter()
      run()
      seconds[name].append(time.perf_counter() - start)
  return seconds


def medians(seconds: dict[str, list[float]]) -> dict[str, float]:
  """Median of each alternative."""
  return {name: statistics.median(times) for name, times in seconds.items()}


def table(rows: Sequence[dict[str, Any]]) -> str:
  """Rows of equal keys as a Markdown table; floats to three significant digits, from 100 on to whole numbers."""
  text = lambda v: (f"{v:.0f}" if abs(v) >= 100 else f"{v:.3g}") if isinstance(v, float) else str(v)
  lines = [list(rows[0]), ["---"] * len(rows[0]), *([text(v) for v in row.values()] for row in rows)]
  return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def machine() -> dict[str, Any]:
  """Processor, cores, devices and versions."""
  cpu = platform.processor() or "unknown"
  if pathlib.Path("/proc/cpuinfo").is_file():
    lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    cpu = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), cpu)
  cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
  devices = f"{jax.local_device_count()} x {jax.devices()[0].device_kind}"
  versions = provenance.versions()
  if "torch" in sys.modules:
    versions["torch"] = sys.modules["torch"].__version__
  return {"cpu": cpu, "cores": cores, "devices": devices, "versions": versions, "commit": provenance.git_revision()}


def report(title: str, rows: Sequence[dict[str, Any]], out: str | None) -> None:
  """Prints a title, the machine and the table; writes them as JSON to `out`, if that is given, over what is there."""
  where = machine()
  print(f"{title}\n{where['cpu']}, {where['cores']} cores; {where['devices']}; jax {where['versions']['jax']}\n\n{table(rows)}")
  if out:
    content = json.dumps({"title": title, "machine": where, "rows": list(rows)}, indent=2)
    files.write_whole(out, (content + "\n").encode(), overwrite=True)


def peak_rss_mib() -> float:
  """The most memory that this process has held so far (Linux), MiB."""
  status = pathlib.Path("/proc/self/status").read_text()
  return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def in_new_process(module: str, *args: str, **env: str) -> Any:
  """Runs `python -m module args` and returns the JSON value that it prints as its last line."""
  command = [sys.executable, "-m", module, *args]
  output = subprocess.run(command, check=True, capture_output=True, text=True, env={**os.environ, **env}).stdout
  return json.loads(output.splitlines()[-1])
