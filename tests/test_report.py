"""Reports: what is read of results, what the tables say, which plots there are, and the page in a real browser."""

import base64
import html.parser
import io
import json
import os
import re
import select
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from test_cli import assert_one_line, run_entry

from experiments.report import __main__ as report
from experiments.report import plots, read
from mzsr_jax.errors import UserError

EVIL = "mzsr:<script>alert(1)</script>"
ALSO_EVIL = '"><img src=x onerror=alert(1)>|$x_{$'
KERNELS = ("g20d", "gaussian:1", "gaussian:3")
RESULTS = (("bicubic", 0, 30.0), (EVIL, 0, 31.0), (EVIL, 1, 33.0), (EVIL, 10, 34.0), (ALSO_EVIL, 0, 32.0))


def _png(seed: int) -> bytes:
  png = io.BytesIO()
  Image.fromarray(np.random.default_rng(seed).integers(0, 256, (16, 16, 3), np.uint8)).save(png, "PNG")
  return png.getvalue()


def _line(method, kernel, results, *, set_="Set<5>", quoted=False, identity=None, images=3, crops=()):
  """A line as sweep.py writes it. Args: results: (steps, PSNR); the images have that PSNR and 1 dB less and more, and so on."""
  made = []
  for steps, psnr in results:
    made.append({"method": method, "steps": steps, "psnr": psnr, "ssim": 0.9 + psnr / 1000 if psnr else 1.0})
    if not quoted:
      offsets = np.arange(images) - (images - 1) / 2
      made[-1]["images"] = [
          {
              "name": f"im{i}", "psnr": None if psnr is None else psnr + offset + 0.1 * i * steps, "ssim": 0.9,
              "seconds": 0.01 * (1 + steps) * (i + 1), "height": 20 * (i + 1), "width": 30,
          }
          for i, offset in enumerate(offsets)
      ]  # fmt: skip
  cell = {"set": set_, "method": "paper" if quoted else method, "kernel": kernel, "scale": 2}
  return {
      "cell": cell, "quoted": quoted, "results": made, "crops": list(crops),
      "identity": identity or json.dumps([cell, None]), "versions": {"jax": "0.10"}, "commit": "0" * 40 + "+",
      "device": "cpu", "time": "2026-01-02T03:04:05+00:00",
  }  # fmt: skip


def _write(path, lines):
  path.write_text("".join(json.dumps(line) + "\n" for line in lines))
  return path


@pytest.fixture(scope="module")
def results(tmp_path_factory):
  """A file of two sets, three methods, three kernels and quoted lines, with crops."""
  folder = tmp_path_factory.mktemp("report")
  (folder / "crops").mkdir()
  lines = []
  for set_ in ("Set<5>", "B"):
    for kernel in KERNELS[: 3 if set_ != "B" else 1]:
      for method in dict.fromkeys(method for method, *_ in RESULTS):
        values = [(steps, psnr) for name, steps, psnr in RESULTS if name == method]
        crops = []
        for image in ("im0", "im1"):
          for steps in (None, *(steps for steps, _ in values)):
            name = f"crops/{len(lines)}_{len(crops)}.png"
            (folder / name).write_bytes(_png(100 * len(lines) + len(crops)))
            crops.append({"image": image, "steps": steps, "path": name})
        lines.append(_line(method, kernel, values, set_=set_, crops=crops))
  lines.append(_line("MZSR (1)", "g20d", [(0, 99.0)], quoted=True))
  return _write(folder / "a.jsonl", lines)


def _report(monkeypatch, *args):
  return run_entry(monkeypatch, report.main, report.define_flags, *args)


@pytest.fixture(scope="module")
def made(results, tmp_path_factory):
  """The report of `results`."""
  out = tmp_path_factory.mktemp("out") / "report"
  with pytest.MonkeyPatch.context() as monkeypatch:
    assert _report(monkeypatch, f"--results={results}", f"--out={out}") == 0
  return out


def _cells(line):
  return [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def test_markdown_tables(made):
  text = (made / "report.md").read_text()
  assert "<script>" not in text and "<img" not in text
  lines = {_cells(line)[0]: _cells(line)[1:] for line in text.split("## ")[1].splitlines() if line.startswith("| ")}
  assert lines[""] == list(KERNELS)
  assert lines["bicubic"] == ["30.00 / 0.9300"] * 3
  assert lines["mzsr:&lt;script&gt;alert(1)&lt;/script&gt; (10)"] == ["**34.00** / **0.9340**"] * 3
  assert lines["MZSR (1) (quoted)"] == ["99.00 / 0.9990", "–", "–"]  # never the best
  assert text.count("**") == 4 * 2 * 2  # two values of three columns, and of one
  differences = {_cells(line)[0]: _cells(line)[1:] for line in text.split("## ")[2].splitlines() if line.startswith("| ")}
  assert "bicubic" not in differences and len(differences) == 2 + 4
  # Image i of three is better by 4 + i dB: 5 in the mean, 4 and 6 at the most.
  assert differences["mzsr:&lt;script&gt;alert(1)&lt;/script&gt; (10)"][0] == "+5.00 [+4.00, +6.00]"


def test_plots_are_those_that_the_data_have(made, results):
  names = {path.name for path in made.glob("*.png")}
  assert names == {f"Set-5-x2-{name}.png" for name in ("steps", "width", "quality")} | {
      "B-x2-steps.png", "B-x2-quality.png", "time-x2-cpu.png"
  }  # fmt: skip
  assert all(np.ptp(np.asarray(Image.open(path))) > 200 for path in made.glob("*.png"))
  section = read.sections(read.read([results]))[0]
  (curve,) = plots.over_steps(section.measured)["g20d"]
  assert [point.x for point in curve.points] == [0, 1, 10]
  assert np.allclose([point.y for point in curve.points], [31, 33.1, 35]) and np.isclose(curve.points[0].error, 1 / 3**0.5)
  assert {c.label: [p.x for p in c.points] for c in plots.over_width(section.measured)} == dict.fromkeys(
      ("bicubic", f"{EVIL} (10)", ALSO_EVIL), [1, 3]
  )
  sizes = {c.label: c.points for c in plots.over_size(section.measured)}
  assert np.allclose([point[:2] for point in sizes[f"{EVIL} (1)"]], [[0.0006, 0.02], [0.0012, 0.04], [0.0018, 0.06]])
  words = [point.word for curve in plots.quality(section.measured)["g20d"] for point in curve.points]
  assert words == ["", "0", "1", "10", ""]


def test_what_is_infinite_or_alone_is_not_plotted(tmp_path, monkeypatch):
  lines = [_line(method, "g20d", [(0, psnr)], images=1) for method, psnr in (("bicubic", None), ("zssr", 30.0))]
  path = _write(tmp_path / "a.jsonl", lines)
  assert _report(monkeypatch, f"--results={path}", f"--out={tmp_path}/out") == 0
  text = (tmp_path / "out" / "report.md").read_text()
  assert "**∞** / **1.0000**" in text and "? [?, ?]" in text and "mean over 1 image;" in text
  assert sorted(os.listdir(tmp_path / "out")) == ["report.html", "report.md"]


def test_only_the_same_images_are_compared(tmp_path, monkeypatch):
  a, b = _line("bicubic", "g20d", [(0, 30.0)]), _line("zssr", "g20d", [(0, 32.0)])
  b["results"][0]["images"].reverse()
  path = _write(tmp_path / "a.jsonl", [a, b, _line("folder:A", "g20d", [(0, 35.0)], images=2)])
  assert _report(monkeypatch, f"--results={path}", f"--out={tmp_path}/out", "--compare_with=zssr") == 0
  values, differences = (tmp_path / "out" / "report.md").read_text().split("## ")[1:]
  assert "mean over 2–3 images, not the same for all" in values and "folder:A" in values
  assert "| bicubic | -2.00 [-2.00, -2.00] |" in differences and "folder:A" not in differences


def test_names_of_plots_are_names_of_files():
  assert plots._unique(["../a b", "a-b", "A-B", "x"]) == ["a-b", "a-b-2", "A-B-3", "x"]
  assert [plots.variance(k) for k in ("gaussian:2.5", "g20d", "gaussian:4x1x-0.5", "gaussian:-1", "gaussian:nan")] == [
      2.5, None, None, None, None
  ]  # fmt: skip


def test_of_the_same_cell_the_last_counts_and_a_torn_last_line_is_left_out(tmp_path, capsys):
  first = _line("bicubic", "g20d", [(0, 30.0)], identity="x")
  a = _write(tmp_path / "a.jsonl", [first, _line(EVIL, "g20d", [(0, 30.0), (1, 30.0)], identity='[{}, "old"]')])
  b = _write(tmp_path / "b.jsonl", [_line("bicubic", "g20d", [(0, 31.0)], identity="x")])
  more = _line(EVIL, "g20d", [(0, 33.0)], identity='[{}, "new"]')
  c = _write(tmp_path / "c.jsonl", [_line("bicubic", "g20d", [(0, 32.0)], identity="of fewer images"), more])
  b.write_text(b.read_text() + a.read_text()[:40])
  assert [line["results"][0]["psnr"] for line in read.read([a, b, c])] == [31, 30, 32, 33]
  assert capsys.readouterr().err == f"warning: '{b}', line 2, is not whole: left out\n"
  (section,) = read.sections(read.read([a, b, c]))
  assert [(result["steps"], result["psnr"]) for result in section.measured] == [(0, 32), (0, 33)]


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda line: line.pop("cell"), "cell is missing"),
        (lambda line: line["cell"].update(scale=True), "cell.scale is true"),
        (lambda line: line["results"][0].update(psnr="x"), r'results\[0\].psnr is "x"'),
        (lambda line: line["results"][0]["images"][1].pop("name"), r"results\[0\].images\[1\].name is missing"),
        (lambda line: line["results"][0].update(images=[]), "images is empty"),
        (lambda line: line.update(crops=[3]), r"crops\[0\] must be an object"),
        (lambda line: line["results"][0].update(psnr=float("nan")), "NaN"),
        (lambda line: line["cell"].update(method="\ud800"), "surrogates"),
    ],
)
def test_bad_lines_are_named(tmp_path, change, words):
  line = _line("bicubic", "g20d", [(0, 30.0)])
  change(line)
  path = _write(tmp_path / "a.jsonl", [_line("bicubic", "g02d", [(0, 30.0)]), line])
  with pytest.raises(UserError, match=f"a.jsonl', line 2,.*{words}"):
    read.read([path])


def test_wrong_input(monkeypatch, capsys, tmp_path, results, made):
  bad = tmp_path / "bad.jsonl"
  bad.write_text("\nno\n")
  empty = _write(tmp_path / "empty.jsonl", [])
  nothing = _write(tmp_path / "nothing.jsonl", [_line("MZSR", "gaussian:1", [], quoted=True)])
  crop = {"image": "im0", "steps": None, "path": "a.png"}
  lost = _write(tmp_path / "lost.jsonl", [_line("bicubic", "g20d", [(0, 30.0)], crops=[crop])])
  for args, words in (
      ((f"--results={tmp_path}/none.jsonl", "--out=o"), ["none.jsonl", "No such file"]),
      ((f"--results={bad}", "--out=o"), ["bad.jsonl', line 1,", "JSON"]),
      ((f"--results={empty}", "--out=o"), ["no finished cell"]),
      ((f"--results={nothing}", "--out=o"), ["no result"]),
      ((f"--results={lost}", f"--out={tmp_path}/o"), ["a.png", "No such file"]),
      ((f"--results={results}", f"--out={made}"), ["report.md", "--overwrite"]),
      ((f"--results={results}", f"--out={tmp_path}/o", "--compare_with=zssr"), ["--compare_with='zssr'", "bicubic"]),
  ):
    assert _report(monkeypatch, *args) == 2
    assert_one_line(capsys, *words)
  assert not (tmp_path / "o").exists()


class _Tags(html.parser.HTMLParser):
  """All tags of a page, and every attribute that could name a place."""

  def __init__(self, text):
    super().__init__()
    self.tags, self.places, self.text = [], [], []
    self.feed(text)

  def handle_starttag(self, tag, attrs):
    self.tags.append(tag)
    self.places += [value for name, value in attrs if name in ("src", "srcset", "href", "action", "data")]
    assert not any(name.startswith("on") or name == "style" for name, _ in attrs)

  def handle_data(self, data):
    self.text.append(data)


def test_the_page_stands_alone_and_escapes(made):
  page = _Tags((made / "report.html").read_text())
  assert page.tags.count("script") == 1 and page.places and all(place.startswith("data:") for place in page.places)
  text = "".join(page.text)
  assert f"{EVIL} (10)" in text and ALSO_EVIL in text
  assert "mzsr:<wbr>&lt;script" in (made / "report.html").read_text()  # names go on in a new line between their parts
  assert page.tags.count("img") == 6 + 4 * 2 * (1 + 5)  # plots; kernels of both sets, images, truth and results


# Chromium speaks its debugging protocol on the file descriptors 3 and 4.
_LAUNCH = """
import fcntl, os, sys
ends = [fcntl.fcntl(int(end), fcntl.F_DUPFD, 10) for end in sys.argv[1:3]]
for number, end in enumerate(ends, 3):
  os.dup2(end, number)
os.execv(sys.argv[3], sys.argv[3:])
"""
_FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--remote-debugging-pipe", "--window-size=1280,900",
)  # fmt: skip


class _Browser:
  """A page in Chromium; keeps all events that the page gives rise to."""

  def __init__(self, program, profile, address):
    theirs, self._to = os.pipe()
    self._from, theirs_too = os.pipe()
    command = [sys.executable, "-ISc", _LAUNCH, str(theirs), str(theirs_too), program, *_FLAGS, f"--user-data-dir={profile}"]
    self._process = subprocess.Popen(command, pass_fds=(theirs, theirs_too), stderr=subprocess.DEVNULL)
    os.close(theirs)
    os.close(theirs_too)
    self.events, self._count, self._buffer, self._session = [], 0, b"", {}
    target = self.call("Target.createTarget", url="about:blank")["targetId"]
    self._session = {"sessionId": self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]}
    for domain in ("Page", "Runtime", "Network", "Log"):
      self.call(f"{domain}.enable")
    self.call("Page.navigate", url=address)
    while not self.seen("Page.loadEventFired"):
      self._read()

  def _read(self):
    while b"\0" not in self._buffer:
      # It starts anew for each test, and others may use all cores.
      assert select.select([self._from], [], [], 180)[0], "the browser does not answer"
      got = os.read(self._from, 2**20)
      assert got, "the browser has ended"
      self._buffer += got
    message, _, self._buffer = self._buffer.partition(b"\0")
    message = json.loads(message)
    self.events += [message] if "method" in message else []
    return message

  def call(self, method, **params):
    self._count += 1
    message = {"id": self._count, "method": method, "params": params, **self._session}
    os.write(self._to, json.dumps(message).encode() + b"\0")
    while (answer := self._read()).get("id") != self._count:
      pass
    assert "error" not in answer, answer
    return answer["result"]

  def seen(self, method):
    return [event["params"] for event in self.events if event["method"] == method]

  def js(self, expression):
    answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
    assert "exceptionDetails" not in answer, answer
    return answer["result"].get("value")

  def mouse(self, kind, x, y, **more):
    self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, **more)
    self.js("new Promise(done => requestAnimationFrame(() => setTimeout(done)))")

  def screenshot(self):
    return Image.open(io.BytesIO(base64.b64decode(self.call("Page.captureScreenshot")["data"]))).convert("RGB")

  def close(self):
    os.close(self._to)  # it ends when nobody speaks to it
    os.close(self._from)
    try:
      self._process.wait(10)
    except subprocess.TimeoutExpired:
      self._process.kill()
      self._process.wait()


@pytest.fixture
def browser(made, tmp_path):
  """The report in a browser."""
  program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
  if not program:
    pytest.skip("no chromium, chromium-browser or google-chrome to look at the page with")
  opened = _Browser(program, tmp_path, (made / "report.html").as_uri())
  yield opened
  opened.close()


def _column(browser, column):
  """Texts of a column of the first table, a list for each part of it."""
  cells = f"[...body.rows].map(row => row.cells[{column}].textContent)"
  return browser.js(f"[...document.querySelector('table').tBodies].map(body => {cells})")


def test_the_page_in_a_browser(browser):
  transform = "getComputedStyle([...document.querySelectorAll('.group:not([hidden]) .view img')].at({})).transform"
  # Tables: from the largest on, then turned round; quoted lines by themselves.
  assert _column(browser, 0)[0][0] == "bicubic"
  click = lambda column: browser.js(f"document.querySelectorAll('table')[0].querySelectorAll('thead button')[{column}].click()")
  psnrs = lambda: [float(text.split()[0]) for text in _column(browser, 1)[0]]
  click(1)
  assert psnrs() == [34, 33, 32, 31, 30] and _column(browser, 0)[1] == ["MZSR (1) (quoted)"]
  click(1)
  assert psnrs() == [30, 31, 32, 33, 34]

  # Menus show one group of crops.
  assert browser.js("document.querySelectorAll('.bar select').length") == 3
  shown = "[...document.querySelectorAll('.group')].filter(g => g.offsetParent).map(g => [g.dataset.image, g.dataset.kernel])"
  assert browser.js(shown) == [["im0", "g20d"]]
  choose = "(([menu, value]) => { menu.value = value; menu.dispatchEvent(new Event('change')) })"
  browser.js(f"{choose}([document.querySelectorAll('.bar select')[2], 'gaussian:3'])")
  browser.js(f"{choose}([document.querySelectorAll('.bar select')[1], 'im1'])")
  assert browser.js(shown) == [["im1", "gaussian:3"]]
  browser.js(f"{choose}([document.querySelectorAll('.bar select')[0], 'B x2'])")
  assert browser.js(shown) == [["im1", "g20d"]]

  # The wheel, dragging and keys move all crops in step.
  browser.js("document.querySelector('#crops').scrollIntoView()")
  box = browser.js("(b => [b.x, b.y, b.width])(document.querySelector('.group:not([hidden]) .view').getBoundingClientRect())")
  x, y = box[0] + box[2] / 2, box[1] + box[2] / 2
  browser.mouse("mouseWheel", x, y, deltaX=0, deltaY=-500)
  zoomed = [float(part) for part in re.findall(r"[-\d.]+", browser.js(transform.format(0)))]
  assert np.isclose(zoomed[0], np.e, rtol=0.01) and np.isclose(zoomed[4], -(np.e - 1) * box[2] / 2, rtol=0.02)
  browser.mouse("mousePressed", x, y, button="left", clickCount=1)
  browser.mouse("mouseMoved", x + 30, y - 20, button="left", buttons=1)
  browser.mouse("mouseReleased", x + 30, y - 20, button="left", clickCount=1)
  dragged = [float(part) for part in re.findall(r"[-\d.]+", browser.js(transform.format(-1)))]
  assert np.allclose(np.subtract(dragged, zoomed)[4:], [30, -20], atol=0.5)
  browser.js("document.querySelector('.group:not([hidden]) .grid').focus()")
  browser.call("Input.dispatchKeyEvent", type="keyDown", key="0")
  assert browser.js(transform.format(0)) == "matrix(1, 0, 0, 1, 0, 0)"

  sources = "new Set([...document.querySelectorAll('.group:not([hidden]) .view img')].map(image => image.src)).size"
  assert browser.js(sources) == 6
  browser.call("Input.dispatchKeyEvent", type="keyDown", key="t")
  assert browser.js(sources) == 1
  browser.call("Input.dispatchKeyEvent", type="keyUp", key="t")
  assert browser.js(sources) == 6

  # All that was asked for is in the file, nothing failed, and something is to be seen, in the dark too.
  assert browser.js("[...document.images].every(image => image.complete && image.naturalWidth)")
  assert not browser.seen("Runtime.exceptionThrown") and not browser.seen("Runtime.consoleAPICalled")
  assert not browser.seen("Log.entryAdded") and not browser.seen("Page.javascriptDialogOpening")
  addresses = [event["request"]["url"] for event in browser.seen("Network.requestWillBeSent")]
  assert addresses and all(address.startswith(("file:", "data:")) for address in addresses)
  light = np.asarray(browser.screenshot())
  browser.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark"}])
  dark = np.asarray(browser.screenshot())
  assert light[0, 0].min() > 250 and dark[0, 0].max() < 50 and min(light.std(), dark.std()) > 20


def test_on_a_phone_crops_stand_side_by_side_and_tables_show_two_columns(browser, tmp_path):
  browser.call("Emulation.setDeviceMetricsOverride", width=390, height=844, deviceScaleFactor=2, mobile=True)
  assert browser.js("document.documentElement.scrollWidth") == 390
  grid = "getComputedStyle(document.querySelector('.group:not([hidden]) .grid')).gridTemplateColumns.split(' ').length"
  assert browser.js(grid) == 2
  right = "[...document.querySelector('table').rows].map(row => row.cells[2].getBoundingClientRect().right)"
  assert max(browser.js(right)) < 390
  if folder := os.environ.get("MZSR_TEST_SCREENS"):
    browser.screenshot().save(f"{folder}/report_phone.png")


def test_without_scripts_all_is_there(browser):
  browser.call("Emulation.setScriptExecutionDisabled", value=True)
  browser.call("Page.reload")
  while len(browser.seen("Page.loadEventFired")) < 2:
    browser._read()
  assert browser.js("document.querySelectorAll('button, select').length") == 0
  assert browser.js("[...document.querySelectorAll('.group, .group h3')].every(each => each.offsetHeight > 10)")
