"""What stands before the demo's server and refuses all that its page does not ask for."""

import json
import pathlib
import tempfile

LOCAL = ("127.0.0.1", "localhost", "::1")
_API = "/gradio_api"
# All that the page asks for. Gradio would do more: be described and monitored, forward requests, edit its own source.
_SERVED = ("/", "/config", "/theme.css", "/favicon.ico", "/manifest.json")
_SERVED_BELOW = ("/assets/", "/static/", "/svelte/")
_SERVED_API = ("queue/join", "queue/data", "run/predict", "upload_progress", "heartbeat/", "startup-events", "theme.css")
_MAX_BODY = 2**20  # of a request other than an upload


class Gate:
  """Refuses what the page does not ask for, before Gradio sees it: an ASGI middleware."""

  def __init__(self, app, folder: pathlib.Path, local: bool, upload_bytes: int):
    """Makes a gate.

    Args:
      app: behind it.
      folder: that files are served from.
      local: whether it is for this machine alone. Then requests must be addressed to it, or pages of other sites, whose name
        their owners have point to this machine, would be taken for ours.
      upload_bytes: of an uploaded file.
    """
    self._app, self._folder, self._local = app, folder, local
    self._most = upload_bytes + 4096  # of a form that holds it

  async def __call__(self, scope, receive, send):
    if scope["type"] == "http":
      status = self._refusal(scope)
      if not status and scope["method"] == "POST":
        status, receive = await (self._whole if self._is_upload(scope) else self._checked)(receive)
      if status:
        # Closed, since the rest of a body that was not read would be taken for the next request.
        headers = [(b"content-length", b"0"), (b"connection", b"close")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b""})
        return
    elif scope["type"] != "lifespan":
      return
    await self._app(scope, receive, send)

  def _is_upload(self, scope) -> bool:
    return scope["path"] == f"{_API}/upload"

  def _refusal(self, scope) -> int:
    """The HTTP status of a refusal, or 0."""
    headers = dict(scope["headers"])
    host = headers.get(b"host", b"").decode("latin-1").rsplit(":", 1)[0].strip("[]")
    if self._local and host not in LOCAL:
      return 403
    if b"transfer-encoding" in headers and b"content-length" in headers:  # two lengths, of which servers believe either
      return 400
    if self._is_upload(scope):
      length = headers.get(b"content-length", b"")
      return 0 if length.isdigit() and int(length) <= self._most else 413
    path, api = scope["path"], scope["path"].removeprefix(f"{_API}/")
    if api.startswith("file="):
      return 0 if self._is_ours(api.removeprefix("file=")) else 403
    served = path in _SERVED or path.startswith(_SERVED_BELOW) or (path != api and api.startswith(_SERVED_API))
    return 0 if served else 404

  def _is_ours(self, path) -> bool:
    """Whether a path is that of a file in the folder. Gradio takes addresses as well, and would fetch what they name."""
    if not isinstance(path, str) or "\0" in path:
      return False
    return pathlib.Path(path).is_absolute() and pathlib.Path(path).resolve().is_relative_to(self._folder)

  async def _checked(self, receive):
    """(0, what gives the same body again), or (the status of a refusal, `receive`): a body names no files but ours."""
    body, more = b"", True
    while more and len(body) <= _MAX_BODY:
      message = await receive()
      body, more = body + message.get("body", b""), message.get("more_body", False)
    if more or len(body) > _MAX_BODY:
      return 413, receive
    try:
      objects = []
      json.loads(body or b"{}", object_hook=objects.append)  # None in place of what is nested; all are in the list
    except (ValueError, RecursionError):
      return 400, receive
    if not all(self._is_ours(each["path"]) for each in objects if each.get("path")):
      return 403, receive
    given = [{"type": "http.request", "body": body, "more_body": False}]

    async def again():
      return given.pop() if given else await receive()

    return 0, again

  async def _whole(self, receive):
    """`_checked` for uploads: it takes in all of one first. Gradio would keep what came of one that is broken off."""
    body, tail, more = tempfile.TemporaryFile(), b"", True
    while more:
      message = await receive()
      if message["type"] == "http.disconnect":
        return 400, receive
      chunk, more = message.get("body", b""), message.get("more_body", False)
      if body.tell() + len(chunk) > self._most:
        return 413, receive
      body.write(chunk)
      tail = (tail + chunk)[-4:]
    if not tail.rstrip().endswith(b"--"):  # as a form ends
      return 400, receive
    size = body.tell()
    body.seek(0)

    async def again():
      if body.tell() == size:
        return await receive()
      return {"type": "http.request", "body": body.read(2**16), "more_body": body.tell() < size}

    return 0, again
