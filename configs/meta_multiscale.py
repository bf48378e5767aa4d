"""Stage 2, one model for scales 2.0, 2.2, ..., 4.0, direct subsampling (Tables 3 and 5).

python -m mzsr_jax.main --config=configs/meta_multiscale.py --workdir=runs/meta_multiscale --config.data.root=/path/to/HR

A scale is drawn for each task. See configs/meta_x2.py. Paper, Set5, x2 after ten steps: 35.67 dB with g^d_2.0.
"""

from mzsr_jax.training import config as config_lib


def cpu(c):
  """To be started (`--config.init_weights=...`) from a blind network for these scales: see experiments/docs/training.md."""
  c = config_lib.meta_like_meta_test(c)
  c.data.patch_size = 256  # 64 pixels of the LR image at the largest scale
  c.optimizer.halve_every = 200
  c.run.num_steps = 400
  return c


def get_config(variant=None):
  c = config_lib.meta(scale=2.0)
  c.degradation.scales = tuple(2 + i / 5 for i in range(11))
  c.meta_test.inner_lrs = 3 * (0.01,) + (0.005,)
  return config_lib.variant(c, variant, cpu=cpu)
