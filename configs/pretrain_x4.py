"""Stage 1 at x4: as configs/pretrain_x2.py, which see.

python -m mzsr_jax.main --config=configs/pretrain_x4.py --workdir=runs/pretrain_x4 --config.data.root=/path/to/HR
"""

from mzsr_jax import default_config


def get_config(variant=None):
  return default_config.variant(default_config.pretrain(scale=4.0), variant)
