"""Stage 1 at x4: as configs/pretrain_x2.py, which see.

python -m mzsr_jax.main --config=configs/pretrain_x4.py --workdir=runs/pretrain_x4 --config.data.root=/path/to/HR
"""

from mzsr_jax.training import config as config_lib


def cpu(c):
  """8 patches of 64x64, from the weights of x2."""
  c.init_weights = "pretrain_x2"
  c.data.patch_size = 64
  c.batch_size = 8
  c.optimizer.learning_rate = 5e-4
  c.optimizer.halve_every = 600
  c.optimizer.min_learning_rate = 3e-5
  c.run.num_steps = 2500
  return c


def get_config(variant=None):
  return config_lib.variant(config_lib.pretrain(scale=4.0), variant, cpu=cpu)
