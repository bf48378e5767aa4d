"""Time of one meta-step over the number of tasks, of patches and of devices; writes a table, JSON and a plot.

    python -m experiments.bench.scaling --tasks=2 --patches=2 --out=results/scaling.json --plot=results/scaling.png

What is not varied is as the flags of bench.meta_step say. Tasks and patches should cost in proportion to their number; more
devices should take proportionally less time, as long as they are not shared with anything else.
"""

import statistics

import jax
from absl import flags

from experiments import outputs
from experiments.bench import meta_step, timing
from mzsr_jax import cli, devices, files

flags.adopt_module_key_flags(meta_step)  # --help lists them
_POWERS = flags.DEFINE_integer("powers", 3, "how many powers of two of tasks and of patches, from 1")
_PLOT = flags.DEFINE_string("plot", "", "PNG file to write (needs matplotlib)")


def measure(axis: str, value: int) -> dict:
  """One row: the median of a meta-step with one number changed."""
  args = flags.FLAGS
  before = args.tasks, args.patches
  if axis != "devices":
    setattr(args, axis, value)
  run, numbers = meta_step.jax_run({"devices": value} if axis == "devices" else {})
  run()  # the first call is slower
  median = statistics.median(timing.alternate({"": run}, args.repeats)[""])
  rate = meta_step.gigaflop() / median
  args.tasks, args.patches = before
  return {"varied": axis, "number": value, "median s": median, "GFLOP/s": rate, "temp MB": numbers()["temp_mb"]}


def main(_):
  outputs.check()
  if _PLOT.value:
    files.check_writable(_PLOT.value, flags.FLAGS.overwrite)
  devices.use_all_cores()
  powers = [2**i for i in range(_POWERS.value)]
  counts = sorted({*(2**i for i in range(len(jax.devices()).bit_length())), len(jax.devices())})
  axes = {"tasks": powers, "patches": powers, "devices": [n for n in counts if n <= len(jax.devices())]}
  rows = [measure(axis, value) for axis, values in axes.items() for value in values]
  timing.report("One meta-step", rows, flags.FLAGS.out)
  if _PLOT.value:
    plot(rows, list(axes), _PLOT.value)


def plot(rows: list[dict], axes: list[str], path: str) -> None:
  """One panel an axis, seconds over number, with the straight line of proportional cost."""
  from matplotlib import pyplot

  figure, panels = pyplot.subplots(1, len(axes), figsize=(4 * len(axes), 3.5), layout="constrained")
  for panel, axis in zip(panels, axes):
    numbers, seconds = zip(*((r["number"], r["median s"]) for r in rows if r["varied"] == axis))
    panel.loglog(numbers, seconds, "o-", base=2, label="measured")
    power = -1 if axis == "devices" else 1
    ideal = [seconds[0] * (n / numbers[0]) ** power for n in numbers]
    panel.loglog(numbers, ideal, "--", base=2, color="gray", label="in proportion")
    panel.set(xlabel=axis, ylabel="seconds a meta-step")
    panel.legend()
  figure.savefig(path, dpi=120)


if __name__ == "__main__":
  cli.run(main)
