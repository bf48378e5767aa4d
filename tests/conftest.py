"""Strict arithmetic for every test, and where the benchmark images are."""

import os
import pathlib
import subprocess
import sys
import tempfile

# Before JAX is imported, and for all processes that tests start. Half of the time of the tests goes into compiling programs
# that run once or twice: hence few optimisations, XLA's older emitters, which take a third of the time of its new ones, and a
# cache that all processes of a run share and that goes with it.
if "MZSR_TEST_CACHE" not in os.environ:
  _cache = tempfile.TemporaryDirectory(prefix="mzsr_jax_tests_")
  os.environ["MZSR_TEST_CACHE"] = os.environ["XDG_CACHE_HOME"] = _cache.name
  os.environ["JAX_COMPILATION_CACHE_DIR"] = f"{_cache.name}/jax"
  _flags = {"XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_use_fusion_emitters=false"}
  _start = [sys.executable, "-c", "import jax; jax.config.update('jax_platforms', 'cpu'); jax.devices()"]
  if not subprocess.run(_start, env=os.environ | _flags, capture_output=True).returncode:  # XLA aborts over an unknown flag
    os.environ |= _flags
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "0"
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"

import jax  # noqa: E402
import jaxtyping  # noqa: E402
import pytest  # noqa: E402

# Types and shapes of signatures are checked at each call, in jitted code as it is traced. An int is a float here.
_CHECKER = "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))"
_ROOMS = ("core", "evaluation", "inference", "photo", "training")
jaxtyping.install_import_hook([f"mzsr_jax.{room}" for room in _ROOMS], _CHECKER)

# Silent upcasts and silent broadcasting are how a float64 constant or a transposed kernel slips through.
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
# Two devices, so that what is spread over devices is tested as such wherever the tests run.
jax.config.update("jax_num_cpu_devices", 2)


@pytest.fixture(scope="session")
def data_dir() -> pathlib.Path:
  """The folder with Set5/ and Set14/, named by MZSR_DATA; tests that need it skip where it is absent."""
  root = os.environ.get("MZSR_DATA", "")
  if not root or not (pathlib.Path(root) / "Set5" / "GT").is_dir():
    pytest.skip("MZSR_DATA does not name a folder with Set5/GT: benchmark images are not part of this repository")
  return pathlib.Path(root)


@pytest.fixture(scope="module", autouse=True)
def programs_end_with_their_module():
  """Each compiled program takes memory maps, of which Linux gives a process 65,530: beyond that, it dies."""
  yield
  jax.clear_caches()


@pytest.fixture
def unchecked():
  """Calls that break their signatures reach the checks that users meet."""
  jaxtyping.config.update("jaxtyping_disable", True)
  yield
  jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture
def optimised():
  """Whole images take longer than compiling well does."""
  jax.config.update("jax_disable_most_optimizations", False)
  yield
  jax.config.update("jax_disable_most_optimizations", True)
