"""What every training config starts from; the files in `configs/` change the few lines in which they differ."""

from typing import Any, NamedTuple

import flax.traverse_util
import ml_collections

from mzsr_jax.core import conv, inner_rules, kernels, maml, tasks
from mzsr_jax.errors import UserError

# Meta-test learning rates of the released code: the first steps are larger.
DIRECT_X2_INNER_LRS = (0.02,) + 3 * (0.01,) + 6 * (0.005,)


class Range(NamedTuple):
  """Numbers that a field may have."""

  low: float
  high: float = 2.0**40


class Field(NamedTuple):
  """One field of a config.

  Attributes:
    default: where a config says nothing else.
    about: unit and meaning.
    allowed: a range, or all values that it may have; None for those that `check` sees to.
    free: whether it may change from one start to the next in the same workdir: it has no part in what is computed, but for
      rounding.
    tunable: whether it may change so with a warning, and a line in config.json: the optimizer's, and what else a run that
      diverged is advised to change.
  """

  default: Any
  about: str
  allowed: Range | tuple | None = None
  free: bool = False
  tunable: bool = False


_BOOL = (False, True)
FIELDS = {
    "seed": Field(0, "of all that is random", Range(0, 2**32 - 1)),
    # Both are free: a checkpoint has what came of the first, and compares the images of the second.
    # The first may be several with commas between, each a part of the network; of what two have, that of the later is taken.
    "init_weights": Field("", 'shipped name or path of a .safetensors file; "" starts from random parameters', None, True),
    # Several folders with commas between, each with its share of the patches: "photosA:3,photosB:1".
    "data.root": Field("", 'folder of HR images, searched recursively; "" takes scikit-image\'s sample photos', None, True),
    "data.patch_size": Field(64, "pixels, HR", Range(8, 2**12)),
    "data.cache_mb": Field(1000, "decoded images kept in memory, 10^6 bytes; DIV2K needs 7000 to fit", Range(0), True),
    "data.num_threads": Field(4, "threads that decode and crop", Range(0), True),
    "data.prefetch": Field(4, "batches made ahead", Range(1), True),
    "degradation.scales": Field((2.0,), "scale factors from 1 to 8; one is drawn for each task"),
    "degradation.subsample": Field("direct", "how LR pixels are taken", kernels.SUBSAMPLINGS),
    # "all" draws scales from 1 to 4, both subsamplings, noise and kernels of many kinds, whatever the other fields of this
    # section say: see core/observations.py.
    "degradation.kernels": Field("gaussian", '"bicubic": no blur', (*tasks.KERNEL_FAMILIES, "all")),
    "degradation.min_variance": Field(1.0, "pixels^2, of Gaussians; the largest is 2.5 times the scale", Range(0.01, 2.5)),
    "degradation.noise_std": Field(0.0, "of the LR patches, in [0, 1] units", Range(0)),
    "model.network": Field("mzsr", "the paper's; or unrolled, see core/unrolled.py", ("mzsr", "unrolled")),
    "model.passes": Field(4, "of the unrolled network, at full resolution", Range(0)),
    "model.rounds": Field(1, "how often these are gone through", Range(1)),
    "model.blocks": Field(2, "residual blocks in each", Range(0)),
    "model.coarse_blocks": Field(0, "residual blocks of its pass on cells of pixels; 0 for none", Range(0)),
    "model.coarse_rounds": Field(1, "how often that is gone through", Range(1)),
    "model.coarse_features": Field(48, "channels there", Range(1)),
    "model.depth": Field(8, "convolutions of the paper's network", Range(2)),
    "model.features": Field(64, "channels between them", Range(1)),
    "model.convolution": Field("closed", "same function, other derivatives, see core/conv.py", tuple(conv.CONVOLUTIONS), True),
    "model.precision": Field("float32", "of the convolutions but for first and last; all else is float32", conv.PRECISIONS),
    # Muon makes orthogonal matrices of the convolutions' updates, with Adam for biases and rates. Its updates are scaled to be
    # as large as Adam's, so that learning rates mean the same.
    "optimizer.algorithm": Field("adam", "the paper's; or muon", ("adam", "muon")),
    "optimizer.learning_rate": Field(1e-4, "beta", Range(0), tunable=True),
    "optimizer.halve_every": Field(0, "steps; 0 keeps the learning rate", Range(0), tunable=True),
    "optimizer.decay_steps": Field(0, "steps of a straight way down, instead of halving; 0 halves", Range(0), tunable=True),
    "optimizer.min_learning_rate": Field(0.0, "where halving, or the way down, ends", Range(0), tunable=True),
    "optimizer.clip_norm": Field(0.0, "global gradient norm; 0 does not clip", Range(0), tunable=True),
    # The average starts as the initial parameters, and is mostly those for the first 1 / (1 - decay) steps.
    "optimizer.average_decay": Field(
        0.0, "of a moving average, which then is the result; 0 keeps none", Range(0, 0.99999), tunable=True
    ),
    "run.num_steps": Field(100_000, "updates in all", Range(1), True),
    "run.log_every": Field(50, "steps", Range(1), True),
    "run.checkpoint_every": Field(500, "steps", Range(1), True),
    "run.keep": Field(3, "checkpoints", Range(1), True),
    "run.eval_every": Field(2000, "steps; 0 never validates", Range(0), True),
    "run.eval_root": Field("", 'held-out HR images; "" takes scikit-image\'s sample photos', None, True),
    "run.eval_size": Field(160, "pixels, side of what validation images are cut to", Range(32), True),
    "run.eval_images": Field(5, "validation images", Range(1), True),
    "meta_test.inner_lrs": Field((0.01,), "saved with the weights, the default of evaluate and upscale"),
}
PRETRAIN_FIELDS = {"batch_size": Field(32, "patches", Range(1))}
META_FIELDS = {
    # Reptile steps towards the adapted parameters: no gradient of gradients, and none of the query loss, so that loss_weights
    # and first_order_until_step mean nothing and inner rates cannot be learned.
    "meta.algorithm": Field("maml", "how the outer gradient is made", maml.ALGORITHMS),
    "meta.tasks": Field(5, "per meta-step", Range(1)),
    "meta.support_patches": Field(8, "per task, D_tr", Range(1)),
    "meta.query_patches": Field(8, "per task, D_te", Range(1)),
    # "patches": HR patches of other images, as the paper's code has it. "lr_sons", as at meta-test: the LR patches of the
    # query's own images, made of their sons. The query then is a part of them as large.
    "meta.support": Field("patches", "what the inner steps learn from", tasks.SUPPORTS),
    "meta.num_inner_steps": Field(5, "n", Range(1)),
    "meta.inner_rule": Field("gradient", "how the inner loop steps, see core/inner_rules.py", inner_rules.RULES),
    "meta.inner_lr": Field(0.01, "alpha", Range(0), tunable=True),
    "meta.learn_inner_lrs": Field(False, "learn a rate for each layer's weights and biases and each step", _BOOL),
    "meta.init_inner_lrs": Field(False, "learn them from those that init_weights come with, instead of from inner_lr", _BOOL),
    "meta.first_order_until_step": Field(0, "first-order MAML before this meta-step; beyond num_steps: throughout", Range(0)),
    "meta.task_batching": Field(
        "auto", '"map" on a CPU, else "vmap", see core/maml.py', ("auto", *maml.TASK_BATCHINGS), True
    ),
    "meta.inner_loop": Field("scan", "see core/maml.py", maml.INNER_LOOPS, True),
    "meta.remat": Field(False, "half the memory, a quarter more time", _BOOL, True),
    "meta.loss_weights": Field("annealed", "of the query losses after each inner step", maml.WEIGHT_SCHEDULES),
    "meta.anneal_steps": Field(3300, "meta-steps until all weights but the last have reached the floor", Range(1)),
    "meta.weight_floor": Field(0.03, "times 1 / num_inner_steps", Range(0, 1)),
}


def _config(stage: str, fields: dict[str, Field]) -> ml_collections.ConfigDict:
  """The defaults of the given fields and of those of both stages."""
  flat = {name: field.default for name, field in (FIELDS | fields).items()}
  return ml_collections.ConfigDict(flax.traverse_util.unflatten_dict(flat, sep=".") | {"stage": stage})


def pretrain(scale: float = 2.0) -> ml_collections.ConfigDict:
  """Stage 1, large-scale training on bicubic pairs, as the released code ran it: 800,000 steps, batch 32, 96x96 patches."""
  c = _config("pretrain", PRETRAIN_FIELDS)
  c.data.patch_size = 96
  c.degradation.scales = (scale,)
  c.degradation.subsample = "bicubic"
  c.degradation.kernels = "bicubic"
  c.optimizer.learning_rate = 4e-4
  c.optimizer.halve_every = 100_000
  c.optimizer.min_learning_rate = 1e-4
  c.run.num_steps = 800_000
  return c


def all_kernels(scale: float = 2.0) -> ml_collections.ConfigDict:
  """Stage 1's loss on stage 2's degradations, each patch its own: direct subsampling, Gaussian kernels."""
  c = pretrain(scale)
  c.degradation.subsample = "direct"
  c.degradation.kernels = "gaussian"
  return c


def universal() -> ml_collections.ConfigDict:
  """The unrolled network on all degradations (beyond the paper), by stage 1's loss."""
  c = pretrain()
  c.model.network = "unrolled"
  c.model.passes = 1
  c.model.rounds = 3
  c.model.features = 32
  c.model.coarse_features = 36
  c.model.coarse_blocks = 5
  c.model.coarse_rounds = 3
  c.degradation.kernels = "all"
  c.degradation.subsample = "direct"  # of the validation
  c.degradation.scales = (1.0, 4.0)
  c.optimizer.algorithm = "muon"
  c.optimizer.learning_rate = 2e-3
  c.optimizer.halve_every = 0
  c.optimizer.min_learning_rate = 0.0
  c.optimizer.decay_steps = 200_000
  c.optimizer.clip_norm = 1.0
  c.optimizer.average_decay = 0.998
  c.run.num_steps = 200_000
  return c


def meta(scale: float = 2.0) -> ml_collections.ConfigDict:
  """Stage 2, meta-transfer learning, as the paper and its code state it: 5 tasks of 8 + 8 patches, 5 inner steps."""
  c = _config("meta", META_FIELDS)
  c.init_weights = f"pretrain_x{scale:g}"
  c.degradation.scales = (scale,)
  c.meta_test.inner_lrs = DIRECT_X2_INNER_LRS
  return c


def smoke(c: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
  """The same path at a tiny size: under two minutes on two CPU cores."""
  c.data.patch_size = 32
  c.optimizer.halve_every = 0
  c.run.num_steps = 40
  c.run.log_every = 5
  c.run.checkpoint_every = 10
  c.run.eval_every = 20
  c.run.eval_size = 64
  c.run.eval_images = 2
  if c.stage == "pretrain":
    c.batch_size = 8
    c.run.num_steps = 120
    c.optimizer.learning_rate = 1e-3
    c.optimizer.decay_steps = 0
  else:
    c.init_weights = ""
    c.meta.tasks = 2
    c.meta.support_patches = 2
    c.meta.query_patches = 2
    c.meta.num_inner_steps = 2
  return c


def meta_cpu(c: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
  """Stage 2 at a size for two CPU cores: 2 tasks of 2 + 2 patches of 48x48, from the blind network for all kernels.

  A meta-step takes 0.7 seconds on two fast cores.
  """
  c.init_weights = "pretrain_all_kernels"
  c.data.patch_size = 48
  c.meta.tasks = 2
  c.meta.support_patches = 2
  c.meta.query_patches = 2
  c.meta.loss_weights = "constant"
  c.meta.learn_inner_lrs = True
  c.optimizer.halve_every = 700
  c.optimizer.min_learning_rate = 2e-5
  c.run.num_steps = 2000
  c.run.log_every = 20
  c.run.checkpoint_every = 100
  c.run.eval_every = 250
  return c


def meta_like_meta_test(c: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
  """Stage 2 at a size for two CPU cores, whose inner steps learn from LR sons; one image a task, two tasks a meta-step.

  `init_weights`, `optimizer.halve_every` and `run.num_steps` are left to the config.
  """
  c.meta.support = "lr_sons"
  c.data.patch_size = round(80 * c.degradation.scales[0])
  c.meta.tasks = 2
  c.meta.support_patches = 1
  c.meta.query_patches = 1
  c.meta.loss_weights = "constant"
  c.meta.learn_inner_lrs = True
  c.meta.inner_lr = 0.05
  c.optimizer.average_decay = 0.99
  c.optimizer.min_learning_rate = 2.5e-5
  c.run.log_every = 50
  c.run.checkpoint_every = 100
  c.run.eval_every = 100
  c.run.eval_size = 256
  return c


def meta_ablation(c: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
  """Ablations of the meta-learner at a size for two CPU cores: `meta_like_meta_test` on small images, from a blind network."""
  c = meta_like_meta_test(c)
  c.init_weights = "pretrain_all_kernels"
  c.data.patch_size = 96
  c.optimizer.halve_every = 100
  c.run.num_steps = 250
  return c


def variant(c: ml_collections.ConfigDict, name: str | None, **others) -> ml_collections.ConfigDict:
  """Applies what follows the colon of `--config=file.py:name`: nothing, "smoke", or one of `others`.

  Raises:
    UserError: no such variant.
  """
  known = {"smoke": smoke, **others}
  if name and name not in known:
    raise UserError(f"this config has no variant '{name}', only {', '.join(known)}")
  return known[name](c) if name else c


def may_change(name: str) -> bool:
  """Whether a field may change from one start to the next in the same workdir."""
  return name in _ALL and (_ALL[name].free or _ALL[name].tunable)


def is_tunable(name: str) -> bool:
  """Whether that change is to be warned of."""
  return name in _ALL and _ALL[name].tunable


# Fields that earlier versions had, or had not, at the values where they do nothing.
REMOVED = {"degradation.max_noise_std": 0.0, "model.conditioned": False}
ADDED = {"model.rounds": 1, "model.coarse_rounds": 1}


def update(config: ml_collections.ConfigDict) -> None:
  """Makes the config of a run that an earlier version began one of this version, so that the run can go on."""
  for name, idle in REMOVED.items():
    section, field = name.split(".")
    if config.get(section, {}).get(field) == idle:
      del config[section][field]
  for name, idle in ADDED.items():
    section, field = name.split(".")
    if section in config and field not in config[section]:
      config[section][field] = idle


_ALL = FIELDS | PRETRAIN_FIELDS | META_FIELDS


def check(config: ml_collections.ConfigDict) -> None:
  """Raises UserError for the first value that no training can be run with."""
  flat = flax.traverse_util.flatten_dict(config.to_dict(), sep=".")
  stages = {"pretrain": PRETRAIN_FIELDS, "meta": META_FIELDS}
  if flat.get("stage") not in stages:
    raise UserError(f"config.stage is '{flat.get('stage')}': it must be one of {', '.join(stages)}")
  if missing := sorted((FIELDS | stages[flat["stage"]]).keys() - flat.keys()):
    raise UserError(f"this config lacks {', '.join(missing)}: start from pretrain() or meta() of training/config.py")
  if unknown := sorted(flat.keys() - (FIELDS | stages[flat["stage"]]).keys() - {"stage"}):
    raise UserError(f"this config has {', '.join(unknown)}, which this version does not know")
  for name, value in flat.items():
    allowed = _ALL[name].allowed if name in _ALL else None
    if isinstance(allowed, Range):
      if not allowed.low <= value <= allowed.high:
        raise UserError(f"config.{name} is {value}: it must be a number from {allowed.low} to {allowed.high:g}")
    elif allowed is not None and value not in allowed:
      raise UserError(f"config.{name} is '{value}': it must be one of {', '.join(map(str, allowed))}")
  if flat.get("meta.algorithm") == "reptile" and flat["meta.learn_inner_lrs"]:
    raise UserError("config.meta.learn_inner_lrs is True: Reptile has no gradient of the inner rates: set it to False")
  if flat.get("meta.init_inner_lrs") and not (flat["meta.learn_inner_lrs"] and flat["init_weights"]):
    raise UserError("config.meta.init_inner_lrs is True: it needs meta.learn_inner_lrs and init_weights")
  scales = flat["degradation.scales"]
  if not scales or not all(isinstance(s, (int, float)) and 1 <= s <= 8 for s in scales):
    raise UserError(f"config.degradation.scales is {tuple(scales)}: it must list scale factors from 1 to 8")
  is_unrolled = flat["model.network"] == "unrolled"
  if is_unrolled != (flat["degradation.kernels"] == "all") or (is_unrolled and flat["stage"] != "pretrain"):
    raise UserError("config.model.network 'unrolled' goes with degradation.kernels 'all' and stage 'pretrain': "
                    "start from universal() of training/config.py")
  if flat["optimizer.min_learning_rate"] > flat["optimizer.learning_rate"]:
    raise UserError("config.optimizer.min_learning_rate is above learning_rate: lower it too")
  lrs = flat["meta_test.inner_lrs"]
  if not lrs or not all(0 <= lr < float("inf") for lr in lrs):
    raise UserError(f"config.meta_test.inner_lrs is {tuple(lrs)}: it must list learning rates, finite and not negative")
