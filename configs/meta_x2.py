"""Stage 2, x2, direct subsampling: the model of most tables in the paper.

python -m mzsr_jax.main --config=configs/meta_x2.py --workdir=runs/meta_x2 --config.data.root=/path/to/HR

The full length, 100,000 meta-steps of 4.4 TFLOP each, wants a GPU; the paper reaches 35.20 dB after one step and 36.05 after
ten on Set5 with g^d_2.0. `:cpu`, and `:cpu_sons` after it, are sizes for two CPU cores, `:cpu_ablation` what the ablations of
the meta-learner are compared with at such a size, `:smoke` a minute's run of the whole path.
"""

from mzsr_jax.training import config as config_lib


def cpu_sons(c):
  """Goes on from what `:cpu` gave (`--config.init_weights=...`) with tasks that are as meta-test is; 1.1 s a meta-step."""
  c = config_lib.meta_like_meta_test(c)
  c.optimizer.halve_every = 400
  c.run.num_steps = 900
  return c


def get_config(variant=None):
  sizes = dict(cpu=config_lib.meta_cpu, cpu_sons=cpu_sons, cpu_ablation=config_lib.meta_ablation)
  return config_lib.variant(config_lib.meta(scale=2.0), variant, **sizes)
