"""One blind network for all blur kernels at x2 ("Pre-train (All)" of Figure 3): stage 1's loss on stage 2's degradations.

python -m mzsr_jax.main --config=configs/pretrain_all_kernels.py --workdir=runs/all_kernels --config.data.root=/path/to/HR

An ablation in the paper. It is also the cheap half of meta-training where there is no GPU: a patch costs three passes through
the network, where a meta-step makes some sixty, and what a meta-step would learn at first is what all kernels have in common.
"""

from mzsr_jax.training import config as config_lib


def cpu(c):
  """8 patches of 48x48, each with a kernel of its own, from stage-1 weights."""
  c.init_weights = "pretrain_x2"
  c.data.patch_size = 48
  c.batch_size = 8
  c.optimizer.learning_rate = 4e-4
  c.optimizer.halve_every = 1500
  c.optimizer.min_learning_rate = 1e-4
  c.run.num_steps = 3000
  return c


def get_config(variant=None):
  return config_lib.variant(config_lib.all_kernels(scale=2.0), variant, cpu=cpu)
