"""Stage 1's loss on stage 2's degradations at x2, for parameters that depend on the kernel (mzsr_jax/conditioning.py).

python -m mzsr_jax.main --config=configs/conditioned_x2.py --workdir=runs/conditioned_x2 --config.data.root=/path/to/HR

Beyond the paper: the adaptation then begins at a network made for the kernel that the meta-test is told, in the place of one
that is good to begin at for all. Variances from 0.1 on, as such a network has not to choose between sharp images and blurred
ones. `:cpu`, from `x2_direct`, is a size for two CPU cores; `:cpu_bicubic`, from what `:cpu` gave, is for bicubic subsampling,
`:cpu_x4` for x4; `:smoke` is a minute's run of the whole path.
"""

from mzsr_jax import default_config


def cpu(c):
  """16 patches of 48x48, each with a kernel of its own: two steps a second on two cores."""
  c.init_weights = "x2_direct"
  c.data.patch_size = 48
  c.batch_size = 16
  c.optimizer.algorithm = "muon"
  c.optimizer.learning_rate = 1e-3
  c.optimizer.halve_every = 1500
  c.optimizer.min_learning_rate = 3e-5
  c.optimizer.average_decay = 0.995
  c.run.num_steps = 8000
  c.run.eval_size = 192
  return c


def get_config(variant=None):
  c = default_config.pretrain(scale=2.0)
  c.degradation.subsample = "direct"
  c.degradation.kernels = "gaussian"
  c.degradation.min_variance = 0.1
  c.model.conditioned = True
  return default_config.variant(c, variant, cpu=cpu)
