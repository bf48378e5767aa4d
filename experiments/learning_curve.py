"""Draws the learning curve of a shipped training run: what PSNR on the sample photos gains over steps, without adaptation.

python -m experiments.learning_curve --curve=experiments/results/curves/universal.json --out=runs/universal_curve.png

The JSON file holds "about", a line on how it was measured, and "points", each with "step" and a PSNR for each of several
degradations.
"""

import io
import json
import pathlib
import textwrap

import matplotlib
from absl import flags

from mzsr_jax import cli, files

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402


def define_flags() -> None:
  """Defines the flags of this entry."""
  flags.DEFINE_string("curve", None, "JSON file of the curve", required=True)
  flags.DEFINE_string("out", None, "PNG file to write", required=True)
  flags.DEFINE_bool("overwrite", False, "replace the PNG file")


def main(argv: list[str]) -> None:
  """Reads the flags and draws the curve."""
  del argv
  args = flags.FLAGS
  files.check_writable(args.out, args.overwrite)
  curve = json.loads(pathlib.Path(args.curve).read_text())
  steps = [point["step"] for point in curve["points"]]
  figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
  first = {name: psnr for name, psnr in curve["points"][0].items() if name != "step"}
  for name, before in first.items():
    axes.plot(steps, [point[name] - before for point in curve["points"]], marker=".", label=f"{name}, {before:.2f} dB")
  axes.set(xlabel="steps", ylabel=f"PSNR-Y over that at step {steps[0]}, dB", title=textwrap.fill(curve["about"], 80))
  axes.title.set_fontsize(8)
  axes.legend(fontsize=8, title=f"at step {steps[0]}", title_fontsize=8)
  png = io.BytesIO()
  figure.savefig(png, format="png", dpi=120)
  files.write_whole(args.out, png.getbuffer(), args.overwrite)
  print(args.out)


if __name__ == "__main__":
  define_flags()
  cli.run(main)
