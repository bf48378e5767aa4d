"""Where tables and figures go: a JSON file, and perhaps another of the same name beside it."""

import json
import pathlib
from typing import Any

from absl import flags

from mzsr_jax import files, provenance
from mzsr_jax.errors import UserError

flags.disclaim_key_flags()  # those defined here belong to the script that asks for them, so that its --help lists them


def define_flags(beside: str = "") -> None:
  """Defines --out and --overwrite. Args: what goes beside the JSON file, in a word; without that, --out is optional."""
  about = f"; the {beside} goes beside it" if beside else ""
  flags.DEFINE_string("out", None, f"JSON file to write{about}", required=bool(beside))
  flags.DEFINE_bool("overwrite", False, "replace output files that exist")


def check(suffix: str = "") -> pathlib.Path | None:
  """What goes beside --out, where one does. Raises UserError, before slow work, where one of these cannot be written."""
  if not flags.FLAGS.out:
    return None
  out = pathlib.Path(flags.FLAGS.out)
  if out.suffix != ".json":
    raise UserError(f"output '{out}' is not a .json file")
  beside = out.with_suffix(suffix) if suffix else None
  for path in filter(None, (out, beside)):
    files.check_writable(path, flags.FLAGS.overwrite)
  return beside


def write(content: dict[str, Any], allow_nan: bool = False) -> None:
  """Writes --out, with the versions and the commit that made it. `allow_nan`: infinite values too, as JSON has them not."""
  content = {**content, "versions": provenance.versions(), "commit": provenance.git_revision()}
  text = json.dumps(content, indent=2, allow_nan=allow_nan) + "\n"
  files.write_whole(flags.FLAGS.out, text.encode(), flags.FLAGS.overwrite)
