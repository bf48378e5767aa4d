"""Ablation "Meta-Learning" of Figure 3: stage 2 at x2 from random parameters, without stage 1.

python -m mzsr_jax.main --config=configs/meta_no_pretrain.py --workdir=runs/meta_no_pretrain --config.data.root=/path/to/HR

See configs/meta_x2.py.
"""

from mzsr_jax.training import config as config_lib


def cpu(c):
  """Tasks that are as meta-test is, a schedule for some 20 minutes."""
  c = config_lib.meta_like_meta_test(c)
  c.data.patch_size = 96
  c.optimizer.learning_rate = 1e-3
  c.optimizer.halve_every = 200
  c.optimizer.min_learning_rate = 1e-4
  c.run.num_steps = 800
  return c


def get_config(variant=None):
  c = config_lib.meta(scale=2.0)
  c.init_weights = ""
  return config_lib.variant(c, variant, cpu=cpu)
