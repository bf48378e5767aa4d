"""The loop: stages chain, a killed run goes on as if nothing had happened, wrong workdirs and divergence are said."""

import collections
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tensorboardX.proto import event_pb2

from configs import (
  meta_first_order,
  meta_multiscale,
  meta_no_pretrain,
  meta_reptile,
  meta_x2,
  meta_x2_bicubic,
  meta_x4,
  pretrain_all_kernels,
  pretrain_x2,
  pretrain_x4,
  universal,
)
from mzsr_jax import files, images, weights
from mzsr_jax.core.inner_rules import Spectral
from mzsr_jax.errors import UserError
from mzsr_jax.training import config as config_lib
from mzsr_jax.training import loop
from mzsr_jax.training import step as step_lib
from mzsr_jax.training.checkpoint import Checkpoints

REPOSITORY = pathlib.Path(__file__).parents[1]
CONFIGS = (meta_first_order, meta_multiscale, meta_no_pretrain, meta_reptile, meta_x2, meta_x2_bicubic, meta_x4)
CONFIGS += (pretrain_all_kernels, pretrain_x2, pretrain_x4)


def tiny(module, num_steps=4, **changes):
  """A smoke config cut down further, so that a test compiles and runs in seconds."""
  c = module.get_config("smoke")
  c.data.patch_size = 16
  c.model.features = 8
  c.model.depth = 3
  c.run.num_steps = num_steps
  c.run.checkpoint_every = 2
  c.run.log_every = 2
  c.run.eval_every = 0
  c.update_from_flattened_dict(changes)
  return c


def leaves(state):
  return [np.asarray(x) for x in jax.tree.leaves(state)]


@pytest.mark.parametrize("module", CONFIGS, ids=lambda m: m.__name__.split(".")[-1])
@pytest.mark.slow
def test_every_config_makes_steps(module, tmp_path):
  """One tiny step of each; full and smoke variants are the same code."""
  config = tiny(module)
  state = step_lib.init_state(config, step_lib.init_params(config))
  patches = jnp.asarray(np.random.default_rng(0).integers(0, 256, (step_lib.patches_per_step(config), 16, 16, 3)), jnp.uint8)
  before = leaves(state)
  state, metrics = step_lib.make_step(config)(state, patches, jax.random.key(0))
  assert all(np.isfinite(m).all() for m in metrics.values())
  assert any((a != b).any() for a, b in zip(before, leaves(state)))


def test_variants_change_only_fields_that_exist_and_unknown_ones_are_refused():
  for module in CONFIGS:
    assert module.get_config().to_dict().keys() == module.get_config("smoke").to_dict().keys()
    with pytest.raises(UserError, match="no variant 'smok'"):
      module.get_config("smok")


@pytest.mark.parametrize("module,variant", [
    (meta_x2, "cpu"), (meta_x2, "cpu_sons"), (meta_x2, "cpu_ablation"),
    (meta_x2_bicubic, "cpu"), (meta_x4, "cpu"),
    (pretrain_x2, "cpu"), (pretrain_x4, "cpu"), (pretrain_all_kernels, "cpu"), (meta_first_order, "cpu"), (meta_reptile, "cpu"),
    (meta_multiscale, "cpu"), (meta_no_pretrain, "cpu"),
])  # fmt: skip
def test_sizes_for_cpus_are_valid_configs(module, variant):
  config_lib.check(module.get_config(variant))


@pytest.mark.parametrize(
    "field,value",
    [
        ("degradation.subsample", "nearest"), ("degradation.kernels", "box"), ("degradation.scales", ()),
        ("degradation.scales", (0.5,)), ("meta.task_batching", "pmap"), ("meta.loss_weights", "linear"),
        ("meta.num_inner_steps", 0), ("meta.tasks", 0), ("run.num_steps", 0), ("run.checkpoint_every", 0),
        ("data.patch_size", 2), ("optimizer.learning_rate", float("nan")), ("optimizer.clip_norm", -1.0),
        ("meta_test.inner_lrs", ()), ("seed", -1), ("seed", 2**32), ("model.convolution", "fft"), ("meta.weight_floor", 2.0),
    ],
)  # fmt: skip
def test_values_that_make_no_sense_are_refused_before_anything_is_written(tmp_path, field, value):
  with pytest.raises(UserError, match=f"config.{field} is"):
    loop.train(tiny(meta_x2, **{field: value}), tmp_path / "run")
  assert not (tmp_path / "run").exists()


def test_reptile_cannot_learn_inner_rates():
  with pytest.raises(UserError, match="learn_inner_lrs"):
    config_lib.check(tiny(meta_reptile, **{"meta.learn_inner_lrs": True}))


def test_same_seed_same_run_and_another_seed_another(tmp_path):
  runs = [loop.train(tiny(pretrain_x2, seed=seed), tmp_path / str(i)) for i, seed in enumerate((1, 1, 2))]
  first, again, other = map(leaves, runs)
  for a, b in zip(first, again):
    np.testing.assert_array_equal(a, b)
  assert any((a != b).any() for a, b in zip(first, other))


@pytest.mark.slow
def test_meta_training_goes_from_stage_1_weights_and_logs_what_it_does(tmp_path):
  loop.train(tiny(pretrain_x2, 2), tmp_path / "one")
  stage1 = tmp_path / "one" / loop.WEIGHTS_NAME
  config = tiny(meta_x2, 4, **{"init_weights": str(stage1), "run.eval_every": 4, "run.eval_size": 32, "run.eval_images": 1})
  config.meta.learn_inner_lrs = True
  config.meta.first_order_until_step = 2
  config.optimizer.clip_norm = 0.5
  state = loop.train(config, tmp_path / "two")
  assert int(state.step) == 4 and state.learned["inner_lrs"]["conv1"]["bias"].shape == (2,)
  metadata = weights.load(tmp_path / "two" / loop.WEIGHTS_NAME).metadata
  assert metadata["stage"] == "meta" and metadata["steps"] == "4" and json.loads(metadata["scales"]) == [2.0]
  assert str(tmp_path) not in metadata["config"], "paths of this machine have no place in a weights file"
  written = json.loads((tmp_path / "two" / "config.json").read_text())
  assert written["config"]["meta"]["learn_inner_lrs"] and written["versions"]["jax"] == jax.__version__
  tags = read_scalars(tmp_path / "two" / "tensorboard")
  expected = {"train/loss", "train/grad_norm", "train/learning_rate", "query_losses/0_steps", "query_losses/2_steps"}
  expected |= {"throughput/steps_per_second", "validation/psnr_bicubic", "validation/psnr_1_steps", "inner_lrs/step_2"}
  assert expected <= tags.keys() and "validation/bicubic_output_truth" in tags
  loop.export(config, state, tmp_path / "scaled.safetensors", inner_lr_factors=(1.0, 2.0, 0.5))
  learned = np.asarray(state.learned["inner_lrs"]["conv1"]["bias"])
  scaled = weights.load(tmp_path / "scaled.safetensors").inner_lrs(4)["conv1"]["bias"]
  np.testing.assert_allclose(scaled, learned[[0, 1, 1, 1]] * [1, 2, 0.5, 0.5], rtol=1e-6)


@pytest.mark.slow
def test_the_result_may_be_an_average_over_steps_which_survives_a_restart(tmp_path):
  runs = {n: loop.train(tiny(meta_x2, n), tmp_path / str(n)).learned for n in (1, 2, 3)}
  averaged = {"optimizer.average_decay": 0.6}
  loop.train(tiny(meta_x2, 2, **averaged), tmp_path / "averaged")
  state = loop.train(tiny(meta_x2, 3, **averaged), tmp_path / "averaged")
  expected = step_lib.init_params(tiny(meta_x2, 3))
  for n in (1, 2, 3):
    expected = jax.tree.map(lambda e, p: 0.6 * e + 0.4 * np.asarray(p), expected, runs[n]["params"])
  written = weights.load(tmp_path / "averaged" / loop.WEIGHTS_NAME).params
  for a, b, c in zip(leaves(expected), leaves(state.average["params"]), leaves(written), strict=True):
    np.testing.assert_allclose(a, b, atol=1e-6)
    np.testing.assert_array_equal(b, c)


@pytest.mark.slow
def test_muon_orthogonalises_updates_and_another_run_goes_on_with_its_rates(tmp_path):
  changes = {"optimizer.algorithm": "muon", "meta.learn_inner_lrs": True, "meta.inner_rule": "spectral"}
  changes |= {"model.depth": 2, "run.checkpoint_every": 1}
  changes |= {"meta.first_order_until_step": 10**6}  # compiles faster
  one = loop.train(tiny(meta_x2, 1, **changes), tmp_path / "one")
  before = step_lib.init_params(tiny(meta_x2, 1, **changes))["conv1"]["kernel"]  # (3, 3, 3, 8): 27 inputs to 8 outputs
  update = (before - np.asarray(one.learned["params"]["conv1"]["kernel"])).reshape(27, 8)
  size = 1e-4 * 0.2 * 27**0.5  # of Adam's root mean square, about
  singular_values = np.linalg.svd(update, compute_uv=False) / size
  assert 0.6 < np.median(singular_values) and singular_values.max() < 1.3
  rates = np.asarray(one.learned["inner_lrs"]["conv1"]["kernel"])
  moved = np.abs(rates - 0.01) / 1e-4  # Adam's first step with Nesterov's momentum is 1.47 times its rate
  assert (1.4 < moved).all() and (moved < 1.5).all()
  resumed = loop.train(tiny(meta_x2, 2, **changes), tmp_path / "one")
  whole = loop.train(tiny(meta_x2, 2, **changes), tmp_path / "whole")
  for a, b in zip(leaves(resumed), leaves(whole), strict=True):
    np.testing.assert_array_equal(a, b)
  changes |= {"init_weights": str(tmp_path / "whole" / loop.WEIGHTS_NAME), "meta.init_inner_lrs": True}
  idle = loop.train(tiny(meta_x2, 1, **changes, **{"optimizer.learning_rate": 0.0}), tmp_path / "idle")
  for a, b in zip(leaves(idle.learned), leaves(whole.learned), strict=True):
    np.testing.assert_array_equal(a, b)
  assert isinstance(weights.load(tmp_path / "idle" / loop.WEIGHTS_NAME).inner_lrs(1), Spectral)


def test_rates_to_go_on_with_must_be_there(tmp_path):
  loop.train(tiny(pretrain_x2, 1), tmp_path / "one")
  config = tiny(meta_x2, init_weights=str(tmp_path / "one" / loop.WEIGHTS_NAME), **{"meta.learn_inner_lrs": True})
  config.meta.init_inner_lrs = True
  with pytest.raises(UserError, match="without learned rates"):
    loop.train(config, tmp_path / "two")
  config.meta.inner_rule = "spectral"
  with pytest.raises(UserError, match="are of the rule 'gradient', and config.meta.inner_rule is 'spectral'"):
    loop.train(config, tmp_path / "two")
  config.meta.learn_inner_lrs = False
  with pytest.raises(UserError, match="init_inner_lrs is True: it needs meta.learn_inner_lrs"):
    loop.train(config, tmp_path / "two")


@pytest.mark.slow
def test_smoke_runs_of_both_stages_lower_the_query_loss_by_adaptation(tmp_path):
  """A thinner network of the real depth: stage 1, then stage 2 from its weights; averaged over the last ten meta-steps."""
  pretrain = pretrain_x2.get_config("smoke")
  pretrain.run.eval_every = 0
  pretrain.model.features = 32
  pretrain.run.num_steps = 60
  loop.train(pretrain, tmp_path / "one")
  meta = meta_x2.get_config("smoke")
  meta.run.eval_every = 0
  meta.model.features = 32
  meta.init_weights = str(tmp_path / "one" / loop.WEIGHTS_NAME)
  loop.train(meta, tmp_path / "two")
  scalars = read_scalars(tmp_path / "two" / "tensorboard")
  before, after = (np.mean(scalars[f"query_losses/{n}_steps"][-2:]) for n in (0, meta.meta.num_inner_steps))
  assert after < before


def test_a_run_says_what_it_does_before_the_first_steps_are_made(tmp_path, caplog):
  caplog.set_level("INFO", logger="absl")
  loop.train(tiny(pretrain_x2, 2, **{"run.log_every": 100}), tmp_path)
  said = [record.getMessage() for record in caplog.records]
  steps = ["Looking through the training images", "Compiling the first step", "step 1/2 | loss", "Done after 2 steps"]
  places = [next(i for i, line in enumerate(said) if line.startswith(start)) for start in steps]
  assert places == sorted(places)


def read_scalars(folder):
  """Values by tag (None for images) from TensorBoard event files: length (8 bytes), checksum (4), data, checksum (4)."""
  values = collections.defaultdict(list)
  for path in sorted(folder.iterdir()):
    content = path.read_bytes()
    while content:
      size = int.from_bytes(content[:8], "little")
      event = event_pb2.Event.FromString(content[12 : 12 + size])
      for value in event.summary.value:
        values[value.tag].append(value.simple_value if value.HasField("simple_value") else None)
      content = content[16 + size :]
  return values


def start(workdir, num_steps):
  """Trains in a process of its own, on as many devices as this one has: results are then equal to the bit."""
  script = (
      f"import jax; jax.config.update('jax_num_cpu_devices', {jax.device_count()});"
      "import pathlib, sys; from configs import meta_x2; from tests.test_train import tiny; from mzsr_jax.training import loop;"
      "from absl import logging; logging.set_verbosity(logging.INFO); from mzsr_jax import cli;"
      f"cli._guarded(lambda _: loop.train(tiny(meta_x2, {num_steps}), pathlib.Path({str(workdir)!r})), [])"
  )
  return subprocess.Popen([sys.executable, "-c", script], cwd=REPOSITORY, stderr=subprocess.PIPE, text=True)


def checkpoint_steps(workdir):
  return [int(p.name) for p in (workdir / "checkpoints").glob("*") if p.name.isdigit()]


def wait_for_checkpoint(workdir, *processes):
  deadline = time.monotonic() + 90
  while not checkpoint_steps(workdir):
    assert time.monotonic() < deadline and all(p.poll() is None for p in processes), processes[0].stderr.read()
    time.sleep(0.02)


@pytest.mark.slow
def test_a_run_killed_with_sigkill_ends_like_one_that_was_not(tmp_path):
  """Bit for bit: parameters, moments and patches go on where they were."""
  killed = start(tmp_path / "killed", 100_000)
  wait_for_checkpoint(tmp_path / "killed", killed)
  killed.send_signal(signal.SIGKILL)
  killed.wait()
  reached = max(checkpoint_steps(tmp_path / "killed"))
  resumed = loop.train(tiny(meta_x2, reached + 5), tmp_path / "killed")
  whole = loop.train(tiny(meta_x2, reached + 5), tmp_path / "whole")
  assert int(resumed.step) == int(whole.step) == reached + 5
  for a, b in zip(leaves(resumed), leaves(whole), strict=True):
    np.testing.assert_array_equal(a, b)


@pytest.mark.slow
@pytest.mark.parametrize("number,code", [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signals_save_and_end_the_process_as_they_should(tmp_path, number, code):
  process = start(tmp_path, 100_000)
  wait_for_checkpoint(tmp_path, process)
  process.send_signal(number)
  _, log = process.communicate(timeout=30)
  assert process.returncode == code, log
  stopped_after = int(log.split("Stopped after step ")[1].split(";")[0])
  assert max(checkpoint_steps(tmp_path)) == stopped_after


def test_another_config_in_the_same_workdir_is_refused_but_a_longer_run_is_not(tmp_path):
  loop.train(tiny(pretrain_x2, 2), tmp_path)
  with pytest.raises(UserError, match="batch_size: 8 there, 4 now"):
    loop.train(tiny(pretrain_x2, 2, batch_size=4), tmp_path)
  assert int(loop.train(tiny(pretrain_x2, 3), tmp_path).step) == 3


def test_a_workdir_in_use_is_refused_and_one_whose_process_was_killed_is_not(tmp_path):
  process = start(tmp_path, 100_000)
  wait_for_checkpoint(tmp_path, process)
  with pytest.raises(UserError, match="in use by another process"):
    loop.train(tiny(meta_x2, 100_000), tmp_path)
  process.kill()
  process.wait()
  with files.lock(tmp_path):
    pass


def test_divergence_names_the_step_and_the_last_good_checkpoint(tmp_path):
  loop.train(tiny(pretrain_x2, 4), tmp_path)
  config = tiny(pretrain_x2, 10)
  checkpoints = Checkpoints(tmp_path, 3)
  state, data, saved = checkpoints.restore(step_lib.init_state(config, step_lib.init_params(config)))
  poisoned = state.replace(learned=jax.tree.map(lambda x: x * jnp.nan, state.learned))
  checkpoints.save(5, poisoned, data, saved)
  checkpoints.close()
  with pytest.raises(UserError, match=r"loss.* of step \d+ is not finite; the last good checkpoint is of step 5"):
    loop.train(config, tmp_path)


def test_a_learning_rate_below_its_floor_is_refused(tmp_path):
  config = tiny(pretrain_x2)
  config.optimizer.learning_rate = 5e-5
  with pytest.raises(UserError, match="min_learning_rate"):
    loop.train(config, tmp_path)


@pytest.mark.parametrize("content", ["", "{}", '{"config": {}}', '{"config": {"stage": "meta"}}', "[1]"])
def test_foreign_workdirs_are_refused(tmp_path, content):
  (tmp_path / loop.CONFIG_NAME).write_text(content)
  with pytest.raises(UserError, match="not the config of a run"):
    loop.train(tiny(pretrain_x2), tmp_path)


def test_a_run_that_an_earlier_version_began_goes_on_where_the_fields_that_differ_do_nothing(tmp_path):
  config = tiny(pretrain_x2)
  older = config.copy_and_resolve_references()
  with older.unlocked():
    older.degradation.max_noise_std, older.model.conditioned = 0.0, False
    del older.model.rounds
  read = lambda: loop._config_of(loop.plain(older), tmp_path)
  assert loop.plain(read()) == loop.plain(config)
  older.model.conditioned = True
  with pytest.raises(UserError, match="has model.conditioned, which this version does not know"):
    read()


def test_a_workdir_that_cannot_be_is_refused_before_any_work(tmp_path):
  (tmp_path / "file").touch()
  for workdir in (tmp_path / "file", tmp_path / "file" / "below"):
    with pytest.raises(UserError, match="cannot be written"):
      loop.train(tiny(pretrain_x2), workdir)


def test_a_damaged_checkpoint_is_named(tmp_path):
  loop.train(tiny(pretrain_x2, 2), tmp_path)
  for path in (tmp_path / "checkpoints" / "2").rglob("*"):
    if path.is_file() and path.name != "commit_success.txt":
      path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
  with pytest.raises(UserError, match="checkpoints/2"):
    loop.train(tiny(pretrain_x2, 4), tmp_path)


@pytest.mark.slow
def test_what_a_diverged_run_is_advised_works(tmp_path, caplog):
  """Rates may fall, and clipping begin, from the last good checkpoint on; config.json tells what was when."""
  begun = {"optimizer.learning_rate": 1e-3, "optimizer.min_learning_rate": 0.0}
  loop.train(tiny(pretrain_x2, 4, **begun), tmp_path)
  with pytest.raises(UserError, match="is of step 4 in .*optimizer.learning_rate or meta.inner_lr, or set optimizer.clip_norm"):
    loop.train(tiny(pretrain_x2, 9, **begun | {"optimizer.learning_rate": 1e12}), tmp_path)
  calm = begun | {"optimizer.learning_rate": 1e-4, "optimizer.clip_norm": 0.5, "optimizer.average_decay": 0.5}
  caplog.clear()
  state = loop.train(tiny(pretrain_x2, 6, **calm), tmp_path)
  assert int(state.step) == 6 and all(np.isfinite(leaf).all() for leaf in leaves(state))
  (warning,) = [record.getMessage() for record in caplog.records if "settings" in record.getMessage()]
  assert "from step 4 on" in warning and "optimizer.learning_rate: 1000000000000.0 before, 0.0001 now" in warning
  written = json.loads((tmp_path / loop.CONFIG_NAME).read_text())
  assert written["config"]["optimizer"]["learning_rate"] == 1e-4
  assert written["history"] == [
      {"step": 4, "changes": {"optimizer.learning_rate": [1e-3, 1e12]}},
      {"step": 4, "changes": {
          "optimizer.average_decay": [0.0, 0.5], "optimizer.clip_norm": [0.0, 0.5], "optimizer.learning_rate": [1e12, 1e-4]
      }},
  ]  # fmt: skip
  # Moments and patches went on: the same as a run that had these settings from the checkpoint on.
  again = {**calm, "optimizer.clip_norm": 0.0, "optimizer.average_decay": 0.0}
  assert int(loop.train(tiny(pretrain_x2, 7, **again), tmp_path).step) == 7
  assert loop.restore(Checkpoints(tmp_path, 3), 6)[2].optimizer.clip_norm == 0.5


def test_settings_that_change_go_on_with_the_moments(tmp_path):
  """Clipping that never clips changes nothing, begun or ended within a run."""
  loose = {"optimizer.clip_norm": 1e9}
  loop.train(tiny(pretrain_x2, 2), tmp_path / "begun")
  loop.train(tiny(pretrain_x2, 2, **loose), tmp_path / "ended")
  whole = leaves(loop.train(tiny(pretrain_x2, 4), tmp_path / "whole"))
  for name, changes in {"begun": loose, "ended": {}}.items():
    for a, b in zip(leaves(loop.train(tiny(pretrain_x2, 4, **changes), tmp_path / name)), whole, strict=True):
      np.testing.assert_array_equal(a, b)


def test_an_inner_rate_may_change_and_what_it_learns_from_may_not(tmp_path):
  loop.train(tiny(meta_x2, 1), tmp_path)
  assert int(loop.train(tiny(meta_x2, 2, **{"meta.inner_lr": 0.005}), tmp_path).step) == 2
  for name, value in {"optimizer.algorithm": "muon", "meta.support_patches": 1, "data.patch_size": 24}.items():
    with pytest.raises(UserError, match=f"belongs to another config .*{name}"):
      loop.train(tiny(meta_x2, 2, **{"meta.inner_lr": 0.005, name: value}), tmp_path)


def test_folders_and_initial_weights_may_move(tmp_path, caplog):
  """The images are compared by themselves, and a checkpoint needs no initial weights."""
  photos = [tmp_path / name for name in ("photos", "moved")]
  for folder in photos:
    images.write_png(folder / "a.png", np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8))
  loop.train(tiny(pretrain_x2, 1), tmp_path / "one")
  begun = tmp_path / "one" / loop.WEIGHTS_NAME
  config = lambda steps, **changes: tiny(meta_x2, steps, **{"data.root": str(photos[0]), "init_weights": str(begun), **changes})
  whole = loop.train(config(4), tmp_path / "whole")
  loop.train(config(2), tmp_path / "run")
  begun.unlink()
  caplog.clear()
  resumed = loop.train(config(3, **{"data.root": f"{photos[0]}/"}), tmp_path / "run")
  resumed = loop.train(config(4, **{"data.root": str(photos[1]), "init_weights": "elsewhere"}), tmp_path / "run")
  for a, b in zip(leaves(resumed), leaves(whole), strict=True):
    np.testing.assert_array_equal(a, b)
  assert not [record for record in caplog.records if record.levelname == "WARNING"]
  assert json.loads((tmp_path / "run" / loop.CONFIG_NAME).read_text())["history"] == []
  with pytest.raises(UserError, match="elsewhere"):
    loop.train(config(4, init_weights="elsewhere"), tmp_path / "new")


def test_cache_and_threads_may_change_within_a_run(tmp_path):
  loop.train(tiny(pretrain_x2, 2), tmp_path)
  config = tiny(pretrain_x2, 3)
  config.data.num_threads = 0
  config.data.cache_mb = 0
  assert int(loop.train(config, tmp_path).step) == 3


def test_initial_weights_must_fit_the_network(tmp_path):
  loop.train(tiny(pretrain_x2, 1), tmp_path / "one")
  config = tiny(meta_x2, init_weights=str(tmp_path / "one" / loop.WEIGHTS_NAME))
  config.model.features = 4
  with pytest.raises(UserError, match="another shape"):
    loop.train(config, tmp_path / "two")
  assert not (tmp_path / "two").exists(), "nothing is made before the input is checked"


@pytest.mark.parametrize("stage", ["pretrain_x2", "meta_x2"])
@pytest.mark.slow
def test_training_entry_and_export(tmp_path, stage):
  """The command line, with overrides; the exported checkpoint equals the weights that training wrote."""
  overrides = {"data.patch_size": 16, "model.features": 8, "run.num_steps": 2, "run.eval_every": 0}
  command = [sys.executable, "-m", "mzsr_jax.main", f"--config=configs/{stage}.py:smoke", f"--workdir={tmp_path / 'run'}"]
  command += [f"--config.{k}={v}" for k, v in overrides.items()]
  env = os.environ | {"PYTHONPATH": str(REPOSITORY)}
  done = subprocess.run(command, cwd=REPOSITORY, env=env, capture_output=True, text=True)
  assert done.returncode == 0 and "sample photos" in done.stderr, done.stderr
  output = tmp_path / "exported.safetensors"
  command = [sys.executable, "-m", "mzsr_jax.export", f"--workdir={tmp_path / 'run'}", f"--output={output}", "--data=photos"]
  done = subprocess.run(command, cwd=REPOSITORY, env=env, capture_output=True, text=True)
  assert done.returncode == 0 and "after step 2 of 2 of its" in done.stdout, done.stderr
  exported, written = weights.load(output).params, weights.load(tmp_path / "run" / loop.WEIGHTS_NAME).params
  jax.tree.map(np.testing.assert_array_equal, exported, written)
  assert weights.load(output).metadata["data"] == "photos"
  again = subprocess.run(command, cwd=REPOSITORY, env=env, capture_output=True, text=True)
  assert again.returncode == 2 and "exists" in again.stderr and again.stderr.count("\n") == 1


def test_initial_weights_may_come_in_parts(tmp_path):
  """A coarse pass and the others, of which both have a data step's mu: the later one's is taken."""
  changes = {"model.passes": 1, "model.blocks": 0, "model.coarse_features": 4, "model.coarse_blocks": 1}
  config = tiny(universal, **changes, **{"init_weights": f"{tmp_path}/coarse.safetensors,{tmp_path}/others.safetensors"})
  whole = step_lib.init_params(config)
  parts = {"coarse": {"coarse": whole["coarse"], "log_mu": jnp.zeros((1, 2))}, "others": dict(whole)}
  del parts["others"]["coarse"]
  for name, params in parts.items():
    weights.save_weights(tmp_path / f"{name}.safetensors", params, {})
  jax.tree.map(np.testing.assert_array_equal, loop._initial_state(config).learned["params"], whole)
  config.init_weights = f"{tmp_path}/coarse.safetensors"
  with pytest.raises(UserError, match="another shape"):
    loop._initial_state(config)
