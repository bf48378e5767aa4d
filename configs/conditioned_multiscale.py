"""Parameters that depend on the kernel and the scale, from 2 to 4, direct subsampling: see configs/conditioned_x2.py.

python -m mzsr_jax.main --config=configs/conditioned_multiscale.py --workdir=runs/multiscale --config.data.root=/path/to/HR
"""

from mzsr_jax import default_config


def cpu(c):
  """16 patches of 64x64, from the parameters for x2."""
  c = default_config.conditioned_cpu(c)
  c.init_weights = "conditioned_x2"
  c.data.patch_size = 64
  c.optimizer.halve_every = 450
  c.run.num_steps = 1500
  return c


def get_config(variant=None):
  c = default_config.conditioned(scale=2.0)
  c.degradation.scales = default_config.MANY_SCALES
  return default_config.variant(c, variant, cpu=cpu)
