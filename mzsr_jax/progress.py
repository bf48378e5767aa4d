"""What a command is doing, from its first second: a bar on a terminal, elsewhere a line for each phase that lasts."""

import sys
import threading
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

import jax.monitoring
import tqdm

_TICK = 0.5  # seconds, between looks at what is being done
_REPEAT = 15.0  # seconds, from which on the same phase is said again
# Of JAX: a program is ready to be compiled, and is compiled, or found in the cache.
LOWERED, COMPILED = "/jax/core/compile/jaxpr_to_mlir_module_duration", "/jax/core/compile/backend_compile_duration"
COMPILING = "compiling (kept for the next run)"
_BAR = "{desc}: {percentage:3.0f}%|{bar}| {elapsed} < {remaining}"

T = TypeVar("T")


class Progress:
  """How far some work is, while it is entered. Any thread may report; compilation is a phase that reports itself."""

  def __init__(self, total: float, unit: str):
    """Args: how many units there are; what one is called."""
    self._total, self._done, self._phase, self._compiling = total, 0.0, "starting", False
    self._start, self._said, self._said_at = time.monotonic(), "", 0.0
    self._bar = tqdm.tqdm(total=total, unit=unit, disable=None, bar_format=_BAR)
    self._lock, self._over = threading.Lock(), threading.Event()
    self._watch = threading.Thread(target=self._run, daemon=True)

  def __enter__(self) -> "Progress":
    jax.monitoring.register_event_duration_secs_listener(self._jax_event)
    self._show()
    self._watch.start()
    return self

  def __exit__(self, *_) -> None:
    jax.monitoring.unregister_event_duration_listener(self._jax_event)
    self._over.set()
    self._watch.join()
    self._bar.close()

  def phase(self, text: str) -> None:
    """Says what is being done from now on."""
    self._phase, self._compiling = text, False
    self._show()

  def advance(self, amount: float) -> None:
    """Some more is done, though never more than there is."""
    with self._lock:
      self._reach(self._done + amount)

  def reach(self, amount: float) -> None:
    """At least so much is done."""
    with self._lock:
      self._reach(max(self._done, amount))

  def _reach(self, amount: float) -> None:
    done = min(amount, self._total)
    self._bar.update(done - self._done)
    self._done = done

  def _jax_event(self, event: str, *_, **__) -> None:
    if event in (LOWERED, COMPILED):
      self._compiling = event == LOWERED

  def _run(self) -> None:
    while not self._over.wait(_TICK):
      self._show(lasting=True)

  def _show(self, lasting: bool = False) -> None:
    """Moves the bar; without one, says a phase that lasts, and says it again when it lasts long."""
    shown = COMPILING if self._compiling else self._phase
    if not self._bar.disable:
      self._bar.set_description_str(shown)
      return
    now = time.monotonic()
    if lasting and (shown != self._said or now - self._said_at > _REPEAT):
      self._said, self._said_at = shown, now
      print(f"{now - self._start:.0f} s, {self._done / self._total:.0%}: {shown}", file=sys.stderr, flush=True)


def say(line: str) -> None:
  """Prints a line on stdout, above the bar if there is one."""
  tqdm.tqdm.write(line)
  sys.stdout.flush()


def track(items: Iterable[T], total: int, unit: str, phase: str = "working") -> Iterator[T]:
  """The items, while progress through the work on them is shown."""
  with Progress(total, unit) as progress:
    progress.phase(phase)
    for item in items:
      yield item
      progress.advance(1)
