"""The unrolled network (mzsr_jax/core/unrolled.py): one set of weights for every scale, kernel, subsampling and noise.

python -m mzsr_jax.main --config=configs/universal.py --workdir=runs/universal --config.data.root=/path/to/HR

Beyond the paper: the network is told the degradation, so a data step in closed form puts right what it left of the image.
`:cpu` is a size for two CPU cores, in bfloat16, which a CPU with AVX-512 BF16 computes faster from jax 0.12 on. It takes least
time in two parts: the coarse pass alone (`model.passes=0`, `model.rounds=1`), then all of it, from that and from a pass at full
resolution that was trained before: `--config.init_weights=runs/coarse/weights.safetensors,runs/pass/weights.safetensors`.
`:large` trains `universal_large` in the same way. `:coarse` is its coarse pass; its four passes at full resolution were
trained alone (`model.passes=4`, `model.rounds=1`, `model.coarse_blocks=0`).
`:smoke` is a minute's run of the whole path.
"""

from mzsr_jax.training import config


def cpu(c):
  """8 patches of 96x96 on each of two CPU devices; 0.8 steps a second."""
  c.data.patch_size = 96
  c.batch_size = 16
  c.model.precision = "bfloat16"
  c.optimizer.learning_rate = 1e-3
  c.optimizer.average_decay = 0.999
  c.optimizer.decay_steps = 9_000
  c.run.num_steps = 9_000
  c.run.eval_every = 1000
  c.run.eval_size = 192
  return c


def large(c):
  """The same of `universal_large`; one step a second."""
  c = cpu(c)
  c.model.passes = 4
  c.model.rounds = 1
  c.model.coarse_features = 48
  c.model.coarse_blocks = 8
  c.model.coarse_rounds = 1
  return c


def coarse(c):
  """The same of its coarse pass alone; 4 steps a second."""
  c = large(c)
  c.model.passes = 0
  c.optimizer.decay_steps = 13_000
  c.run.num_steps = 13_000
  return c


def get_config(variant=None):
  return config.variant(config.universal(), variant, cpu=cpu, large=large, coarse=coarse)
