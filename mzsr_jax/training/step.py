"""One training step of either stage: pure functions of state, HR patches and key, on one device or many."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
import optax.contrib
from jax import lax
from jax.sharding import Mesh, NamedSharding
from jaxtyping import Array, Int, PyTree, UInt8

from mzsr_jax import devices
from mzsr_jax.core import adapt as adapt_lib
from mzsr_jax.core import inner_rules, maml, observations, sharding, tasks
from mzsr_jax.core.degradation import Degrader
from mzsr_jax.core.model import MZSRNet
from mzsr_jax.core.network import Network, Params
from mzsr_jax.core.unrolled import UnrolledNet
from mzsr_jax.training import mesh as mesh_lib

_WARM_UP = 50  # steps, of a learning rate that falls evenly
_TRAINING_ITERATIONS = 2

Metrics = dict[str, jax.Array]
Step = Callable[["TrainState", UInt8[Array, "n p p 3"], Any], tuple["TrainState", Metrics]]


@flax.struct.dataclass
class TrainState:
  """All that training changes.

  Attributes:
    step: number of updates made.
    learned: {"params": network parameters} and, where they are learned, {"inner_lrs": rates shaped like the parameters,
      with an axis of inner steps}.
    opt_state: moments of the optimizer.
    average: what was learned, as an exponential moving average over steps; None where the config asks for none.
  """

  step: Int[Array, ""]
  learned: dict[str, PyTree]
  opt_state: optax.OptState
  average: dict[str, PyTree] | None = None

  @property
  def result(self) -> dict[str, PyTree]:
    """What the training has to show: the average, where there is one."""
    return self.learned if self.average is None else self.average


def network(config: ml_collections.ConfigDict) -> MZSRNet | UnrolledNet:
  """The network that a config describes."""
  c = config.model
  if c.network == "unrolled":
    sizes = ("passes", "rounds", "features", "blocks", "coarse_features", "coarse_blocks", "coarse_rounds", "precision")
    return UnrolledNet(**{name: c[name] for name in sizes})
  return MZSRNet(depth=c.depth, features=c.features, convolution=c.convolution, precision=c.precision)


def learning_rate(config: ml_collections.ConfigDict, step):
  """The learning rate at a step: halved every `halve_every` steps, or falling evenly for `decay_steps`."""
  c = config.optimizer
  if c.decay_steps:
    left = jnp.maximum(1 - jnp.asarray(step, jnp.float32) / c.decay_steps, 0)
    warm_up = jnp.minimum((jnp.asarray(step, jnp.float32) + 1) / _WARM_UP, 1)
    return (c.min_learning_rate + (c.learning_rate - c.min_learning_rate) * left) * warm_up
  halvings = step // c.halve_every if c.halve_every else 0
  return jnp.maximum(c.learning_rate * 0.5 ** jnp.asarray(halvings, jnp.float32), c.min_learning_rate)


def _clipping(config: ml_collections.ConfigDict) -> list[optax.GradientTransformation]:
  return [optax.clip_by_global_norm(config.optimizer.clip_norm)] if config.optimizer.clip_norm else []


def _optimizer(config: ml_collections.ConfigDict) -> optax.GradientTransformation:
  rate = lambda step: learning_rate(config, step)
  if config.optimizer.algorithm == "adam":
    optimizer = optax.chain(optax.scale_by_adam(), optax.scale_by_learning_rate(rate))
  else:
    optimizer = optax.contrib.muon(rate, consistent_rms=0.2, muon_weight_dimension_numbers=_as_matrices)
  return optax.chain(*_clipping(config), optimizer)


def _as_matrices(learned: PyTree) -> PyTree:
  """Convolutions, (height, width, in, out), as matrices from all that an output sees to the outputs; None for the rest."""
  numbers = optax.contrib.MuonDimensionNumbers(reduction_axis=(0, 1, 2), output_axis=3)
  return jax.tree.map(lambda x: numbers if x.ndim == 4 else None, learned)


def init_params(config: ml_collections.ConfigDict) -> Params:
  """Random network parameters from the config's seed."""
  return network(config).init_params(jax.random.fold_in(jax.random.key(config.seed), 0))


def init_state(config: ml_collections.ConfigDict, params: Params, inner_lrs: PyTree | None = None) -> TrainState:
  """The state before the first step, from the given network parameters and, where rates are learned, rates."""
  learned = {"params": params}
  if config.stage == "meta" and config.meta.learn_inner_lrs:
    shape = (config.meta.num_inner_steps,)
    constant = jax.tree.map(lambda _: jnp.full(shape, config.meta.inner_lr), params)
    learned["inner_lrs"] = constant if inner_lrs is None else inner_lrs
  average = jax.tree.map(jnp.array, learned) if config.optimizer.average_decay else None  # a copy: steps use up the state
  return TrainState(jnp.zeros((), jnp.int32), learned, _optimizer(config).init(learned), average)


def retuned(config: ml_collections.ConfigDict, state: TrainState) -> TrainState:
  """The state of a config that differs in tunable fields, as `config` has it: with what belongs to clipping and averaging."""
  clipping = [transformation.init(state.learned) for transformation in _clipping(config)]
  average = state.average if config.optimizer.average_decay else None
  if config.optimizer.average_decay and average is None:
    average = jax.tree.map(jnp.copy, state.learned)  # steps use up the state
  return state.replace(opt_state=(*clipping, state.opt_state[-1]), average=average)


def patches_per_step(config: ml_collections.ConfigDict) -> int:
  """HR patches that a step takes."""
  if config.stage == "pretrain":
    return config.batch_size
  return config.meta.tasks * mesh_lib.patches_per_task(config)


def make_step(config: ml_collections.ConfigDict, first_order: bool = False, mesh: Mesh | None = None) -> Step:
  """The step, (state, uint8 HR patches, key) -> (state, metrics); the state it is given is used up.

  Args:
    config: see `config`.
    first_order: drop the gradients of gradients (stage 2 only).
    mesh: devices to work on, see `mesh.make`; None takes the first device.

  Returns:
    A function of the state, the patches that this process holds (`mesh.own_rows`; all, if it is the only one) and a key, into
    which the number of the step is folded. Its metrics hold "loss", "learning_rate" and the norms "grad_norm", "param_norm"
    (after the update) and "update_norm"; in stage 2 also "support_losses" and "query_losses" (`maml.meta_loss`), means over
    tasks, and "inner_lrs" (n,), means over layers.
  """
  mesh = mesh_lib.make(config, jax.local_devices()[:1]) if mesh is None else mesh
  jitted, place = jit_step(config, first_order, mesh), mesh_lib.patch_placer(config, mesh)
  # The key as host memory: an array on one device is no argument of a computation of several processes.
  return lambda state, patches, key: jitted(state, place(patches), np.asarray(jax.random.key_data(key)))


class _Problem(NamedTuple):
  """What a config describes, resolved once.

  Attributes:
    config: see `config`.
    network: that is trained.
    distribution: of the tasks.
    son_degrader: of LR patches, where the inner steps learn from LR sons.
    batching: of tasks, see `maml.mean_over_tasks`.
    first_order: drop the gradients of gradients.
  """

  config: ml_collections.ConfigDict
  network: Network
  distribution: tasks.Distribution
  son_degrader: Degrader | None
  batching: str
  first_order: bool


def _problem(config: ml_collections.ConfigDict, net: Network, first_order: bool, platform: str) -> _Problem:
  c = config.degradation
  degrader = Degrader(config.data.patch_size, c.scales, c.subsample)
  distribution = tasks.Distribution(degrader, c.kernels, c.min_variance, c.noise_std)
  meta = config.stage == "meta"
  son_degrader = None
  if meta and config.meta.support == "lr_sons":
    son_degrader = Degrader(degrader.least_size, c.scales, c.subsample)
  batching = config.meta.task_batching if meta else "auto"
  if batching == "auto":
    batching = "map" if platform == "cpu" else "vmap"
  return _Problem(config, net, distribution, son_degrader, batching, first_order)


def jit_step(config: ml_collections.ConfigDict, first_order: bool, mesh: Mesh):
  """The jitted part of `make_step`, of (state, patches placed by `mesh.patch_placer`, key data)."""
  platform = mesh.devices.flat[0].platform
  precision = devices.computed_precision(platform, config.model.precision)
  net = network(config).clone(precision=precision)
  if config.model.network == "unrolled":
    local = functools.partial(_unrolled_gradient, net, observations.mixture(config.data.patch_size))
  else:
    problem = _problem(config, net, first_order, platform)
    local = functools.partial(_meta_gradient if config.stage == "meta" else _pretrain_gradient, problem)
  gradient = jax.shard_map(
      local,
      mesh=mesh,
      in_specs=(mesh_lib.REPLICATED, mesh_lib.spec(config), mesh_lib.REPLICATED),
      out_specs=mesh_lib.REPLICATED,
  )
  optimizer = _optimizer(config)

  def step(state: TrainState, patches, key_data):
    key = jax.random.fold_in(jax.random.wrap_key_data(key_data), state.step + 1)
    (loss, metrics), grads = gradient(state, patches, key)
    with jax.numpy_dtype_promotion("standard"):  # optax raises floats to integer powers
      updates, opt_state = optimizer.update(grads, state.opt_state, state.learned)
    learned = optax.apply_updates(state.learned, updates)
    metrics |= {
        "loss": loss,
        "learning_rate": learning_rate(config, state.step),
        "grad_norm": optax.tree.norm(grads),
        "param_norm": optax.tree.norm(learned),
        "update_norm": optax.tree.norm(updates),
    }
    average = state.average
    if average is not None:
      average = optax.incremental_update(learned, average, 1 - config.optimizer.average_decay)
    return TrainState(state.step + 1, learned, opt_state, average), metrics

  replicated = NamedSharding(mesh, mesh_lib.REPLICATED)
  patches = NamedSharding(mesh, mesh_lib.spec(config))
  return jax.jit(
      step,
      donate_argnums=0,
      in_shardings=(replicated, patches, replicated),
      out_shardings=replicated,
      compiler_options=devices.compiler_options(platform, precision, lasting=True),
  )


# The functions below run on every device, on its share of the patches, under jax.shard_map. A loss is made the mean over an
# axis of devices inside the function that is differentiated, as lax.pmean of a loss of parameters that vary along it
# (`sharding.vary`): derivatives of every order are then summed over devices.


def _numbers(axes, count: int) -> Int[Array, " count"]:
  """Numbers, over all devices along `axes`, of this device's `count` elements."""
  return lax.axis_index(axes) * count + jnp.arange(count)


def _pretrain_gradient(problem: _Problem, state: TrainState, patches, key):
  """Gradient of the L1 loss over all patches (Eq. 4)."""
  axes, distribution = mesh_lib.AXES, problem.distribution
  numbers = _numbers(axes, patches.shape[0])
  if distribution.is_one_degradation:
    pairs = tasks.sample(key, patches[None], distribution, jnp.arange(1), numbers)
  else:  # each patch is a task of its own
    pairs = tasks.sample(key, patches[:, None], distribution, numbers, jnp.arange(1))
  inputs, targets = (x.reshape(patches.shape) for x in pairs)
  loss = lambda learned: adapt_lib.l1(sharding.vary(learned["params"], axes), inputs, targets, problem.network)
  value, grads = jax.value_and_grad(lambda learned: lax.pmean(loss(learned), axes))(state.learned)
  return (value, {}), grads


def _unrolled_gradient(net: UnrolledNet, mixture: tuple[observations.Scales, ...], state: TrainState, patches, key):
  """The same where each patch has a degradation of its own, of all there are, and the network is told it."""
  axes = mesh_lib.AXES
  # Periodic patches: two iterations of a data step are exact for whole scales. For others more would be better, but take long.
  net = net.clone(iterations=_TRAINING_ITERATIONS, most_iterations=0)
  groups, targets = observations.sample(key, patches, mixture, _numbers(axes, patches.shape[0]))

  def loss(learned):
    made = net.apply({"params": sharding.vary(learned["params"], axes)}, groups)
    return lax.pmean(jnp.abs(made - targets).mean(), axes)

  value, grads = jax.value_and_grad(loss)(state.learned)
  return (value, {}), grads


def _sample(problem: _Problem, key, patches, task_numbers) -> tuple[tasks.Pairs, tasks.Pairs]:
  """Support and query. Where the support is of LR sons, both are of the same patches, and the query is cut to their size."""
  c = problem.config.meta
  num_support, num_query = (p.shape[1] for p in patches)
  support_numbers = _numbers("patches", num_support)
  query_numbers = mesh_lib.patches_per_task(problem.config) - c.query_patches + _numbers("patches", num_query)
  if problem.son_degrader:
    support = tasks.sample_lr_sons(
        key, patches[0], problem.distribution, task_numbers, support_numbers, son_degrader=problem.son_degrader
    )
    size = problem.distribution.degrader.least_size
    return support, tasks.sample(key, patches[1], problem.distribution, task_numbers, query_numbers, size)
  numbers = jnp.concatenate([support_numbers, query_numbers])
  both = tasks.sample(key, jnp.concatenate(patches, axis=1), problem.distribution, task_numbers, numbers)
  return jax.tree.map(lambda x: x[:, :num_support], both), jax.tree.map(lambda x: x[:, num_support:], both)


def _meta_gradient(problem: _Problem, state: TrainState, patches, key):
  """Gradient of the multi-step meta-loss, mean over tasks (Eq. 7); or what Reptile takes for it."""
  c = problem.config.meta
  weights = maml.loss_weights(state.step, c.num_inner_steps, c.loss_weights, c.anneal_steps, c.weight_floor)
  fixed_rates = jnp.full((c.num_inner_steps,), c.inner_lr)
  task_numbers = _numbers("tasks", patches[0].shape[0])
  pairs = _sample(problem, key, patches, task_numbers)
  learned = sharding.vary(state.learned, "tasks")
  inner_lrs = lambda learned: inner_rules.rates_of(c.inner_rule, learned.get("inner_lrs", fixed_rates))

  def shared_loss(pair):
    return lambda params: lax.pmean(adapt_lib.l1(sharding.vary(params, "patches"), *pair, problem.network), "patches")

  def task_gradient(task):
    support, query = task
    if c.algorithm == "reptile":
      losses = shared_loss(support), shared_loss(query)
      value, gradient = maml.reptile_gradient(learned["params"], *losses, inner_lrs(learned), inner_loop=c.inner_loop)
      return value, {"params": gradient}

    def loss(learned):
      return maml.meta_loss(
          learned["params"],
          shared_loss(support),
          shared_loss(query),
          inner_lrs(learned),
          weights,
          first_order=problem.first_order,
          inner_loop=c.inner_loop,
          remat=c.remat,
      )

    return jax.value_and_grad(loss, has_aux=True)(learned)

  out = maml.mean_over_tasks(task_gradient, pairs, problem.batching)
  (loss, metrics), grads = lax.pmean(out, "tasks")
  rates = jnp.stack(jax.tree.leaves(state.learned.get("inner_lrs", fixed_rates)))
  return (loss, metrics | {"inner_lrs": rates.mean(axis=0)}), grads
