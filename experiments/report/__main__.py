"""A report of results: tables in Markdown, plots as PNG files, and one HTML page with all of it and crops to zoom into.

    python -m experiments.report --results=runs/peers.jsonl,runs/more.jsonl --out=runs/report

The results are what sweep.py writes. Where files, or lines of one, hold the same cell, the last counts. Needs matplotlib
(pip install '.[report]').
"""

import html
import importlib.util
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

from absl import flags

from experiments.bench import timing
from experiments.report import page, plots, read
from experiments.report.page import Cell, Crop, Crops, Row, Table
from experiments.report.read import Section
from mzsr_jax import cli, files
from mzsr_jax.errors import UserError
from mzsr_jax.evaluation import benchmark

_FIELDS = (("psnr", 2), ("ssim", 4))  # metrics in a cell, and their digits


def define_flags() -> None:
  """Defines the flags of this script."""
  flags.DEFINE_list("results", None, "JSON-lines files of experiments/sweep.py", required=True)
  flags.DEFINE_string("out", None, "folder for report.md, report.html and the plots", required=True)
  flags.DEFINE_string("compare_with", None, "line of the tables that all others are compared with (default: the first)")
  flags.DEFINE_integer("crops", 8, "show crops of that many images of each set, the first by name", lower_bound=0)
  flags.DEFINE_bool("overwrite", False, "replace output files that exist")


def number(value: float | None, digits: int) -> str:
  """A measured value as text; JSON has no infinity, None stands for it."""
  return "∞" if value is None else f"{value:.{digits}f}"


def values_table(section: Section, colours: dict[str, int]) -> Table:
  """PSNR and SSIM, methods by kernels: the best measured of each column marked, quoted lines below."""
  best = {}
  for result in section.measured:
    for field, digits in _FIELDS:  # as rounded: of two that print alike, both are best
      value = float("inf") if result[field] is None else round(result[field], digits)
      best[result["kernel"], field] = max(value, best.get((result["kernel"], field), value))

  def measured(result: dict[str, Any]) -> Cell:
    shown = [(number(result[f], digits), result[f], best[result["kernel"], f], digits) for f, digits in _FIELDS]
    texts = [(text, top == (float("inf") if v is None else round(v, digits))) for text, v, top, digits in shown]
    return Cell(texts, float("inf") if result["psnr"] is None else result["psnr"])

  def quoted(result: dict[str, Any]) -> Cell:
    texts = [("–" if result[f] is None else number(result[f], digits), False) for f, digits in _FIELDS]
    return Cell(texts, result["psnr"])

  rows = []
  for results, cell in ((section.measured, measured), (section.quoted, quoted)):
    by_label: dict[str, dict[str, dict]] = {}
    for result in results:
      by_label.setdefault(result["label"], {})[result["kernel"]] = result
    for label, of in by_label.items():
      is_quoted = results is section.quoted
      colour = None if is_quoted else colours[next(iter(of.values()))["method"]]
      cells = [cell(of[kernel]) if kernel in of else None for kernel in section.kernels]
      rows.append(Row(f"{label} (quoted)" if is_quoted else label, colour, cells, is_quoted))
  return Table(f"{section.name}: PSNR / SSIM", _images_note(section), section.kernels, rows, " / ")


def _images_note(section: Section) -> str:
  """How many images the means are over, and whether that is the same for all."""
  counts = {len(result["images"]) for result in section.measured}
  if not counts:
    return "As printed in the paper; nothing was measured here."
  span = "–".join(str(count) for count in sorted({min(counts), max(counts)}))
  note = f"On luma; mean over {span} image{'s' if span != '1' else ''}"
  if len({frozenset(image["name"] for image in result["images"]) for result in section.measured}) > 1:
    note += ", not the same for all lines and columns"
  note += "; the best measured value of each column is bold."
  return note + (" Quoted lines are as printed in the paper, over the whole set." if section.quoted else "")


def differences_table(section: Section, reference: str, colours: dict[str, int]) -> Table | None:
  """Mean difference of PSNR to the reference with its interval, where both were measured on the same images; None: nowhere."""
  rows: dict[tuple[str, str], dict] = {}
  for kernel in section.kernels:
    same = [result for result in section.measured if result["kernel"] == kernel]
    names = [[image["name"] for image in result["images"]] for result in same if result["label"] == reference]
    if not names:
      continue
    aligned = []
    for result in same:
      images = {image["name"]: image for image in result["images"]}
      if images.keys() == set(names[0]):
        aligned.append(result | {"images": [images[name] for name in names[0]]})
    rows |= {(row["label"], kernel): row for row in benchmark.differences(aligned, reference, "psnr")}
  if not rows:
    return None
  methods = {result["label"]: result["method"] for result in section.measured}
  kernels = [kernel for kernel in section.kernels if any(of == kernel for _, of in rows)]

  def cell(row: dict[str, Any] | None) -> Cell | None:
    if row is None:
      return None
    mean, space, interval = benchmark.difference_text(row).partition(" ")
    sure = row["low"] is not None and (row["low"] > 0) - (row["high"] < 0)
    return Cell([(mean, False), (interval, False)], row["mean"], {1: "better", -1: "worse"}.get(sure, ""))

  made = [
      Row(label, colours[method], [cell(rows.get((label, kernel))) for kernel in kernels])
      for label, method in methods.items()
      if any(of == label for of, _ in rows)
  ]
  note = ("Mean difference of PSNR over the same images, dB, and its 95% interval by bootstrap over images; "
          "on the page in colour where that leaves out 0.")
  return Table(f"{section.name}: difference to {reference}", note, kernels, made)


def reference_label(sections: Sequence[Section], wanted: str | None) -> str | None:
  """What is compared with: what is wanted, else the first measured line. None: nothing was measured.

  Raises:
    UserError: there is no such line.
  """
  labels = list(dict.fromkeys(result["label"] for section in sections for result in section.measured))
  if wanted and wanted not in labels:
    raise UserError(f"--compare_with='{wanted}' was not measured: there are {', '.join(labels) or 'only quoted figures'}")
  first = next((section.measured[0]["label"] for section in sections if section.measured), None)
  return wanted or first


def markdown_table(table: Table) -> str:
  """A heading, its note and the table."""

  def text(cell: Cell | None) -> str:
    if cell is None:
      return "–"
    return table.between.join(f"**{text}**" if best else text for text, best in cell.texts)

  columns = [_plain(column) for column in table.columns]
  rows = [{"": _plain(row.label)} | dict(zip(columns, map(text, row.cells))) for row in table.rows]
  return f"## {_plain(table.title)}\n\n{_plain(table.note)}\n\n{timing.table(rows)}\n"


def _plain(text: str) -> str:
  """A text that Markdown leaves as it is, also within a table."""
  text = html.escape(" ".join(text.split()), quote=False)
  return "".join(f"\\{c}" if c in "\\`*_|[]" else c for c in text)


def crops_of(section: Section, colours: dict[str, int], most: int) -> Iterator[Crops]:
  """Crops by image and kernel, of the first images by name: truth first, then methods in the order of the tables.

  Raises:
    UserError: one cannot be read, or is no PNG file.
  """
  psnrs = {(r["kernel"], r["label"]): (r["method"], {i["name"]: i["psnr"] for i in r["images"]}) for r in section.measured}
  order = dict.fromkeys(r["label"] for r in section.measured)
  chosen = set(section.images[:most])
  for (kernel, image), paths in sorted(section.crops.items(), key=lambda item: item[0][1]):
    if image not in chosen:
      continue
    labels = [label for label in order if label in paths and image in psnrs.get((kernel, label), (None, {}))[1]]
    values = {label: psnrs[kernel, label][1][image] for label in labels}
    as_numbers = {label: float("inf") if value is None else value for label, value in values.items()}
    top = max(as_numbers.values(), default=None)
    made = [Crop(True, "truth", None, "", False, read_png(paths[None]))] if None in paths else []
    for label in labels:
      text = f"{number(values[label], 2)} dB"
      made.append(Crop(False, label, colours[psnrs[kernel, label][0]], text, as_numbers[label] == top, read_png(paths[label])))
    yield Crops(section.name, image, kernel, made)


def read_png(path: pathlib.Path) -> bytes:
  """The bytes of a crop. Raises UserError: there is none, or it is no PNG file."""
  try:
    png = path.read_bytes()
  except OSError as e:
    raise UserError(f"crop '{path}' cannot be read: {e.strerror}; it must lie beside its results") from e
  if not png.startswith(b"\x89PNG\r\n\x1a\n"):
    raise UserError(f"crop '{path}' is not a PNG file")
  return png


def facts(lines: Sequence[dict[str, Any]]) -> list[tuple[str, str]]:
  """When, by what and on what the measured lines were made; of all lines where none was measured."""
  made = [line for line in lines if not line["quoted"]] or lines
  times = sorted(line["time"].replace("T", " ").replace("+00:00", " UTC") for line in made)
  versions: dict[str, None] = dict.fromkeys(f"{name} {version}" for line in made for name, version in line["versions"].items())
  commits = dict.fromkeys(line["commit"][:12] + line["commit"][40:] for line in made)  # "+" after it: with changes
  several = lambda values: ", ".join(dict.fromkeys(values))
  return [
      ("measured", " – ".join(dict.fromkeys((times[0], times[-1])))),
      ("device", several(line["device"] for line in made)),
      ("commit", several(commits)),
      ("versions", several(versions)),
  ]


def main(argv: list[str]) -> None:
  """Writes the report."""
  del argv
  args = flags.FLAGS
  if importlib.util.find_spec("matplotlib") is None:
    raise UserError("plots need matplotlib: pip install '.[report]'")
  lines = read.read(args.results)
  sections = read.sections(lines)
  reference = reference_label(sections, args.compare_with)
  colours, drawn = plots.colour_index(sections), plots.plots(sections)
  out = pathlib.Path(args.out)
  for path in (out / name for name in ("report.md", "report.html", *(f"{plot.name}.png" for plot in drawn))):
    files.check_writable(path, args.overwrite)

  tables = []
  for section in sections:
    tables += [values_table(section, colours), reference and differences_table(section, reference, colours)]
  tables = [table for table in tables if table]
  crops = [group for section in sections for group in crops_of(section, colours, args.crops)]
  about = facts(lines)
  title = "Super-resolution of " + ", ".join(section.name for section in sections)
  pictures = [page.Picture(plot.title, plot.draw("light"), plot.draw("dark")) for plot in drawn]

  for plot, picture in zip(drawn, pictures):
    files.write_whole(out / f"{plot.name}.png", picture.light, args.overwrite)
  markdown = [f"# {_plain(title)}\n", "\n".join(f"- {name}: {_plain(value)}" for name, value in about) + "\n"]
  markdown += map(markdown_table, tables)
  markdown += (f"![{_plain(plot.title)}]({plot.name}.png)\n" for plot in drawn)
  files.write_whole(out / "report.md", "\n".join(markdown).encode(), args.overwrite)
  html_page = page.page(title, about, tables, pictures, crops)
  files.write_whole(out / "report.html", html_page.encode(), args.overwrite)
  print(f"{out / 'report.html'}: {len(tables)} tables, {len(pictures)} plots, {sum(len(g.crops) for g in crops)} crops")


if __name__ == "__main__":
  define_flags()
  cli.run(main)
