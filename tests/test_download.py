import hashlib
import http.server
import io
import re
import subprocess
import sys
import threading
import zipfile

import pytest

from mzsr_jax import download
from mzsr_jax.errors import UserError

FILES = {"tiny/0001.png": b"one" * 5000, "tiny/0002.png": b"two"}


def zipped(files):
  file = io.BytesIO()
  with zipfile.ZipFile(file, "w") as archive:
    for name, content in files.items():
      archive.writestr(name, content)
  return file.getvalue()


class Server(http.server.ThreadingHTTPServer):
  """Serves one file and keeps a record of the body bytes of each answer; may fail, ignore ranges, or hang up early."""

  def __init__(self, content):
    super().__init__(("127.0.0.1", 0), Handler)
    self.content = content
    self.status = 200
    self.ranges = True
    self.hang_up_after = None
    self.sent = []


class Handler(http.server.BaseHTTPRequestHandler):

  def do_GET(self):
    s = self.server
    wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
    start = int(wanted[1]) if wanted and s.ranges else 0
    status = s.status if s.status != 200 else 416 if start >= len(s.content) else 206 if wanted and s.ranges else 200
    body = s.content[start:] if status in (200, 206) else b""
    self.send_response(status)
    if status == 206:
      self.send_header("Content-Range", f"bytes {start}-{len(s.content) - 1}/{len(s.content)}")
    self.send_header("Content-Length", str(len(body)))
    self.end_headers()
    body = body[: s.hang_up_after]
    self.wfile.write(body)
    s.sent.append(len(body))

  def log_message(self, *_):
    pass


@pytest.fixture
def server(monkeypatch):
  """The server of a dataset "tiny" that has taken the place of the real ones."""
  monkeypatch.setenv("NO_PROXY", "127.0.0.1")
  with Server(zipped(FILES)) as server:
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    offer(monkeypatch, server, server.content)
    yield server
    server.shutdown()


def offer(monkeypatch, server, content):
  """Makes `content` the archive that is served, and expected."""
  server.content = content
  url = f"http://127.0.0.1:{server.server_port}/tiny.zip"
  archive = download.Archive(url, hashlib.sha256(content).hexdigest(), "tiny")
  monkeypatch.setattr(download, "DATASETS", {"tiny": (archive,)})


def contents(folder):
  return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_fetches_verifies_and_unpacks(server, tmp_path):
  to = tmp_path / "new" / "data"
  assert download.download("tiny", to) == [to / "tiny"]
  assert contents(to) == FILES
  assert server.sent == [len(server.content)]


def test_resumes_with_the_missing_bytes_only(server, tmp_path, monkeypatch):
  monkeypatch.setattr(download, "_CHUNK", 1000)
  server.hang_up_after = 6000
  with pytest.raises(UserError, match="run the command again"):
    download.download("tiny", tmp_path)
  server.hang_up_after = None
  download.download("tiny", tmp_path)
  assert contents(tmp_path) == FILES
  assert server.sent == [6000, len(server.content) - 6000]


def test_resumes_a_download_that_only_lacked_its_check(server, tmp_path):
  (tmp_path / "tiny.download").mkdir()
  (tmp_path / "tiny.download" / "part").write_bytes(server.content)
  download.download("tiny", tmp_path)
  assert contents(tmp_path) == FILES and server.sent == [0]


def test_starts_over_when_the_server_knows_no_ranges(server, tmp_path):
  server.ranges = False
  (tmp_path / "tiny.download").mkdir()
  (tmp_path / "tiny.download" / "part").write_bytes(server.content[:500])
  download.download("tiny", tmp_path)
  assert contents(tmp_path) == FILES


def test_wrong_checksum_deletes_the_download(server, tmp_path):
  right = server.content
  server.content = bytes(len(right))
  with pytest.raises(UserError, match="SHA-256"):
    download.download("tiny", tmp_path)
  assert not contents(tmp_path)
  server.content = right
  download.download("tiny", tmp_path)
  assert contents(tmp_path) == FILES


def test_server_error(server, tmp_path):
  server.status = 503
  with pytest.raises(UserError, match="answered 503"):
    download.download("tiny", tmp_path)
  assert not (tmp_path / "tiny").exists()


def test_no_connection(server, tmp_path):
  server.shutdown()
  server.server_close()
  with pytest.raises(UserError, match="ConnectionError"):
    download.download("tiny", tmp_path)


def test_existing_folder_is_kept_unless_overwrite(server, tmp_path, capsys):
  (tmp_path / "tiny").mkdir()
  (tmp_path / "tiny" / "mine.txt").write_text("mine")
  assert download.download("tiny", tmp_path) == [tmp_path / "tiny"]
  assert contents(tmp_path) == {"tiny/mine.txt": b"mine"} and not server.sent
  assert "--overwrite" in capsys.readouterr().out
  download.download("tiny", tmp_path, overwrite=True)
  assert contents(tmp_path) == FILES


@pytest.mark.parametrize("entry", ["../evil.txt", "/evil.txt", "tiny/../../evil.txt"])
def test_an_entry_that_leads_out_is_refused(server, tmp_path, monkeypatch, entry):
  offer(monkeypatch, server, zipped({**FILES, entry: b"evil"}))
  with pytest.raises(UserError, match="not safe"):
    download.download("tiny", tmp_path / "to")
  assert not (tmp_path / "to" / "tiny").exists() and not list(tmp_path.rglob("evil.txt"))


def test_damaged_archive_leaves_nothing_half_unpacked(server, tmp_path, monkeypatch):
  damaged = bytearray(zipped(FILES))
  damaged[-300] ^= 1  # in the content of the last file
  offer(monkeypatch, server, bytes(damaged))
  with pytest.raises(UserError, match="damaged"):
    download.download("tiny", tmp_path)
  assert not (tmp_path / "tiny").exists()


@pytest.mark.parametrize("call", ["download", "extract"])
def test_full_disk(server, tmp_path, monkeypatch, call):
  def fail(*_, **__):
    raise OSError(28, "No space left on device")

  target = (download, "tqdm") if call == "download" else (zipfile.ZipFile, "extractall")
  monkeypatch.setattr(*target, fail)
  with pytest.raises(UserError, match="No space left on device"):
    download.download("tiny", tmp_path)
  assert not (tmp_path / "tiny").exists()


def test_to_is_a_file(server, tmp_path):
  (tmp_path / "file").write_text("")
  with pytest.raises(UserError, match="cannot write"):
    download.download("tiny", tmp_path / "file")


@pytest.mark.parametrize(
    "args, message",
    [
        (["nothing"], b"unknown dataset 'nothing': use one of div2k"),
        ([], b"name a dataset: div2k"),
        (["div2k", "more"], b"unexpected argument 'more'"),
        (["div2k", "--too=x"], b"too"),
    ],
)
def test_a_wrong_command_is_one_line_and_exit_code_2(tmp_path, args, message):
  done = subprocess.run([sys.executable, "-m", "mzsr_jax.download", *args, f"--to={tmp_path}"], capture_output=True)
  assert done.returncode == 2 and message in done.stderr and done.stderr.count(b"\n") == 1, done.stderr
  assert not list(tmp_path.iterdir())


def test_a_failed_command_is_one_line_and_exit_code_2(server, tmp_path):
  server.status = 404
  code = f"""
import sys
from absl import flags
from mzsr_jax import cli, download
download.DATASETS = {{"tiny": (download.Archive("http://127.0.0.1:{server.server_port}/tiny.zip", "0" * 64, "tiny"),)}}
flags.DEFINE_string("to", {str(tmp_path)!r}, "")
flags.DEFINE_bool("overwrite", False, "")
sys.argv = ["download", "tiny"]
cli.run(download.main, arguments=1)
"""
  done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
  assert done.returncode == 2 and done.stderr.splitlines()[-1].startswith("error: cannot download"), done.stderr
  assert "Traceback" not in done.stderr
