"""What the package exports has types, which type checkers find."""

import inspect
import pathlib

import pytest

import mzsr_jax as mz
from mzsr_jax.core import maml

FUNCTIONS = {
    f"{module.__name__}.{name}": value
    for module, names in ((mz, mz.__all__), (maml, [name for name in vars(maml) if name[0] != "_"]))
    for name in names
    if inspect.isfunction(value := getattr(module, name)) and value.__module__.startswith("mzsr_jax")
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_all_parameters_and_results_have_types(name):
  signature = inspect.signature(FUNCTIONS[name])
  bare = [p.name for p in signature.parameters.values() if p.annotation is inspect.Parameter.empty]
  assert not bare and signature.return_annotation is not inspect.Signature.empty


def test_the_package_says_that_it_has_types():
  assert {"mzsr_jax.adapt", "mzsr_jax.degrade", "mzsr_jax.core.maml.meta_loss"} <= FUNCTIONS.keys()
  assert (pathlib.Path(mz.__file__).parent / "py.typed").is_file()
