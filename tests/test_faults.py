"""What training suffers: kills at any moment, a full disk. Nothing is lost or half written, and a run goes on."""

import multiprocessing
import os
import pathlib
import signal
import subprocess
import time

import jax
import numpy as np
import pytest
from test_train import checkpoint_steps, leaves, read_scalars, tiny

from configs import pretrain_x2
from mzsr_jax.errors import UserError
from mzsr_jax.training import loop, tensorboard

KILLS = int(os.environ.get("MZSR_KILLS", 4))  # 25 take a minute and a half


def _train(workdir: pathlib.Path, num_steps: int, devices: int) -> None:
  """In a process of its own, on as many devices as the parent has: results are then equal to the bit."""
  jax.config.update("jax_num_cpu_devices", devices)
  loop.train(tiny(pretrain_x2, num_steps, **{"run.checkpoint_every": 1}), workdir)


def _wait_until(condition, process, deadline: float) -> None:
  while not condition():
    assert process.is_alive() and time.monotonic() < deadline
    time.sleep(0.002)


@pytest.mark.slow
def test_kills_at_random_moments_change_nothing(tmp_path):
  """With a checkpoint at each step. Every second kill is aimed at the writing of one; others hit start, restore or steps."""
  server = multiprocessing.get_context("forkserver")  # forks a process that has imported what takes long
  server.set_forkserver_preload(["jax", "orbax.checkpoint", "test_train", "mzsr_jax.training.loop"])
  rng, reached, writing = np.random.default_rng(0), [], 0
  workdir = tmp_path / "killed"
  is_writing = lambda: any(workdir.glob("checkpoints/*.orbax-checkpoint-tmp"))
  for _ in range(KILLS):
    process = server.Process(target=_train, args=(workdir, 10**6, jax.device_count()), daemon=True)
    before, deadline = max(checkpoint_steps(workdir), default=0), time.monotonic() + 120
    process.start()
    if len(reached) % 5:  # every fifth kill may come before that
      _wait_until(lambda before=before: max(checkpoint_steps(workdir), default=0) != before, process, deadline)
    time.sleep(rng.uniform(0, 0.4))
    if len(reached) % 2:
      _wait_until(is_writing, process, deadline)
    process.kill()
    process.join()
    writing += is_writing()
    reached.append(max(checkpoint_steps(workdir), default=0))
    assert reached == sorted(reached)
  assert writing >= KILLS / 5 and reached[-1] > KILLS / 2
  resumed = loop.train(tiny(pretrain_x2, reached[-1] + 2), workdir)
  whole = loop.train(tiny(pretrain_x2, reached[-1] + 2), tmp_path / "whole")
  for a, b in zip(leaves(resumed), leaves(whole), strict=True):
    np.testing.assert_array_equal(a, b)


@pytest.fixture
def small_disk(tmp_path):
  """A file system of 2 MB; its filler is a file that takes what is free."""
  folder = tmp_path / "disk"
  folder.mkdir()
  mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", folder], capture_output=True)
  if mounted.returncode:
    pytest.skip("no right to mount a small file system here")
  yield folder
  subprocess.run(["umount", "-l", folder], check=True)


def _fill(folder: pathlib.Path) -> pathlib.Path:
  filler = folder / "filler"
  with filler.open("wb", buffering=0) as file:
    for size in (4096, 1):
      try:
        while file.write(bytes(size)):
          pass
      except OSError:
        pass
  return filler


def test_a_full_disk_costs_checkpoints_but_not_the_run(small_disk, tmp_path, monkeypatch, caplog):
  """The disk is full from step 4 to step 8: what was kept stays, and step 10 is kept again."""
  workdir = small_disk / "run"
  original = loop._Progress.pend

  def pend(progress, number, metrics):
    if number == 5:
      progress._checkpoints._wait()
      assert sorted(checkpoint_steps(workdir)) == [2, 4]
      _fill(small_disk)
    if number == 9:
      assert sorted(checkpoint_steps(workdir)) == [2, 4]
      (small_disk / "filler").unlink()
    original(progress, number, metrics)

  with monkeypatch.context() as patch:
    patch.setattr(loop._Progress, "pend", pend)
    state = loop.train(tiny(pretrain_x2, 10), workdir)
  assert max(checkpoint_steps(workdir)) == 10
  assert caplog.text.count("No space left") >= 2 and "the newest one is of step 4" in caplog.text
  whole = loop.train(tiny(pretrain_x2, 10), tmp_path / "whole")
  for a, b in zip(leaves(state), leaves(whole), strict=True):
    np.testing.assert_array_equal(a, b)


def test_a_disk_that_stays_full_is_one_line_and_the_last_checkpoint_is_good(small_disk, monkeypatch):
  workdir = small_disk / "run"
  original = loop._Progress.pend

  def pend(progress, number, metrics):
    if number == 5:
      progress._checkpoints._wait()
      _fill(small_disk)
    original(progress, number, metrics)

  with monkeypatch.context() as patch:
    patch.setattr(loop._Progress, "pend", pend)
    with pytest.raises(UserError, match="step 8 could not be written.*No space left.*newest one is of step 4"):
      loop.train(tiny(pretrain_x2, 8), workdir)
  with pytest.raises(UserError, match="No space left"):
    loop.train(tiny(pretrain_x2, 8), workdir)
  assert max(checkpoint_steps(workdir)) == 4
  (small_disk / "filler").unlink()
  assert int(loop.train(tiny(pretrain_x2, 8), workdir).step) == 8


def test_events_that_a_full_disk_refuses_are_left_out_whole(small_disk, caplog):
  board = tensorboard.Writer(small_disk / "board", 1)
  board.scalar("a", 1.0, 1)
  filler = _fill(small_disk)
  for step in range(2, 200):
    board.scalar("a", float(step), step)
  filler.unlink()
  board.scalar("a", 200.0, 200)
  board.close()
  values = read_scalars(small_disk / "board")["a"]
  assert values[0] == 1 and values[-1] == 200 and len(values) < 200 and values == sorted(values)
  assert caplog.text.count("being lost") == 1


@pytest.mark.slow
def test_sigterm_ends_a_run_within_ten_seconds(tmp_path):
  server = multiprocessing.get_context("forkserver")
  process = server.Process(target=_train, args=(tmp_path, 10**6, jax.device_count()), daemon=True)
  process.start()
  deadline = time.monotonic() + 120
  while not checkpoint_steps(tmp_path):
    assert process.is_alive() and time.monotonic() < deadline
    time.sleep(0.01)
  start = time.monotonic()
  process.terminate()
  process.join(10)
  assert process.exitcode == 128 + signal.SIGTERM
  assert time.monotonic() - start < 10
