"""Meta-test (Algorithm 2): adapt the network to one image, then enlarge it. Pure functions of arrays.

All of them work under jax.jit (with `scale`, `num_steps`, `subsample`, `model` and `offset` static), jax.vmap over images,
kernels or both, and jax.grad with respect to parameters and kernel. An offset is a part of the compiled programs: each new
one compiles anew (not so with `Solver`).
"""

import collections
import functools
import operator
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from mzsr_jax.core import conditioning, inner_rules, maml
from mzsr_jax.core import model as model_lib
from mzsr_jax.core.degradation import degrade, enlarge
from mzsr_jax.core.inner_rules import Rates, Spectral
from mzsr_jax.core.model import NET, MZSRNet, Params


def l1(
    params: Params, inputs: Float[Array, "n h w c"], targets: Float[Array, "n h w c"], model: MZSRNet = NET
) -> Float[Array, ""]:
  """Mean absolute error of the network's output, in [0, 1] units: the loss of all three stages (Eq. 4)."""
  return jnp.abs(model_lib.apply(params, inputs, model) - targets).mean()


@functools.partial(jax.jit, static_argnames="model", inline=True)
def _step(state, inputs, targets, rates, model):
  state, _ = maml.step(lambda p: l1(p, inputs, targets, model), rates, state)
  return state


@functools.partial(jax.jit, static_argnames=("scale", "subsample", "offset"))
def _lr_son(lr, kernel, scale, subsample, offset):
  son = jnp.clip(degrade(lr, kernel, scale, subsample), 0, 1)
  return enlarge(son, scale, lr.shape[-3:-1], offset)


@functools.partial(jax.jit, static_argnames=("scale", "model", "offset"))
def _super_resolve(params, lr, scale, model, offset):
  return jnp.clip(model_lib.apply(params, enlarge(lr, scale, offset=offset)[None], model)[0], 0, 1)


def _image(lr) -> jax.Array:
  """The image as a JAX array. Raises ValueError for what would silently go wrong: whole numbers, or a missing axis."""
  lr = jnp.asarray(lr)
  if lr.ndim != 3 or not jnp.issubdtype(lr.dtype, jnp.floating):
    raise ValueError(f"an image must be a float array (H, W, 3) in [0, 1], not {lr.dtype} {lr.shape}")
  return lr


def lr_son(
    lr: Float[ArrayLike, "h w c"],
    kernel: Float[ArrayLike, "k k"],
    scale: float = 2,
    subsample: str = "direct",
    offset: tuple[float, float] = (0.0, 0.0),
) -> Float[Array, "h w c"]:
  """The LR image degraded by its own kernel, clipped to [0, 1] and enlarged back to its size.

  Args: see `adapt`.
  """
  return _lr_son(lr, kernel, scale, subsample, offset)


def adapt(
    params: Params,
    lr: Float[ArrayLike, "h w c"],
    kernel: Float[ArrayLike, "k k"],
    scale: float = 2,
    num_steps: int = 5,
    inner_lrs: float | Rates | Spectral = 0.01,
    subsample: str = "direct",
    model: MZSRNet = NET,
    offset: tuple[float, float] = (0.0, 0.0),
) -> Params:
  """Gradient steps on LR son -> LR image (Algorithm 2, lines 1 to 6).

  Outside jit, each step is one compiled function: images of the same size compile once, whatever the number of steps.

  Differentiable, but for the kinks of L1: its gradient jumps where a residual changes its sign, and a derivative with respect
  to kernel or image knows nothing of the jumps. It may then be far from the slope over any distance, where that of
  `maml.adapt` with a smooth loss is not (experiments/api.ipynb).

  Args:
    params: meta-learned parameters theta_M; conditioned ones begin at what they are for this kernel, without noise (for others,
      give what `conditioning.start` makes of them).
    lr: LR image, RGB float32 in [0, 1], any size.
    kernel: its blur kernel, odd side, sum 1; [[1.0]] for none.
    scale: scale factor.
    num_steps: gradient steps; 0 returns `params`, or what conditioned ones are for this kernel.
    inner_lrs: learning rate of every step, or (num_steps,) of each, or a tree shaped like `params` with (num_steps,) for each
      leaf (see `weights.load_inner_lrs`); `Spectral`, for the other steps of `inner_rules`.
    subsample: how the LR image was subsampled, "direct" or "bicubic".
    model: the network.
    offset: (dy, dx) of the kernel's centre from its middle, in its pixels, to make up for (see `degradation.enlarge`); give
      `super_resolve` the same.

  Returns:
    Parameters adapted to the image.

  Raises:
    ValueError: the image is no float array of three axes.
  """
  states = _states(params, lr, kernel, num_steps, scale, inner_lrs, subsample, model, offset)
  return collections.deque(states, maxlen=1).pop()


def _states(params, lr, kernel, num_steps, scale, inner_lrs, subsample, model, offset) -> Iterator[Params]:
  """The parameters before the first step and after each. Args: see `adapt`."""
  lr = _image(lr)
  params = conditioning.start(params, kernel, scale)
  yield params
  if not num_steps:
    return
  rates = jax.tree.map(lambda lrs: jnp.broadcast_to(jnp.asarray(lrs, lr.dtype), (num_steps,)), inner_lrs)
  rates = inner_rules.per_leaf(rates, params)
  inputs, targets = lr_son(lr, kernel, scale, subsample, offset)[None], lr[None]
  state = params, inner_rules.begin(rates, params)
  for i in range(num_steps):
    state = _step(state, inputs, targets, jax.tree.map(operator.itemgetter(i), rates), model)
    yield state[0]


def super_resolve(
    params: Params,
    lr: Float[ArrayLike, "h w c"],
    scale: float = 2,
    model: MZSRNet = NET,
    offset: tuple[float, float] = (0.0, 0.0),
) -> Float[Array, "p q c"]:
  """Enlarges an LR image (Algorithm 2, line 7).

  Args:
    params: parameters of the network, adapted or not; of conditioned ones, `adapt` with 0 steps makes such.
    lr: RGB float32 in [0, 1].
    scale: scale factor.
    model: the network.
    offset: see `adapt`.

  Returns:
    (ceil(H * scale), ceil(W * scale), C) in [0, 1].

  Raises:
    ValueError: the image is no float array of three axes.
  """
  return _super_resolve(params, _image(lr), scale, model, offset)


def trajectory(
    params: Params,
    lr: Float[ArrayLike, "h w c"],
    kernel: Float[ArrayLike, "k k"],
    shown: Sequence[int],
    scale: float,
    inner_lrs: Rates | Spectral,
    subsample: str = "direct",
    model: MZSRNet = NET,
    offset: tuple[float, float] = (0.0, 0.0),
) -> dict[int, Float[Array, "p q c"]]:
  """SR images after several numbers of steps, in one pass of the adaptation.

  Args:
    shown: numbers of steps, ascending.
    inner_lrs: as in `adapt`, of as many steps as the last of `shown`, or more.
    others: see `adapt`.

  Returns:
    By number of steps, (ceil(H * scale), ceil(W * scale), C) in [0, 1].
  """
  rates = jax.tree.map(operator.itemgetter(slice(shown[-1])), inner_lrs)
  states = _states(params, lr, kernel, shown[-1], scale, rates, subsample, model, offset)
  return {i: super_resolve(state, lr, scale, model, offset) for i, state in enumerate(states) if i in shown}
