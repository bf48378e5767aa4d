"""Methods that a benchmark compares, and the names that they go by. A new one is a function and a line in `parse`.

    bicubic          plain enlargement, MATLAB's `imresize`
    mzsr:WEIGHTS     the weights, adapted by gradient steps at their own rates (Algorithm 2); mzsr:spectral:WEIGHTS, by the
                     other steps of `inner_rules`
    adam:WEIGHTS     the weights, fine-tuned on LR son -> LR image by Adam, learning rate 1e-3 (Figure 3)
    sgd:WEIGHTS      the same by plain gradient descent, learning rate 1e-2
    ...+back_projection=N   any of the three above, and N iterations of back-projection on what it makes
    zssr             ZSSR, trained anew on each image; zssr:OPTION=VALUE+OPTION=VALUE for other settings than the authors'
"""

import itertools
import time
import typing
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax
import numpy as np
import optax
from jaxtyping import PyTree

from mzsr_jax import images, weights
from mzsr_jax.core.kernels import Degradation
from mzsr_jax.core.model import Params
from mzsr_jax.errors import UserError
from mzsr_jax.evaluation import zssr
from mzsr_jax.inference import plain
from mzsr_jax.inference.tiled import ANY_RATES, TiledAdapter
from mzsr_jax.photo import refine

FORMS = ("bicubic", "mzsr:WEIGHTS", "adam:WEIGHTS", "sgd:WEIGHTS", "zssr")
_BACK_PROJECTION = "+back_projection="
_OPTIMIZERS = {"adam": optax.adam(1e-3), "sgd": optax.sgd(1e-2)}
_STEPPING = ("mzsr", *_OPTIMIZERS)


class Case(NamedTuple):
  """What a method is given.

  Attributes:
    image: its name in the set.
    kernel: the name of its degradation, or of the folder that holds it.
    lr: (h, w, 3) float32 in [0, 1].
    degradation: its degradation.
    scale: scale factor.
  """

  image: str
  kernel: str
  lr: np.ndarray
  degradation: Degradation
  scale: float


class Result(NamedTuple):
  """What a method makes of a case.

  Attributes:
    steps: adaptation steps, 0 where there is no adaptation.
    sr: 8-bit pixels, (h * scale, w * scale, 3).
    seconds: from LR image to SR image, both on the host; None where that means nothing.
  """

  steps: int
  sr: images.Pixels
  seconds: float | None


class Method(NamedTuple):
  """A line of the table for each number of steps.

  Attributes:
    name: what it is called.
    steps: numbers of adaptation steps, ascending; (0,) where there is no adaptation.
    solve: (adapter, case) -> a result for each of `steps`.
    warm_up: (adapter, case) compiles what `solve` would have to, so that no result's time holds it.
  """

  name: str
  steps: tuple[int, ...]
  solve: Callable[[TiledAdapter, Case], Iterator[Result]]
  warm_up: Callable[[TiledAdapter, Case], None] = lambda adapter, case: None


def label(method: str, steps: int) -> str:
  """What a line of the table is called: "bicubic", "mzsr:x2_direct (10)"."""
  return f"{method} ({steps})" if method.partition(":")[0] in _STEPPING else method


def weights_of(name: str) -> str | None:
  """The weights that a method names; None where it has none."""
  kind, _, rest = name.partition(":")
  return rest.partition(_BACK_PROJECTION)[0] if kind in _STEPPING and rest else None


def parse(name: str, steps: Sequence[int], scale: float) -> Method:
  """The method of a name, see the top of this file.

  Args:
    name: one of `FORMS`.
    steps: numbers of adaptation steps, for those that have any.
    scale: scale factor that it is for.

  Raises:
    UserError: no such method, or weights that are none or are for another scale.
  """
  kind, colon, rest = name.partition(":")
  if name == "bicubic":
    return bicubic()
  if kind == "zssr" and bool(colon) == bool(rest):
    return _zssr(name, _options(rest))
  source = weights_of(name)
  iterations = rest.partition(_BACK_PROJECTION)[2] or "0"
  if not source or not iterations.isdecimal():
    raise UserError(f"unknown method '{name}': it must be one of {', '.join(FORMS)}; {_BACK_PROJECTION}10 may follow WEIGHTS")
  loaded = weights.load_checked(source)
  loaded.check_scale(scale)
  if kind == "mzsr":
    return mzsr(loaded.params, loaded.inner_lrs(max(steps)), steps, name, int(iterations))
  return fine_tune(loaded.params, _OPTIMIZERS[kind], steps, name, int(iterations))


def bicubic() -> Method:
  """Plain bicubic enlargement."""

  def solve(adapter: TiledAdapter, case: Case):
    start = time.perf_counter()
    yield Result(0, plain.enlarge(case.lr, case.scale), time.perf_counter() - start)

  return Method("bicubic", (0,), solve)


def mzsr(
    params: Params, inner_lrs: PyTree, steps: Sequence[int], name: str = "mzsr", back_projection: int = 0
) -> Method:
  """MZSR with several numbers of adaptation steps, 0 of which leave the network as it is.

  Args:
    params: meta-trained parameters.
    inner_lrs: learning rates of as many steps as the largest of `steps`, or more; see `adapt.adapt`.
    steps: numbers of adaptation steps.
    name: of the method.
    back_projection: iterations of `refine.back_project`.
  """
  steps = tuple(sorted(set(steps)))

  def adapted(adapter: TiledAdapter, case: Case):
    states = adapter.iterate(params, case.lr, case.degradation, case.scale, inner_lrs, steps[-1])
    return (state for i, (state, _) in enumerate(states) if i in steps)

  return _stepping(name, params, steps, adapted, back_projection, inner_lrs)


def fine_tune(
    params: Params, optimizer: optax.GradientTransformation, steps: Sequence[int], name: str, back_projection: int = 0
) -> Method:
  """Pretrained parameters, fine-tuned on LR son -> LR image by an optimizer; see `mzsr`."""
  steps = tuple(sorted(set(steps)))

  def adapted(adapter: TiledAdapter, case: Case):
    tuned = itertools.chain([params], adapter.fine_tune(params, case.lr, case.degradation, case.scale, optimizer))
    for done, wanted in itertools.pairwise([-1, *steps]):
      yield next(itertools.islice(tuned, wanted - done - 1, None))

  return _stepping(name, params, steps, adapted, back_projection)


def _stepping(
    name: str,
    params: Params,
    steps: tuple[int, ...],
    adapted: Callable[[TiledAdapter, Case], Iterator[Params]],
    back_projection: int,
    inner_lrs: PyTree = ANY_RATES,
) -> Method:
  """A method whose network is adapted further and further; each result's time is as if it had been the only one."""

  def solve(adapter: TiledAdapter, case: Case):
    states, adapting = adapted(adapter, case), 0.0
    for number in steps:
      start = time.perf_counter()
      state = jax.block_until_ready(next(states))
      adapting += time.perf_counter() - start
      start = time.perf_counter()
      dtype = np.float32 if back_projection else np.uint8
      try:
        sr = adapter.super_resolve(state, case.lr, case.scale, case.degradation, dtype)
        if back_projection:
          sr = images.to_uint8(refine.back_project(sr, case.lr, case.degradation, case.scale, back_projection))
      except UserError as e:
        raise UserError(f"after {number} steps, {e}") from e
      yield Result(number, sr, adapting + time.perf_counter() - start)

  def warm_up(adapter: TiledAdapter, case: Case):
    adapter.warm_up(params, case.lr.shape[:2], case.degradation, case.scale, inner_lrs)

  return Method(name, steps, solve, warm_up)


def _zssr(name: str, options: zssr.Options) -> Method:
  def sr(case: Case, options: zssr.Options) -> images.Pixels:
    return images.to_uint8(zssr.super_resolve(case.lr, case.degradation, case.scale, options=options))

  def solve(adapter: TiledAdapter, case: Case):
    start = time.perf_counter()
    yield Result(0, sr(case, options), time.perf_counter() - start)

  def warm_up(adapter: TiledAdapter, case: Case):
    sr(case, options._replace(max_steps=1))

  return Method(name, (0,), solve, warm_up)


def _options(text: str) -> zssr.Options:
  """ "max_steps=500+noise_std=0.01+factors=gradual" as options. Raises UserError where that is not what they are."""
  options = zssr.DEFAULTS
  types = typing.get_type_hints(zssr.Options)
  for item in filter(None, text.split("+")):
    key, _, value = item.partition("=")
    try:
      if key == "factors":
        made = {"gradual": zssr.GRADUAL_X2}.get(value) or tuple(_pair(pair) for pair in value.split("/"))
      elif types[key] is bool:
        made = {"true": True, "false": False}[value]
      else:
        made = types[key](value)
    except (KeyError, ValueError) as e:
      known = ", ".join(f"{key}={_shown(value)}" for key, value in options._asdict().items())
      raise UserError(f"'{item}' is no option of zssr: write OPTION=VALUE+OPTION=VALUE, such as {known}") from e
    options = options._replace(**{key: made})
  zssr.check(options)
  return options


def _pair(text: str) -> tuple[float, float]:
  vertical, horizontal = map(float, text.split("x"))
  return vertical, horizontal


def _shown(value) -> str:
  if value == ():
    return "gradual"
  return str(value).lower()
