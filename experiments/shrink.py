"""A smaller network made of a larger one, as a start for training, which then needs a fraction of the time.

    python -m experiments.shrink --weights=universal_large --features=36 --blocks=5 --passes=1 --out=runs/start.safetensors
    python -m experiments.shrink --weights=runs/trained.safetensors --rounds=3 --out=runs/start.safetensors
    python -m experiments.shrink --weights=universal_large --coarse_rounds=3 --passes=0 --out=runs/coarse.safetensors
    python -m experiments.shrink --weights=universal --blocks=0 --out=runs/passes.safetensors

Of unrolled networks with a coarse pass. Its residual blocks leave one by one, each time the one that changes the result least.
What they all add to is linear, so it keeps its principal axes. Within a block, the channels with the most energy stay. Of the
passes at full resolution, the first ones stay. All by what the network makes of the sample photos. With `--passes=0` or
`--blocks=0` one half of the network is left, to be trained alone or to be put beside another half (`config.init_weights`).
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from mzsr_jax import cli, files, images, provenance, weights
from mzsr_jax.core import model, networks
from mzsr_jax.core.network import Params
from mzsr_jax.core.unrolled import Observation
from mzsr_jax.errors import UserError
from mzsr_jax.inference.tiled import make_lr
from mzsr_jax.photo import kernel_files
from mzsr_jax.training import data

_KERNELS = ("g20d", "gani", "g02d", "g13b", "bicubic")
_SIDE = 192  # pixels of each photo
Groups = tuple[Observation, ...]


def observations(params: Params) -> Groups:
  """Each of the sample photos by another kernel, at each scale."""
  net, groups = networks.of(params), []
  photos = [images.center_crop(images.read_image(path), _SIDE) for path in data.sample_photos()]
  ofs = [kernel_files.load_degradation(name) for name in _KERNELS]
  for scale in (2, 3, 4):
    own = [net.observe(jnp.asarray(images.to_float(make_lr(gt, of, scale))), of, scale) for gt, of in zip(photos, ofs)]
    groups += [jax.tree.map(lambda x: x[None], observation) for observation in own]  # kernels differ in size
  return tuple(groups)


def coarse_smaller(params: Params, features: int, blocks: int, groups: Groups) -> Params:
  """Parameters whose coarse pass has so many channels and residual blocks."""
  coarse = params["coarse"]
  run = lambda coarse: _run({"coarse": coarse, "log_mu": params["log_mu"][:1]}, groups)  # without the passes that follow
  target = run(coarse)[0]
  change = lambda coarse: float(jnp.abs(run(coarse)[0] - target).mean())
  for count in range(networks.of(params).coarse_blocks, blocks, -1):
    coarse = min((_without(coarse, i, count) for i in range(1, count + 1)), key=change)
  _, carried, inner = run(coarse)
  coarse = _turned(coarse, _principal_axes(carried)[:, :features], blocks)
  for i in range(1, blocks + 1):
    energy = sum((x**2).sum((0, 1, 2)) for x in inner[i - 1 :: blocks])
    energy *= (coarse[f"block{i}b"] ** 2).sum((0, 1, 3))
    kept = jnp.sort(jnp.argsort(-energy)[:features])
    coarse |= {f"block{i}a": coarse[f"block{i}a"][..., kept], f"block{i}b": coarse[f"block{i}b"][:, :, kept]}
  return params | {"coarse": coarse}


def with_passes(params: Params, passes: int, rounds: int) -> Params:
  """Parameters of the first passes at full resolution, gone through `rounds` times."""
  left = {name: value for name, value in params.items() if not name.startswith("pass") or int(name[4:]) <= passes}
  features, level = networks.of(params).features, params["log_mu"]
  left["log_mu"] = jnp.concatenate([level[:1], *rounds * [level[1 : passes + 1]]])
  left["bias"] = jax.tree.map(lambda x: jnp.concatenate(rounds * [x[..., : passes * features]], -1), params["bias"])
  return left


def with_coarse_rounds(params: Params, rounds: int) -> Params:
  """Parameters whose coarse pass, gone through once so far, is gone through `rounds` times, each time alike at first."""
  coarse, features = params["coarse"], networks.of(params).coarse_features
  again = {"log_mu": jnp.tile(coarse["log_mu"], (rounds, 1)), "carried": jnp.zeros((features, features))}
  again["bias"] = jax.tree.map(lambda x: jnp.concatenate(rounds * [x], -1), coarse["bias"])
  return params | {"coarse": coarse | again}


@jax.jit
def _run(params: Params, groups: Groups):
  """(result, what the coarse pass carries before, between and after its blocks, what is within each block)."""
  made, seen = networks.of(params).apply({"params": params}, groups, mutable="intermediates")
  return made, seen["intermediates"]["coarse"]["carried"], seen["intermediates"]["coarse"]["inner"]


def _without(coarse: Params, gone: int, count: int) -> Params:
  """A coarse pass of `count` blocks without one of them."""
  left = {name: value for name, value in coarse.items() if not name.startswith("block")}
  for new, old in enumerate([i for i in range(1, count + 1) if i != gone], 1):
    left |= {f"block{new}{half}": coarse[f"block{old}{half}"] for half in "ab"}
  return left


def _principal_axes(carried: Sequence[jax.Array]) -> np.ndarray:
  """(c, c) axes of c channels, those with the most energy first."""
  moments = sum(np.einsum("nhwc,nhwd->cd", x, x) for x in map(np.asarray, carried))
  return np.linalg.eigh(moments)[1][:, ::-1]


def _turned(coarse: Params, axes: np.ndarray, blocks: int) -> Params:
  """A coarse pass that carries what it carried along the given axes."""
  reads = lambda weights: jnp.einsum("abio,ij->abjo", weights, axes, precision="highest")
  writes = lambda weights: jnp.matmul(weights, axes, precision="highest")
  in_rounds = lambda bias: writes(bias.reshape(*bias.shape[:-1], -1, len(axes))).reshape(*bias.shape[:-1], -1)
  turned = coarse | {"bias": jax.tree.map(in_rounds, coarse["bias"])}
  if "carried" in coarse:
    turned["carried"] = writes(jnp.matmul(axes.T, coarse["carried"], precision="highest"))
  turned |= {"first": writes(coarse["first"]), "out": reads(coarse["out"])}
  for i in range(1, blocks + 1):
    turned |= {f"block{i}a": reads(coarse[f"block{i}a"]), f"block{i}b": writes(coarse[f"block{i}b"])}
  return turned


def define_flags() -> None:
  """Not as it is imported: the flags of other entries have the same names."""
  flags.DEFINE_string("weights", None, "of the larger network: shipped name or .safetensors file", required=True)
  flags.DEFINE_string("out", None, ".safetensors file to write", required=True)
  flags.DEFINE_bool("overwrite", False, "replace a file that exists")
  flags.DEFINE_integer("features", None, "channels of the coarse pass (default: all)", lower_bound=1)
  flags.DEFINE_integer("blocks", None, "residual blocks of the coarse pass; 0 for none (default: all)", lower_bound=0)
  flags.DEFINE_integer("passes", None, "at full resolution (default: all)", lower_bound=0)
  flags.DEFINE_integer("rounds", 1, "how often these are gone through, each time alike at first", lower_bound=1)
  flags.DEFINE_integer("coarse_rounds", 1, "the same of the coarse pass", lower_bound=1)
  cli.define_cache_flag()


def main(argv: list[str]) -> None:
  """Writes the smaller network."""
  del argv
  args = flags.FLAGS
  cli.start_jax()
  files.check_writable(args.out, args.overwrite)
  loaded = weights.load_checked(args.weights)
  params, net = loaded.params, networks.of(loaded.params)
  if not getattr(net, "coarse_blocks", 0):
    raise UserError(f"--weights={args.weights}: no unrolled network with a coarse pass, as universal_large is")
  have = {"features": net.coarse_features, "blocks": net.coarse_blocks, "passes": net.passes}
  features, blocks, passes = (most if args[name].value is None else args[name].value for name, most in have.items())
  for name, count in zip(have, (features, blocks, passes)):
    if count > have[name]:
      raise UserError(f"--{name}={count}: these weights have {have[name]}: ask for no more")
  if not blocks and not passes:
    raise UserError("--blocks=0 and --passes=0: that leaves nothing: leave out one of them")
  changes_passes = passes and (passes, args.rounds) != (net.passes, 1)
  if changes_passes and net.rounds > 1:
    raise UserError(f"--weights={args.weights}: passes gone through {net.rounds} times can only be kept or left out")
  again = blocks and args.coarse_rounds > 1
  if again and net.coarse_rounds > 1:
    raise UserError(f"--coarse_rounds={args.coarse_rounds}: these weights have {net.coarse_rounds} already: leave it out")
  if blocks and (features, blocks) != (net.coarse_features, net.coarse_blocks):
    params = coarse_smaller(params, features, blocks, observations(params))
  if again:
    params = with_coarse_rounds(params, args.coarse_rounds)
  if changes_passes:
    params = with_passes(params, passes, args.rounds)
  if not passes:
    params = {"coarse": params["coarse"], "log_mu": params["log_mu"][:1]}
  if not blocks:
    params = {name: value for name, value in params.items() if name != "coarse"}
  metadata = loaded.metadata | {"steps": "0", "commit": provenance.git_revision()}
  metadata.pop("config", None)  # of another training
  weights.save_weights(args.out, params, metadata)
  print(f"wrote {args.out}: {model.count(params):,} of {model.count(loaded.params):,} parameters")


if __name__ == "__main__":
  define_flags()
  cli.run(main)
