"""The HTML page of report.py: one file that needs no other, no network, and no script to be read."""

import base64
import hashlib
import html
import pathlib
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from experiments.report.plots import COLOURS

_HERE = pathlib.Path(__file__).parent
_SHRUNK = 0.6  # plots have more pixels than they are wide on the page, for dense screens


class Cell(NamedTuple):
  """A cell of a table: texts, each with whether it is the best of its column, and the number that it is sorted by."""

  texts: Sequence[tuple[str, bool]]
  value: float | None
  kind: str = ""  # class for the style sheet


class Row(NamedTuple):
  """A line of a table; `colour`: number of the method's, None for one that was not measured here."""

  label: str
  colour: int | None
  cells: Sequence[Cell | None]
  quoted: bool = False


class Table(NamedTuple):
  """A table; `between`: what plain text has between the texts of a cell."""

  title: str
  note: str
  columns: Sequence[str]
  rows: Sequence[Row]
  between: str = " "


class Picture(NamedTuple):
  """A plot in both themes, PNG files."""

  title: str
  light: bytes
  dark: bytes


class Crop(NamedTuple):
  """A crop, a PNG file, and what is said of it."""

  truth: bool
  label: str
  colour: int | None
  psnr: str
  best: bool
  png: bytes


class Crops(NamedTuple):
  """The crops of an image under a kernel."""

  of: str  # set and scale
  image: str
  kernel: str
  crops: Sequence[Crop]


def page(title: str, facts: Sequence[tuple[str, str]], tables: Sequence[Table], pictures: Sequence[Picture],
         crops: Sequence[Crops]) -> str:  # fmt: skip
  """The page. All texts are escaped here.

  Args:
    title: of the page.
    facts: names and values, for its head.
    tables: in order.
    pictures: in order.
    crops: in order; the first is shown.
  """
  css = (_HERE / "report.css").read_text() + "".join(f".c{i}{{--c:{colour}}}\n" for i, colour in enumerate(COLOURS))
  js = (_HERE / "report.js").read_text()
  # No page of ours asks a network for anything, and a text that got in as HTML could not run: only these two may.
  policy = f"default-src 'none'; img-src data:; style-src '{_digest(css)}'; script-src '{_digest(js)}'"
  parts = [
      '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
      f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
      '<meta name="viewport" content="width=device-width, initial-scale=1">\n<meta name="color-scheme" content="light dark">',
      f'<title>{html.escape(title)}</title>\n<link rel="icon" href="data:,">\n<style>{css}</style>\n</head>\n<body>',
      f"<header>\n<h1>{html.escape(title)}</h1>\n<dl>",
      *(f"<div><dt>{html.escape(name)}</dt><dd>{html.escape(value)}</dd></div>" for name, value in facts),
      "</dl>\n</header>\n<main>",
  ]
  if tables:
    parts += ['<section id="tables">\n<h2>Results</h2>', *map(_table, tables), "</section>"]
  if pictures:
    parts += ['<section id="plots">\n<h2>Plots</h2>\n<div class="plots">', *map(_picture, pictures), "</div>\n</section>"]
  if crops:
    parts += ['<section id="crops">\n<h2>Crops</h2>', *map(_crops, crops), "</section>"]
  return "\n".join([*parts, f"</main>\n<script>{js}</script>\n</body>\n</html>\n"])


def _digest(text: str) -> str:
  return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _data(png: bytes) -> str:
  return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def _swatch(colour: int | None) -> str:
  if colour is None:
    return ""
  again = " again" if colour >= len(COLOURS) else ""  # another shape where colours come again
  return f'<i class="swatch c{colour % len(COLOURS)}{again}"></i>'


def _name(label: str) -> str:
  """The name of a method, which may go on in a new line between its parts rather than within a word."""
  return "<wbr>".join(map(html.escape, re.split(r"(?<=[:+=_])", label)))


def _cell(cell: Cell | None) -> str:
  if cell is None:
    return '<td class="none">–</td>'
  texts = [f"<b>{html.escape(text)}</b>" if best else html.escape(text) for text, best in cell.texts]
  first, *more = texts
  value = "" if cell.value is None else f' data-value="{cell.value!r}"'.replace("inf", "Infinity")
  kind = f' class="{html.escape(cell.kind)}"' if cell.kind else ""
  return f"<td{value}{kind}>{first}{''.join(f' <span>{text}</span>' for text in more)}</td>"


def _rows(rows: Iterable[Row]) -> str:
  return "\n".join(
      f'<tr><th scope="row">{_swatch(row.colour)}{_name(row.label)}</th>{"".join(map(_cell, row.cells))}</tr>'
      for row in rows
  )


def _table(table: Table) -> str:
  head = "".join(f'<th scope="col">{html.escape(column)}</th>' for column in table.columns)
  measured, quoted = ([row for row in table.rows if row.quoted is which] for which in (False, True))
  bodies = f"<tbody>\n{_rows(measured)}\n</tbody>" if measured else ""
  if quoted:
    bodies += f'\n<tbody class="quoted">\n{_rows(quoted)}\n</tbody>'
  return (
      f'<h3>{html.escape(table.title)}</h3>\n<p class="note">{html.escape(table.note)}</p>\n<div class="scroll"><table>\n'
      f'<thead><tr><th scope="col">method</th>{head}</tr></thead>\n{bodies}\n</table></div>'
  )


def _picture(picture: Picture) -> str:
  width = round(int.from_bytes(picture.light[16:20], "big") * _SHRUNK)  # as the head of a PNG file says
  return (
      f'<figure>\n<picture><source media="(prefers-color-scheme: dark)" srcset="{_data(picture.dark)}">'
      f'<img src="{_data(picture.light)}" width="{width}" alt="{html.escape(picture.title)}"></picture>\n'
      f"<figcaption>{html.escape(picture.title)}</figcaption>\n</figure>"
  )


def _crop(crop: Crop) -> str:
  psnr = f"<b>{crop.psnr}</b>" if crop.best else crop.psnr
  label, name = html.escape(crop.label), _name(crop.label)
  return (
      f"<figure{' data-truth' if crop.truth else ''}>"
      f'<div class="view"><img src="{_data(crop.png)}" alt="{label}" draggable="false"></div>'
      f'<figcaption>{_swatch(crop.colour)}<span>{name}</span><span class="psnr">{psnr}</span></figcaption></figure>'
  )


def _crops(group: Crops) -> str:
  names = " ".join(f'data-{key}="{html.escape(value)}"' for key, value in zip(("of", "image", "kernel"), group[:3]))
  title = html.escape(f"{group.of}, {group.image}, {group.kernel}")
  figures = "\n".join(map(_crop, group.crops))
  return f'<div class="group" {names}>\n<h3>{title}</h3>\n<div class="grid">\n{figures}\n</div>\n</div>'
