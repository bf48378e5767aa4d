"""Ablation of the meta-learner: first-order MAML at x2 (Finn, Abbeel and Levine, 2017), without gradients of gradients.

python -m mzsr_jax.main --config=configs/meta_first_order.py --workdir=runs/meta_first_order --config.data.root=/path/to/HR

See configs/meta_x2.py. A meta-step costs half as much.
"""

from mzsr_jax.training import config as config_lib


def get_config(variant=None):
  c = config_lib.meta(scale=2.0)
  c.meta.first_order_until_step = 10**9  # throughout
  return config_lib.variant(c, variant, cpu=config_lib.meta_ablation)
