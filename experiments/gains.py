"""A line of the tables of what steps gain, from what `experiments.rates` writes."""

from typing import Any

import numpy as np

from mzsr_jax.evaluation import benchmark


def line(row: dict[str, Any]) -> dict[str, str]:
  """PSNR of the fewest steps, and what it is above bicubic enlargement; then what further steps gain.

  Args:
    row: kernel, scale, told, noise, jpeg (quality, or None), factor; bicubic, a PSNR for each image; psnr, the same by number
      of steps, ascending.
  """
  first, *further = row["psnr"]
  psnr = {steps: np.array(values) for steps, values in row["psnr"].items()}
  over = psnr[first] - row["bicubic"]
  spoilt = f"{row['noise']:g}" + (f", JPEG {row['jpeg']}" if row["jpeg"] else "")
  cells = {"kernel": f"`{row['kernel']}` x{row['scale']}", "told": row["told"], "noise": spoilt, "rates times": row["factor"]}
  cells |= {f"{first} steps": f"{psnr[first].mean():.2f}", "over bicubic": _gain(over), "worst": f"{over.min():+.2f}"}
  return cells | {f"gain, {steps} step{'s' * (steps != '1')}": _gain(psnr[steps] - psnr[first], 3) for steps in further}


def _gain(by_image: np.ndarray, digits: int = 2) -> str:
  return benchmark.interval_text(*benchmark.interval(by_image), digits)
