"""The command `mzsr`: each of its subcommands is also run by python -m mzsr_jax.NAME (train: mzsr_jax.main).

  mzsr upscale -i photo.jpg
"""

import runpy
import sys

import mzsr_jax

COMMANDS = {
    "upscale": "enlarges photos",
    "evaluate": "scores methods on benchmark images",
    "train": "trains a network by a config",
    "demo": "serves a page for photos on this machine",
    "export": "turns a checkpoint into a weights file",
    "download": "fetches data sets",
}
_MODULES = {"train": "main"}  # where the name is another


def main() -> None:
  """Runs the subcommand that the command line names, with the words after it."""
  if sys.argv[1:] == ["--version"]:
    print(mzsr_jax.__version__)
    return
  name = sys.argv[1] if len(sys.argv) > 1 else ""
  if name in COMMANDS:
    del sys.argv[1]
    runpy.run_module(f"mzsr_jax.{_MODULES.get(name, name)}", run_name="__main__", alter_sys=True)
    return
  lines = [f"  {command:10}{about}" for command, about in COMMANDS.items()]
  usage = "\n".join(["usage: mzsr COMMAND [--help] [flags], as in: mzsr upscale -i photo.jpg", *lines, "  --version"])
  if name in ("--help", "-h"):
    print(usage)
    return
  print(f"error: unknown command '{name}'\n{usage}" if name else usage, file=sys.stderr)
  sys.exit(2)


if __name__ == "__main__":
  main()
