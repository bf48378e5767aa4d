"""What Algorithms 1 and 2 need of a network: an observation, made once an image, and an HR image made of it, differentiably."""

from typing import Protocol, runtime_checkable

import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Key, PyTree

from mzsr_jax.core.kernels import Degradation

Params = PyTree[Float[ArrayLike, "..."]]
Observation = PyTree[Float[ArrayLike, "..."]]


@runtime_checkable
class Network(Protocol):
  """A network. It is a static argument of compiled programs: hashable, and equal to others of the same settings.

  Attributes:
    activations: numbers that a gradient keeps for each HR pixel.
    precision: of its inner layers, one of `conv.PRECISIONS`.
    is_told_kernel: whether the observation depends on the kernel; else, on the degradation's offset alone.
  """

  activations: int
  precision: str
  is_told_kernel: bool

  def reach(self, scale: float) -> int:
    """HR pixels: so far from its ends, a tile is nearly as the whole image is."""

  def cell(self, scale: float) -> int:
    """HR pixels that a tile must begin at a multiple of, so that the network sees it as it sees the whole image."""

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

  def reconstruct(
      self, params: Params, observation: Observation, mask: Float[Array, "*n p q 1"] | None = None
  ) -> Float[Array, "*n p q c"]:
    """HR images, not clipped. Differentiable to any order in the parameters.

    Args:
      params: parameters.
      observation: see `observe`.
      mask: 1 where there is an image, 0 in what pads it; None for no padding.
    """

  # A large image is worked on in tiles: the host plans them, then a device observes each.

  def tell(self, of: Degradation, scale: float) -> PyTree[np.ndarray]:
    """What all tiles of an image are told of its degradation, as arrays."""

  def tile_axis(
      self, of: Degradation, scale: float, axis: int, lr_length: int, length: int, start: int, side: int
  ) -> tuple[int, int, PyTree[np.ndarray]]:
    """One axis of a tile.

    Args:
      of, scale: the image's degradation.
      axis: 0 is the vertical one.
      lr_length: of the LR image, pixels.
      length: of the HR image.
      start: first HR pixel of the tile.
      side: its HR pixels; it may reach beyond the end of the image.

    Returns:
      (first LR pixel that the tile needs, how many it needs, arrays that `observe_tile` needs). Shapes depend on `side`,
      `scale` and the subsampling alone.
    """

  def observe_tile(self, lr: Float[Array, "h w c"], rows: PyTree, columns: PyTree, told: PyTree) -> Observation:
    """The observation of a tile.

    Args:
      lr: the LR pixels that the tile needs, zeros beyond the image.
      rows, columns: see `tile_axis`.
      told: see `tell`.
    """
