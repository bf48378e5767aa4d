"""The demo's page, in Gradio, behind a gate."""

import html
import pathlib
from collections.abc import Iterator

import gradio as gr
from starlette.middleware import Middleware

from mzsr_jax import images
from mzsr_jax.demo import jobs
from mzsr_jax.demo.gate import LOCAL, Gate
from mzsr_jax.demo.jobs import JobManager, JobRequest
from mzsr_jax.errors import UserError
from mzsr_jax.photo import kernel_files

_FORGOTTEN = 4 * 3600  # seconds after which files are deleted that no page has claimed, or that lie in one left open
_TITLE = "Zero-shot super-resolution"
_INTRO = (
    f"<h1>{_TITLE}</h1><p>A small network that is told your photo's blur enlarges it. "
    "All happens on this machine; files are deleted when the page is closed.</p>"
)
_WELCOME = "Drop a photo, or try the example."
_NOTHING = "<div class='nothing'>The comparison appears here</div>"
_CSS = """
.gradio-container > main { max-width: 1240px !important; }
#intro h1 { font-size: 26px; letter-spacing: -.015em; margin: 0; color: var(--body-text-color); }
#intro p { margin: 2px 0 0; opacity: .75; }
#intro, #intro *, #status, #status *, #kernel_text, #kernel_text *, #nothing, #nothing * { padding: 0 !important; }
#intro, #status { padding-left: 2px !important; }
#status p { margin: 0; min-height: 1.5em; font-size: 15px; font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
#status .bad { color: #a33c00; } .dark #status .bad { color: #f28c4f; }
.nothing { display: grid; place-items: center; min-height: 320px; border: 1px dashed var(--border-color-primary);
  border-radius: var(--block-radius); opacity: .75; }
#kernel img { object-fit: contain; }
#kernel_text p { margin: 0; font-size: 15px; overflow-wrap: anywhere; }
#matrix { max-width: 260px; }
"""


def serve(manager: JobManager, host: str, port: int) -> gr.Blocks:
  """Opens the page; what is returned is to be closed."""
  page = _page(manager)
  page.queue(max_size=2 * jobs.MAX_WAITING, default_concurrency_limit=1)
  system = [gr.themes.Font(name) for name in ("system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif")]
  mono = [gr.themes.Font(name) for name in ("ui-monospace", "Consolas", "monospace")]
  gate = Middleware(Gate, folder=manager.folder, local=host in LOCAL, upload_bytes=manager.limits.upload_bytes)
  page.launch(
      server_name=host, server_port=port, prevent_thread_lock=True, quiet=True, share=False, inbrowser=False, show_error=False,
      max_file_size=manager.limits.upload_bytes, enable_monitoring=False, ssr_mode=False, mcp_server=False, pwa=False,
      footer_links=[], css=_CSS, theme=gr.themes.Base(primary_hue="blue", neutral_hue="slate", font=system, font_mono=mono),
      app_kwargs={"middleware": [gate]},
  )  # fmt: skip
  return page


def _page(manager: JobManager) -> gr.Blocks:
  """The page, not yet served."""
  with gr.Blocks(analytics_enabled=False, title=_TITLE, fill_width=True, delete_cache=(_FORGOTTEN // 4, _FORGOTTEN)) as page:
    gr.HTML(_INTRO, padding=False, elem_id="intro")
    with gr.Row():
      with gr.Column(scale=2, min_width=320):
        photo = gr.File(label="Photo", file_types=list(images.FORMATS), height=130, elem_id="photo")
        example = gr.Button("Try an example", size="sm", elem_id="example")
        choices = [(label, name) for name, label in jobs.KERNELS.items()]
        kernel = gr.Dropdown(choices, value=jobs.AUTO, label="Kernel: the photo's blur", elem_id="kernel_name")
        gaussian = gr.Textbox(
            label="Variance, in pixels² of the result", placeholder="2.5, or 4x1x-0.5 with an angle", visible=False
        )
        kernel_file = gr.File(
            label="Kernel (.mat, .npy or a picture)", file_types=list(kernel_files.EXTENSIONS), height=110, visible=False
        )
        scale = gr.Slider(jobs.MIN_SCALE, jobs.MAX_SCALE, 2, step=0.1, label="Scale")
        steps = gr.Slider(0, jobs.MAX_STEPS, jobs.default_steps(), step=1, label="Steps of adaptation", elem_id="steps")
        with gr.Accordion("More", open=False, elem_id="more"):
          unknown_noise = gr.Checkbox(
              True, label="Estimate the noise from the photo, and what JPEG has changed", elem_id="unknown_noise"
          )
          noise = gr.Slider(
              0, jobs.MAX_NOISE, 0, step=0.5, label="Noise of the photo", info="standard deviation, of 255", visible=False,
              elem_id="noise",
          )
          png = gr.Checkbox(label="Result as PNG, whatever the photo is")
        with gr.Row():
          run = gr.Button("Run", variant="primary", min_width=100, elem_id="run")
          cancel = gr.Button("Cancel", interactive=False, min_width=100, elem_id="cancel")
      with gr.Column(scale=5, min_width=320):
        status = gr.HTML(_status(_WELCOME), padding=False, elem_id="status")
        nothing = gr.HTML(_NOTHING, padding=False, elem_id="nothing")
        preview = gr.Image(label="Photo", visible=False, buttons=[], height=480, elem_id="preview")
        slider = gr.ImageSlider(
            label="Left: bicubic. Right: network", visible=False, interactive=False, buttons=["fullscreen"], max_height=480,
            elem_id="slider",
        )  # fmt: skip
        result = gr.DownloadButton("Download the result", visible=False, variant="primary", elem_id="result")
        with gr.Row(visible=False, elem_id="about_kernel") as about:
          picture = gr.Image(show_label=False, buttons=[], height=140, width=140, scale=0, min_width=140, elem_id="kernel")
          with gr.Column(min_width=140):
            text = gr.HTML(padding=False, elem_id="kernel_text")
            matrix = gr.DownloadButton("Download the kernel (.mat)", size="sm", visible=False, elem_id="matrix")

    shown = {status, nothing, preview, slider, result, about, picture, text, matrix, run, cancel}
    ordered = [photo, kernel, gaussian, kernel_file, scale, steps, unknown_noise, noise, png]
    hidden = gr.update(value=None, visible=False)
    nothing_made = {slider: hidden, result: hidden, matrix: hidden, about: gr.update(visible=False)}
    # Values as the browser sends them: what Gradio would make of files is copies, and of wrong values tracebacks.
    quick = {"queue": False, "preprocess": False, "show_progress": "hidden", "api_visibility": "private"}

    def update(path: pathlib.Path | None) -> dict:
      return gr.update(value=path and str(path), visible=path is not None)

    def buttons(running: bool) -> dict:
      return {run: gr.update(interactive=not running), cancel: gr.update(interactive=running)}

    def look(given, request: gr.Request) -> dict:
      nothing_seen = {nothing: gr.update(visible=True), preview: hidden, **nothing_made}
      if given is None:
        return {status: _status(_WELCOME), **nothing_seen}
      try:
        line, made = manager.look(request.session_hash, pathlib.Path(given["path"]))
      except UserError as e:
        return {status: _status(str(e), True), **nothing_seen}
      return {status: _status(line), **nothing_seen, nothing: gr.update(visible=False), preview: update(made)}

    def load_example(request: gr.Request) -> dict:
      path = manager.example(request.session_hash)
      line, made = manager.look(request.session_hash, path)
      seen = {status: _status(line), nothing: gr.update(visible=False), preview: update(made), **nothing_made}
      return {photo: str(path), kernel: jobs.EXAMPLE_KERNEL, **fields(jobs.EXAMPLE_KERNEL), scale: 2, **seen}

    def fields(name) -> dict:
      return {gaussian: gr.update(visible=name == jobs.CUSTOM), kernel_file: gr.update(visible=name == jobs.FILE)}

    def begin(request: gr.Request) -> Iterator[dict]:
      try:
        manager.begin(request.session_hash)
      except UserError as e:
        yield {status: _status(str(e), True)}
        raise gr.Error(str(e), visible=False, print_exception=False) from e  # what follows upon success does not
      yield {status: _status("Waiting …"), **nothing_made, **buttons(True)}

    def work(request: gr.Request, *values) -> Iterator[dict]:
      try:
        wanted = _job_request(*values)
      except UserError as e:
        manager.give_up(request.session_hash)
        yield {status: _status(str(e), True)}
        return
      for job_status in manager.run(request.session_hash, wanted):
        changes = {status: _status(job_status.status, job_status.failed), result: update(job_status.result)}
        if job_status.pair:
          changes |= {nothing: gr.update(visible=False), preview: hidden}
          changes |= {slider: gr.update(value=tuple(map(str, job_status.pair)), visible=True)}
          changes |= {about: gr.update(visible=True), picture: str(job_status.kernel), matrix: update(job_status.kernel_file)}
          facts = {"Kernel": job_status.kernel_text, "Noise": job_status.noise_text}
          changes |= {text: "".join(f"<p><b>{name}</b><br>{html.escape(fact)}</p>" for name, fact in facts.items())}
        elif job_status.failed:
          changes |= nothing_made
        yield changes

    def stop(request: gr.Request) -> dict:
      manager.cancel(request.session_hash)
      return {status: _status("Cancelling …"), cancel: gr.update(interactive=False)}

    def leave(request: gr.Request) -> None:
      manager.leave(request.session_hash)

    gr.on([photo.upload, photo.clear], look, photo, shown, **quick)
    unknown_noise.input(lambda unknown: gr.update(visible=unknown is not True), unknown_noise, noise, **quick)
    kernel.input(fields, kernel, {gaussian, kernel_file}, **quick)
    loaded = example.click(load_example, None, {*shown, photo, kernel, gaussian, kernel_file, scale}, **quick)
    queued = {**quick, "queue": True}
    for click in (run.click, loaded.success):
      begun = click(begin, None, shown, **queued, concurrency_limit=None)
      ended = begun.success(work, ordered, shown, **queued, concurrency_limit=1, concurrency_id="job")
      ended.then(lambda: buttons(False), None, {run, cancel}, **quick)
    cancel.click(stop, None, shown, **quick)
    page.unload(leave)
  return page


def _status(line: str, failed: bool = False) -> str:
  line = line[:1].upper() + line[1:] if failed else line  # messages are written to stand after "error: "
  return f"<p role='status'{' class=bad' * failed}>{html.escape(line)}</p>"


def _job_request(photo, kernel, gaussian, kernel_file, scale, steps, unknown_noise, noise, png) -> JobRequest:
  """The order of a page's values, as they come: whoever speaks to the server without the page may send any.

  Raises:
    UserError: they are of other types than a page's.
  """
  try:
    paths = [given and pathlib.Path(given["path"]) for given in (photo, kernel_file)]
    numbers = float(scale), int(steps), None if unknown_noise is True else float(noise)
    return JobRequest(paths[0], kernel, str(gaussian or ""), paths[1], *numbers, png is True)
  except (KeyError, TypeError, ValueError, OverflowError) as e:
    raise UserError("the page and the program do not fit: load the page anew") from e
