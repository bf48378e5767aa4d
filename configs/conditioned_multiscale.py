"""Parameters that depend on the kernel and the scale, from 2 to 4, direct subsampling: see configs/conditioned_x2.py.

python -m mzsr_jax.main --config=configs/conditioned_multiscale.py --workdir=runs/multiscale --config.data.root=/path/to/HR
"""

from mzsr_jax.training import config as config_lib


def cpu(c):
  """16 patches of 64x64, from the parameters for x2."""
  c = config_lib.conditioned_cpu(c)
  c.init_weights = "conditioned_x2"
  c.data.patch_size = 64
  c.optimizer.halve_every = 450
  c.run.num_steps = 1500
  return c


def get_config(variant=None):
  c = config_lib.conditioned(scale=2.0)
  c.degradation.scales = config_lib.MANY_SCALES
  return config_lib.variant(c, variant, cpu=cpu)
