"""Progress is seen from the first second, compilation included, with a terminal and without."""

import io
import re
import threading
import time

import jax
import jax.numpy as jnp
import pytest
import tqdm

from mzsr_jax import progress


@pytest.fixture
def quick(monkeypatch):
  monkeypatch.setattr(progress, "_TICK", 0.01)


def wait_for(capsys, words):
  """What stderr was given until some words came."""
  seen = ""
  for _ in range(1000):
    seen += capsys.readouterr().err
    if words in seen:
      return seen
    time.sleep(0.01)
  raise AssertionError(f"{words!r} was not said: {seen}")


def test_without_a_terminal_each_phase_that_lasts_is_a_line(quick, capsys):
  with progress.Progress(4, "image") as shown:
    assert re.match(r"0 s, 0%: starting\n", wait_for(capsys, "starting"))
    shown.advance(1)
    shown.phase("reading")
    assert re.fullmatch(r"\d s, 25%: reading\n", wait_for(capsys, "reading"))  # and not again
    shown.advance(9)
    shown.phase("writing")
    assert "100%: writing" in wait_for(capsys, "writing")


def test_compilation_is_a_phase(quick, capsys):
  go_on = threading.Event()

  def held(event, *_, **__):  # between what JAX reports before a compilation and the compilation itself
    if event == progress.LOWERED:
      go_on.wait(10)

  with progress.Progress(1, "image") as shown:
    shown.phase("enlarging")
    wait_for(capsys, "enlarging")
    jax.monitoring.register_event_duration_secs_listener(held)
    work = threading.Thread(target=lambda: jax.jit(lambda x: x * 3.0 + 0.125)(jnp.zeros(7)).block_until_ready())
    try:
      work.start()
      wait_for(capsys, progress.COMPILING)
    finally:
      go_on.set()
      work.join()
      jax.monitoring.unregister_event_duration_listener(held)
    wait_for(capsys, "enlarging")


def test_on_a_terminal_a_bar_shows_phase_and_time(quick, monkeypatch):
  screen = io.StringIO()
  screen.isatty = lambda: True
  monkeypatch.setattr(progress.tqdm, "tqdm", lambda **options: tqdm.std.tqdm(file=screen, mininterval=0, **options))
  with progress.Progress(2, "image") as shown:
    assert "starting:   0%" in screen.getvalue()
    shown.phase("reading")
    shown.advance(1)
    for _ in range(1000):
      if "reading:  50%" in screen.getvalue():
        break
      time.sleep(0.01)
  assert "reading:  50%" in screen.getvalue()


def test_items_are_passed_on(capsys):
  assert list(progress.track(iter("abc"), 3, "letter")) == ["a", "b", "c"]
