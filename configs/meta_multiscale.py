"""Stage 2, one model for scales 2.0, 2.2, ..., 4.0, direct subsampling (Tables 3 and 5).

python -m mzsr_jax.main --config=configs/meta_multiscale.py --workdir=runs/meta_multiscale --config.data.root=/path/to/HR

A scale is drawn for each task. See configs/meta_x2.py. Paper, Set5, x2 after ten steps: 35.67 dB with g^d_2.0.
"""

from mzsr_jax import default_config


def get_config(variant=None):
  c = default_config.meta(scale=2.0)
  c.degradation.scales = tuple(2 + i / 5 for i in range(11))
  c.meta_test.inner_lrs = 3 * (0.01,) + (0.005,)
  return default_config.variant(c, variant)
