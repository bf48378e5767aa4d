"""Wrong input to any entry gives one line and exit code 2; bugs keep their traceback."""

import os
import pathlib
import re
import subprocess
import sys

import jax
import pytest
from absl import app, flags
from ml_collections import config_flags

import mzsr_jax
from mzsr_jax import cli, upscale
from mzsr_jax.errors import UserError

CONFIG = """
from ml_collections import config_dict
from mzsr_jax.errors import UserError

def get_config(variant=""):
  if variant == "broken":
    return int("a bug")
  if variant:
    raise UserError(f"no variant '{variant}'")
  return config_dict.create(lr=0.1, data={"root": ""})
"""


def run_entry(monkeypatch, main, define_flags, *args, **options) -> int:
  """Runs an entry in this process, on its own flags, and returns its exit code."""
  app.define_help_flags()  # once only, by absl's own bookkeeping: they have to stay
  before = set(flags.FLAGS)
  define_flags()
  monkeypatch.setattr(sys, "argv", ["entry", *map(str, args)])
  try:
    with pytest.raises(SystemExit) as exit_:
      cli.run(main, **options)
  finally:
    for name in set(flags.FLAGS) - before:
      delattr(flags.FLAGS, name)
  return exit_.value.code or 0


def errors(capsys) -> str:
  """What stderr was given since the last look, but for the lines of progress."""
  return re.sub(r"(?m)^\d+ s, \d+%: .*\n", "", capsys.readouterr().err)


def assert_one_line(capsys, *words):
  """What was printed since the last look is one error line that holds these words."""
  err = errors(capsys)
  assert err.startswith("error: ") and err.count("\n") == 1, err
  for word in words:
    assert word in err, err
  return err


def _define():
  config_flags.DEFINE_config_file("config", None, "config file")
  flags.DEFINE_string("name", None, "a name", required=True)
  cli.define_numbers("steps", [1, 10], "steps", number=int, minimum=0)


def _run(monkeypatch, *args, main=lambda argv: None):
  return run_entry(monkeypatch, main, _define, *args)


@pytest.mark.parametrize(
    "args, words",
    [
        (["--name=a", "--nmae=b"], ["nmae", "name"]),
        ([], ["--name"]),
        (["--name=a", "--steps=1,x"], ["steps", "'x'"]),
        (["--name=a", "--steps=-1"], ["steps", "0 or more"]),
        (["--name=a", "stray"], ["stray"]),
        (["--name=a", "--config=none.py"], ["none.py"]),
        (["--name=a", "--config=CONFIG", "--config.lrr=1"], ["--config.lrr=1", '"lr"']),
        (["--name=a", "--config=CONFIG", "--config.data.roto=x"], ["roto", '"root"']),
        (["--name=a", "--config=CONFIG", "--config.data.root.x=1"], ["--config.data.root.x=1"]),
        (["--name=a", "--config=CONFIG", "--config.lr=fast"], ["config.lr", "fast"]),
        (["--name=a", "--config=CONFIG:tiny"], ["no variant 'tiny'"]),
    ],
)
def test_flag_and_config_errors(monkeypatch, capsys, tmp_path, args, words):
  config = tmp_path / "config.py"
  config.write_text(CONFIG)
  assert _run(monkeypatch, *(arg.replace("CONFIG", str(config)) for arg in args)) == 2
  assert_one_line(capsys, *words)


def test_good_flags_reach_main(monkeypatch, tmp_path):
  seen = {}
  (tmp_path / "config.py").write_text(CONFIG)

  def main(argv):
    seen.update(argv=argv, steps=flags.FLAGS.steps, lr=flags.FLAGS.config.lr)

  code = _run(monkeypatch, "--name=a", "--steps=3,0", f"--config={tmp_path / 'config.py'}", "--config.lr=2", main=main)
  assert code == 0 and seen == {"argv": ["entry"], "steps": [3, 0], "lr": 2.0}


def test_errors_in_main(monkeypatch, capsys):
  def wrong(argv):
    raise UserError("line one\n line two")

  def interrupted(argv):
    raise KeyboardInterrupt

  def bug(argv):
    raise KeyError("bug")

  assert _run(monkeypatch, "--name=a", main=wrong) == 2
  assert capsys.readouterr().err == "error: line one line two\n"
  assert _run(monkeypatch, "--name=a", main=interrupted) == 130
  assert capsys.readouterr().err.count("\n") == 1
  with pytest.raises(KeyError):
    _run(monkeypatch, "--name=a", main=bug)


def test_a_bug_in_a_config_file_keeps_its_traceback(monkeypatch, tmp_path):
  (tmp_path / "config.py").write_text(CONFIG)
  with pytest.raises(Exception, match="a bug"):
    _run(monkeypatch, "--name=a", f"--config={tmp_path / 'config.py'}:broken")


@pytest.mark.parametrize("entry", ["evaluate", "upscale"])
def test_entries_as_processes(entry, tmp_path):
  """The real command: nothing else on stderr, no traceback, nothing written."""
  command = [sys.executable, "-m", f"mzsr_jax.{entry}", "--weights=none", "--no_such_flag"]
  root = pathlib.Path(cli.__file__).parents[1]
  env = {**os.environ, "PYTHONPATH": str(root)}
  done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
  assert done.returncode == 2 and done.stdout == ""
  assert done.stderr.startswith("error: Unknown command line flag") and done.stderr.count("\n") == 1, done.stderr
  assert not os.listdir(tmp_path)


@pytest.mark.parametrize(
    "args, code, words",
    [
        (["--version"], 0, [mzsr_jax.__version__]),
        (["upscale", "--version"], 0, [mzsr_jax.__version__]),
        (["upscale"], 2, ["upscale -i photo.jpg"]),
        (["export", "--help"], 0, ["--workdir", "checkpoint"]),
        ([], 2, ["usage", "train", "download"]),
        (["upscael"], 2, ["unknown command 'upscael'", "upscale"]),
    ],
)
def test_the_console_command(args, code, words, tmp_path):
  env = {**os.environ, "PYTHONPATH": str(pathlib.Path(cli.__file__).parents[1])}
  done = subprocess.run([sys.executable, "-m", "mzsr_jax", *args], cwd=tmp_path, env=env, capture_output=True, text=True)
  assert done.returncode == code and "Traceback" not in done.stderr
  for word in words:
    assert word in done.stdout + done.stderr


@pytest.mark.parametrize(
    "module, first, others",
    [
        ("mzsr_jax.upscale", list(upscale.FIRST_FLAGS), {"overwrite", "steps", "memory_limit"}),
        ("experiments.presets", [], {"hr_dir", "out", "noise", "jpeg"}),
        ("experiments.tables", [], {"hr_dir", "out", "overwrite"}),
    ],
)
def test_help_lists_all_flags_and_first_those_that_people_need(module, first, others):
  root = pathlib.Path(__file__).parents[1]
  done = subprocess.run([sys.executable, "-m", module, "-h"], cwd=root, capture_output=True, text=True)
  names = re.findall(r"^  (?:-\w, )?--(?:\[no\])?(\w+):", done.stdout, re.MULTILINE)
  assert done.returncode == 0 and names[: len(first)] == first and others < set(names) and len(set(names)) == len(names)
  assert ("more:" in done.stdout) == bool(first)


def test_photos_are_enlarged_without_what_takes_long_to_import():
  script = "import sys, mzsr_jax.upscale; print(*{'scipy.signal', 'scipy.stats', 'scipy.io', 'h5py'} & sys.modules.keys())"
  root = pathlib.Path(cli.__file__).parents[1]
  done = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True)
  assert done.returncode == 0 and not done.stdout.split(), done.stdout + done.stderr


@pytest.mark.slow
def test_shipped_configs_are_found_from_anywhere_and_missing_ones_are_said(tmp_path):
  """The config of a checkout, or of an installed package; a file of the user's own of that name comes first."""
  root = pathlib.Path(cli.__file__).parents[1]
  command = [sys.executable, "-m", "mzsr_jax.main", f"--workdir={tmp_path}/run"]
  env = os.environ | {"PYTHONPATH": str(root)}
  run = lambda config: subprocess.run(
      [*command, *config, "--config.run.num_steps=0"], cwd=tmp_path, env=env, capture_output=True, text=True
  )
  for config in (["--config=configs/meta_x2.py:smoke"], ["--config", "configs/pretrain_x2.py"]):
    done = run(config)
    assert done.returncode == 2 and "config.run.num_steps is 0" in done.stderr, done.stderr  # it was found and read
  for config in ("configs/meta_x3.py", "mine/configs/meta_x2.py", "mine.py"):
    done = run([f"--config={config}"])
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert f"config '{config}' does not exist" in done.stderr and "configs/NAME.py" in done.stderr and "meta_x2" in done.stderr
  (tmp_path / "configs").mkdir()
  (tmp_path / "configs" / "meta_x2.py").write_text(
      "from mzsr_jax.training import config\ndef get_config():\n  c = config.meta()\n  c.stage = 'mine'\n  return c\n"
  )
  done = run(["--config=configs/meta_x2.py"])
  assert done.returncode == 2 and "config.stage is 'mine'" in done.stderr


def test_the_cache_of_compiled_programs_stays_small(monkeypatch, tmp_path):
  """What was not used for longest goes; a folder that is JAX's own, or named, is nobody's to clear."""
  monkeypatch.setattr(cli, "_CACHE_BYTES", 250)
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
  ours, others = tmp_path / "mzsr_jax", tmp_path / "others"
  for folder in (ours, others):
    folder.mkdir()
    for i, name in enumerate(("b-cache", "a-cache", "c-cache", "note")):
      (folder / name).write_bytes(bytes(100))
      os.utime(folder / name, (1e9 + i, 1e9 + i))
    os.utime(folder / "b-cache", (2e9, 1e9))  # written first, and used since
  settings = ("enable_compilation_cache", "compilation_cache_dir", "persistent_cache_min_compile_time_secs",
              "persistent_cache_min_entry_size_bytes")  # fmt: skip
  before = {f"jax_{name}": getattr(jax.config, f"jax_{name}") for name in settings}
  started = lambda *args: run_entry(monkeypatch, lambda _: cli.use_compilation_cache(), cli.define_cache_flag, *args)
  try:
    with monkeypatch.context() as patch:
      patch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
      started(f"--compilation_cache={others}")
      started()
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(others))
    started()
  finally:
    for name, value in before.items():
      jax.config.update(name, value)
  assert sorted(os.listdir(ours)) == ["b-cache", "c-cache", "note"]
  assert sorted(os.listdir(others)) == ["a-cache", "b-cache", "c-cache", "note"]
