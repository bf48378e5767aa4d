"""Methods to compare with, which need no weights of ours. A new one is a function and a line in `BASELINES`."""

from collections.abc import Callable

import numpy as np

from mzsr_jax import images
from mzsr_jax.kernels import Degradation
from mzsr_jax.solver import Solver

# (solver, lr, kind, scale) -> sr: LR (H, W, 3) in [0, 1], its degradation, and the 8-bit SR (H * scale, W * scale, 3).
Baseline = Callable[[Solver, np.ndarray, Degradation, float], images.Pixels]

# Plain bicubic enlargement is MATLAB's `imresize`.
BASELINES: dict[str, Baseline] = {"bicubic": lambda solver, lr, kind, scale: solver.super_resolve(None, lr, scale)}
