"""What Algorithms 1 and 2 need of a network: an observation, made once an image, and an HR image made of it, differentiably."""

from typing import Protocol

from jaxtyping import Array, Float, Key, PyTree

from mzsr_jax.core.kernels import Degradation

Params = PyTree[Float[Array, "..."]]
Observation = PyTree[Float[Array, "..."]]


class Network(Protocol):
  """A network. It is a static argument of compiled programs: hashable, and equal to others of the same settings.

  Attributes:
    reach: how far away, in HR pixels, an output pixel sees its observation.
  """

  reach: int

  def init_params(self, key: Key[Array, ""]) -> Params:
    """Random parameters."""

  def observe(
      self, lr: Float[Array, "*n h w c"], degradation: Degradation, scale: float, size: tuple[int, int] | None = None
  ) -> Observation:
    """What the network sees of LR images: all that does not depend on its parameters.

    Args:
      lr: LR images, RGB in [0, 1].
      degradation: how they came from the HR images.
      scale: scale factor.
      size: height and width of the HR images; None for all, ceil(H * scale) x ceil(W * scale).
    """

  def reconstruct(self, params: Params, observation: Observation) -> Float[Array, "*n p q c"]:
    """HR images, not clipped. Differentiable to any order in the parameters."""
