"""Strict arithmetic for every test, and where the benchmark images are."""

import os
import pathlib

import jax
import pytest

# Silent upcasts and silent broadcasting are how a float64 constant or a transposed kernel slips through.
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(scope="session")
def data_dir() -> pathlib.Path:
  """The folder with Set5/ and Set14/, named by MZSR_DATA; tests that need it skip where it is absent."""
  root = os.environ.get("MZSR_DATA", "")
  if not root or not (pathlib.Path(root) / "Set5" / "GT").is_dir():
    pytest.skip("MZSR_DATA does not name a folder with Set5/GT: benchmark images are not part of this repository")
  return pathlib.Path(root)
