"""Strict arithmetic for every test, and where the benchmark images are."""

import os
import pathlib

import jax
import pytest

# Silent upcasts and silent broadcasting are how a float64 constant or a transposed kernel slips through.
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
# Two devices, so that what is spread over devices is tested as such wherever the tests run.
jax.config.update("jax_num_cpu_devices", 2)
# Half of the time of the tests goes into compiling programs that run once or twice. Processes that they start inherit it.
jax.config.update("jax_disable_most_optimizations", True)
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"


@pytest.fixture(scope="session", autouse=True)
def _cache_of_its_own(tmp_path_factory):
  """The commands keep compiled programs in the user's cache folder: not those of tests."""
  os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def data_dir() -> pathlib.Path:
  """The folder with Set5/ and Set14/, named by MZSR_DATA; tests that need it skip where it is absent."""
  root = os.environ.get("MZSR_DATA", "")
  if not root or not (pathlib.Path(root) / "Set5" / "GT").is_dir():
    pytest.skip("MZSR_DATA does not name a folder with Set5/GT: benchmark images are not part of this repository")
  return pathlib.Path(root)
