"""Trains: python -m mzsr_jax.main --config=configs/meta_x2.py --workdir=runs/meta_x2 --config.data.root=/path/to/HR.

All devices are used. Several processes, on one machine or many that share the workdir, each run the same command: under
Slurm (srun), Open MPI or on TPUs as it is, elsewhere with --coordinator_address=host:port --num_processes=N --process_id=i.
"""

import pathlib

import jax
from absl import flags, logging
from ml_collections import config_flags

from mzsr_jax import cli, devices
from mzsr_jax.training import loop


def define_flags() -> None:
  config_flags.DEFINE_config_file("config", None, "training config, such as configs/meta_x2.py, or with :smoke after it")
  flags.DEFINE_string("workdir", None, "folder of the run: config, checkpoints, logs, weights; goes on where it was")
  flags.mark_flags_as_required(["config", "workdir"])
  devices.define_flags()
  cli.define_cache_flag()


def main(argv: list[str]) -> None:
  del argv
  devices.start()
  cli.use_compilation_cache()
  logging.set_verbosity(logging.INFO if jax.process_index() == 0 else logging.WARNING)
  logging.info("Devices: %s", ", ".join(str(d) for d in jax.devices()))
  loop.train(flags.FLAGS.config, pathlib.Path(flags.FLAGS.workdir))


if __name__ == "__main__":
  define_flags()
  cli.run(main)
