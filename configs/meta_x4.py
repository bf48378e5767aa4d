"""Stage 2, x4, direct subsampling (Table 5).

python -m mzsr_jax.main --config=configs/meta_x4.py --workdir=runs/meta_x4 --config.data.root=/path/to/HR

See configs/meta_x2.py. Paper, Set5, g^d_2.0: 30.20 dB after one step, 30.50 after ten.
"""

from mzsr_jax.training import config as config_lib


def cpu(c):
  """To be started (`--config.init_weights=...`) from a blind network for these kernels: see experiments/docs/training.md."""
  c = config_lib.meta_like_meta_test(c)
  c.data.patch_size = 256
  c.optimizer.halve_every = 75
  c.run.num_steps = 150
  return c


def get_config(variant=None):
  c = config_lib.meta(scale=4.0)
  c.meta_test.inner_lrs = (0.01,) + 4 * (0.005,) + (0.001,)
  return config_lib.variant(c, variant, cpu=cpu)
