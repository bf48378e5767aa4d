"""Parameters that depend on the kernel (mzsr_jax/core/conditioning.py), x2, direct subsampling.

python -m mzsr_jax.main --config=configs/conditioned_x2.py --workdir=runs/conditioned_x2 --config.data.root=/path/to/HR

Beyond the paper: the meta-test then begins at a network made for the kernel that it is told, in the place of one from which
all kernels are near. Trained by stage 1's loss, without inner steps; `--config.model.conditioned=True` gives any config of
stage 2 such parameters, to be meta-trained. `:cpu` is a size for two CPU cores, `:smoke` a minute's run of the whole path.
"""

from mzsr_jax.training import config as config_lib


def get_config(variant=None):
  return config_lib.variant(config_lib.conditioned(scale=2.0), variant, cpu=config_lib.conditioned_cpu)
