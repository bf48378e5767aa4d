"""The unrolled network (mzsr_jax/core/unrolled.py): one set of weights for every scale, kernel, subsampling and noise.

python -m mzsr_jax.main --config=configs/universal.py --workdir=runs/universal --config.data.root=/path/to/HR

Beyond the paper: the network is told the degradation, so a data step in closed form puts right what it left of the image.
`:cpu` is a size for a CPU core, in bfloat16, which a CPU with AVX-512 BF16 computes faster from jax 0.12 on;
`:coarse`, one pass on cells of pixels alone; `:large`, that before all others, from weights of both:
`--config.init_weights=runs/coarse/weights.safetensors,universal`; `:small`, a smaller coarse pass and one that is gone through
three times, from what `experiments.shrink` makes of `universal_large`. `:smoke` is a minute's run of the whole path.
"""

from mzsr_jax.training import config


def cpu(c):
  """16 patches of 48x48; 0.6 s a step on one core."""
  c.data.patch_size = 48
  c.batch_size = 16
  c.model.precision = "bfloat16"
  c.optimizer.decay_steps = 9_000
  c.run.num_steps = 9_000
  c.run.eval_every = 1000
  c.run.eval_size = 192
  return c


def coarse(c):
  """8 patches of 96x96 on each of two CPU devices; 4 steps a second."""
  c = large(c)
  c.model.passes = 0
  c.optimizer.decay_steps = 13_000
  c.run.num_steps = 13_000
  return c


def large(c):
  """8 patches of 96x96 on each of two CPU devices; one step a second."""
  c = cpu(c)
  c.data.patch_size = 96
  c.model.coarse_blocks = 8
  c.optimizer.learning_rate = 1e-3
  c.optimizer.average_decay = 0.999
  return c


def small(c):
  """8 patches of 96x96 on each of two CPU devices; 1.4 steps a second."""
  c = large(c)
  c.model.passes = 1
  c.model.rounds = 3
  c.model.coarse_features = 36
  c.model.coarse_blocks = 5
  return c


def get_config(variant=None):
  return config.variant(config.universal(), variant, cpu=cpu, coarse=coarse, large=large, small=small)
