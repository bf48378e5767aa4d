"""Stage 2, x2, blur followed by bicubic subsampling: the model for plain bicubic images and g^b_1.3 (Tables 1 and 2).

python -m mzsr_jax.main --config=configs/meta_x2_bicubic.py --workdir=runs/meta_x2_bicubic --config.data.root=/path/to/HR

See configs/meta_x2.py. Paper, Set5, g^b_1.3: 35.18 dB after one step, 36.64 after ten.
"""

from mzsr_jax.training import config as config_lib


def cpu(c):
  """To be started (`--config.init_weights=...`) from a blind network for these kernels: see experiments/docs/training.md."""
  c = config_lib.meta_like_meta_test(c)
  c.degradation.min_variance = 0.05  # down to no blur at all, as in Table 1
  c.optimizer.halve_every = 350
  c.run.num_steps = 700
  return c


def get_config(variant=None):
  c = config_lib.meta(scale=2.0)
  c.degradation.subsample = "bicubic"
  c.meta_test.inner_lrs = 3 * (0.01,) + (0.001,)
  return config_lib.variant(c, variant, cpu=cpu)
