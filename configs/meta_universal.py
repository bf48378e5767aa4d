"""Meta-transfer learning of the unrolled network: plain gradient steps on an image's own LR son are to help it (beyond the paper).

python -m mzsr_jax.main --config=configs/meta_universal.py --workdir=runs/meta_universal --config.data.root=/path/to/HR
"""

from mzsr_jax.training import config


def cpu(c):
  """In bfloat16, which a CPU with AVX-512 BF16 computes faster from jax 0.12 on."""
  c.model.precision = "bfloat16"
  return c


def get_config(variant=None):
  return config.variant(config.meta_universal(), variant, cpu=cpu)
