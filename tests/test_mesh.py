"""Many devices and processes give what one gives: eight simulated CPU devices, and two real processes on loopback."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest
from test_train import wait_for_checkpoint

from configs import meta_multiscale, meta_x2, pretrain_all_kernels, pretrain_x2
from mzsr_jax import devices, weights
from mzsr_jax.errors import UserError
from mzsr_jax.training import loop
from mzsr_jax.training import mesh as mesh_lib
from mzsr_jax.training import step as step_lib

REPOSITORY = pathlib.Path(__file__).parents[1]


def tiny(module, **changes):
  c = module.get_config("smoke")
  c.update_from_flattened_dict({
      "data.patch_size": 16, "model.features": 8, "model.depth": 2, "run.eval_every": 0, "run.log_every": 1,
      "optimizer.learning_rate": 1e-3, "optimizer.min_learning_rate": 0.0, **changes,
  })  # fmt: skip
  return c


def meta(tasks, support, query, **changes):
  sizes = {"meta.tasks": tasks, "meta.support_patches": support, "meta.query_patches": query}
  return tiny(meta_multiscale, **sizes, **{"degradation.noise_std": 0.05, "meta.learn_inner_lrs": True}, **changes)


# Config, numbers of devices, and the mesh expected for each on a CPU.
CASES = {
    "unequal": (lambda: meta(4, 2, 4, **{"meta.remat": True, "meta.task_batching": "vmap"}), {8: (4, 2)}),
    "sons": (lambda: meta(2, 4, 2, **{"meta.support": "lr_sons", "data.patch_size": 16}), {2: (1, 2)}),
    "all kernels": (lambda: tiny(pretrain_all_kernels, batch_size=8, **{"degradation.noise_std": 0.05}), {8: (8, 1)}),
}


def three_steps(config, mesh):
  """The state after three steps on fixed patches, as one vector without the moments' tiny entries."""
  shape = (3, step_lib.patches_per_step(config), 16, 16, 3)
  patches = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
  state, step = step_lib.init_state(config, step_lib.init_params(config)), step_lib.make_step(config, mesh=mesh)
  for batch in patches:
    state, metrics = step(state, batch, jax.random.key(1))
  return np.concatenate([np.ravel(x) for x in jax.tree.leaves(jax.device_get(state.learned))]), float(metrics["loss"])


def compare(name):
  """Prints, for each number of devices, its mesh and how far it ends from one device."""
  make_config, expected = CASES[name]
  reference, loss = three_steps(make_config(), None)
  for count in expected:
    mesh = mesh_lib.make(make_config(), jax.devices()[:count])
    params, other_loss = three_steps(make_config(), mesh)
    far = np.linalg.norm(params - reference) / np.linalg.norm(reference)
    print(json.dumps([count, list(mesh.devices.shape), float(far), abs(other_loss - loss) / loss]))


@pytest.mark.parametrize("name", CASES)
@pytest.mark.slow
def test_devices_do_not_change_the_result(name):
  script = (
      "import jax; jax.config.update('jax_num_cpu_devices', 8);"
      f"import sys; sys.path.append('tests'); import test_mesh; test_mesh.compare({name!r})"
  )
  done = subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True)
  assert done.returncode == 0, done.stderr
  results = [json.loads(line) for line in done.stdout.splitlines()]
  assert {count: tuple(shape) for count, shape, *_ in results} == CASES[name][1]
  for count, _, far, loss_far in results:
    assert far < 1e-5 and loss_far < 1e-5, (count, far, loss_far)


def test_shapes_use_all_devices_where_they_can_and_prefer_what_the_backend_wants():
  shape = lambda config, n, patches_first: mesh_lib.shape(config, n, patches_first)
  assert shape(meta(4, 8, 8), 8, True) == (1, 8) and shape(meta(4, 8, 8), 8, False) == (4, 2)
  assert shape(meta(5, 8, 8), 8, False) == (1, 8) and shape(meta(5, 8, 8), 10, True) == (5, 2)
  assert shape(meta(5, 3, 2), 2, True) is None
  assert shape(tiny(pretrain_x2, batch_size=6), 3, True) == (3, 1)
  assert shape(tiny(pretrain_x2, batch_size=6), 4, True) is None


def test_processes_that_cannot_share_are_told_so(monkeypatch):
  monkeypatch.setattr(jax, "process_count", lambda: 2)
  with pytest.raises(UserError, match="cannot be shared equally by 4 devices, but by 1: change config meta.tasks"):
    mesh_lib.make(meta(1, 1, 1), jax.devices()[:1] * 4)


def test_step_refuses_a_wrong_number_of_patches():
  config = meta(2, 2, 2)
  step = step_lib.make_step(config)
  with pytest.raises(ValueError, match="8 patches of a step, not 7"):
    step(step_lib.init_state(config, step_lib.init_params(config)), np.zeros((7, 16, 16, 3), np.uint8), jax.random.key(0))


@pytest.mark.parametrize("environment", [{"JAX_NUM_PROCESSES": "2"}, {"JAX_PROCESS_ID": "x"}])
def test_half_of_what_a_process_must_know_is_an_error(monkeypatch, environment):
  for name, value in environment.items():
    monkeypatch.setenv(name, value)
  with pytest.raises(UserError):
    devices.initialize_distributed()


def test_one_process_is_one_process(monkeypatch):
  monkeypatch.setenv("SLURM_JOB_ID", "1")  # an allocation alone is no launch of several processes
  monkeypatch.setenv("SLURM_NTASKS", "4")
  assert not devices.initialize_distributed()


OVERRIDES = {
    "data.patch_size": 16, "model.features": 8, "model.depth": 2, "run.eval_every": 0, "run.checkpoint_every": 2,
    "run.log_every": 1,
}  # fmt: skip


# `launch` runs this before the command, in the process that sees a full disk.
_FULL_DISK = (
    "import runpy, shutil; shutil.disk_usage = lambda _: shutil._ntuple_diskusage(1, 1, 0);"
    "runpy.run_module('mzsr_jax.main', run_name='__main__', alter_sys=True)"
)


def launch(workdir, num_processes, num_steps, full_disk=None):
  """The command line, as `num_processes` processes of one CPU device each; that of number `full_disk` has no room."""
  with socket.socket() as s:
    s.bind(("127.0.0.1", 0))
    port = s.getsockname()[1]
  command = ["--config=configs/meta_x2.py:smoke", f"--workdir={workdir}"]
  command += ["--cpu_devices=1", f"--config.run.num_steps={num_steps}", *(f"--config.{k}={v}" for k, v in OVERRIDES.items())]
  command += [f"--coordinator_address=127.0.0.1:{port}", f"--num_processes={num_processes}"]
  programs = [["-c", _FULL_DISK] if i == full_disk else ["-m", "mzsr_jax.main"] for i in range(num_processes)]
  commands = [[sys.executable, *program, *command, f"--process_id={i}"] for i, program in enumerate(programs)]
  env = os.environ | {"PYTHONPATH": str(REPOSITORY)}
  pipe = subprocess.PIPE
  return [subprocess.Popen(each, cwd=REPOSITORY, env=env, stderr=pipe, stdout=pipe, text=True) for each in commands]


def finish(processes, code=0):
  outputs = [p.communicate(timeout=120)[1] for p in processes]
  assert all(p.returncode == code for p in processes), "\n\n".join(outputs)
  return outputs


def weights_of(workdir):
  return np.concatenate([np.ravel(x) for x in jax.tree.leaves(weights.load(workdir / loop.WEIGHTS_NAME).params)])


@pytest.mark.slow
def test_two_processes_stop_after_the_same_step_go_on_there_and_end_as_one_does(tmp_path):
  """A signal to one of them stops both. The reference runs in this process, on its two devices."""
  one, two = tmp_path / "one", tmp_path / "two"
  processes = launch(two, 2, 100_000)
  wait_for_checkpoint(two, *processes)
  processes[1].send_signal(signal.SIGTERM)
  outputs = finish(processes, code=143)
  step = int(outputs[0].split("Stopped after step ")[1].split(";")[0])
  assert (two / "checkpoints" / str(step)).is_dir()
  outputs = finish(launch(two, 2, step + 2))
  last = f"step {step + 2}/{step + 2}"
  assert f"Going on from step {step}" in outputs[0] and last in outputs[0]
  assert last not in outputs[1], "one process logs"
  config = meta_x2.get_config("smoke")
  config.update_from_flattened_dict(OVERRIDES | {"run.num_steps": step + 2})
  loop.train(config, one)
  reference = weights_of(one)
  assert np.linalg.norm(weights_of(two) - reference) < 1e-5 * np.linalg.norm(reference)
  assert {p.name for p in two.iterdir()} == {p.name for p in one.iterdir()}
  assert len(list((two / "tensorboard").iterdir())) == 2, "one file for each start"


@pytest.mark.slow
@pytest.mark.parametrize("full_disk", [0, 1])
def test_the_first_process_says_for_all_whether_there_is_room(tmp_path, full_disk):
  """Where each looked for itself, one would wait for the others for ever."""
  outputs = finish(launch(tmp_path, 2, 4, full_disk), code=0 if full_disk else 2)
  saved = (tmp_path / "checkpoints" / "4").is_dir()
  assert saved == bool(full_disk) and ["No space left" in output for output in outputs] == [not saved] * 2
