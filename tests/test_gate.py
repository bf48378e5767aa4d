"""The demo's gate, without Gradio: what it passes on, and what it refuses."""

import asyncio
import json
import subprocess
import sys

import pytest

from mzsr_jax.demo.gate import Gate


def ask(folder, path="/", method="GET", body=b"", host=b"127.0.0.1:7860", headers=(), local=True, pieces=1):
  """(status, the body that reached the application behind the gate, None where nothing did)."""
  reached, sent = [], []

  async def application(scope, receive, send):
    whole, more = b"", scope["method"] == "POST"
    while more:
      message = await receive()
      whole, more = whole + message["body"], message["more_body"]
    reached.append(whole)
    await send({"type": "http.response.start", "status": 200})

  coming = [body[i * len(body) // pieces : (i + 1) * len(body) // pieces] for i in range(pieces)]

  async def receive():
    return {"type": "http.request", "body": coming.pop(0), "more_body": bool(coming)}

  async def send(message):
    sent.append(message)

  scope = {"type": "http", "path": path, "method": method, "headers": [(b"host", host), *headers]}
  asyncio.run(Gate(application, folder, local, upload_bytes=1000)(scope, receive, send))
  return sent[0]["status"], reached[0] if reached else None


def test_it_is_loaded_without_gradio():
  code = "import sys; import mzsr_jax.demo.gate; sys.exit('gradio' in sys.modules)"
  assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize("path", ["/", "/config", "/assets/a.js", "/gradio_api/queue/data", "/gradio_api/heartbeat/1"])
def test_what_the_page_asks_for_is_served(tmp_path, path):
  assert ask(tmp_path, path) == (200, b"")


@pytest.mark.parametrize("path", ["/docs", "/gradio_api/info", "/queue/data", "/monitoring", "/gradio_api/proxy=x"])
def test_what_it_does_not_ask_for_is_not_there(tmp_path, path):
  assert ask(tmp_path, path) == (404, None)


def test_a_local_page_is_for_this_machine_alone(tmp_path):
  assert ask(tmp_path, host=b"evil.example:7860") == (403, None)
  assert ask(tmp_path, host=b"[::1]:7860")[0] == ask(tmp_path, host=b"evil.example", local=False)[0] == 200


def test_files_are_those_of_the_folder(tmp_path):
  inside = tmp_path / "files"
  for path, status in ((inside / "a.png", 200), (tmp_path / "b.png", 403), (inside / ".." / "b.png", 403)):
    assert ask(inside, f"/gradio_api/file={path}")[0] == status
    body = json.dumps({"data": [{"nested": {"path": str(path)}}]}).encode()
    got = ask(inside, "/gradio_api/queue/join", "POST", body)
    assert got == ((200, body) if status == 200 else (403, None))
  assert ask(inside, "/gradio_api/file=http://example.org/a.png") == (403, None)


@pytest.mark.parametrize("body,status", [(b"{", 400), (b" " * (2**20 + 1), 413), (b"[" * 100_000, 400)])
def test_bodies_that_are_no_request(tmp_path, body, status):
  assert ask(tmp_path, "/gradio_api/run/predict", "POST", body) == (status, None)


def test_uploads_are_whole_and_not_too_large(tmp_path):
  upload = lambda body, length: ask(
      tmp_path, "/gradio_api/upload", "POST", body, headers=[(b"content-length", str(length).encode())]
  )
  assert upload(b"form--\r\n", 8) == (200, b"form--\r\n")
  assert upload(b"form", 4) == (400, None)
  assert upload(b"", 1000 + 4097) == (413, None)


@pytest.mark.parametrize("pieces", [1, 7])
def test_what_is_longer_than_its_header_says_is_counted_and_refused(tmp_path, pieces):
  """As a chunked body is, whose length no header tells."""
  length = [(b"content-length", b"8")]
  for size, status in ((1000 + 4096, 200), (1000 + 4097, 413)):
    body = bytes(size - 2) + b"--"
    found = ask(tmp_path, "/gradio_api/upload", "POST", body, headers=length, pieces=pieces)
    assert found == (status, body if status == 200 else None)


@pytest.mark.parametrize("path", ["/gradio_api/upload", "/gradio_api/queue/join"])
def test_two_lengths_of_one_body_are_refused(tmp_path, path):
  both = [(b"content-length", b"2"), (b"transfer-encoding", b"chunked")]
  assert ask(tmp_path, path, "POST", b"--", headers=both) == (400, None)
  assert ask(tmp_path, "/gradio_api/upload", "POST", b"--", headers=both[1:]) == (413, None)
