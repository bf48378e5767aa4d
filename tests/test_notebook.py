"""The notebook of the Python interface runs from top to bottom, and is stored without what it printed."""

import json
import pathlib

import pytest

CELLS = json.loads((pathlib.Path(__file__).parents[1] / "experiments" / "api.ipynb").read_text())["cells"]
CODE = [cell for cell in CELLS if cell["cell_type"] == "code"]


@pytest.mark.slow
def test_all_cells_run_in_order():
  namespace = {"__name__": "notebook"}
  for number, cell in enumerate(CELLS):
    if cell["cell_type"] == "code":
      source = "".join(cell["source"])
      try:
        exec(compile(source, f"api.ipynb, cell {number}", "exec"), namespace)
      except Exception as e:
        pytest.fail(f"cell {number} of experiments/api.ipynb failed with {e!r}:\n{source}")


def test_no_outputs_are_stored():
  assert CODE and all(cell["outputs"] == [] and cell["execution_count"] is None for cell in CODE)
