"""The demo: its jobs within limits, their files, what its server refuses, and the page in a real browser."""

import collections
import concurrent.futures
import contextlib
import http.client
import importlib.util
import json
import math
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
from mzsr_jax.core import resize
from mzsr_jax.demo import __main__ as demo
from mzsr_jax.demo import crop, jobs, work
from mzsr_jax.demo.jobs import JobManager
from mzsr_jax.demo.work import AUTO, CUSTOM, FILE, JobRequest, Limits
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
  manager.begin(visit, wanted)
  return list(manager.run(visit))


def test_a_photo_is_there_from_when_it_was_looked_at_until_it_is_cleared(manager):
  manager.look("a", give_photo(manager))
  assert manager.has_photo("a")
  manager.clear("a")
  assert not manager.has_photo("a")
  manager.look("a", give_photo(manager))
  with pytest.raises(UserError, match="cannot be read"):
    manager.look("a", give(manager, "photo.png", b"not a picture"))
  assert not manager.has_photo("a")


def test_a_job_from_photo_to_file(manager):
  alpha = np.tile(np.linspace(0, 1, 24, dtype=np.float32), (20, 1))
  metadata = photo_file.Metadata(texts=(("Author", "me"),))
  source = give_photo(manager, bits=16, alpha=alpha, metadata=metadata)
  line, thumbnail = manager.look("a", source)
  assert line == "photo.png: 24×20, 16 bits, transparency." and thumbnail.shape == (20, 24, 3)
  seen = run(manager, JobRequest(source, "bicubic", steps=2, noise_level=1))
  assert [re.sub(r", [\d.]+ s$", "", view.status) for view in seen] == [
      "Looking for blur and noise …", "Enlarging the whole photo …", "Writing the file …", "Done: 24×20 → 48×40, 2 steps"
  ]  # fmt: skip
  last = seen[-1]
  assert not last.failed and all(images.image_size(path) == (40, 48) for path in last.pair) and last.frame == (1, 1)
  assert last.kernel_text == work.KERNELS["bicubic"] and last.noise_level == 1 and manager.progress("a")[0] == 1
  assert not last.kernel_file and images.image_size(last.kernel)

  photo, loaded = photo_file.read(source), weights.load(CHOSEN)
  params, rates = loaded.params, loaded.inner_lrs(2)
  degradation = kernel_files.load_degradation("bicubic", photo_scale=2).replace(noise_std=1 / 255)
  recipe = enhance.Recipe(params, rates, degradation, 2.0, 2.0)
  adapter = TiledAdapter()
  (adapted,) = enhance.adapt(adapter, photo.rgb, recipe, [2])
  assert seen[-1].result.name == "photo_x2.png"
  assert seen[-1].result.read_bytes() == photo_file.encode(enhance.enlarge(adapter, adapted, photo, recipe), "PNG")
  result = photo_file.read(seen[-1].result)
  assert result.bits == 16 and result.alpha is not None and result.metadata.texts == metadata.texts
  assert left(manager) == ["after.png", "before.png", "kernel.png", "photo.png", "photo_x2.png"]

  # The next photo takes the place of this one, and nothing is left of a page that is closed.
  manager.look("a", give_photo(manager, "next.jpg"))
  assert not source.exists()
  manager.leave("a")
  assert not list(manager.folder.iterdir())


def test_the_estimated_kernel_can_be_taken_along(manager, tmp_path):
  views = run(manager, JobRequest(give_photo(manager, "photo.jpg"), AUTO, steps=0, scale=1.5, png=True))
  assert views[1].status.startswith("Looking") and views[-1].result.name == "photo_x1.5.png", views
  assert images.image_size(views[-1].result) == (30, 36)
  kernel = kernel_files.read_kernel(views[-1].kernel_file)
  photo = photo_file.read(next(manager.folder.glob("*/photo.jpg")))
  estimate = blind.estimate_photo(photo.rgb, 2.0)
  np.testing.assert_allclose(kernel, estimate.kernel, atol=1e-6)
  assert views[-1].kernel_text == estimate.text and np.isclose(views[-1].noise_level, 255 * enhance.noise_std(photo))
  np.testing.assert_allclose(views[-1].gaussian[:2], np.clip(estimate.sigmas / 2, work.MIN_BLUR, work.MAX_BLUR), rtol=1e-6)
  path = give(manager, "own.npy", b"")
  np.save(path, kernel)
  again = run(manager, JobRequest(give_photo(manager, "photo.tif"), FILE, kernel_file=path, steps=0))
  assert again[-1].result.name == "photo_x2.tif" and again[-1].kernel_text == "own.npy"


def test_a_blur_of_ones_own_is_in_pixels_of_the_photo(manager):
  """And lies about the middle of what a pixel covers, as photos are."""
  wanted = JobRequest(None, CUSTOM, (0.9, 0.45, 90))
  for scale in (2.0, 4.0):
    of = work._kernel(wanted, scale)
    place = np.arange(len(of.kernel)) - len(of.kernel) // 2
    for taps, width in zip((of.kernel.sum(1), of.kernel.sum(0)), (0.9, 0.45)):
      middle = (taps * place).sum()
      deviation = np.sqrt((taps * (place - middle) ** 2).sum())
      np.testing.assert_allclose([middle, deviation / scale], [(scale - 1) / 2, width], rtol=0.02)
    assert of.offset == ((scale - 1) / 2,) * 2 and of.subsample == "direct"


@pytest.mark.parametrize("scale, kernel", [(2.0, CUSTOM), (1.5, CUSTOM), (2.0, AUTO)])
def test_a_part_is_as_the_whole_photo_will_have_it(manager, monkeypatch, scale, kernel):
  monkeypatch.setattr(work, "_PART", (24, 36))
  alpha = np.tile(np.linspace(0, 1, 80, dtype=np.float32), (60, 1))
  wanted = JobRequest(give_photo(manager, size=(60, 80), alpha=alpha), kernel, scale=scale, place=(0.7, 0.3), whole=False)
  part = run(manager, wanted)[-1]
  whole = run(manager, wanted._replace(whole=True))[-1]
  assert part.status == "This part is done." and part.foretold > 0 and part.noise_level == whole.noise_level
  rows, columns = crop.enlarged(crop.around((0.7, 0.3), (60, 80), scale, (24, 36)), scale)
  assert (rows.stop - rows.start, columns.stop - columns.start) == (24, 36)
  np.testing.assert_allclose(part.frame, (36 / scale / 80, 24 / scale / 60))
  before, after = (images.read_image(path).astype(int) for path in part.pair)
  result = photo_file.on_white(photo_file.read(whole.result)).astype(int)
  assert np.abs(after - result[rows, columns]).max() <= 1
  assert np.abs(before - images.read_image(whole.pair[0])[rows, columns]).max() <= 1 and np.abs(before - after).max() > 1


def test_another_strength_takes_no_new_pass(manager, monkeypatch):
  wanted = JobRequest(give_photo(manager), "bicubic", whole=False)
  pictures = lambda view: [images.read_image(path).astype(int) for path in view.pair]
  before, full = pictures(run(manager, wanted)[-1])
  monkeypatch.setattr(enhance, "run", None)
  for strength in (0.0, 0.5, 1.0):
    _, after = pictures(run(manager, wanted._replace(strength=strength))[-1])
    assert np.abs(after - (before + strength * (full - before))).max() <= 1 and np.abs(full - before).max() > 1


def test_steps_on_a_part_are_seen_one_by_one(manager):
  views = run(manager, JobRequest(give_photo(manager), "bicubic", steps=2, whole=False))
  assert [view.status for view in views[3:]] == ["Step 0 of 2", "Step 1 of 2", "This part is done."]
  assert len({images.read_image(view.pair[1]).tobytes() for view in views[2:]}) == 4


@pytest.mark.parametrize("cell", [1, 4])
@pytest.mark.parametrize("scale", [1.5, 1.7, 2.0, 4.0])
def test_parts_lie_within_the_photo_and_on_the_grid_of_its_result(scale, cell):
  for size in ((3000, 4000), (4000, 3000), (100, 4000), (7, 5)):
    whole = [resize.enlarged_size(length, scale) for length in size]
    for place in ((0, 0), (1, 1), (0.31, 0.77)):
      part = crop.around(place, size, scale, (360, 480))
      wide = crop.widened(part, size, scale, 48, cell)
      for s, w, length in zip(part, wide, size):
        assert 0 <= w.start <= s.start < s.stop <= w.stop <= length
        assert np.isclose(s.start * scale % 1, 0) and abs(math.remainder(w.start * scale, cell)) < 1e-6
        assert w.start == 0 or (s.start - w.start) * scale >= 48
        assert w.stop == length or (w.stop - s.stop) * scale >= 48
      most = sorted((360, 480), reverse=size[0] > size[1])
      assert all(stop.stop <= side for stop, side in zip(crop.enlarged(part, scale), whole))
      assert all(side <= limit + scale for side, limit in zip([s.stop - s.start for s in crop.enlarged(part, scale)], most))
      assert crop.enlarged(part, scale, part)[0].start == 0


def _png() -> bytes:
  return images.encode_png(RNG.integers(0, 256, (9, 9, 3), dtype=np.uint8))


@pytest.mark.parametrize("name, data, wanted, words",
    [
        (None, b"", {}, ["No photo"]),
        ("text.png", b"not a picture", {}, ["text.png", "cannot be read"]),
        (f"{EVIL}.png", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", {}, [EVIL, "cannot be read"]),
        ("a.gif", b"GIF89a", {}, ["a.gif", ".png"]),
        ("cut.png", _png()[:-60], {}, ["cut.png", "cannot be read"]),
        ("a.png", "large", {}, ["may have 0.01", "smaller", "--max_megapixels"]),
        ("a.tif", "large", {}, ["may have 0.01", "smaller", "--max_megapixels"]),
        ("a.png", _png(), {"kernel": "photo.npy"}, ["unknown kernel"]),
        ("a.png", _png(), {"kernel": CUSTOM, "gaussian": (99.0, 1.0, 0.0)}, ["blur", "99", "1.25"]),
        ("a.png", _png(), {"kernel": CUSTOM, "gaussian": (0.5, 0.5, float("inf"))}, ["direction", "inf", "180"]),
        ("a.png", _png(), {"kernel": FILE}, ["no kernel file"]),
        ("a.png", _png(), {"kernel": FILE, "kernel_file": "text"}, ["k.npy", "cannot be read"]),
        ("a.png", _png(), {"kernel": FILE, "kernel_file": np.ones((103, 103))}, ["103", "101"]),
        ("a.png", _png(), {"scale": float("nan")}, ["scale"]),
        ("a.png", _png(), {"steps": 10**9}, ["steps"]),
        ("a.png", _png(), {"strength": 1.1}, ["strength 1.1", "from 0 to 1"]),
        ("a.png", _png(), {"place": (float("nan"), 0.0)}, ["place"]),
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
  wanted = JobRequest(source, **{"kernel": "bicubic", **wanted})
  if wanted.kernel_file is not None:
    path = give(manager, "k.npy", b"text")
    if not isinstance(wanted.kernel_file, str):
      np.save(path, wanted.kernel_file)
    wanted = wanted._replace(kernel_file=path)
  *_, view = run(manager, wanted)
  assert view.failed and not view.pair and not view.result
  for word in words:
    assert word.lower() in view.status.lower(), view.status
  assert str(manager.folder) not in view.status and "\n" not in view.status
  manager.leave("a")
  assert not list(manager.folder.iterdir())


def test_files_of_others_are_none_of_a_pages(manager, tmp_path):
  images.write_png(tmp_path / "secret.png", np.zeros((9, 9, 3), np.uint8))
  (view,) = run(manager, JobRequest(tmp_path / "secret.png", "bicubic"))
  assert view.failed and "no file" in view.status and (tmp_path / "secret.png").exists()
  # One file that two pages gave stays until both are closed.
  source = give_photo(manager)
  manager.look("a", source)
  manager.look("b", source)
  manager.leave("a")
  assert source.exists()
  manager.leave("b")
  assert not source.exists() and not list(manager.folder.iterdir())


def started(manager, visit, wanted):
  """A job at work on a part of the photo."""
  manager.begin(visit, wanted)
  views = manager.run(visit)
  while not next(views).status.startswith("Step 1"):
    pass
  return views


def test_a_job_ends_when_cancelled_left_or_out_of_time(manager, monkeypatch):
  wanted = JobRequest(give_photo(manager), "bicubic", steps=work.MAX_STEPS, whole=False)
  views = started(manager, "a", wanted)
  assert manager.cancel("a")
  (last,) = views
  assert last.failed and last.stopped and last.status == "stopped" and left(manager) == ["photo.png"]
  manager.begin("a", wanted)
  assert not manager.cancel("a")
  assert not list(manager.run("a"))  # what was cancelled while it waited never begins
  assert run(manager, wanted._replace(steps=0, whole=True))[-1].result  # and the next one is another

  views = started(manager, "b", wanted)
  manager.leave("b")
  list(views)
  manager.leave("a")
  assert not list(manager.folder.iterdir())
  assert not list(manager.run("b"))

  wanted = wanted._replace(photo=give_photo(manager))
  views = started(manager, "a", wanted)
  monkeypatch.setattr(manager.worker, "limits", Limits(0.01, 0.001))
  (last,) = views
  assert last.failed and "0.001 s" in last.status and "--max_seconds" in last.status and left(manager) == ["photo.png"]


def test_what_a_page_wants_last_is_done(manager):
  """A part that is worked on is left for another; what waits is replaced; the whole photo is finished first."""
  wanted = JobRequest(give_photo(manager), "bicubic", steps=work.MAX_STEPS, whole=False)
  views = started(manager, "a", wanted)
  manager.begin("a", wanted._replace(steps=1))
  manager.begin("a", wanted._replace(steps=0, strength=0.0))
  assert not list(views)
  *_, last = manager.run("a")
  assert not list(manager.run("a"))
  assert last.foretold and images.read_image(last.pair[0]).tobytes() == images.read_image(last.pair[1]).tobytes()

  manager.begin("a", wanted._replace(whole=True))
  views = manager.run("a")
  next(views)
  with pytest.raises(UserError, match="whole photo is being enlarged"):
    manager.begin("a", wanted)
  *_, last = views
  assert last.result
  manager.begin("a", wanted)


def test_a_whole_photo_that_would_take_too_long_is_refused_at_once(manager, monkeypatch):
  wanted = JobRequest(give_photo(manager), "bicubic", whole=False)
  run(manager, wanted)
  monkeypatch.setattr(manager.worker, "_speed", 1000.0)
  manager.worker.limits = Limits(0.01, 3600)
  last = run(manager, wanted)[-1]
  assert last.foretold == 1000 * 4 * 20 * 24
  refused = run(manager, wanted._replace(whole=True))[-1]
  assert refused.failed and "533.3 h" in refused.status and "60 min" in refused.status and "--max_seconds" in refused.status


def test_what_compiling_takes_is_not_foretold(manager):
  """Of two parts alike, the first compiles."""
  wanted = JobRequest(give_photo(manager, size=(33, 77)), "bicubic", whole=False)
  took = []
  for place in ((0.5, 0.5), (0.4, 0.5)):
    begun = time.perf_counter()
    foretold = run(manager, wanted._replace(place=place))[-1].foretold
    took.append((time.perf_counter() - begun, foretold))
  (whole, first), (_, second) = took
  assert first < whole and second > 0


def test_few_may_wait(manager):
  wanted = JobRequest(None)
  for i in range(jobs.MAX_WAITING):
    manager.begin(f"{i}", wanted)
  manager.begin("0", wanted)
  with pytest.raises(ValueError, match="waiting"):
    manager.begin("another", wanted)
  manager.leave("1")
  manager.begin("another", wanted)
  assert next(manager.run("0")).failed  # its turn has come
  manager.begin("one more", wanted)


def test_a_place_is_not_kept_for_those_who_never_work(manager, monkeypatch):
  clock = [float(math.ceil(time.monotonic()))]  # whole numbers add up exactly
  monkeypatch.setattr(jobs.time, "monotonic", lambda: clock[0])
  wanted = JobRequest(None)
  fill = lambda: [manager.begin(f"{i}", wanted) for i in range(jobs.MAX_WAITING)]

  def is_full():
    try:
      manager.begin("another", wanted)
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
    clock[0] += 9 * manager.worker.limits.seconds - 1
    assert is_full()
    clock[0] += 1
    assert not is_full()


def step_by(monkeypatch, rate):
  """All weights have this rate, of gradient steps."""
  load = weights.load
  monkeypatch.setattr(weights, "load", lambda name: load(name)._replace(inner_rule="gradient", rates=[rate]))


@pytest.mark.parametrize("rate", [1e4, 1e30])
def test_of_steps_that_diverge_the_best_state_before_is_shown(manager, caplog, monkeypatch, rate):
  step_by(monkeypatch, rate)
  view = run(manager, JobRequest(give_photo(manager), CUSTOM, steps=work.MAX_STEPS))[-1]
  assert "diverged" in caplog.text and not view.failed
  kept = photo_file.read(view.result).rgb
  plain = run(manager, JobRequest(give_photo(manager), CUSTOM, steps=0))[-1]
  np.testing.assert_array_equal(kept, photo_file.read(plain.result).rgb)


def test_a_result_without_likeness_is_none(manager, monkeypatch):
  monkeypatch.setattr(enhance, "_DIVERGED", np.inf)
  step_by(monkeypatch, 1e4)
  view = run(manager, JobRequest(give_photo(manager), CUSTOM, (0.7, 0.7, 0.0), steps=1))[-1]
  assert view.failed and "diverged: take fewer steps" in view.status and view.result is None


def test_a_bug_ends_the_job_alone(manager, monkeypatch):
  with monkeypatch.context() as patch:
    patch.setattr(enhance, "enlarge", lambda *_: 1 / 0)
    view = run(manager, JobRequest(give_photo(manager), "bicubic", steps=work.MAX_STEPS))[-1]
  assert view.failed and "failed" in view.status and "division" not in view.status
  assert run(manager, JobRequest(give_photo(manager), "bicubic", steps=0))[-1].result


def test_the_example_is_the_photo_of_the_readme(manager):
  readme = pathlib.Path(__file__).parents[1] / "experiments" / "photo.png"
  np.testing.assert_array_equal(images.read_image(manager.example("a")), images.read_image(readme))


def _main(monkeypatch, *args):
  return run_entry(monkeypatch, demo.main, demo.define_flags, "--compilation_cache=", *args)


def test_no_steps_are_proposed_where_the_weights_gain_nothing_by_them(monkeypatch):
  assert work.default_steps() == enhance.default_steps(weights.load(weights.DEFAULT)) == 0
  monkeypatch.setattr(weights, "DEFAULT", "x2_direct")
  assert work.default_steps() == work.MAX_STEPS


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


@contextlib.contextmanager
def _served(folder, *args):
  """(process, port, temporary folder) of the real command."""
  if not importlib.util.find_spec("gradio"):
    pytest.skip("gradio is not installed: pip install '.[demo]'")
  env = {**os.environ, "TMPDIR": str(folder), "GRADIO_SHARE": "True", "GRADIO_ALLOWED_PATHS": "/"}
  command = [sys.executable, "-m", "mzsr_jax.demo", "--port=0", *args]
  root = pathlib.Path(demo.__file__).parents[2]
  with (folder.parent / "demo.log").open("w") as log:
    process = subprocess.Popen(command, cwd=root, env=env, stdout=subprocess.PIPE, stderr=log, text=True)
  try:
    line = process.stdout.readline()
    port = int(re.search(r"http://127\.0\.0\.1:(\d+)/", line)[1])
    yield process, port, folder
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0 and not os.listdir(folder)
  finally:
    process.kill()
    process.wait()


@pytest.fixture(scope="module")
def server(tmp_path_factory):
  """The command, for small photos."""
  with _served(tmp_path_factory.mktemp("demo"), "--max_megapixels=0.01") as served:
    yield served


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
    self._begin = find(lambda d: [numbers["whole"], "click"] in d["targets"])
    self._work = find(lambda d: d["trigger_after"] == self._begin)

  def _request(self, method, path, body=None, **headers):
    return _request(self._port, method, path, body, timeout=120, **headers)

  def _call(self, to, number, data):
    body = json.dumps({"data": data, "fn_index": number, "session_hash": self._session})
    return self._request("POST", f"/gradio_api/{to}", body, **{"Content-Type": "application/json"})

  def order(self, photo, scale=2):
    """Asks for the whole photo: what the page is told of that."""
    place = {"x": 0.5, "y": 0.5}
    return self._call("run/predict", self._begin, [photo, "bicubic", 0.5, 1, 0, None, scale, 0, False, 0, 1, False, place])

  def queued(self, number, data):
    """What the page is told of a call, the last of it last, or the status of its refusal."""
    status, _ = self._call("queue/join", number, data)
    if status != 200:
      return status
    told = self._request("GET", f"/gradio_api/queue/data?session_hash={self._session}")[1]  # until all calls have ended
    messages = [json.loads(line.removeprefix(b"data: ")) for line in told.splitlines() if line.startswith(b"data: ")]
    return [m for m in messages if m["msg"] in ("process_generating", "process_completed")]

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
      status, content = self.order(photo)
      if status != 200:
        return f"begin: {status}"
      if b"try again in a while" in content:
        return "refused"
      told = self.queued(self._work, [])
      return "refused" if told == 503 else "done" if "Done: 60" in json.dumps(told) else f"work: {told}"


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
  _, port, folder = server
  (files,) = folder.glob("mzsr_jax_demo_*/files")
  for i in range(jobs.MAX_WAITING + 1):
    photo = {"path": str(files / "none.png"), "meta": {"_type": "gradio.FileData"}}
    assert b"load the page anew" in _Visitor(port, f"wrong{i}").order(photo, scale="two")[1]


_STATUS = "(document.querySelector('#status [role=status]')?.textContent ?? '')"
_CLEAR = "document.querySelector('#photo button[aria-label=Clear]')"


class _Page:
  """The demo in a browser, as its visitors use it."""

  def __init__(self, port, folder):
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if not program:
      pytest.skip("no chromium, chromium-browser or google-chrome to look at the page with")
    self.browser = _Browser(program, folder, f"http://127.0.0.1:{port}/")
    self.js, self._folder = self.browser.js, folder

  def within(self, expression, seconds):
    """The value of an expression once it is something, or what it is after so long."""
    end = time.monotonic() + seconds
    while not (value := self.js(expression)) and time.monotonic() < end:
      time.sleep(0.1)
    return value

  def until(self, expression, seconds=180):
    """The value of an expression once it is something."""
    value = self.within(expression, seconds)
    assert value, (expression, self.js("document.body.innerText"))
    return value

  def said(self, words):
    """The line of the page's status, once it has these words."""
    return self.until(f"({_STATUS}.includes({json.dumps(words)}) ? {_STATUS} : '')")

  def click(self, name):
    self.until(f"(b => b && !b.disabled && (b.click(), true))(document.querySelector('{name}'))")

  def upload(self, name, data):
    (self._folder / name).write_bytes(data)
    self.until("!!document.querySelector('#photo input[type=file]')")
    root = self.browser.call("DOM.getDocument")["root"]["nodeId"]
    field = self.browser.call("DOM.querySelector", nodeId=root, selector="#photo input[type=file]")["nodeId"]
    for _ in range(5):  # the field is there before the page listens to it
      self.browser.call("DOM.setFileInputFiles", nodeId=field, files=[str(self._folder / name)])
      if self.within(f"!!{_CLEAR}", 30):
        return
    pytest.fail(f"the page took no {name}")

  def clear(self):
    """Takes the photo away; again where the page was being drawn anew, which loses a click."""
    self.until(f"{_STATUS}.includes('Drop a photo') || ({_CLEAR}?.click(), false)")

  def slide(self, name, value):
    field = f"document.querySelector('{name} input[type=range]')"
    setter = "Object.getOwnPropertyDescriptor(HTMLInputElement.prototype, 'value').set"
    self.until(f"!!{field}")
    self.js(f"{setter}.call({field}, '{value}')")
    self.js(f"['input', 'change'].forEach(e => {field}.dispatchEvent(new Event(e, {{bubbles: true}})))")

  def zooms(self, key, expression):
    """Whether an expression becomes true by a key of the slider."""
    for _ in range(5):  # a picture that comes late is not zoomed
      self.js("document.querySelector('#compare input[type=range]').focus()")
      for kind in ("keyDown", "keyUp"):
        self.browser.call("Input.dispatchKeyEvent", type=kind, key=key, text=key)
      if self.within(expression, 2):
        return True
    return False

  def value(self, name):
    return float(self.js(f"document.querySelector('{name} input[type=range]').value"))

  def pictures(self):
    """Addresses of before and after, once both are seen; another pair has others."""
    images = "[...document.querySelectorAll('#slider img')]"
    return self.until(f"{images}.length == 2 && {images}.every(i => i.naturalWidth) && {images}.map(i => i.src)")

  def other_pictures(self, known):
    """Those that take the place of known ones, once they are done."""
    self.until(f"(i => i && !{json.dumps(known)}.includes(i.src))(document.querySelector('#slider img'))")
    self.said("This part is done")
    return self.pictures()

  def resize(self, width, height):
    self.browser.call(
        "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 500
    )

  def fits(self):
    """Whether nothing reaches beyond the window."""
    return self.js("document.documentElement.scrollWidth <= document.documentElement.clientWidth")

  def top(self, name):
    return self.js(f"document.querySelector('{name}').getBoundingClientRect().top")


@pytest.fixture
def page(server, tmp_path):
  opened = _Page(server[1], tmp_path)
  yield opened
  opened.browser.close()


@pytest.mark.slow
def test_the_page_in_a_browser(page, server, tmp_path):
  _, port, folder = server
  # What is wrong is said, and the page goes on.
  page.said("Drop a photo")
  page.upload(f"{EVIL}.png", b"not a picture")
  assert "cannot be read" in page.said("onerror") and page.js("!!document.querySelector('#status .bad')")
  page.clear()
  page.said("Drop a photo")
  page.upload("large.png", images.encode_png(np.zeros((200, 200, 3), np.uint8)))
  assert "--max_megapixels" in page.said("may have 0.01")
  page.clear()
  page.said("Drop a photo")

  # A photo is worked on at once; what was found in it is seen.
  rgb = images.read_image(pathlib.Path(__file__).parents[1] / "experiments" / "photo.png")[40:64, 60:88]
  page.upload("face.webp", photo_file.encode(photo_file.Photo(rgb), "WEBP"))
  page.said("This part is done")
  before = page.pictures()
  assert len(set(before)) == 2 and page.js("document.querySelector('#slider img').naturalWidth") == 56
  page.until("document.querySelector('#whole').textContent.includes('about')")
  assert page.value("#noise") != 0 or page.value("#along") != 0.5
  page.click("#about_kernel button")
  page.until("(image => image && image.naturalWidth > 100)(document.querySelector('#kernel img'))")
  assert "contrast" in page.js("document.querySelector('#kernel_text').innerText")

  # What is changed by hand is found no more, and the part is made anew.
  page.slide("#along", 1)
  before = page.other_pictures(before)
  assert "As wide as I say" in page.js("document.querySelector('#kernel_name input').value")
  page.slide("#noise", 8)
  before = page.other_pictures(before)
  assert not page.js("document.querySelector('#unknown_noise input').checked") and page.value("#noise") == 8
  for strength in (0.9, 0.8, 0.7, 0.6, 0.5):  # as it is dragged
    page.slide("#strength", strength)
  page.other_pictures(before)
  page.slide("#compare", 20)
  handle = "new DOMMatrix(getComputedStyle(document.querySelector('#slider .outer')).transform).e"
  middle = "document.querySelector('#slider .slider-wrap').clientWidth / 2"
  page.until(f"{handle} < {middle} - 20")
  zoomed = "new DOMMatrix(getComputedStyle(document.querySelector('#slider img')).transform).a"
  assert page.js(zoomed) == 1
  for strength in (0.55, 0.6, 0.65, 0.7):  # a picture that came while the page was being drawn cannot be zoomed; the next can
    if page.zooms("+", f"{zoomed} > 1.2"):
      break
    before = page.pictures()
    page.slide("#strength", strength)
    page.other_pictures(before)
  assert page.js(f"{zoomed} > 1.2")
  assert page.zooms("-", f"{zoomed} == 1")

  # No steps are proposed, for the network gains nothing by them; but some may be taken.
  page.click("#more button")
  page.until("document.querySelector('#steps input[type=number]')?.value == '0'")

  # The whole, and its files.
  page.click("#whole")
  page.said("Done: 28×24 → 56×48")
  got = tmp_path / "got"
  page.browser.call("Page.setDownloadBehavior", behavior="allow", downloadPath=str(got))
  page.click("#result")
  end = time.monotonic() + 60
  whole = lambda: got.is_dir() and os.listdir(got) == ["face_x2.webp"] and (got / "face_x2.webp").stat().st_size
  while not whole():  # the browser writes beside it first
    assert time.monotonic() < end, got.is_dir() and os.listdir(got)
    page.js("0")  # takes in what has happened
  with Image.open(got / "face_x2.webp") as image:
    assert image.format == "WEBP" and image.size == (56, 48)

  # Stopped, with all that can be chosen free again.
  page.clear()
  page.upload("noise.png", images.encode_png(RNG.integers(0, 256, (96, 104, 3), dtype=np.uint8)))
  page.said("This part is done")
  page.slide("#steps", 10)  # takes some seconds, for a size that was not compiled
  page.click("#cancel")
  page.said("Stopped")
  page.until("document.querySelector('#cancel').disabled && !document.querySelector('#strength input').disabled")

  # Nobody else was asked, nothing failed, and nothing is left of a page that is gone.
  assert not page.browser.seen("Runtime.exceptionThrown") and not page.browser.seen("Page.javascriptDialogOpening")
  addresses = [event["request"]["url"] for event in page.browser.seen("Network.requestWillBeSent")]
  ours = (f"http://127.0.0.1:{port}/", "data:", "blob:")
  assert len(addresses) > 10 and all(address.startswith(ours) for address in addresses)
  assert any(path.is_file() for path in folder.rglob("*"))
  page.browser.call("Page.navigate", url="about:blank")
  assert not _files_left(folder, 60)


@pytest.mark.slow
def test_a_photo_of_a_phone(tmp_path):
  """Of twelve megapixels, by the flags' defaults: a part at once, another where the frame is put, and room for all of it."""
  y, x = np.mgrid[:3000, :4000].astype(np.float32)
  gray = 128 + 60 * np.sin(x / 9) * np.sin(y / 7) + np.random.default_rng(0).normal(0, 3, x.shape)
  photo = np.stack([gray, gray * 0.9, gray * 0.8], -1).clip(0, 255).astype(np.uint8)
  (tmp_path / "served").mkdir()
  with _served(tmp_path / "served") as (_, port, _):
    page = _Page(port, tmp_path)
    try:
      page.said("Drop a photo")
      page.upload("IMG_1.jpg", photo_file.encode(photo_file.Photo(photo), "JPEG"))
      page.said("This part is done")
      pictures = page.pictures()
      assert page.js("document.querySelector('#slider img').naturalWidth") == 480
      assert re.search("about .* (min|h)", page.until("document.querySelector('#whole').textContent"))

      frame = "document.querySelector('#place .frame')"
      assert page.js(f"{frame}.style.cssText") == "left: 50%; top: 50%; width: 6%; height: 6%;"
      page.js(f"{frame}.focus()")
      page.browser.call("Input.dispatchKeyEvent", type="keyDown", key="ArrowLeft")
      assert page.js(f"document.activeElement === {frame}") and "47% from the left" in page.js(f"{frame}.ariaLabel")
      pictures = page.other_pictures(pictures)
      box = "(r => [r.x, r.y, r.width, r.height])(document.querySelector('#place img').getBoundingClientRect())"
      left, top, width, height = page.js(box)
      at = {"x": left + 0.8 * width, "y": top + 0.2 * height}
      for kind, buttons in (("mousePressed", 1), ("mouseMoved", 1), ("mouseReleased", 0)):
        page.browser.call("Input.dispatchMouseEvent", type=kind, button="left", buttons=buttons, clickCount=1, **at)
      assert abs(float(page.js(f"parseFloat({frame}.style.left)")) - 80) < 1
      page.other_pictures(pictures)

      # All has a name for screen readers, and a phone shows the result above what can be chosen.
      named = "[...document.querySelectorAll('button, input:not([type=file])')].filter(e => e.offsetParent)"
      unnamed = f"{named}.filter(e => !(e.ariaLabel || e.textContent.trim() || e.labels?.length)).map(e => e.outerHTML)"
      assert page.js(unnamed) == []
      for width, height in ((1400, 900), (390, 844)):
        page.resize(width, height)
        page.until(f"document.documentElement.clientWidth <= {width}")
        assert page.fits() and np.asarray(page.browser.screenshot()).std() > 20
        assert page.top("#slider") < page.js("innerHeight")
      assert page.top("#slider") < page.top("#scale") and page.top("#whole") < page.top("#scale")
    finally:
      page.browser.close()
