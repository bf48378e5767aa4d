"""The demo: its jobs within limits, their files, what its server refuses, and the page in a real browser."""

import collections
import concurrent.futures
import http.client
import importlib.util
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
import tifffile
from PIL import Image
from test_cli import assert_one_line, run_entry
from test_report import _Browser

from mzsr_jax import images, weights
from mzsr_jax.demo import __main__ as demo
from mzsr_jax.demo import jobs
from mzsr_jax.demo.jobs import AUTO, CUSTOM, FILE, JobManager, JobRequest, Limits
from mzsr_jax.errors import UserError
from mzsr_jax.inference.tiled import TiledAdapter
from mzsr_jax.photo import blind, enhance, kernel_files
from mzsr_jax.photo import file as photo_file

RNG = np.random.default_rng(0)
CHOSEN = "x2_direct"  # compiled sooner than the default, and adapted by steps
EVIL = "<img src=x onerror=alert(1)>"


@pytest.fixture
def manager(tmp_path, monkeypatch):
  monkeypatch.setattr(weights, "DEFAULT", CHOSEN)
  return JobManager(tmp_path / "files", Limits(0.01, 100))


def give(manager, name, data) -> pathlib.Path:
  """A file, as an upload leaves it."""
  path = manager.folder / os.urandom(8).hex() / name
  path.parent.mkdir()
  path.write_bytes(data)
  return path


def give_photo(manager, name="photo.png", size=(20, 24), **fields) -> pathlib.Path:
  y, x = np.mgrid[: size[0], : size[1]] / 5
  rgb = (0.5 + 0.3 * np.stack([np.sin(x + y), np.cos(x), np.sin(y)], -1)).astype(np.float32)
  return give(manager, name, photo_file.encode(photo_file.Photo(rgb, **fields), images.FORMATS[pathlib.Path(name).suffix]))


def left(manager) -> list[str]:
  return sorted(path.name for path in manager.folder.rglob("*") if path.is_file())


def run(manager, wanted, visit="a") -> list:
  manager.begin(visit)
  return list(manager.run(visit, wanted))


def test_a_job_from_photo_to_file(manager):
  alpha = np.tile(np.linspace(0, 1, 24, dtype=np.float32), (20, 1))
  metadata = photo_file.Metadata(texts=(("Author", "me"),))
  source = give_photo(manager, bits=16, alpha=alpha, metadata=metadata)
  line, preview = manager.look("a", source)
  assert line == "photo.png: 24×20, 16 bits, transparency." and images.image_size(preview) == (20, 24)
  manager.begin("a")
  seen = []
  for view in manager.run("a", JobRequest(source, "g20d", steps=2, noise_level=1)):
    assert not view.failed and all(images.image_size(path) == (40, 48) for path in view.pair)
    seen.append(view)
  assert [re.sub(r", [\d.]+ s$", "", view.status) for view in seen] == [
      "Adapting …", "Step 0 of 2", "Step 1 of 2", "Done: 24×20 → 48×40, 2 steps"
  ]  # fmt: skip
  assert len({view.pair[1] for view in seen}) == 4 and seen[-1].kernel_text == "Gaussian, variance 2.0"
  assert seen[-1].noise_text == "1.0 of 255"
  assert not seen[-1].kernel_file and images.image_size(seen[-1].kernel)

  photo, loaded = photo_file.read(source), weights.load(CHOSEN)
  params, rates = loaded.params, loaded.inner_lrs(2)
  degradation = kernel_files.load_degradation("g20d", photo_scale=2).replace(noise_std=1 / 255)
  recipe = enhance.Recipe(params, rates, degradation, 2.0, 2.0)
  adapter = TiledAdapter()
  (adapted,) = enhance.adapt(adapter, photo.rgb, recipe, [2])
  assert seen[-1].result.name == "photo_x2.png"
  assert seen[-1].result.read_bytes() == photo_file.encode(enhance.enlarge(adapter, adapted, photo, recipe), "PNG")
  result = photo_file.read(seen[-1].result)
  assert result.bits == 16 and result.alpha is not None and result.metadata.texts == metadata.texts
  assert left(manager) == ["bicubic.png", "kernel.png", "photo.png", "photo.png", "photo_x2.png", "step_1.png", "step_2.png"]

  # The next photo takes the place of this one, and nothing is left of a page that is closed.
  manager.look("a", give_photo(manager, "next.jpg"))
  assert not source.exists()
  manager.leave("a")
  assert not list(manager.folder.iterdir())


def test_the_estimated_kernel_can_be_taken_along(manager, tmp_path):
  views = run(manager, JobRequest(give_photo(manager, "photo.jpg"), AUTO, steps=0, scale=1.5, png=True))
  assert views[0].status.startswith("Estimating") and views[-1].result.name == "photo_x1.5.png", views
  assert images.image_size(views[-1].result) == (30, 36)
  kernel = kernel_files.read_kernel(views[-1].kernel_file)
  photo = photo_file.read(next(manager.folder.glob("*/photo.jpg")))
  estimate = blind.estimate_photo(photo.rgb, 2.0)
  np.testing.assert_allclose(kernel, estimate.kernel, atol=1e-6)
  assert views[-1].kernel_text == estimate.text and views[-1].noise_text == f"{255 * enhance.noise_std(photo):.1f} of 255"
  path = give(manager, "own.npy", b"")
  np.save(path, kernel)
  again = run(manager, JobRequest(give_photo(manager, "photo.tif"), FILE, kernel_file=path, steps=0))
  assert again[-1].result.name == "photo_x2.tif" and again[-1].kernel_text == "own.npy"
  own = run(manager, JobRequest(give_photo(manager), CUSTOM, " gaussian:1.5 ", steps=0))
  assert own[-1].result and own[-1].kernel_text == "gaussian:1.5"


def _png() -> bytes:
  return images.encode_png(RNG.integers(0, 256, (9, 9, 3), dtype=np.uint8))


@pytest.mark.parametrize("name, data, wanted, words",
    [
        (None, b"", {}, ["No photo"]),
        ("text.png", b"not a picture", {}, ["text.png", "cannot be read"]),
        (f"{EVIL}.png", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", {}, [EVIL, "cannot be read"]),
        ("a.gif", b"GIF89a", {}, ["a.gif", ".png"]),
        ("cut.png", _png()[:-60], {}, ["cut.png", "cannot be read"]),
        ("a.png", "large", {}, ["may have 0.01", "smaller"]),
        ("a.tif", "large", {}, ["may have 0.01", "smaller"]),
        ("a.png", _png(), {"kernel": "photo.npy"}, ["unknown kernel"]),
        ("a.png", _png(), {"kernel": CUSTOM, "gaussian": "../a.npy"}, ["gaussian:../a.npy", "VARIANCE"]),
        ("a.png", _png(), {"kernel": CUSTOM, "gaussian": "99"}, ["99", "variances"]),
        ("a.png", _png(), {"kernel": FILE}, ["no kernel file"]),
        ("a.png", _png(), {"kernel": FILE, "kernel_file": "text"}, ["k.npy", "cannot be read"]),
        ("a.png", _png(), {"kernel": FILE, "kernel_file": np.ones((103, 103))}, ["103", "101"]),
        ("a.png", _png(), {"kernel": "g20d", "scale": float("nan")}, ["scale"]),
        ("a.png", _png(), {"kernel": "g20d", "steps": 10**9}, ["steps"]),
    ],
)
def test_what_cannot_be_done_is_said(manager, name, data, wanted, words):
  if data == "large" and name.endswith("png"):
    source = give_photo(manager, name, (101, 101))
  elif data == "large":  # in a layout that Pillow does not know
    source = give(manager, name, b"")
    tifffile.imwrite(source, np.zeros((101, 101, 3), np.uint16), photometric="rgb")
  else:
    source = name and give(manager, name, data)
  wanted = JobRequest(source, **{"kernel": "g20d", **wanted})
  if wanted.kernel_file is not None:
    path = give(manager, "k.npy", b"text")
    if not isinstance(wanted.kernel_file, str):
      np.save(path, wanted.kernel_file)
    wanted = wanted._replace(kernel_file=path)
  (view,) = run(manager, wanted)
  assert view.failed and not view.pair and not view.result
  for word in words:
    assert word.lower() in view.status.lower(), view.status
  assert str(manager.folder) not in view.status and "\n" not in view.status
  manager.leave("a")
  assert not list(manager.folder.iterdir())


def test_files_of_others_are_none_of_a_pages(manager, tmp_path):
  images.write_png(tmp_path / "secret.png", np.zeros((9, 9, 3), np.uint8))
  (view,) = run(manager, JobRequest(tmp_path / "secret.png", "g20d"))
  assert view.failed and "no file" in view.status and (tmp_path / "secret.png").exists()
  # One file that two pages gave stays until both are closed.
  source = give_photo(manager)
  manager.look("a", source)
  manager.look("b", source)
  manager.leave("a")
  assert source.exists()
  manager.leave("b")
  assert not source.exists() and not list(manager.folder.iterdir())


def test_a_job_ends_when_cancelled_left_or_out_of_time(manager, monkeypatch):
  wanted = JobRequest(give_photo(manager), "g20d", steps=jobs.MAX_STEPS)

  def started(visit):
    manager.begin(visit)
    views = manager.run(visit, wanted)
    while not next(views).status.startswith("Step 1"):
      pass
    return views

  views = started("a")
  manager.cancel("a")
  (last,) = views
  assert last.failed and last.status == "cancelled" and left(manager) == ["photo.png"]
  (waiting,) = manager.run("a", wanted)  # what was cancelled while it waited never begins
  assert waiting.status == "cancelled"
  assert run(manager, wanted._replace(steps=0))[-1].result  # and the next one is another

  views = started("b")
  manager.leave("b")
  list(views)
  manager.leave("a")
  assert not list(manager.folder.iterdir())
  assert not list(manager.run("b", wanted))

  wanted = wanted._replace(photo=give_photo(manager))
  views = started("a")
  monkeypatch.setattr(manager, "limits", Limits(0.01, 0.001))
  (last,) = views
  assert last.failed and "0.001 s" in last.status and left(manager) == ["photo.png"]


def test_few_may_wait(manager):
  for i in range(jobs.MAX_WAITING):
    manager.begin(f"{i}")
  manager.begin("0")
  with pytest.raises(ValueError, match="waiting"):
    manager.begin("another")
  manager.leave("1")
  manager.begin("another")
  assert next(manager.run("0", JobRequest(None))).failed  # its turn has come
  manager.begin("one more")


def test_a_place_is_not_kept_for_those_who_never_work(manager, monkeypatch):
  clock = [time.monotonic()]
  monkeypatch.setattr(jobs.time, "monotonic", lambda: clock[0])
  fill = lambda: [manager.begin(f"{i}") for i in range(jobs.MAX_WAITING)]

  def is_full():
    try:
      manager.begin("another")
    except UserError:
      return True
    manager.leave("another")
    return False

  fill()
  clock[0] += jobs._PATIENCE - 1
  assert is_full()
  clock[0] += 1
  assert not is_full()
  # While somebody is at work, all wait for as long as those before them may take.
  fill()
  with manager._busy:
    clock[0] += 9 * manager.limits.seconds - 1
    assert is_full()
    clock[0] += 1
    assert not is_full()
  # What is given up is free at once.
  fill()
  assert is_full()
  manager.give_up("3")
  assert not is_full()


def step_by(monkeypatch, rate):
  """All weights have this rate, of gradient steps."""
  load = weights.load
  monkeypatch.setattr(weights, "load", lambda name: load(name)._replace(inner_rule="gradient", rates=[rate]))


@pytest.mark.parametrize("rate", [1e4, 1e30])
def test_of_steps_that_diverge_the_best_state_before_is_shown(manager, caplog, monkeypatch, rate):
  step_by(monkeypatch, rate)
  view = run(manager, JobRequest(give_photo(manager), "g20d", steps=jobs.MAX_STEPS))[-1]
  assert "diverged" in caplog.text and not view.failed
  plain = run(manager, JobRequest(give_photo(manager), "g20d", steps=0))[-1]
  np.testing.assert_array_equal(photo_file.read(view.result).rgb, photo_file.read(plain.result).rgb)


def test_a_result_without_likeness_is_none(manager, monkeypatch):
  monkeypatch.setattr(enhance, "_DIVERGED", np.inf)
  step_by(monkeypatch, 1e4)
  view = run(manager, JobRequest(give_photo(manager), "g20d", steps=jobs.MAX_STEPS))[-1]
  assert view.failed and "diverged at step" in view.status and view.result is None


def test_a_bug_ends_the_job_alone(manager, monkeypatch):
  with monkeypatch.context() as patch:
    patch.setattr(enhance, "enlarge", lambda *_: 1 / 0)
    view = run(manager, JobRequest(give_photo(manager), "g20d", steps=jobs.MAX_STEPS))[-1]
  assert view.failed and "failed" in view.status and "division" not in view.status
  assert run(manager, JobRequest(give_photo(manager), "g20d", steps=0))[-1].result


def test_the_example_is_the_photo_of_the_readme(manager):
  readme = pathlib.Path(__file__).parents[1] / "experiments" / "photo.png"
  np.testing.assert_array_equal(images.read_image(manager.example("a")), images.read_image(readme))


def _main(monkeypatch, *args):
  return run_entry(monkeypatch, demo.main, demo.define_flags, "--compilation_cache=", *args)


def test_no_steps_are_proposed_where_the_weights_gain_nothing_by_them(monkeypatch):
  assert jobs.default_steps() == enhance.default_steps(weights.load(weights.DEFAULT)) == 0
  monkeypatch.setattr(weights, "DEFAULT", "x2_direct")
  assert jobs.default_steps() == jobs.MAX_STEPS


def test_wrong_flags_and_no_gradio(monkeypatch, capsys):
  for args, words in [
      (["--max_megapixels=0"], ["max_megapixels"]),
      (["--max_seconds=nan"], ["max_seconds"]),
      (["--port=70000"], ["port"]),
      (["stray"], ["stray"]),
  ]:
    assert _main(monkeypatch, *args) == 2
    assert_one_line(capsys, *words)
  monkeypatch.setitem(sys.modules, "gradio", None)
  assert _main(monkeypatch, "--port=0") == 2
  assert_one_line(capsys, "pip install", "gradio")


def test_gradio_is_loaded_by_the_page_alone():
  """And the page by nothing but what is done when the demo is run."""
  sources = {path.name: path.read_text() for path in pathlib.Path(demo.__file__).parent.glob("*.py")}
  using = lambda pattern: [name for name, text in sources.items() if re.search(pattern, text, re.M)]
  assert using(r"^(import|from) gradio\b") == ["page.py"]
  assert using(r"^(from|import) mzsr_jax.*\bpage\b") == []


def test_a_port_that_is_taken():
  with socket.socket() as taken:
    taken.bind(("127.0.0.1", 0))
    taken.listen()
    port = taken.getsockname()[1]
    assert demo.free_port("127.0.0.1", port) > port
  with pytest.raises(ValueError, match="no address of this machine"):
    demo.free_port("192.0.2.1", 7860)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
  """(process, port, temporary folder) of the real command."""
  if not importlib.util.find_spec("gradio"):
    pytest.skip("gradio is not installed: pip install '.[demo]'")
  folder = tmp_path_factory.mktemp("demo")
  env = {**os.environ, "TMPDIR": str(folder), "GRADIO_SHARE": "True", "GRADIO_ALLOWED_PATHS": "/"}
  command = [sys.executable, "-m", "mzsr_jax.demo", "--port=0", "--max_megapixels=0.01"]
  root = pathlib.Path(demo.__file__).parents[2]
  with (folder.parent / "demo.log").open("w") as log:
    process = subprocess.Popen(command, cwd=root, env=env, stdout=subprocess.PIPE, stderr=log, text=True)
  try:
    line = process.stdout.readline()
    port = int(re.search(r"http://127\.0\.0\.1:(\d+)/", line)[1])
    yield process, port, folder
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0 and not os.listdir(folder)
  finally:
    process.kill()
    process.wait()


def _request(port, method, path, body=None, timeout=20, **headers) -> tuple[int, bytes]:
  """Status and content of the answer."""
  connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
  connection.request(method, path, body, headers)
  response = connection.getresponse()
  content = response.read()
  connection.close()
  return response.status, content


def _ask(port, method, path, body=None, **headers) -> int:
  return _request(port, method, path, body, **headers)[0]


def test_the_server_gives_no_more_than_the_page(server):
  _, port, folder = server
  (files,) = folder.glob("mzsr_jax_demo_*/files")
  (folder / "secret").write_text("secret")
  assert _ask(port, "GET", "/") == 200
  assert _ask(port, "GET", "/", Host="evil.example") == 403
  for path in (
      f"{folder}/secret", f"{files}/../../secret", f"{files}/%2e%2e/%2e%2e/secret", "/etc/passwd", "README.md", f"{files}",
      f"http://127.0.0.1:{port}/", f"{files}/%00", "/" + "a/" * 2000,
  ):  # fmt: skip
    assert _ask(port, "GET", f"/gradio_api/file={path}") == 403, path
  for path in (
      "/gradio_api/info", "/gradio_api/openapi.json", "/monitoring", "/docs", "/gradio_api/runs", "/gradio_api/vibe-code",
      "/gradio_api/proxy=http://example.com/", "/gradio_api/file/etc/passwd", "/info",
  ):  # fmt: skip
    assert _ask(port, "GET", path) == 404, path
  for path in ("http://example.com/a.png", "/etc/passwd", f"{files}/../../secret"):
    data = {"data": [{"path": path, "meta": {"_type": "gradio.FileData"}}], "fn_index": 0, "session_hash": "a"}
    for to in ("queue/join", "run/predict"):
      assert _ask(port, "POST", f"/gradio_api/{to}", json.dumps(data)) == 403
  assert _ask(port, "POST", "/gradio_api/queue/join", "{") == 400
  assert _ask(port, "POST", "/gradio_api/queue/join", " " * (2**20 + 1)) == 413
  assert _ask(port, "POST", "/gradio_api/upload", b"", **{"Content-Length": str(10**9)}) == 413
  (folder / "secret").unlink()


class _Visitor:
  """A page without a browser: what it sends, in the order in which it does."""

  def __init__(self, port, name):
    self._port, self._session = port, name
    config = json.loads(self._request("GET", "/config")[1])
    numbers = {component["props"].get("elem_id"): component["id"] for component in config["components"]}
    find = lambda test: next(d["id"] for d in config["dependencies"] if test(d))
    self._look = find(lambda d: [numbers["photo"], "upload"] in d["targets"])
    self._begin = find(lambda d: [numbers["run"], "click"] in d["targets"])
    self._work = find(lambda d: d["trigger_after"] == self._begin)

  def _request(self, method, path, body=None, **headers):
    return _request(self._port, method, path, body, timeout=120, **headers)

  def _call(self, to, number, data):
    body = json.dumps({"data": data, "fn_index": number, "session_hash": self._session})
    return self._request("POST", f"/gradio_api/{to}", body, **{"Content-Type": "application/json"})

  def _queued(self, number, data):
    """What the page is told last of a call that has to wait, or the status of its refusal."""
    status, _ = self._call("queue/join", number, data)
    if status != 200:
      return status
    told = self._request("GET", f"/gradio_api/queue/data?session_hash={self._session}")[1]  # until all calls have ended
    messages = [json.loads(line.removeprefix(b"data: ")) for line in told.splitlines() if line.startswith(b"data: ")]
    return next(m for m in messages if m["msg"] == "process_completed")

  def visit(self, png):
    """Opens the page, uploads a photo, asks for a run and closes the page. "done", "refused", or what went wrong."""
    with socket.create_connection(("127.0.0.1", self._port), timeout=120) as heartbeat:
      heartbeat.sendall(f"GET /gradio_api/heartbeat/{self._session} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
      assert b"200" in heartbeat.recv(20)
      form = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n' + png + b"\r\n--x--\r\n"
      status, content = self._request("POST", "/gradio_api/upload", form, **{"Content-Type": "multipart/form-data; boundary=x"})
      if status != 200:
        return f"upload: {status}"
      photo = {"path": json.loads(content)[0], "meta": {"_type": "gradio.FileData"}}
      if (status := self._call("run/predict", self._look, [photo])[0]) != 200:
        return f"look: {status}"
      begun = self._queued(self._begin, [])
      if isinstance(begun, int):
        return "refused" if begun == 503 else f"begin: {begun}"
      if not begun["success"]:
        return "refused"
      done = self._queued(self._work, [photo, "g20d", "", None, 2, 0, False, True, 0, False])
      return "refused" if done == 503 else "done" if isinstance(done, dict) and done["success"] else f"work: {done}"


def _files_left(folder, seconds=20):
  """Files below a folder, once there are none or the time is over."""
  end = time.monotonic() + seconds
  # os.walk, since rglob of Python 3.11 fails where a folder goes while it looks.
  while (left := [name for _, _, names in os.walk(folder) for name in names]) and time.monotonic() < end:
    time.sleep(0.1)
  return left


@pytest.mark.slow
def test_many_at_once_are_served_or_refused_and_leave_nothing(server):
  process, port, folder = server
  resident = lambda: int(re.search(r"VmRSS:\s+(\d+)", pathlib.Path(f"/proc/{process.pid}/status").read_text())[1]) / 1024
  png = images.encode_png(np.random.default_rng(0).integers(0, 256, (60, 60, 3), dtype=np.uint8))
  assert _Visitor(port, "first").visit(png) == "done"  # what is compiled and read once
  before = resident()
  visitors = [_Visitor(port, f"visitor{i}") for i in range(200)]
  with concurrent.futures.ThreadPoolExecutor(len(visitors)) as pool:
    results = collections.Counter(pool.map(lambda visitor: visitor.visit(png), visitors))
  assert results.keys() <= {"done", "refused"} and results["done"] >= jobs.MAX_WAITING, results
  assert resident() - before < 200, "MiB"
  assert not _files_left(folder)
  assert _Visitor(port, "last").visit(png) == "done"


def test_uploads_that_are_broken_off_leave_nothing(server):
  _, port, folder = server
  for size in (10, 5000, 2 * 2**20):  # within the head, in memory, and beyond what is held there
    with socket.create_connection(("127.0.0.1", port), timeout=20) as upload:
      head = "POST /gradio_api/upload HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: multipart/form-data; boundary=x\r\n"
      part = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n'
      upload.sendall(f"{head}Content-Length: {4 * 2**20}\r\n\r\n".encode() + (part + bytes(size))[:size])
      time.sleep(0.3)
  assert _ask(port, "POST", "/gradio_api/upload", part + bytes(9), **{"Content-Type": "multipart/form-data; boundary=x"}) == 400
  assert not _files_left(folder)
  assert _ask(port, "GET", "/") == 200


def test_orders_that_fail_leave_their_places(server):
  _, port, _ = server
  for i in range(jobs.MAX_WAITING + 1):
    visitor = _Visitor(port, f"wrong{i}")
    assert visitor._queued(visitor._begin, [])["success"]
    told = visitor._queued(visitor._work, [None, "g20d", "", None, "two", 0, False, True, 0, False])
    assert "load the page anew" in json.dumps(told)


@pytest.fixture
def browser(server, tmp_path):
  program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
  if not program:
    pytest.skip("no chromium, chromium-browser or google-chrome to look at the page with")
  opened = _Browser(program, tmp_path, f"http://127.0.0.1:{server[1]}/")
  yield opened
  opened.close()


def _until(browser, expression, seconds=60):
  """The value of an expression once it is something."""
  end = time.monotonic() + seconds
  while not (value := browser.js(expression)):
    assert time.monotonic() < end, (expression, browser.js("document.body.innerText"))
    time.sleep(0.05)
  return value


@pytest.mark.slow
def test_the_page_in_a_browser(browser, server, tmp_path):
  _, port, folder = server
  status = "(document.querySelector('#status [role=status]')?.textContent ?? '')"
  said = lambda words: _until(browser, f"({status}.includes({json.dumps(words)}) ? {status} : '')")
  click = lambda name: _until(browser, f"(b => b && !b.disabled && (b.click(), true))(document.querySelector('{name}'))")

  def upload(name, data):
    (tmp_path / name).write_bytes(data)
    _until(browser, "!!document.querySelector('#photo input[type=file]')")
    root = browser.call("DOM.getDocument")["root"]["nodeId"]
    field = browser.call("DOM.querySelector", nodeId=root, selector="#photo input[type=file]")["nodeId"]
    browser.call("DOM.setFileInputFiles", nodeId=field, files=[str(tmp_path / name)])

  def width():
    return browser.js("document.documentElement.scrollWidth - document.documentElement.clientWidth")

  # What is wrong is said, and the page goes on.
  said("Drop a photo")
  click("#run")
  said("No photo")
  upload(f"{EVIL}.png", b"not a picture")
  assert "cannot be read" in said("onerror") and browser.js("!!document.querySelector('#status .bad')")
  click("#photo button[aria-label=Clear]")
  said("Drop a photo")
  upload("large.png", images.encode_png(np.zeros((200, 200, 3), np.uint8)))
  said("may have 0.01")
  click("#photo button[aria-label=Clear]")
  said("Drop a photo")

  # No steps are proposed, for the network gains nothing by them; but some may be taken.
  steps = "document.querySelector('#steps input[type=number]')"
  _until(browser, f"{steps}.value == '0'")

  def choose(label):
    field = "document.querySelector('#kernel_name input')"
    _until(browser, f"(i => i && (i.focus(), i.dispatchEvent(new Event('focus')), true))({field})")
    option = f"[...document.querySelectorAll('[role=option]')].find(o => o.textContent.includes({json.dumps(label)}))"
    _until(browser, f"(o => o && (o.dispatchEvent(new MouseEvent('mousedown', {{bubbles: true}})), true))({option})")

  choose("None")
  choose("Estimate")
  setter = "Object.getOwnPropertyDescriptor(HTMLInputElement.prototype, 'value').set"
  browser.js(f"{setter}.call({steps}, '10')")
  browser.js(f"['input', 'change'].forEach(e => {steps}.dispatchEvent(new Event(e, {{bubbles: true}})))")
  _until(browser, f"{steps}.value == '10'")

  # The noise is estimated, or told.
  level = "!!document.querySelector('#noise input')?.offsetParent"
  click("#more button")
  unknown = "document.querySelector('#unknown_noise input')"
  _until(browser, f"({unknown})?.checked && ({unknown}).offsetParent && !{level}")
  browser.js(f"({unknown}).click()")
  _until(browser, level)
  browser.js(f"({unknown}).click()")
  _until(browser, f"!{level}")

  # Upload, run, compare, download.
  rgb = images.read_image(pathlib.Path(__file__).parents[1] / "experiments" / "photo.png")[40:64, 60:88]
  upload("face.webp", photo_file.encode(photo_file.Photo(rgb), "WEBP"))
  said("face.webp: 28×24, 8 bits")
  _until(browser, "(image => image && image.naturalWidth == 28)(document.querySelector('#preview img'))")
  click("#run")
  said(" of 10")
  said("Done: 28×24 → 56×48, 10 steps")
  slider = "[...document.querySelectorAll('#slider img')]"
  _until(browser, f"{slider}.length == 2 && {slider}.every(i => i.naturalWidth == 56 && i.naturalHeight == 48)")
  sources = browser.js(f"{slider}.map(image => image.src)")
  assert re.search(r"bicubic|step_10", sources[0]) and re.search(r"bicubic|step_10", sources[1]) and len(set(sources)) == 2
  _until(browser, "(image => image && image.naturalWidth > 100)(document.querySelector('#kernel img'))")
  got = tmp_path / "got"
  browser.call("Page.setDownloadBehavior", behavior="allow", downloadPath=str(got))
  for button, name in (("#result", "face_x2.webp"), ("#matrix", "face_kernel.mat")):
    click(button)
    end = time.monotonic() + 20
    while not (got / name).is_file():
      assert time.monotonic() < end, (name, got.is_dir() and os.listdir(got))
      browser.js("0")  # takes in what has happened
  with Image.open(got / "face_x2.webp") as image:
    assert image.format == "WEBP" and image.size == (56, 48)
  assert kernel_files.read_kernel(got / "face_kernel.mat").ndim == 2
  wide = np.asarray(browser.screenshot())
  assert wide.std() > 20 and width() <= 0
  assert "Noise" in browser.js("document.querySelector('#kernel_text').innerText")

  # Cancelled.
  click("#run")
  click("#cancel")
  said("Cancelled")
  _until(browser, "!document.querySelector('#run').disabled && document.querySelector('#cancel').disabled")
  browser.call("Emulation.setDeviceMetricsOverride", width=390, height=844, deviceScaleFactor=1, mobile=True)
  assert width() <= 0

  # Nobody else was asked, nothing failed, and nothing is left of a page that is gone.
  assert not browser.seen("Runtime.exceptionThrown") and not browser.seen("Page.javascriptDialogOpening")
  addresses = [event["request"]["url"] for event in browser.seen("Network.requestWillBeSent")]
  ours = (f"http://127.0.0.1:{port}/", "data:", "blob:")
  assert len(addresses) > 10 and all(address.startswith(ours) for address in addresses)
  assert any(path.is_file() for path in folder.rglob("*"))
  browser.call("Page.navigate", url="about:blank")
  assert not _files_left(folder)
