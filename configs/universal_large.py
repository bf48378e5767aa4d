"""`universal` with two coarser levels in each pass, which see further: 0.54 M parameters, a third more operations a pixel.

python -m mzsr_jax.main --config=configs/universal_large.py --workdir=runs/universal_large --config.data.root=/path/to/HR

It starts from `init_weights` of the same shape; the shipped ones came from those of `universal` (experiments/docs/training.md).
`:cpu` is a size for a CPU core, in bfloat16; `:smoke` is a minute's run of the whole path.
"""

from mzsr_jax.training import config


def cpu(c):
  """8 patches of 80x80; 1.2 s a step on one core."""
  c.batch_size = 8
  c.model.precision = "bfloat16"
  c.optimizer.learning_rate = 1.5e-3
  c.optimizer.decay_steps = 5_200
  c.run.num_steps = 5_200
  c.run.eval_every = 500
  c.run.eval_size = 192
  return c


def get_config(variant=None):
  return config.variant(config.universal_large(), variant, cpu=cpu)
