"""Methods to compare with, which need no weights of ours. A new one is a function and a line in `BASELINES`."""

from collections.abc import Callable

import jax
from jaxtyping import Array, Float

from mzsr_jax import degradation

# (lr, kernel, scale, subsample) -> sr: LR (H, W, 3) and SR (H * scale, W * scale, 3) in [0, 1], the blur kernel and the
# subsampling that made the LR image. Jitted by the caller with `scale` and `subsample` static.
Baseline = Callable[[jax.Array, jax.Array, float, str], jax.Array]


def bicubic(lr: Float[Array, "h w 3"], scale: float) -> Float[Array, "p q 3"]:
  """Plain bicubic enlargement, MATLAB's `imresize`."""
  return degradation.enlarge(lr, scale)


BASELINES: dict[str, Baseline] = {"bicubic": lambda lr, kernel, scale, subsample: bicubic(lr, scale)}
