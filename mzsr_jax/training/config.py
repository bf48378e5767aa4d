"""What every training config starts from; the files in `configs/` change the few lines in which they differ."""

import flax.traverse_util
import ml_collections

from mzsr_jax.core import conditioning, conv, inner_rules, kernels, maml, tasks
from mzsr_jax.errors import UserError

MANY_SCALES = tuple(2 + i / 5 for i in range(11))  # of the paper's multi-scale model
# Meta-test learning rates of the released code: the first steps are larger.
DIRECT_X2_INNER_LRS = (0.02,) + 3 * (0.01,) + 6 * (0.005,)


def _base() -> ml_collections.ConfigDict:
  c = ml_collections.ConfigDict()
  c.seed = 0
  c.init_weights = ""  # shipped name or path of a .safetensors file; "" starts from random parameters

  c.data = ml_collections.ConfigDict()
  c.data.root = ""  # folder of HR images, searched recursively; "" takes scikit-image's sample photos
  c.data.patch_size = 64  # pixels, HR
  c.data.cache_mb = 1000  # decoded images kept in memory, 10^6 bytes; DIV2K needs 7000 to fit
  c.data.num_threads = 4  # that decode and crop
  c.data.prefetch = 4  # batches made ahead

  c.degradation = ml_collections.ConfigDict()
  c.degradation.scales = (2.0,)  # one is drawn for each task
  c.degradation.subsample = "direct"  # or "bicubic"
  c.degradation.kernels = "gaussian"  # or "bicubic": no blur
  c.degradation.min_variance = 1.0  # of "gaussian" kernels, pixels^2; the largest is 2.5 times the scale
  c.degradation.noise_std = 0.0  # of the LR patches, in [0, 1] units
  c.degradation.max_noise_std = 0.0  # where above that, half of the tasks have noise of a level between the two

  c.model = ml_collections.ConfigDict()
  c.model.depth = 8
  c.model.features = 64
  c.model.conditioned = False  # parameters depend on the degradation that the meta-test is told (mzsr_jax/core/conditioning.py)
  c.model.convolution = "closed"  # or "xla", "im2col": the same function, other derivatives (mzsr_jax/core/conv.py)
  c.model.precision = "float32"  # of the products in convolutions; or "tf32" (GPU), "bfloat16". All else is float32

  c.optimizer = ml_collections.ConfigDict()
  # "adam", the paper's; or "muon", which makes orthogonal matrices of the convolutions' updates, with Adam for biases and
  # rates. Its updates are scaled to be as large as Adam's, so that learning rates mean the same.
  c.optimizer.algorithm = "adam"
  c.optimizer.learning_rate = 1e-4
  c.optimizer.inner_lrs_factor = 1.0  # times that, for learned inner rates
  c.optimizer.halve_every = 0  # steps; 0 keeps the rate
  c.optimizer.min_learning_rate = 0.0
  c.optimizer.clip_norm = 0.0  # global gradient norm; 0 does not clip
  # Of a moving average of the parameters, which then is the result; 0 keeps none. It starts as the initial parameters, and
  # is mostly those for the first 1 / (1 - decay) steps.
  c.optimizer.average_decay = 0.0

  # How the run is watched and kept. These may change from one start to the next in the same workdir: they have no part in
  # what is computed.
  c.run = ml_collections.ConfigDict()
  c.run.num_steps = 100_000
  c.run.log_every = 50  # steps
  c.run.checkpoint_every = 500  # steps
  c.run.keep = 3  # checkpoints
  c.run.eval_every = 2000  # steps; 0 never validates
  c.run.eval_root = ""  # held-out HR images; "" takes scikit-image's sample photos
  c.run.eval_size = 160  # validation images are cut to their middle, pixels
  c.run.eval_images = 5
  return c


def pretrain(scale: float = 2.0) -> ml_collections.ConfigDict:
  """Stage 1, large-scale training on bicubic pairs, as the released code ran it: 800,000 steps, batch 32, 96x96 patches."""
  c = _base()
  c.stage = "pretrain"
  c.data.patch_size = 96
  c.degradation.scales = (scale,)
  c.degradation.subsample = "bicubic"
  c.degradation.kernels = "bicubic"
  c.batch_size = 32  # patches
  c.optimizer.learning_rate = 4e-4
  c.optimizer.halve_every = 100_000
  c.optimizer.min_learning_rate = 1e-4
  c.run.num_steps = 800_000
  c.meta_test = ml_collections.ConfigDict()
  c.meta_test.inner_lrs = (0.01,)
  return c


def all_kernels(scale: float = 2.0) -> ml_collections.ConfigDict:
  """Stage 1's loss on stage 2's degradations, each patch its own: direct subsampling, Gaussian kernels."""
  c = pretrain(scale)
  c.degradation.subsample = "direct"
  c.degradation.kernels = "gaussian"
  return c


def conditioned(scale: float = 2.0) -> ml_collections.ConfigDict:
  """Parameters that depend on the degradation (beyond the paper), trained as `all_kernels`.

  Variances from 0.1 on, and noise up to 15 of 255: such a network need not choose between sharp images and blurred ones, or
  between clean ones and noisy ones.
  """
  c = all_kernels(scale)
  c.degradation.min_variance = 0.1
  c.degradation.max_noise_std = conditioning.MOST_NOISE
  c.model.conditioned = True
  return c


def meta(scale: float = 2.0) -> ml_collections.ConfigDict:
  """Stage 2, meta-transfer learning, as the paper and its code state it: 5 tasks of 8 + 8 patches, 5 inner steps."""
  c = _base()
  c.stage = "meta"
  c.init_weights = f"pretrain_x{scale:g}"
  c.degradation.scales = (scale,)
  c.run.num_steps = 100_000

  c.meta = ml_collections.ConfigDict()
  # "maml", or "reptile", which steps towards the adapted parameters: no gradient of gradients, and none of the query loss,
  # so that loss_weights and first_order_until_step mean nothing and inner rates cannot be learned.
  c.meta.algorithm = "maml"
  c.meta.tasks = 5  # per meta-step
  c.meta.support_patches = 8  # per task, D_tr
  c.meta.query_patches = 8  # per task, D_te
  # What the inner steps learn from: "patches", HR patches of other images, as the paper's code has it; or "sons", as at
  # meta-test: the LR patches of the query's own images, made of their sons. The query then is a part of them as large.
  c.meta.support = "patches"
  c.meta.num_inner_steps = 5
  # "gradient", plain gradient steps, as in the paper; or "spectral", conjugate gradients under the spectral norm, with a
  # line search (mzsr_jax/core/inner_rules.py).
  c.meta.inner_rule = "gradient"
  c.meta.inner_lr = 0.01  # alpha
  c.meta.learn_inner_lrs = False  # learn a rate for each layer's weights and biases and each step
  c.meta.init_inner_lrs = False  # learn them from those that init_weights come with, instead of from inner_lr
  c.meta.first_order_until_step = 0  # first-order MAML before this meta-step; a number beyond num_steps: throughout
  c.meta.task_batching = "auto"  # "vmap", "map", "chunks", "unroll", or "auto": "map" on a CPU, else "vmap" (core/maml.py)
  c.meta.chunk = 2  # tasks at once, for "chunks"
  c.meta.inner_loop = "scan"  # or "unroll"
  c.meta.remat = False  # half the memory, a quarter more time
  c.meta.loss_weights = "annealed"  # of the query losses after each inner step; or "constant", "last"
  c.meta.anneal_steps = 3300  # meta-steps until all weights but the last have reached the floor
  c.meta.weight_floor = 0.03  # times 1 / num_inner_steps
  c.meta_test = ml_collections.ConfigDict()
  c.meta_test.inner_lrs = DIRECT_X2_INNER_LRS  # saved with the weights, the default of evaluate and upscale
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
  else:
    c.init_weights = ""
    c.meta.tasks = 2
    c.meta.support_patches = 2
    c.meta.query_patches = 2
    c.meta.num_inner_steps = 2
  return c


def conditioned_cpu(c: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
  """`conditioned` at a size for two CPU cores: 16 patches of 48x48, two steps a second on two cores."""
  c.init_weights = "x2_direct"
  c.data.patch_size = 48
  c.batch_size = 16
  c.optimizer.algorithm = "muon"
  c.optimizer.learning_rate = 1e-3
  c.optimizer.halve_every = 1500
  c.optimizer.min_learning_rate = 3e-5
  c.optimizer.average_decay = 0.995
  c.run.num_steps = 5000
  c.run.eval_every = 500
  c.run.eval_size = 192
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
  c.meta.support = "sons"
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


_CHOICES = {
    "stage": ("pretrain", "meta"),
    "degradation.subsample": kernels.SUBSAMPLINGS,
    "degradation.kernels": tasks.KERNEL_FAMILIES,
    "model.convolution": tuple(conv.CONVOLUTIONS),
    "model.precision": conv.PRECISIONS,
    "model.conditioned": (False, True),
    "optimizer.algorithm": ("adam", "muon"),
    "meta.algorithm": maml.ALGORITHMS,
    "meta.support": tasks.SUPPORTS,
    "meta.task_batching": ("auto", *maml.TASK_BATCHINGS),
    "meta.inner_loop": maml.INNER_LOOPS,
    "meta.remat": (False, True),
    "meta.init_inner_lrs": (False, True),
    "meta.inner_rule": inner_rules.RULES,
    "meta.loss_weights": maml.WEIGHT_SCHEDULES,
}
_LARGEST = {"seed": 2**32 - 1, "degradation.min_variance": 2.5, "meta.weight_floor": 1.0, "data.patch_size": 2**12}
_LARGEST["optimizer.average_decay"] = 0.99999
_RANGES = {
    name: (low, _LARGEST.get(name, 2.0**40))
    for low, names in {
        0.01: "degradation.min_variance",
        0: "seed data.cache_mb data.num_threads degradation.noise_std degradation.max_noise_std "
        "optimizer.learning_rate optimizer.halve_every "
        "optimizer.inner_lrs_factor "
        "optimizer.min_learning_rate optimizer.clip_norm optimizer.average_decay meta.inner_lr meta.first_order_until_step "
        "meta.weight_floor run.eval_every",
        1: "batch_size data.prefetch model.features meta.tasks meta.support_patches meta.query_patches "
        "meta.num_inner_steps meta.chunk meta.anneal_steps run.num_steps run.log_every run.checkpoint_every run.keep "
        "run.eval_images",
        2: "model.depth",
        8: "data.patch_size",
        32: "run.eval_size",
    }.items()
    for name in names.split()
}


# Fields that came later, and what a config without them means.
_LATER = {"degradation.min_variance": 1.0, "model.precision": "float32", "model.conditioned": False}
_LATER |= {"degradation.max_noise_std": 0.0}
_LATER |= {"optimizer.algorithm": "adam", "optimizer.inner_lrs_factor": 1.0}
_LATER |= {"meta.init_inner_lrs": False, "meta.inner_rule": "gradient"}
_LATER |= {"optimizer.average_decay": 0.0, "meta.support": "patches"}
_LATER |= {"meta.algorithm": "maml", "meta.chunk": 2, "meta.inner_loop": "scan", "meta.remat": False}


def complete(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
  """A config written by an earlier version, with the fields that it lacks."""
  for name, value in _LATER.items():
    section, field = name.split(".")
    if section in config and field not in config[section]:
      config[section][field] = value
  return config


def check(config: ml_collections.ConfigDict) -> None:
  """Raises UserError for the first value that no training can be run with."""
  flat = flax.traverse_util.flatten_dict(config.to_dict(), sep=".")
  if not {"stage", "init_weights", config.stage if config.stage == "meta" else "batch_size"} <= set(config.keys()):
    raise UserError(f"this config lacks what stage '{config.stage}' needs: start from pretrain() or meta() of default_config")
  for name, value in flat.items():
    if name in _CHOICES and value not in _CHOICES[name]:
      raise UserError(f"config.{name} is '{value}': it must be one of {', '.join(_CHOICES[name])}")
    low, high = _RANGES.get(name, (None, None))
    if low is not None and not low <= value <= high:
      raise UserError(f"config.{name} is {value}: it must be a number from {low} to {high:g}")
  if flat.get("meta.algorithm") == "reptile" and flat["meta.learn_inner_lrs"]:
    raise UserError("config.meta.learn_inner_lrs is True: Reptile has no gradient of the inner rates: set it to False")
  if flat.get("meta.init_inner_lrs") and not (flat["meta.learn_inner_lrs"] and flat["init_weights"]):
    raise UserError("config.meta.init_inner_lrs is True: it needs meta.learn_inner_lrs and init_weights")
  scales = flat["degradation.scales"]
  if not scales or not all(isinstance(s, (int, float)) and 1 <= s <= 8 for s in scales):
    raise UserError(f"config.degradation.scales is {tuple(scales)}: it must list scale factors from 1 to 8")
  if flat["optimizer.min_learning_rate"] > flat["optimizer.learning_rate"]:
    raise UserError("config.optimizer.min_learning_rate is above learning_rate: lower it too")
  lrs = flat["meta_test.inner_lrs"]
  if not lrs or not all(0 <= lr < float("inf") for lr in lrs):
    raise UserError(f"config.meta_test.inner_lrs is {tuple(lrs)}: it must list learning rates, finite and not negative")
