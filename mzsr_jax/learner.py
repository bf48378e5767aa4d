"""One training step of either stage: pure functions of state, HR patches and key."""

from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import ml_collections
import optax
from jaxtyping import Array, Int, PyTree, UInt8

from mzsr_jax import maml, meta_test, model, tasks
from mzsr_jax.degradation import Degrader
from mzsr_jax.model import MZSRNet, Params

Metrics = dict[str, jax.Array]
Step = Callable[["TrainState", UInt8[Array, "n p p 3"], Any], tuple["TrainState", Metrics]]


@flax.struct.dataclass
class TrainState:
  """All that training changes.

  Attributes:
    step: number of updates made.
    learned: {"params": network parameters} and, where they are learned, {"inner_lrs": rates shaped like the parameters,
      with an axis of inner steps}.
    opt_state: moments of Adam.
  """

  step: Int[Array, ""]
  learned: dict[str, PyTree]
  opt_state: optax.OptState


def network(config: ml_collections.ConfigDict) -> MZSRNet:
  """The network that a config describes."""
  return MZSRNet(depth=config.model.depth, features=config.model.features, convolution=config.model.convolution)


def learning_rate(config: ml_collections.ConfigDict, step):
  """Adam's learning rate at a step: halved every `halve_every` steps down to `min_learning_rate`."""
  c = config.optimizer
  halvings = step // c.halve_every if c.halve_every else 0
  return jnp.maximum(c.learning_rate * 0.5 ** jnp.asarray(halvings, jnp.float32), c.min_learning_rate)


def _optimizer(config: ml_collections.ConfigDict) -> optax.GradientTransformation:
  clip = [optax.clip_by_global_norm(config.optimizer.clip_norm)] if config.optimizer.clip_norm else []
  return optax.chain(*clip, optax.scale_by_adam(), optax.scale_by_learning_rate(lambda step: learning_rate(config, step)))


def init_params(config: ml_collections.ConfigDict) -> Params:
  """Random network parameters from the config's seed."""
  return model.init(jax.random.fold_in(jax.random.key(config.seed), 0), network(config))


def init_state(config: ml_collections.ConfigDict, params: Params) -> TrainState:
  """The state before the first step, from the given network parameters."""
  learned = {"params": params}
  if config.stage == "meta" and config.meta.learn_inner_lrs:
    shape = (config.meta.num_inner_steps,)
    learned["inner_lrs"] = jax.tree.map(lambda _: jnp.full(shape, config.meta.inner_lr), params)
  return TrainState(jnp.zeros((), jnp.int32), learned, _optimizer(config).init(learned))


def patches_per_step(config: ml_collections.ConfigDict) -> int:
  """HR patches that a step takes."""
  if config.stage == "pretrain":
    return config.batch_size
  return config.meta.tasks * (config.meta.support_patches + config.meta.query_patches)


def make_step(config: ml_collections.ConfigDict, first_order: bool = False) -> Step:
  """The jitted step, (state, uint8 HR patches, key) -> (state, metrics); the state it is given is used up.

  Args:
    config: see `default_config`.
    first_order: drop the gradients of gradients (stage 2 only).

  Returns:
    A function whose metrics hold "loss", "learning_rate" and the norms "grad_norm", "param_norm" (after the update) and
    "update_norm"; in stage 2 also "support_losses" and "query_losses" (`maml.meta_loss`), means over tasks, and
    "inner_lrs" (n,), means over layers.
  """
  degrader = Degrader(config.data.patch_size, config.degradation.scales, config.degradation.subsample)
  gradient = {"pretrain": _pretrain_gradient, "meta": _meta_gradient}[config.stage]
  optimizer = _optimizer(config)
  # In stage 1, each patch is a task of its own where there is more than one degradation to draw from.
  varied = config.degradation.kernels != "bicubic" or len(config.degradation.scales) > 1

  def step(state: TrainState, patches, key):
    num_tasks = config.meta.tasks if config.stage == "meta" else patches.shape[0] if varied else 1
    pairs = tasks.sample(
        key, patches.reshape(num_tasks, -1, *patches.shape[1:]), degrader, config.degradation.kernels,
        config.degradation.noise_std,
    )
    (loss, metrics), grads = gradient(config, state, pairs, first_order)
    with jax.numpy_dtype_promotion("standard"):  # optax raises floats to integer powers
      updates, opt_state = optimizer.update(grads, state.opt_state)
    learned = optax.apply_updates(state.learned, updates)
    metrics |= {
        "loss": loss,
        "learning_rate": learning_rate(config, state.step),
        "grad_norm": optax.tree.norm(grads),
        "param_norm": optax.tree.norm(learned),
        "update_norm": optax.tree.norm(updates),
    }
    return TrainState(state.step + 1, learned, opt_state), metrics

  return jax.jit(step, donate_argnums=0)


def _pretrain_gradient(config, state, pairs, first_order):
  """Gradient of the L1 loss over all patches (Eq. 4)."""
  del first_order
  inputs, targets = (x.reshape(-1, *x.shape[2:]) for x in pairs)
  loss = lambda learned: meta_test.l1(learned["params"], inputs, targets, network(config))
  value, grads = jax.value_and_grad(loss)(state.learned)
  return (value, {}), grads


def _meta_gradient(config, state, pairs, first_order):
  """Gradient of the multi-step meta-loss, mean over tasks (Eq. 7)."""
  c, net = config.meta, network(config)
  weights = maml.loss_weights(state.step, c.num_inner_steps, c.loss_weights, c.anneal_steps, c.weight_floor)
  fixed_rates = jnp.full((c.num_inner_steps,), c.inner_lr)

  def task_gradient(task: tasks.Pairs):
    support = jax.tree.map(lambda x: x[: c.support_patches], task)
    query = jax.tree.map(lambda x: x[c.support_patches :], task)

    def loss(learned):
      return maml.meta_loss(
          learned["params"],
          lambda p: meta_test.l1(p, *support, net),
          lambda p: meta_test.l1(p, *query, net),
          learned.get("inner_lrs", fixed_rates),
          weights,
          first_order=first_order,
      )

    return jax.value_and_grad(loss, has_aux=True)(state.learned)

  batching = c.task_batching
  if batching == "auto":
    batching = "unroll" if jax.default_backend() == "cpu" else "vmap"
  (loss, metrics), grads = maml.mean_over_tasks(task_gradient, pairs, batching)
  rates = jnp.stack(jax.tree.leaves(state.learned.get("inner_lrs", fixed_rates)))
  return (loss, metrics | {"inner_lrs": rates.mean(axis=0)}), grads

