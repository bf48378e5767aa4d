"""Stage 1 at x2: L1 on bicubic LR/HR pairs.

python -m mzsr_jax.main --config=configs/pretrain_x2.py --workdir=runs/pretrain_x2 --config.data.root=/path/to/HR

The full length, 800,000 steps of 32 patches of 96x96, wants a GPU. `:cpu` is the same at a size for two CPU cores, `:smoke` a
minute's run of the whole path. The paper's authors' network of this stage has 37.48 dB on Set5 at bicubic x2.
"""

from mzsr_jax.training import config as config_lib


def cpu(c):
  """8 patches of 48x48: some 3 steps a second on two cores."""
  c.data.patch_size = 48
  c.batch_size = 8
  c.optimizer.learning_rate = 1e-3
  c.optimizer.halve_every = 1500
  c.optimizer.min_learning_rate = 5e-5
  c.run.num_steps = 7000
  return c


def get_config(variant=None):
  return config_lib.variant(config_lib.pretrain(scale=2.0), variant, cpu=cpu)
