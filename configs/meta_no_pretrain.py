"""Ablation "Meta-Learning" of Figure 3: stage 2 at x2 from random parameters, without stage 1.

python -m mzsr_jax.main --config=configs/meta_no_pretrain.py --workdir=runs/meta_no_pretrain --config.data.root=/path/to/HR

See configs/meta_x2.py.
"""

from mzsr_jax import default_config


def get_config(variant=None):
  c = default_config.meta(scale=2.0)
  c.init_weights = ""
  return default_config.variant(c, variant)
