"""Which network parameters are of."""

from mzsr_jax.core.model import MZSRNet
from mzsr_jax.core.network import Params
from mzsr_jax.core.unrolled import UnrolledNet


def of(params: Params) -> MZSRNet | UnrolledNet:
  """The network that parameters are of, by their names and shapes: the paper's or an unrolled one, of any size.

  Raises:
    ValueError: they are of neither.
  """
  names = set(params)
  if "log_mu" in names:
    return _unrolled(params)
  depth = sum(name.startswith("conv") for name in names)
  if depth < 2 or not {f"conv{i + 1}" for i in range(depth)} <= names:
    raise ValueError(f"these are no parameters of a network: {', '.join(sorted(names)[:5])}")
  return MZSRNet(depth, params["conv1"]["kernel"].shape[-1], params["conv1"]["kernel"].shape[-2])


def _unrolled(params: Params) -> UnrolledNet:
  blocks = lambda one: sum(name.startswith("block") and name.endswith("a") for name in one)
  sizes = {"passes": sum(name.startswith("pass") for name in params)}
  if sizes["passes"]:
    sizes |= {"features": params["pass1"]["first"].shape[-1], "blocks": blocks(params["pass1"])}
    sizes["rounds"] = (len(params["log_mu"]) - 1) // sizes["passes"]
  if coarse := params.get("coarse"):
    sizes |= {"coarse_features": coarse["first"].shape[-1], "coarse_blocks": blocks(coarse)}
    sizes["coarse_rounds"] = len(coarse["log_mu"])
  return UnrolledNet(**sizes)
