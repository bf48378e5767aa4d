"""Ablation of the meta-learner: Reptile at x2 (Nichol, Achiam and Schulman, 2018), towards what each task adapts to.

python -m mzsr_jax.main --config=configs/meta_reptile.py --workdir=runs/meta_reptile --config.data.root=/path/to/HR

See configs/meta_x2.py. A meta-step costs a quarter as much.
"""

from mzsr_jax.training import config as config_lib


def cpu(c):
  """The ablations' size, with fixed inner rates, of which Reptile has no gradient."""
  c = config_lib.meta_ablation(c)
  c.meta.learn_inner_lrs = False
  return c


def get_config(variant=None):
  c = config_lib.meta(scale=2.0)
  c.meta.algorithm = "reptile"
  return config_lib.variant(c, variant, cpu=cpu)
