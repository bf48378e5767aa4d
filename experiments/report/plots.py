"""The plots of report.py, each where the data have it. matplotlib is imported when the first one is drawn."""

import io
import itertools
import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from experiments.report.read import Section

# Okabe and Ito's colours, which the colour-blind tell apart, without those too light for lines on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#7F7F7F")
_MARKERS = "osD^vPX"
_DASHES = ("-", "--", ":", "-.", (0, (6, 1, 1, 1, 1, 1)))
_THEMES = {"light": ("#1b1f24", "#ffffff", "#dfe3e8"), "dark": ("#d7dce2", "#171b21", "#343b45")}  # ink, paper, grid
_COLUMNS = 3
_STEPS, _VARIANCE = "adaptation steps", "variance of the Gaussian kernel, pixels²"  # axes with ticks of their own


class Plot(NamedTuple):
  """A plot that can be drawn.

  Attributes:
    name: of its file, without suffix.
    title: what it shows, in a line.
    draw: (theme) -> PNG file; theme: "light" or "dark".
  """

  name: str
  title: str
  draw: Callable[[str], bytes]


class Point(NamedTuple):
  """A mean over images, its standard error (0: unknown), and a word to write beside it."""

  x: float
  y: float
  error: float = 0.0
  word: str = ""


class Curve(NamedTuple):
  """Points by x, under a label; the method says the colour."""

  label: str
  method: str
  points: list[Point]


Panels = dict[str, list[Curve]]  # by title


def colour_index(sections: Iterable[Section]) -> dict[str, int]:
  """Number of each method, by order of appearance, which is that of its colour everywhere."""
  names = dict.fromkeys(result["method"] for section in sections for result in section.measured)
  return {name: i for i, name in enumerate(names)}


def plots(sections: Sequence[Section]) -> list[Plot]:
  """All plots that the data have: by section, then those over sections."""
  colours = colour_index(sections)
  made = [plot for section in sections for plot in _of_section(section, colours)]
  for device, scale in dict.fromkeys((r["device"], s.scale) for s in sections for r in s.measured):
    same = [r for s in sections if s.scale == scale for r in s.measured if r["device"] == device]
    if curves := over_size(same):
      axes = {"xlabel": "LR image, megapixels", "ylabel": "seconds per image", "xscale": "log", "yscale": "log"}
      title = f"Time over image size, x{scale}, on {device}"
      made.append(_plot(f"time-x{scale}-{device}", title, {"": curves}, colours, axes))
  names = _unique([plot.name for plot in made])
  return [plot._replace(name=name) for plot, name in zip(made, names)]


def _of_section(section: Section, colours: dict[str, int]) -> Iterator[Plot]:
  name, of = f"{section.set}-x{section.scale}", section.name
  psnr = "PSNR-Y, dB"
  if panels := over_steps(section.measured):
    axes = {"xlabel": _STEPS, "ylabel": psnr}
    yield _plot(f"{name}-steps", f"PSNR over steps, {of}: mean and one standard error", panels, colours, axes)
  if panels := quality(section.measured):
    axes = {"xlabel": "seconds per image", "ylabel": psnr, "xscale": "log"}
    yield _plot(f"{name}-quality", f"Quality against time, {of}: numbers are steps", panels, colours, axes)
  if curves := over_width(section.measured):
    axes = {"xlabel": _VARIANCE, "ylabel": psnr, "xscale": "log"}
    yield _plot(f"{name}-width", f"PSNR over kernel width, {of}: mean and one standard error", {"": curves}, colours, axes)


def _unique(names: Iterable[str]) -> list[str]:
  """Names as files can have them, none twice, also where case is nothing."""
  made: list[str] = []
  for name in names:
    stem = re.sub(r"[^A-Za-z0-9._]+", "-", name).strip("-.")[:80]
    tried = itertools.chain([stem], (f"{stem}-{i}" for i in itertools.count(2)))
    made.append(next(t for t in tried if t.lower() not in {m.lower() for m in made}))
  return made


def _values(result: dict[str, Any], key: str) -> list:
  return [image[key] for image in result["images"]]


def _point(x: float, result: dict[str, Any], word: str = "") -> Point | None:
  """The mean PSNR of a result; None where it is infinite."""
  values = _values(result, "psnr")
  if None in values:
    return None
  error = np.std(values, ddof=1) / math.sqrt(len(values)) if len(values) > 1 else 0.0
  return Point(x, float(np.mean(values)), float(error), word)


def _curves(points: Iterable[tuple[str, str, Point | None]]) -> list[Curve]:
  """Curves of (label, method, point)."""
  made: dict[str, Curve] = {}
  for label, method, point in points:
    if point:
      made.setdefault(label, Curve(label, method, [])).points.append(point)
  return [curve._replace(points=sorted(curve.points)) for curve in made.values()]


def _kernels(measured: Iterable[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
  made: dict[str, list[dict[str, Any]]] = {}
  for result in measured:
    made.setdefault(result["kernel"], []).append(result)
  return made


def over_steps(measured: Sequence[dict[str, Any]]) -> Panels:
  """By kernel: PSNR over the number of steps, of methods with two numbers or more."""
  panels = {
      kernel: [c for c in _curves((r["method"], r["method"], _point(r["steps"], r)) for r in of) if len(c.points) > 1]
      for kernel, of in _kernels(measured).items()
  }
  return {kernel: curves for kernel, curves in panels.items() if curves}


def variance(kernel: str) -> float | None:
  """Of an isotropic kernel "gaussian:VARIANCE"; None: it is another."""
  name, _, number = kernel.partition(":")
  try:
    value = float(number) if name == "gaussian" else math.nan
  except ValueError:
    return None
  return value if 0 < value < math.inf else None


def over_width(measured: Sequence[dict[str, Any]]) -> list[Curve]:
  """PSNR over the variance of Gaussian kernels, each method at its largest number of steps; needs two variances."""
  known = [(v, result) for result in measured if (v := variance(result["kernel"]))]
  most: dict[str, int] = {}
  for _, result in known:
    most[result["method"]] = max(result["steps"], most.get(result["method"], 0))
  curves = _curves((r["label"], r["method"], _point(v, r)) for v, r in known if r["steps"] == most[r["method"]])
  return [curve for curve in curves if len(curve.points) > 1]


def over_size(measured: Sequence[dict[str, Any]]) -> list[Curve]:
  """Seconds over LR megapixels: the mean over kernels and images of a size; needs two sizes."""
  times: dict[tuple[str, str, float], list[float]] = {}
  for result in measured:
    for image in result["images"]:
      if image["seconds"]:
        size = image["height"] * image["width"] / 1e6
        times.setdefault((result["label"], result["method"], size), []).append(image["seconds"])
  curves = _curves((label, method, Point(size, float(np.mean(of)))) for (label, method, size), of in times.items())
  return [curve for curve in curves if len(curve.points) > 1]


def quality(measured: Sequence[dict[str, Any]]) -> Panels:
  """By kernel: PSNR against the mean seconds of an image, of methods that were timed, the number of steps beside each."""
  panels = {}
  for kernel, of in _kernels(measured).items():
    timed = [r for r in of if all(_values(r, "seconds"))]
    word = lambda r: str(r["steps"]) if r["label"] != r["method"] else ""
    curves = _curves((r["method"], r["method"], _point(float(np.mean(_values(r, "seconds"))), r, word(r))) for r in timed)
    if sum(len(curve.points) for curve in curves) > 1:
      panels[kernel] = curves
  return panels


def _plot(name: str, title: str, panels: Panels, colours: dict[str, int], axes: dict[str, str]) -> Plot:
  return Plot(name, title, lambda theme: _draw(panels, colours, axes, theme))


def _draw(panels: Panels, colours: dict[str, int], axes: dict[str, str], theme: str) -> bytes:
  """A figure of a panel for each title, with one legend below them."""
  import matplotlib
  from matplotlib.backends.backend_agg import FigureCanvasAgg
  from matplotlib.figure import Figure

  ink, paper, grid = _THEMES[theme]
  settings = {
      "text.parse_math": False,  # names are the user's, dollars and all
      "font.size": 9,
      "axes.spines.top": False,
      "axes.spines.right": False,
      "axes.grid": True,
      "axes.axisbelow": True,
      "grid.color": grid,
      "grid.linewidth": 0.6,
      "figure.facecolor": paper,
      "axes.facecolor": paper,
      **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), ink),
  }
  with matplotlib.rc_context(settings):
    columns = min(len(panels), _COLUMNS)
    rows = math.ceil(len(panels) / columns)
    size = (3.3 * columns, 2.7 * rows) if len(panels) > 1 else (5.6, 3.6)
    labels = dict.fromkeys(curve.label for curves in panels.values() for curve in curves)
    legend_columns = min(len(labels), 2 if columns < _COLUMNS else 4)
    legend_height = 0.2 + 0.19 * math.ceil(len(labels) / legend_columns)  # inches
    figure = Figure(figsize=(size[0], size[1] + legend_height), layout="constrained")
    FigureCanvasAgg(figure)
    grid_of_axes = figure.subplots(rows, columns, squeeze=False, sharex=True).ravel()
    handles: dict[str, Any] = {}
    for axis, (title, curves) in zip(grid_of_axes, panels.items()):
      _panel(axis, curves, colours, axes, handles)
      axis.xaxis.set_tick_params(labelbottom=True)
      axis.set_title(title, fontsize=9, fontweight="bold", loc="left")
    for axis in grid_of_axes[len(panels) :]:
      axis.remove()
    named = [f" {label}" if label.startswith("_") else label for label in labels]  # matplotlib hides those with "_"
    figure.legend([handles[label] for label in labels], named, loc="outside lower center", frameon=False, ncols=legend_columns)
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=160, metadata={"Software": None})
  return png.getvalue()


def _panel(axis, curves: Sequence[Curve], colours: dict[str, int], axes: dict[str, str], handles: dict[str, Any]) -> None:
  """Draws curves, and adds to the handles of the legend."""
  from matplotlib import ticker

  axis.set(**axes)
  seen: dict[str, int] = {}
  for curve in curves:
    number = colours[curve.method]
    colour = COLOURS[number % len(COLOURS)]
    marker = _MARKERS[(number + number // len(COLOURS)) % len(_MARKERS)]
    dash = _DASHES[seen.setdefault(curve.method, 0) % len(_DASHES)]
    seen[curve.method] += 1
    x, y, error, _ = (np.array(values) for values in zip(*curve.points))
    line = axis.plot(x, y, linestyle=dash, color=colour, marker=marker, markersize=4.5, linewidth=1.5)[0]
    handles.setdefault(curve.label, line)
    if error.any() and not any(point.word for point in curve.points):
      axis.fill_between(x, y - error, y + error, color=colour, alpha=0.15, linewidth=0)
    for point in curve.points:
      axis.annotate(point.word, (point.x, point.y), (4, 4), textcoords="offset points", fontsize=8, color=colour)
  axis.margins(0.1)
  values_of_axes = zip(*(point[:2] for curve in curves for point in curve.points))
  for direction, key, values in zip((axis.xaxis, axis.yaxis), ("xscale", "yscale"), values_of_axes):
    if axes.get(key) == "log":
      direction.set_major_locator(ticker.LogLocator(subs=(1, 2, 5) if max(values) < 50 * min(values) else (1,)))
      direction.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:g}"))
      direction.set_minor_formatter(ticker.NullFormatter())
  if axes["xlabel"] == _STEPS:
    axis.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
  elif axes["xlabel"] == _VARIANCE:
    axis.set_xticks(sorted({point.x for curve in curves for point in curve.points}), minor=False)
    axis.set_xticks([], minor=True)
