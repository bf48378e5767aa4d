"""Parameters that depend on the kernel, x2, blur followed by bicubic subsampling: see configs/conditioned_x2.py.

python -m mzsr_jax.main --config=configs/conditioned_x2_bicubic.py --workdir=runs/x2_bicubic --config.data.root=/path/to/HR
"""

from mzsr_jax.training import config as config_lib


def cpu(c):
  """From the parameters for direct subsampling; a step a second on one core."""
  c = config_lib.conditioned_cpu(c)
  c.init_weights = "conditioned_x2"
  c.optimizer.learning_rate = 5e-4
  c.optimizer.halve_every = 350
  c.run.num_steps = 1400
  return c


def get_config(variant=None):
  c = config_lib.conditioned(scale=2.0)
  c.degradation.subsample = "bicubic"
  c.degradation.min_variance = 0.05  # down to no blur at all, as in Table 1
  return config_lib.variant(c, variant, cpu=cpu)
