"""The training loop, one for both stages: batches in, checkpoints, scalars and weights out."""

import collections
import contextlib
import json
import pathlib
import signal
import time
from collections.abc import Sequence

import flax.traverse_util
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from absl import logging
from jax.sharding import Mesh

from mzsr_jax import files, provenance, weights
from mzsr_jax.core import inner_rules
from mzsr_jax.errors import UserError
from mzsr_jax.training import checkpoint as checkpoint_lib
from mzsr_jax.training import config as config_lib
from mzsr_jax.training import mesh as mesh_lib
from mzsr_jax.training import step as step_lib
from mzsr_jax.training import tensorboard, validate
from mzsr_jax.training.checkpoint import Checkpoints
from mzsr_jax.training.data import PatchIterator, describe, make_patch_iterator
from mzsr_jax.training.step import TrainState

CONFIG_NAME = "config.json"
WEIGHTS_NAME = "weights.safetensors"


def train(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> TrainState:
  """Trains until `config.run.num_steps`, from the newest checkpoint in `workdir` where there is one.

  SIGTERM and Ctrl-C end the run after the step that is being made (with several processes: after the next), with a checkpoint,
  by what they else raise at once; a second one does so.
  At the end the weights are written to `workdir`/weights.safetensors.

  All devices of all processes share the work (`mesh.make`). Several processes (`devices.initialize_distributed`) call this at
  the same time with the same config and the same folder, which all must see: each reads its own share of the patches, and
  the first alone writes config, logs and weights. A signal to one of them stops all after the same step.

  Args:
    config: see `config`.
    workdir: folder of the run, made if need be.

  Returns:
    The last state.

  Raises:
    UserError: a workdir of another config, or in use by another process; no training images; no such initial weights; or a loss
      that is not finite.
    KeyboardInterrupt: Ctrl-C, once the state is saved.
    SystemExit: SIGTERM, likewise; its code is 143.
  """
  config_lib.check(config)
  files.check_writable(workdir / CONFIG_NAME, overwrite=True)
  changes = _check_workdir(config, workdir)
  mesh = mesh_lib.make(config)
  logging.info("Looking through the training images")
  batches = make_patch_iterator(
      config.data.root,
      patch_size=config.data.patch_size,
      batch_size=step_lib.patches_per_step(config),
      seed=config.seed,
      cache_mb=config.data.cache_mb,
      num_threads=config.data.num_threads,
      prefetch=config.data.prefetch,
      rows=mesh_lib.own_rows(config, mesh),
  )
  # What a checkpoint will replace needs no weights.
  state = mesh_lib.replicate((_blank_state if checkpoint_lib.exists(workdir) else _initial_state)(config), mesh)
  workdir.mkdir(parents=True, exist_ok=True)
  with contextlib.ExitStack() as stack:
    refusal = None
    if jax.process_index() == 0:
      try:
        stack.enter_context(files.lock(workdir))
      except UserError as e:
        refusal = e
    if jax.process_count() > 1 and mesh_lib.largest(mesh)(refusal is not None):  # so that none waits for the first
      refusal = refusal or UserError(f"'{workdir}' is in use: see the first process")
    if refusal:
      raise refusal
    return _run(config, workdir, mesh, state, batches, changes)


def _run(
    config, workdir: pathlib.Path, mesh: Mesh, state: TrainState, batches: PatchIterator, changes: dict[str, tuple]
) -> TrainState:
  """`train`, from a state without any training to what is written at the end."""
  writes = jax.process_index() == 0
  checkpoints = Checkpoints(workdir, config.run.keep)
  if checkpoints.latest is not None:
    state, data_state, _ = restore(checkpoints, mesh=mesh)
    state = step_lib.retuned(config, state)
    batches.set_state(data_state)
    logging.info("Going on from step %d of %s", int(state.step), workdir)  # the array is used up by the next step
  step = int(state.step)
  if changes:
    told = ", ".join(f"{name}: {old!r} before, {new!r} now" for name, (old, new) in changes.items())
    logging.warning("Other settings from step %d on (%s): %s has a history of them", step, told, CONFIG_NAME)
  if writes:
    _write_config(config, workdir, step, changes)
  # What was logged beyond the checkpoint will be logged again.
  writer = tensorboard.Writer(workdir / "tensorboard", step + 1, writes)
  try:
    state, stopped = _loop(config, mesh, state, batches, checkpoints, writer)
  finally:
    writer.close()
    checkpoints.close()
    if batches.skipped:
      logging.warning("%d image files were skipped; each is named above.", len(batches.skipped))
  if stopped:
    logging.info("Stopped after step %d; the same command goes on from there", state.step)
    raise KeyboardInterrupt if stopped == signal.SIGINT else SystemExit(128 + stopped)
  if writes:
    export(config, state, workdir / WEIGHTS_NAME)
    logging.info("Done after %d steps; weights are in %s", state.step, workdir / WEIGHTS_NAME)
  return state


def _loop(
    config,
    mesh: Mesh,
    state: TrainState,
    batches: PatchIterator,
    checkpoints: Checkpoints,
    writer: tensorboard.Writer,
) -> tuple[TrainState, int]:
  """The last state, and the number of the signal that ended the run before its time, or 0."""
  run, stopped = config.run, 0
  first_order_until = config.meta.first_order_until_step if config.stage == "meta" else 0
  steps = {first: step_lib.make_step(config, first, mesh) for first in (False, True)}  # compiled when first used
  validator = validate.make_validator(config) if run.eval_every else None
  key = jax.random.key(config.seed)
  progress = _Progress(config, writer, checkpoints)

  agreed = _Agreement(mesh)
  logging.info("Compiling the first step, which takes a while; a line tells of it, and of every %d steps", run.log_every)
  with _StopSignals() as stop:
    for number in range(int(state.step) + 1, run.num_steps + 1):
      patches = next(batches)
      step = steps[number <= first_order_until]
      state, metrics = step(state, patches, key)
      progress.fetch()  # the step before: the device is at work on this one meanwhile
      progress.pend(number, metrics)
      if number < run.num_steps:
        stopped = agreed(stop.requested)
      last = number == run.num_steps or stopped
      save = last or number % run.checkpoint_every == 0
      judge = validator and (number == run.num_steps or number % run.eval_every == 0)
      if save or judge:
        progress.fetch()  # so that no state is kept whose step was not finite
      if save:
        checkpoints.save(number, state, batches.get_state(), plain(config))
      if judge:
        # By every process, although one could do: the others would wait for it, for no longer than their network allows.
        progress.validated(number, validator(jax.tree.map(jnp.asarray, jax.device_get(state.result))))
      if last:
        break
  return state, stopped


class _Agreement:
  """The signal to stop by, the same on all processes at the same step: known one step late, so that no device waits for it."""

  def __init__(self, mesh: Mesh):
    self._largest = mesh_lib.largest(mesh) if jax.process_count() > 1 else None
    self._previous = 0

  def __call__(self, requested: int) -> int:
    if self._largest is None:
      return requested
    previous, self._previous = self._previous, self._largest(requested)
    return int(previous)


class _Progress:
  """Watches the metrics, one step behind the device: stops at what is not finite, logs lines and scalars."""

  def __init__(self, config, writer: tensorboard.Writer, checkpoints: Checkpoints):
    self._config, self._writer, self._checkpoints = config, writer, checkpoints
    self._pending: tuple[int, step_lib.Metrics] | None = None
    self._recent: collections.deque = collections.deque(maxlen=config.run.log_every)
    self._since = (time.monotonic(), None)

  def pend(self, number: int, metrics: step_lib.Metrics) -> None:
    """Takes note of the metrics of a step that may still be running."""
    self._pending = number, metrics

  def fetch(self) -> None:
    """Waits for the pending metrics, if any, checks and logs them. Raises UserError when they are not finite."""
    if self._pending is None:
      return
    number, metrics = self._pending
    self._pending = None
    metrics = jax.device_get(metrics)
    if bad := [name for name, value in metrics.items() if not np.isfinite(value).all()]:
      good = self._checkpoints.latest
      kept = f"the last good checkpoint is of step {good}" if good is not None else "there is no checkpoint yet"
      raise UserError(
          f"training diverged: {', '.join(bad)} of step {number} is not finite; {kept} in {self._checkpoints.directory}. "
          "Lower optimizer.learning_rate or meta.inner_lr, or set optimizer.clip_norm, and go on in the same workdir"
      )
    self._recent.append(metrics)
    if number % self._config.run.log_every == 0 or self._since[1] is None:  # the first too, which shows that it works
      self._log(number)

  def _log(self, number: int) -> None:
    mean = {name: np.mean([m[name] for m in self._recent], axis=0).tolist() for name in self._recent[0]}
    then, before = self._since
    now = time.monotonic()
    self._since = now, number
    speed = ""
    if before is not None:  # the first interval holds the compilation
      rate = (number - before) / (now - then)
      seconds_left = (self._config.run.num_steps - number) / rate
      speed = f" | {rate:.3g} steps/s | {_duration(seconds_left)} left"
      self._writer.scalar("throughput/steps_per_second", rate, number)
    for name in ("loss", "grad_norm", "param_norm", "update_norm", "learning_rate"):
      self._writer.scalar(f"train/{name}", mean[name], number)
    losses = f"loss {mean['loss']:.5f}"
    if "query_losses" in mean:
      for name in ("query_losses", "support_losses"):
        for i, value in enumerate(mean[name]):
          self._writer.scalar(f"{name}/{i}_steps", value, number)
      for i, value in enumerate(mean["inner_lrs"]):
        self._writer.scalar(f"inner_lrs/step_{i + 1}", value, number)
      losses += f" | query before {mean['query_losses'][0]:.5f}, after {mean['query_losses'][-1]:.5f}"
    logging.info("step %d/%d | %s%s", number, self._config.run.num_steps, losses, speed)

  def validated(self, number: int, result: validate.Validation) -> None:
    """Logs a validation."""
    for name, value in result.scalars.items():
      self._writer.scalar(f"validation/{name}", value, number)
    self._writer.image("validation/bicubic_output_truth", result.strip, number)
    scalars = ", ".join(f"{name} {value:.2f}" for name, value in result.scalars.items())
    logging.info("step %d validation: %s", number, scalars)
    self._since = time.monotonic(), number


class _StopSignals:
  """While entered, the number of the first SIGTERM or SIGINT is noted in `requested`; the second one acts as ever."""

  def __enter__(self):
    self.requested = 0
    self._previous = {}

    def note(number, _):
      self.requested = int(number)
      logging.warning("%s: stopping after this step", signal.Signals(number).name)
      self._restore()

    try:
      self._previous = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    except ValueError:  # not the main thread, as in some notebooks: there the caller has the signals
      pass
    return self

  def __exit__(self, *_):
    self._restore()

  def _restore(self):
    for number, handler in self._previous.items():
      signal.signal(number, signal.SIG_DFL if handler is None else handler)  # None: it was not set from Python
    self._previous = {}


def _duration(seconds: float) -> str:
  minutes, seconds = divmod(int(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{seconds:02d}s"


def _blank_state(config) -> TrainState:
  return step_lib.init_state(config, step_lib.init_params(config))


def _initial_state(config) -> TrainState:
  if not config.init_weights:
    return _blank_state(config)
  every = [weights.load(name) for name in config.init_weights.split(",")]
  params = {name: values for each in every for name, values in each.params.items()}
  loaded, rule = every[-1], every[-1].inner_rule
  weights.check_network(params, step_lib.network(config))
  if config.stage != "meta" or not config.meta.init_inner_lrs:
    return step_lib.init_state(config, params)
  if rule != config.meta.inner_rule:
    raise UserError(f"config.meta.init_inner_lrs is True, but the rates of '{config.init_weights}' are of the rule '{rule}', "
                    f"and config.meta.inner_rule is '{config.meta.inner_rule}': set one of the two")
  rates = inner_rules.bare(loaded.inner_lrs(config.meta.num_inner_steps))
  if not isinstance(rates, dict):
    raise UserError(f"config.meta.init_inner_lrs is True, but the weights '{config.init_weights}' come without learned rates")
  return step_lib.init_state(config, params, rates)


def plain(config: ml_collections.ConfigDict) -> dict:
  """A config as JSON has it: tuples become lists."""
  return json.loads(config.to_json())


def _check_workdir(config, workdir: pathlib.Path) -> dict[str, tuple]:
  """Before and after, by name, of what may change with a warning and does.

  Raises:
    UserError: `workdir` was begun with a config that differs in what may not change.
  """
  if not (workdir / CONFIG_NAME).is_file():
    return {}
  old, new = (flax.traverse_util.flatten_dict(c, sep=".") for c in (plain(read_config(workdir)), plain(config)))
  differing = sorted(k for k in old.keys() | new.keys() if old.get(k) != new.get(k))
  if fixed := [k for k in differing if not config_lib.may_change(k)]:
    changes = ", ".join(f"{k}: {old.get(k)!r} there, {new.get(k)!r} now" for k in fixed)
    raise UserError(f"workdir '{workdir}' belongs to another config ({changes}): choose another --workdir or that config")
  return {k: (old[k], new[k]) for k in differing if config_lib.is_tunable(k)}


def restore(
    checkpoints: Checkpoints, step: int | None = None, mesh: Mesh | None = None
) -> tuple[TrainState, dict, ml_collections.ConfigDict]:
  """Reads a checkpoint, the newest if no step is given.

  Args:
    checkpoints: of a run.
    step: which.
    mesh: devices to put the state on, see `mesh.replicate`.

  Returns:
    (state, position in the training images, config that it was written with).

  Raises:
    UserError: the checkpoint is damaged, or of another version.
  """
  config = _config_of(checkpoints.config(step), checkpoints.directory)
  like = _blank_state(config)
  state, data, _ = checkpoints.restore(like if mesh is None else mesh_lib.replicate(like, mesh), step)
  return state, data, config


def read_config(workdir: pathlib.Path) -> ml_collections.ConfigDict:
  """The config that a workdir was last run with. Raises UserError where it is missing or of another version."""
  return _config_of(_read(workdir).get("config"), workdir / CONFIG_NAME)


def _read(workdir: pathlib.Path) -> dict:
  """What `_write_config` wrote; empty where there is nothing of the kind."""
  try:
    content = json.loads((workdir / CONFIG_NAME).read_text())
  except (ValueError, OSError):
    content = None
  return content if isinstance(content, dict) else {}


def _config_of(values: object, path: pathlib.Path) -> ml_collections.ConfigDict:
  """A config from its JSON. Raises UserError where it is none."""
  try:
    config = ml_collections.ConfigDict(values)
    config_lib.update(config)
    config_lib.check(config)
  except (ValueError, KeyError, TypeError, AttributeError) as e:
    raise UserError(f"'{path}' is not the config of a run: {' '.join(str(e).split())}. Choose another --workdir") from e
  return config


def _write_config(config, workdir: pathlib.Path, step: int, changes: dict[str, tuple]) -> None:
  """Writes the config, and a history of what was changed at which step."""
  history = _read(workdir).get("history", []) + ([{"step": step, "changes": changes}] if changes else [])
  about = {"git_revision": provenance.git_revision(), "versions": provenance.versions()}
  content = {"config": plain(config), "history": history, **about}
  files.write_whole(workdir / CONFIG_NAME, json.dumps(content, indent=2).encode(), overwrite=True)


def export(
    config, state: TrainState, path: pathlib.Path, data: str = "", inner_lr_factors: Sequence[float] = (1.0,)
) -> None:
  """Writes the parameters of a state as a weights file.

  Args:
    config: of the run.
    state: of the run.
    path: of the .safetensors file, replaced if it is there.
    data: what the weights were trained on, in words; empty says what the config says.
    inner_lr_factors: for learned inner rates, what to multiply them with at each step; the last of both repeats.
  """
  settings = plain(config)
  settings.pop("run")
  settings["data"].pop("root")  # paths mean nothing on another machine
  settings["init_weights"] = ",".join(pathlib.Path(name).name for name in settings["init_weights"].split(","))
  metadata = {
      "stage": config.stage,
      "scales": json.dumps(settings["degradation"]["scales"]),
      "subsample": config.degradation.subsample,
      "inner_lrs": json.dumps(settings["meta_test"]["inner_lrs"]),
      "steps": str(int(state.step)),
      "data": data or describe(config.data.root),
      "config": json.dumps(settings),
      "commit": provenance.git_revision(),
  }
  if config.stage == "meta":
    metadata["inner_rule"] = config.meta.inner_rule
  rates = state.result.get("inner_lrs")
  if rates is not None:
    metadata["inner_lr_factors"] = json.dumps(list(inner_lr_factors))
    steps = max(len(inner_lr_factors), config.meta.num_inner_steps)
    factors = weights.extend_schedule(inner_lr_factors, steps)
    rates = jax.tree.map(lambda r: weights.extend_schedule(np.asarray(r).tolist(), steps) * factors, rates)
  weights.save_weights(path, state.result["params"], metadata, rates)
