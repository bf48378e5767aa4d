"""Reads the JSON-lines files that sweep.py writes, and sorts what they hold by set and scale."""

import json
import math
import pathlib
import sys
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from mzsr_jax.errors import UserError
from mzsr_jax.evaluation import methods

_TEXTS = ("identity", "commit", "device", "time")
_NUMBER = (int, float, type(None))


class Section(NamedTuple):
  """What is known of one set at one scale.

  Attributes:
    set: its name.
    scale: scale factor.
    measured: as of `benchmark.summarise`, each with its "label" and "device" besides; a method's steps ascending.
    quoted: method, kernel, psnr, ssim and "label" of what was printed elsewhere.
    crops: PNG files of each (kernel, image), by the label of the method; None: of the truth.
  """

  set: str
  scale: int
  measured: list[dict[str, Any]]
  quoted: list[dict[str, Any]]
  crops: dict[tuple[str, str], dict[str | None, pathlib.Path]]

  @property
  def name(self) -> str:
    """For headings."""
    return f"{self.set} x{self.scale}"

  @property
  def kernels(self) -> list[str]:
    """In the order of the files, those with measured results first."""
    return list(dict.fromkeys(result["kernel"] for result in self.measured + self.quoted))

  @property
  def images(self) -> list[str]:
    """Names of all images, sorted."""
    return sorted({image["name"] for result in self.measured for image in result["images"]})


def read(paths: Iterable[str | pathlib.Path]) -> list[dict[str, Any]]:
  """The lines of files, in order; of lines with the same identity the last. Paths of crops are made those of files.

  A last line that is not whole, as a run leaves it that was killed, is left out with a warning.

  Raises:
    UserError: no such file, nothing in them, or a line that is not one of a sweep.
  """
  lines = [line for path in paths for line in _read_file(pathlib.Path(path))]
  if not lines:
    raise UserError("--results: no finished cell in any of the files")
  return list({line["identity"]: line for line in lines}.values())


def _read_file(path: pathlib.Path) -> Iterator[dict[str, Any]]:
  try:
    *whole, last = path.read_bytes().split(b"\n")
  except OSError as e:
    raise UserError(f"results '{path}' cannot be read: {e.strerror}") from e
  for number, text in enumerate([*whole, last] if last else whole, 1):
    where = f"'{path}', line {number},"
    try:
      line = json.loads(text.decode(), parse_constant=_refuse)
      json.dumps(line, ensure_ascii=False).encode()  # half a character, as \ud800, could not be written
    except (ValueError, RecursionError) as e:
      if number > len(whole):
        print(f"warning: {where} is not whole: left out", file=sys.stderr)
        return
      raise UserError(f"{where} is not JSON: {e}") from e
    try:
      _check(line)
    except _BadLine as e:
      raise UserError(f"{where} is not of experiments/sweep.py: {e}") from e
    for crop in line["crops"]:
      crop["path"] = path.parent / crop["path"]
    yield line


def _refuse(constant: str) -> None:
  raise ValueError(f"{constant} is no number of JSON")


class _BadLine(Exception):
  """What is wrong with a line."""


def _need(holder: Any, key: str, kinds: type | tuple[type, ...], where: str) -> Any:
  """A value of an object; raises _BadLine where there is none of these types."""
  if not isinstance(holder, dict):
    raise _BadLine(f"{where or 'the line'} must be an object")
  value = holder.get(key, _need)  # any value that JSON has not
  wrong = isinstance(value, bool) and kinds is not bool or isinstance(value, float) and not math.isfinite(value)
  if wrong or not isinstance(value, kinds):
    shown = "is missing" if value is _need else f"is {json.dumps(value)[:40]}"
    raise _BadLine(f"{where + '.' if where else ''}{key} {shown}")
  return value


def _check(line: Any) -> None:
  """Raises _BadLine where a line lacks what is read of it here."""
  for key in _TEXTS:
    _need(line, key, str, "")
  for name, version in _need(line, "versions", dict, "").items():
    _need({name: version}, name, str, "versions")
  cell = _need(line, "cell", dict, "")
  for key in ("set", "method", "kernel"):
    _need(cell, key, str, "cell")
  _need(cell, "scale", int, "cell")
  quoted = _need(line, "quoted", bool, "")
  for i, result in enumerate(_need(line, "results", list, "")):
    where = f"results[{i}]"
    _need(result, "method", str, where)
    _need(result, "steps", int, where)
    _need(result, "psnr", _NUMBER, where)
    _need(result, "ssim", _NUMBER, where)
    if not quoted:
      if not _need(result, "images", list, where):
        raise _BadLine(f"{where}.images is empty")
      for j, image in enumerate(result["images"]):
        _check_image(image, f"{where}.images[{j}]")
  for i, crop in enumerate(_need(line, "crops", list, "")):
    _need(crop, "image", str, f"crops[{i}]")
    _need(crop, "steps", (int, type(None)), f"crops[{i}]")
    _need(crop, "path", str, f"crops[{i}]")


def _check_image(image: Any, where: str) -> None:
  _need(image, "name", str, where)
  _need(image, "psnr", _NUMBER, where)
  _need(image, "ssim", _NUMBER, where)
  _need(image, "seconds", _NUMBER, where)
  _need(image, "height", int, where)
  _need(image, "width", int, where)


def sections(lines: Iterable[dict[str, Any]]) -> list[Section]:
  """Sets and scales in the order in which they first come. Of equal set, scale, kernel, method and steps the last counts.

  Where the weights of a method changed between two lines of a cell, the first says nothing any more, whatever its steps.

  Raises:
    UserError: no line holds a result.
  """
  made: dict[tuple[str, int], Section] = {}
  kept: dict[tuple, dict] = {}
  lines = list(lines)
  newest = {json.dumps(line["cell"], sort_keys=True): _weights(line) for line in lines}
  for line in lines:
    cell = line["cell"]
    if newest[json.dumps(cell, sort_keys=True)] != _weights(line):
      continue
    section = made.setdefault((cell["set"], cell["scale"]), Section(cell["set"], cell["scale"], [], [], {}))
    for result in line["results"]:
      name = result["method"] if line["quoted"] else methods.label(result["method"], result["steps"])
      kept[cell["set"], cell["scale"], line["quoted"], cell["kernel"], name] = {
          **result, "kernel": cell["kernel"], "label": name, "device": line["device"]
      }  # fmt: skip
    for crop in line["crops"]:
      name = None if crop["steps"] is None else methods.label(cell["method"], crop["steps"])
      section.crops.setdefault((cell["kernel"], crop["image"]), {})[name] = crop["path"]
  first = {method: i for i, method in enumerate(dict.fromkeys(result["method"] for result in kept.values()))}
  for (set_, scale, quoted, *_), result in kept.items():
    (made[set_, scale].quoted if quoted else made[set_, scale].measured).append(result)
  for section in made.values():
    section.measured.sort(key=lambda result: (first[result["method"]], result["steps"]))
  made = {name: section for name, section in made.items() if section.measured or section.quoted}
  if not made:  # "paper" alone, for what the paper has not
    raise UserError("--results: no result in any of the lines")
  return list(made.values())


def _weights(line: dict[str, Any]) -> Any:
  """The hash of the weights of a line; None for an identity without one."""
  try:
    _, found = json.loads(line["identity"])
  except (ValueError, TypeError):
    return None
  return found
