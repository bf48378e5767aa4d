"""From the start of `python -m mzsr_jax.upscale` to the file: where the seconds of one photo go, with a cold and a warm cache.

    pip install '.[bench]' && python -m experiments.bench.first_photo --out=runs/bench_first_photo.json

Each run is a process of its own, with the command's defaults: the kernel is estimated. "compile s" is XLA's compilation, or the
loading of compiled programs; the other columns are without it. Programs compiled more than once, and weights read more than
once, are counted.
"""

import collections
import json
import subprocess
import sys
import tempfile
import time

import jax.monitoring
from absl import flags

from experiments import outputs
from experiments.bench import timing
from mzsr_jax import cli, progress

PHASES = ("import", "start", "estimate", "adapt", "enlarge", "write")
_CHILD = "from experiments.bench import first_photo; first_photo.child()"


def child() -> None:
  """One run of the command, whose arguments follow the time of its start; prints its figures as a last line of JSON."""
  begin = float(sys.argv.pop(1))
  seconds, programs, reads = collections.Counter(), collections.Counter(), collections.Counter()
  marked, compiling = [begin], [0.0]

  def on_event(event: str, duration: float, **about) -> None:
    if event == progress.COMPILED:
      compiling[0] += duration
      programs[about.get("fun_name", "")] += 1

  def mark(phase: str) -> None:
    now = time.time()
    seconds[phase] += now - marked[0] - compiling[0]
    seconds["compile"] += compiling[0]
    marked[0], compiling[0] = now, 0.0

  jax.monitoring.register_event_duration_secs_listener(on_event)
  from mzsr_jax import cli, upscale, weights
  from mzsr_jax.photo import enhance

  mark("import")
  plain, read = enhance.run, weights._read

  def run(*args):
    mark("start")
    for event in plain(*args):
      mark({enhance.Estimated: "estimate", enhance.Adapted: "adapt", enhance.Enlarged: "enlarge"}[type(event)])
      yield event

  def counted(path):
    reads[path.name] += 1
    return read(path)

  enhance.run, weights._read = run, counted
  upscale.define_flags()
  try:
    cli.run(upscale.main)
  except SystemExit as e:
    if e.code:
      raise
  mark("write")
  twice = lambda counts: sum(count > 1 for count in counts.values())
  figures = {f"{phase} s": seconds[phase] for phase in ("compile", *PHASES)}
  figures |= {"all s": marked[0] - begin, "programs": programs.total(), "weights read twice": twice(reads)}
  print(json.dumps(figures | {"names compiled more than once": sorted(name for name, n in programs.items() if n > 1)}))


def one_run(photo: str, folder: str, cache: str) -> dict:
  """The figures of `child`."""
  command = [sys.executable, "-c", _CHILD, str(time.time()), f"--input={photo}", f"--output={folder}/out.png", "--overwrite"]
  made = subprocess.run([*command, f"--compilation_cache={cache}"], check=True, stdout=subprocess.PIPE, text=True).stdout
  return json.loads(made.splitlines()[-1])


def main(_):
  outputs.check()
  rows, repeated = [], []
  for name, area in (("160x160", 0.0256), ("0.5 megapixels", 0.5)):
    with tempfile.TemporaryDirectory() as folder:
      picture = timing.photo(area)
      (picture.resize((160, 160)) if area < 0.1 else picture).save(f"{folder}/photo.png")
      for cache in ("cold", "warm"):
        figures = one_run(f"{folder}/photo.png", folder, f"{folder}/cache")
        repeated += figures.pop("names compiled more than once")
        rows.append({"photo": name, "cache": cache, **figures})
  repeated = sorted(set(repeated))
  timing.report("One photo by the upscale command, from its start to the file", rows, flags.FLAGS.out, repeated=repeated)
  if repeated:
    print("compiled more than once, for other shapes or anew:", ", ".join(repeated))


if __name__ == "__main__":
  outputs.define_flags()  # not in the child, whose flags are those of upscale
  cli.run(main)
