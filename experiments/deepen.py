"""More residual blocks for the passes of an unrolled network, which change nothing until they are trained.

python -m experiments.deepen --weights=universal --blocks=5 --out=runs/deeper.safetensors

`--config.init_weights` takes the file, with `--config=configs/universal.py:large`, or `--config.model.blocks`.
"""

import jax
from absl import flags

from mzsr_jax import cli, files, weights
from mzsr_jax.core import networks
from mzsr_jax.core.network import Params
from mzsr_jax.core.unrolled import UnrolledNet
from mzsr_jax.errors import UserError


def define_flags() -> None:
  """Defines the flags of this entry."""
  flags.DEFINE_string("weights", "universal", "shipped name or .safetensors file")
  flags.DEFINE_integer("blocks", 5, "residual blocks in each pass", lower_bound=1)
  flags.DEFINE_string("out", None, ".safetensors file to write", required=True)
  flags.DEFINE_bool("overwrite", False, "replace the output file if it exists")


def deepened(params: Params, blocks: int) -> Params:
  """Parameters with so many blocks in each pass; the second convolution of the new ones is zero. Raises UserError."""
  net = networks.of(params)
  if not isinstance(net, UnrolledNet) or net.blocks > blocks:
    raise UserError(f"--blocks={blocks}: these weights are of {net}, and only an unrolled network gets more blocks")
  made = net.clone(blocks=blocks).init_params(jax.random.key(0))
  for number in range(net.passes):
    name = f"pass{number + 1}"
    closed = {f"block{i + 1}b": 0 * made[name][f"block{i + 1}b"] for i in range(net.blocks, blocks)}
    made[name] = made[name] | closed | params[name]
  return made | {name: value for name, value in params.items() if not name.startswith("pass")}


def main(argv: list[str]) -> None:
  """Reads the flags and writes the file."""
  del argv
  args = flags.FLAGS
  files.check_writable(args.out, args.overwrite)
  loaded = weights.load(args.weights)
  weights.save_weights(args.out, deepened(loaded.params, args.blocks), loaded.metadata)
  print(args.out)


if __name__ == "__main__":
  define_flags()
  cli.run(main)
