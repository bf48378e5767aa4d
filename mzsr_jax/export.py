"""Turns a checkpoint into a weights file: python -m mzsr_jax.export --workdir=runs/meta_x2 --output=my.safetensors."""

import pathlib

from absl import flags

from mzsr_jax import cli, files
from mzsr_jax.errors import UserError
from mzsr_jax.training import loop
from mzsr_jax.training.checkpoint import Checkpoints


def define_flags() -> None:
  flags.DEFINE_string("workdir", None, "folder of a run of mzsr_jax.main")
  flags.DEFINE_string("output", None, "the .safetensors file to write")
  flags.DEFINE_integer("step", None, "which checkpoint (default: the newest)")
  flags.DEFINE_string("data", "", "what it was trained on, in words, for the metadata")
  cli.define_numbers(
      "inner_lr_factors", [1.0], "multiply the learned inner rates of each step of the meta-test by these, the last of which "
      "holds for all further steps", number=float, minimum=0,
  )
  flags.DEFINE_bool("overwrite", False, "replace the output file if it exists")
  flags.mark_flags_as_required(["workdir", "output"])


def main(argv: list[str]) -> None:
  del argv
  args = flags.FLAGS
  workdir = pathlib.Path(args.workdir)
  files.check_writable(args.output, args.overwrite)
  checkpoints = Checkpoints(workdir, loop.read_config(workdir).run.keep)
  steps = checkpoints.steps
  if not steps or args.step not in (None, *steps):
    there = ", ".join(map(str, steps)) or "none"
    raise UserError(f"no checkpoint{'' if args.step is None else f' of step {args.step}'} in '{workdir}' (there: {there})")
  state, _, config = loop.restore(checkpoints, args.step)
  checkpoints.close()
  if "inner_lrs" not in state.result and not args["inner_lr_factors"].using_default_value:
    raise UserError("--inner_lr_factors: this run learned no inner rates: pass --inner_lr to evaluate and upscale instead")
  loop.export(config, state, pathlib.Path(args.output), args.data, args.inner_lr_factors)
  print(f"wrote {args.output}: what '{workdir}' had learnt after step {int(state.step)} of {config.run.num_steps} of its "
        f"{'meta-training' if config.stage == 'meta' else 'pre-training'}")


if __name__ == "__main__":
  define_flags()
  cli.run(main)
