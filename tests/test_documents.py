"""What the documents say: tables are those of the results, links lead somewhere, commands exist, requirements have a reason."""

import ast
import importlib
import importlib.metadata
import json
import pathlib
import re
import sys

import numpy as np
import pytest
from test_cli import assert_one_line, run_entry

from experiments import documents
from mzsr_jax import weights
from mzsr_jax.errors import UserError
from mzsr_jax.training import config

ROOT = pathlib.Path(documents.__file__).parents[1]
TEXTS = {path.relative_to(ROOT).as_posix(): path.read_text() for path in (*documents.DOCUMENTS, ROOT / "experiments/README.md")}


def test_tables_are_those_of_the_results(monkeypatch):
  assert run_entry(monkeypatch, documents.main, documents.define_flags, "--check") == 0
  shown = set(re.findall(r"<!-- table: (\w+) -->", "".join(TEXTS.values())))
  assert shown == {*documents.TABLES, *documents.OTHERS}


def test_a_changed_figure_is_noticed_and_mended(monkeypatch, capsys, tmp_path):
  good = TEXTS["experiments/docs/results.md"]
  path = tmp_path / "results.md"
  path.write_text(re.sub(r"\| \d\d\.\d\d / ", "| 99.99 / ", good, count=1))
  monkeypatch.setattr(documents, "DOCUMENTS", (path,))
  assert run_entry(monkeypatch, documents.main, documents.define_flags, "--check") == 2
  assert_one_line(capsys, "out of date", "results.md", "python -m experiments.documents")
  assert run_entry(monkeypatch, documents.main, documents.define_flags) == 0
  assert path.read_text() == good


def test_results_are_means_of_their_images_by_the_weights_that_are_shipped():
  for path in documents.RESULTS.glob("*.json"):
    report = json.loads(path.read_text())
    for result in report["results"]:
      for metric in ("psnr", "ssim"):
        assert np.isclose(result[metric], np.mean([image[metric] for image in result["images"]])), path
    name = report["settings"]["weights"]
    assert report["weights_sha256"] == (name and weights.load(name).digest), f"{path}: measure it anew with {name}"


def test_tables_of_speed_name_their_machine_and_that_of_precision_tells_differences(tmp_path):
  assert documents.speed("sizes", tmp_path) == documents.precision(tmp_path) == "Not measured yet."
  report = {"machine": {"cpu": "a CPU", "jax": "1.2"}, "title": "Sizes", "rows": [{"way": "buckets", "s": 2.0}]}
  (tmp_path / "sizes_old.json").write_text(json.dumps(report))
  assert documents.speed("sizes", tmp_path) == "Sizes (cpu a CPU, jax 1.2):\n\n| way | s |\n| --- | --- |\n| buckets | 2.00 |"
  results = tmp_path / "results"
  (results / "precision").mkdir(parents=True)
  for path, psnr in ((results, 30.0), (results / "precision", 29.988)):
    result = {"method": "mzsr", "scale": 2, "kernel": "g20d", "steps": 1, "psnr": psnr}
    (path / "set5_x2_direct.json").write_text(json.dumps({"results": [result], "settings": {"weights": "x2_direct"}}))
  assert documents.precision(results).splitlines()[-1] == "| Set5: x2_direct, 1 step | -0.012 |"


def test_wrong_results_and_tables_are_refused(tmp_path):
  source = next(documents.RESULTS.glob("set5_*.json"))
  for names, words in ((("other.json",), "must begin with"), (("set5_a.json", "set5_b.json"), "in another file too")):
    for name in names:
      (tmp_path / name).write_text(source.read_text())
    with pytest.raises(UserError, match=words):
      documents.read(tmp_path)
    for name in names:
      (tmp_path / name).unlink()
  with pytest.raises(UserError, match="no table 'x'"):
    documents.filled("<!-- table: x -->\n<!-- end -->", {"y": ""})


def test_documents_are_short_enough_to_be_read():
  assert len(TEXTS["README.md"].encode()) <= 10_000 and len(TEXTS["experiments/README.md"].encode()) <= 6_000


def _path(name: str) -> pathlib.Path:
  """Where a file of the repository is: the package may be installed elsewhere."""
  return (pathlib.Path(weights.__file__).parents[1] if name.startswith("mzsr_jax") else ROOT) / name


def _source(module: str) -> pathlib.Path:
  """The file that `python -m module` runs."""
  path = _path(module.replace(".", "/"))
  return path / "__main__.py" if path.is_dir() else path.with_suffix(".py")


@pytest.mark.parametrize("name", sorted(TEXTS))
def test_links_and_named_files_are_there(name):
  links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", TEXTS[name]) if not re.match(r"\w+:|#", link)]
  assert all(((ROOT / name).parent / link).exists() for link in links), links
  named = re.findall(r"`((?:mzsr_jax|configs|experiments|tests)/[\w/]+\.\w+)`|--config=(configs/\w+\.py)", TEXTS[name])
  assert all(_path(path or config).is_file() for path, config in named), named


@pytest.mark.parametrize("name", sorted(TEXTS))
def test_commands_are_there_and_have_the_flags_that_they_are_given(name):
  for module, arguments in re.findall(r"python -m ((?:mzsr_jax|experiments)[\w.]*)([^`#]*?)(?=\n(?! *--)|`|#)", TEXTS[name]):
    text = _source(module).read_text()  # and of what it imports, which may define flags for it
    for parent, children in re.findall(r"^from ((?:mzsr_jax|experiments)[\w.]*) import (.*)", text, re.MULTILINE):
      others = [_source(f"{parent}.{child.split()[0]}") for child in children.split(",")]
      text += "".join(other.read_text() for other in others if other.is_file())
    for flag in re.findall(r"(?<=\s)--(\w+)", arguments):
      assert f'"{flag}"' in text, f"{module} has no flag --{flag}"


@pytest.mark.parametrize("name", sorted(TEXTS))
def test_config_fields_variants_and_weights_of_commands_are_known(name):
  known = config.FIELDS | config.PRETRAIN_FIELDS | config.META_FIELDS
  fields = re.findall(r"\bconfig\.([a-z]\w*(?:\.[a-z]\w*)*)", TEXTS[name].replace("config.py", "").replace("config.json", ""))
  assert set(fields) <= known.keys()
  for module, variant in re.findall(r"configs/(\w+)\.py(?::(\w+))?", TEXTS[name]):
    config.check(importlib.import_module(f"configs.{module}").get_config(variant or None))
  named = re.findall(r"--weights=((?:spectral:)?[a-z]\w*)(?![\w:])", TEXTS[name])
  assert all(map(weights.is_shipped, named)), named


@pytest.mark.slow
def test_the_lines_of_python_enlarge_a_picture(monkeypatch):
  (code,) = re.findall(r"```python\n(.*?)```", TEXTS["README.md"], re.DOTALL)
  monkeypatch.chdir(ROOT)
  made = {}
  exec(code, made)
  height, width, _ = made["lr"].shape
  bicubic = np.clip(made["mz"].enlarge(made["lr"], 2), 0, 1)
  assert made["sr"].shape == (2 * height, 2 * width, 3) and 0.01 < np.abs(made["sr"] - bicubic).mean() < 0.1


def test_each_requirement_has_a_reason_and_each_import_a_requirement():
  requirements = re.findall(r"^([\w-]+)", (ROOT / "requirements.txt").read_text(), re.MULTILINE)
  extras = re.findall(r'"([\w-]+)>=', (ROOT / "setup.py").read_text())
  told = set(re.findall(r"^\| `([\w-]+)`", TEXTS["experiments/docs/requirements.md"], re.MULTILINE))
  assert told == {*requirements, *extras}
  distributions = importlib.metadata.packages_distributions()
  normal = lambda name: name.lower().replace("_", "-")
  allowed = {normal(name) for name in (*requirements, "gradio", "starlette", "flip-evaluator")}
  for path in pathlib.Path(weights.__file__).parent.rglob("*.py"):
    for node in ast.walk(ast.parse(path.read_text())):
      names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
      names += [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
      for top in {name.partition(".")[0] for name in names} - sys.stdlib_module_names - {"mzsr_jax"}:
        owners = distributions.get(top, [top.replace("_", "-")])
        assert allowed & {normal(owner) for owner in owners}, f"{path} imports {top}, which no requirement brings"


def test_the_tests_that_are_named_are_there():
  named = set(re.findall(r"`(test_\w+)`", (ROOT / "tests" / "README.md").read_text()))
  files = list((ROOT / "tests").glob("test_*.py"))
  there = {path.stem for path in files} | {name for path in files for name in re.findall(r"def (test_\w+)", path.read_text())}
  assert len(named) > 40 and named <= there, named - there
