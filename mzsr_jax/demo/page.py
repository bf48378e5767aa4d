"""The demo's page, in Gradio, behind a gate."""

import base64
import functools
import html
import io
import pathlib
from collections.abc import Iterator

import gradio as gr
from PIL import Image
from starlette.middleware import Middleware

from mzsr_jax import images
from mzsr_jax.demo import jobs, work
from mzsr_jax.demo.gate import LOCAL, Gate
from mzsr_jax.demo.jobs import JobManager
from mzsr_jax.demo.work import JobRequest, JobStatus
from mzsr_jax.errors import UserError
from mzsr_jax.photo import kernel_files

_FORGOTTEN = 4 * 3600  # seconds after which files are deleted that no page has claimed, or that lie in one left open
_TITLE = "Enlarge a photo"
_INTRO = (
    f"<h1>{_TITLE}</h1><p>It finds out how the photo was blurred, and undoes that as it enlarges it. "
    "All happens on this machine; files are deleted when the page is closed.</p>"
)
_WELCOME = "Drop a photo, or try the example."
_NOTHING = "<div class='nothing'>Before and after appear here</div>"
_WHOLE = "Enlarge the whole photo"
_MIDDLE = {"x": 0.5, "y": 0.5}
# The part that is looked at, as a frame on the photo: dragged, put by a click, or moved by the arrow keys.
_PLACE = """<div class="photo"><img src="${image}" alt="Your photo" draggable="false"><button type="button" class="frame"
  aria-label="Part that is shown, ${Math.round(100 * value.x)}% from the left, ${Math.round(100 * value.y)}% from the top:
  arrow keys move it" style="left: ${100 * value.x}%; top: ${100 * value.y}%; width: ${100 * w}%; height: ${100 * h}%"></button>
  </div>"""
_PLACE_SCRIPT = """
const within = (middle, side) => Math.min(Math.max(middle, side / 2), 1 - side / 2);
const move = (x, y) => { props.value = {x: within(x, props.w), y: within(y, props.h)}; };
const follow = event => {
  const box = element.querySelector('img').getBoundingClientRect();
  move((event.clientX - box.x) / box.width, (event.clientY - box.y) / box.height);
};
let dragged = false;
element.addEventListener('pointerdown', event => {
  dragged = event.button === 0 && !!event.target.closest('.photo');
  if (!dragged) return;
  element.setPointerCapture(event.pointerId);
  follow(event);
});
element.addEventListener('pointermove', event => dragged && follow(event));
element.addEventListener('pointerup', () => { if (dragged) trigger('input'); dragged = false; });
element.addEventListener('pointercancel', () => { dragged = false; });
element.addEventListener('keydown', event => {
  const [x, y] = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1]}[event.key] ?? [0, 0];
  if (!x && !y) return;
  event.preventDefault();
  move(props.value.x + x * props.w / 2, props.value.y + y * props.h / 2);
  trigger('input');
});
"""
# Zoom for those without a mouse: Gradio's picture zooms by the wheel alone, 5% a notch.
_ZOOM_SCRIPT = """
document.addEventListener('keydown', event => {
  const deltaY = {'+': -1, '=': -1, '-': 1}[event.key];
  const image = document.querySelector('#slider .slider-wrap img');
  if (!deltaY || !image || !event.target.matches('#compare input[type=range]')) return;
  event.preventDefault();
  const box = image.getBoundingClientRect();
  const notch = {deltaY, clientX: box.x + box.width / 2, clientY: box.y + box.height / 2, bubbles: true, cancelable: true};
  for (let i = 0; i < 5; i++) image.dispatchEvent(new WheelEvent('wheel', notch));
});
"""
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
#all { display: grid; grid-template: "photo seen" auto "choices seen" 1fr / 340px minmax(0, 1fr); gap: 16px; }
#photo_side { grid-area: photo; } #seen { grid-area: seen; } #choices { grid-area: choices; }
#all > * { min-width: 0 !important; }
#bar progress { appearance: none; width: 100%; height: 8px; background: var(--border-color-primary); }
#bar ::-webkit-progress-bar { background: none; }
#bar ::-webkit-progress-value, #bar ::-moz-progress-bar { background: var(--color-accent); }
#bar p { margin: 0; font-variant-numeric: tabular-nums; }
#place .photo { position: relative; width: fit-content; margin: 0 auto; cursor: crosshair; }
#place img { display: block; max-width: 100%; max-height: 260px; margin: 0; border-radius: var(--block-radius); }
#place .frame { position: absolute; transform: translate(-50%, -50%); min-width: 26px; min-height: 26px; padding: 0;
  border: 2px solid #fff; outline: 2px solid var(--color-accent); background: none; cursor: move; touch-action: none; }
#place .frame:focus-visible { outline-width: 4px; }
@media (max-width: 760px) { #all { grid-template: "photo" "seen" "choices" / minmax(0, 1fr); } .nothing { min-height: 160px; }
  #place img { max-height: 180px; } }
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
  upload_bytes = manager.worker.limits.upload_bytes
  gate = Middleware(Gate, folder=manager.folder, local=host in LOCAL, upload_bytes=upload_bytes)
  page.launch(
      server_name=host, server_port=port, prevent_thread_lock=True, quiet=True, share=False, inbrowser=False, show_error=False,
      max_file_size=upload_bytes, enable_monitoring=False, ssr_mode=False, mcp_server=False, pwa=False,
      footer_links=[], css=_CSS, theme=gr.themes.Base(primary_hue="blue", neutral_hue="slate", font=system, font_mono=mono),
      app_kwargs={"middleware": [gate]},
  )  # fmt: skip
  return page


def _page(manager: JobManager) -> gr.Blocks:
  """The page, not yet served."""
  with gr.Blocks(analytics_enabled=False, title=_TITLE, fill_width=True, delete_cache=(_FORGOTTEN // 4, _FORGOTTEN)) as page:
    gr.HTML(_INTRO, padding=False, js_on_load=_ZOOM_SCRIPT, elem_id="intro")
    with gr.Row(elem_id="all"):
      with gr.Column(elem_id="photo_side"):
        photo = gr.File(label="Photo", file_types=list(images.FORMATS), height=130, elem_id="photo")
        place = gr.HTML(
            _MIDDLE, html_template=_PLACE, js_on_load=_PLACE_SCRIPT, image="", w=1, h=1, visible=False, apply_default_css=False,
            elem_id="place",
        )  # fmt: skip
        example = gr.Button("Try an example", size="sm", elem_id="example")
      with gr.Column(elem_id="seen"):
        status = gr.HTML(_status(_WELCOME), padding=False, elem_id="status")
        bar = gr.HTML(_bar(0, None), visible=False, elem_id="bar")
        clock = gr.Timer(1, active=False)
        nothing = gr.HTML(_NOTHING, padding=False, elem_id="nothing")
        slider = gr.ImageSlider(
            label="Before and after: scroll or pinch to zoom", visible=False, interactive=False, buttons=["fullscreen"],
            max_height=480, elem_id="slider",
        )  # fmt: skip
        compare = gr.Slider(
            0, 100, 50, step=1, label="Before | after", visible=False, buttons=[], elem_id="compare",
            info="Left of the line: a plain enlargement. Right of it: this program's. Arrow keys move it, + and - zoom.",
        )  # fmt: skip
        with gr.Row():
          whole = gr.Button(_WHOLE, variant="primary", interactive=False, elem_id="whole")
          cancel = gr.Button("Stop", interactive=False, scale=0, min_width=100, elem_id="cancel")
        result = gr.DownloadButton("Download the result", visible=False, variant="primary", elem_id="result")
      with gr.Column(elem_id="choices"):
        scale = gr.Slider(work.MIN_SCALE, work.MAX_SCALE, 2, step=0.1, label="Times larger", buttons=[], elem_id="scale")
        strength = gr.Slider(
            0, 1, 1, step=0.05, label="Strength", buttons=[], elem_id="strength",
            info="0 is a plain enlargement; lower it where edges look overdone.",
        )  # fmt: skip
        kernel = gr.Dropdown(
            [(label, name) for name, label in work.KERNELS.items()], value=work.AUTO, label="Blur of the photo",
            elem_id="kernel_name",
            info="What is undone. Told too much, edges get bright and dark seams; too little, the result stays soft.",
        )  # fmt: skip
        kernel_file = gr.File(
            label="The blur (.mat, .npy or a picture)", file_types=list(kernel_files.EXTENSIONS), height=110, visible=False
        )
        along = gr.Slider(
            work.MIN_BLUR, work.MAX_BLUR, 0.5, step=0.05, label="Width of the blur", info="in pixels of the photo", buttons=[],
            elem_id="along",
        )  # fmt: skip
        unknown_noise = gr.Checkbox(True, label="Find the noise in the photo", elem_id="unknown_noise")
        noise = gr.Slider(
            0, work.MAX_NOISE, 0, step=0.5, label="Noise", buttons=[], elem_id="noise",
            info="Grain of the camera and traces of JPEG, in levels of 255. More gives a smoother result.",
        )  # fmt: skip
        with gr.Accordion("More", open=False, elem_id="more"):
          ratio = gr.Slider(
              0.2, 1, 1, step=0.05, label="Width the other way", buttons=[], elem_id="ratio",
              info="in parts of the width: below 1 where the blur is longer one way, as by shaking",
          )  # fmt: skip
          angle = gr.Slider(
              0, 180, 0, step=5, label="Direction of the longer way", info="degrees; 0 is left to right, 90 is up and down",
              buttons=[], elem_id="angle",
          )  # fmt: skip
          steps = gr.Slider(
              0, work.MAX_STEPS, work.default_steps(), step=1, label="Steps of practice on the photo itself", buttons=[],
              elem_id="steps",
              info=None if work.default_steps() else "The network that the program comes with gains nothing by them.",
          )  # fmt: skip
          png = gr.Checkbox(label="Result as PNG, whatever the photo is")
        with gr.Accordion("What was found in the photo", open=False, visible=False, elem_id="about_kernel") as about:
          picture = gr.Image(
              show_label=False, buttons=[], height=140, width=140, alt_text="The blur of one point", elem_id="kernel"
          )
          text = gr.HTML(padding=False, elem_id="kernel_text")
          matrix = gr.DownloadButton("Download the blur (.mat)", size="sm", visible=False, elem_id="matrix")

    told = [photo, kernel, along, ratio, angle, kernel_file, scale, steps, unknown_noise, noise, strength, png, place]
    choices = {example, *told} - {place}
    shown = {status, bar, clock, nothing, slider, compare, result, about, picture, text, matrix, whole, cancel, place, *choices}
    hidden = gr.update(value=None, visible=False)
    nothing_made = {
        nothing: gr.update(visible=True), slider: hidden, compare: gr.update(visible=False), about: gr.update(visible=False),
        whole: gr.update(value=_WHOLE, interactive=False),
    }  # fmt: skip
    # Values as the browser sends them: what Gradio would make of files is copies, and of wrong values tracebacks.
    quick = {"queue": False, "preprocess": False, "show_progress": "hidden", "api_visibility": "private"}
    one_by_one = {**quick, "queue": True, "concurrency_limit": 1, "concurrency_id": "job"}

    def update(path: pathlib.Path | None) -> dict:
      return gr.update(value=path and str(path), visible=path is not None)

    def look(given, request: gr.Request) -> dict:
      nothing_seen = {place: gr.update(visible=False), result: hidden, **nothing_made}
      if given is None:
        manager.clear(request.session_hash)
        return {status: _status(_WELCOME), **nothing_seen}
      try:
        line, thumbnail = manager.look(request.session_hash, pathlib.Path(given["path"]))
      except UserError as e:
        return {status: _status(str(e), True), **nothing_seen}
      seen = gr.update(value=_MIDDLE, image=_data_url(thumbnail), w=1, h=1, visible=True)
      return {status: _status(line), **nothing_seen, place: seen}

    def load_example(request: gr.Request) -> dict:
      path = manager.example(request.session_hash)
      return {photo: str(path), kernel: work.AUTO, unknown_noise: True, scale: 2}

    def working(at_work: bool) -> dict:
      """Of the whole photo, during which nothing else can be done."""
      seen = {bar: gr.update(value=_bar(0, None), visible=at_work), clock: gr.update(active=at_work)}
      return seen | {each: gr.update(interactive=not at_work) for each in (whole, *choices)}

    def run(request: gr.Request) -> Iterator[dict]:
      yield {cancel: gr.update(interactive=True)}  # Gradio empties all that a generator without any value is for
      for job_status in manager.run(request.session_hash):
        yield seen_of(job_status)

    def advance(request: gr.Request) -> str:
      return _bar(*manager.progress(request.session_hash))

    def seen_of(job_status: JobStatus) -> dict:
      changes = {status: _status(job_status.status, job_status.failed), cancel: gr.update(interactive=not job_status.last)}
      if job_status.pair:
        frame = dict(zip("wh", job_status.frame))
        changes |= {nothing: gr.update(visible=False), compare: gr.update(visible=True), place: gr.update(**frame)}
        changes |= {slider: gr.update(value=tuple(map(str, job_status.pair)), visible=True)}
        changes |= {about: gr.update(visible=True), picture: str(job_status.kernel), matrix: update(job_status.kernel_file)}
        changes |= {text: f"<p>{html.escape(job_status.kernel_text)}</p>"}
      if job_status.done:  # one that another takes the place of would undo what was changed meanwhile
        changes |= {noise: round(job_status.noise_level, 1)}
      if job_status.done and job_status.gaussian:
        width, other, degrees = job_status.gaussian
        changes |= {along: round(width, 2), ratio: round(other / width, 2), angle: round(degrees)}
      if job_status.foretold:
        changes |= {whole: gr.update(value=f"{_WHOLE}: about {work.duration(job_status.foretold)}", interactive=True)}
      if job_status.result:
        changes |= {result: gr.update(value=str(job_status.result), label=f"Download {job_status.result.name}", visible=True)}
      if job_status.failed and not job_status.stopped:
        changes |= nothing_made
      return changes

    def stop(request: gr.Request) -> dict:
      at_work = manager.cancel(request.session_hash)
      return {status: _status("Stopping …" if at_work else "Stopped"), cancel: gr.update(interactive=False)}

    def leave(request: gr.Request) -> None:
      manager.leave(request.session_hash)

    def ordered(event, part: bool) -> None:
      """Has a job follow upon an event."""

      def begin(request: gr.Request, *values) -> dict:
        if values[0] is None:
          return {status: _status(_WELCOME)}
        if part and not manager.has_photo(request.session_hash):  # refused, as the page says, or cleared a moment ago
          return {cancel: gr.update(interactive=False)}
        try:
          manager.begin(request.session_hash, _job_request(not part, *values))
        except UserError as e:
          return {status: _status(str(e), True)}
        seen = {} if part else {result: hidden, **working(True)}
        return {status: _status("Waiting …"), cancel: gr.update(interactive=True), **seen}

      # Of what is dragged, the last counts: of the jobs that follow each other, those that find nothing to do end at once.
      begun = event(begin, told, shown, **quick, trigger_mode="always_last")
      ended = begun.then(run, None, shown, **one_by_one, trigger_mode="always_last")
      after = {} if part else working(False)
      ended.then(lambda: {cancel: gr.update(interactive=False), **after}, None, shown, **quick)

    loaded = example.click(load_example, None, {photo, kernel, unknown_noise, scale}, **quick)
    photo.clear(look, photo, shown, **quick, trigger_mode="always_last")
    for given in (photo.upload, loaded.success):
      ordered(given(look, photo, shown, **quick).then, part=True)
    kernel.input(lambda name: gr.update(visible=name == work.FILE), kernel, kernel_file, **quick)
    # What is set by hand is found no more.
    by_hand = functools.partial(gr.on, fn=None, queue=False, api_visibility="private", trigger_mode="multiple")
    own_blur = by_hand([along.input, ratio.input, angle.input], js=f"() => '{work.CUSTOM}'", outputs=kernel)
    own_noise = by_hand([noise.input], js="() => false", outputs=unknown_noise)
    changed = [each.input for each in (place, scale, strength, kernel, unknown_noise, steps)] + [kernel_file.upload]
    for event in (functools.partial(gr.on, changed), own_blur.success, own_noise.success):
      ordered(event, part=True)
    ordered(whole.click, part=False)
    clock.tick(advance, None, bar, **quick)
    cancel.click(stop, None, shown, **quick)
    compare.input(None, compare, slider, js="(at) => ({__type__: 'update', slider_position: at})", api_visibility="private")
    page.unload(leave)
  return page


def _status(line: str, failed: bool = False) -> str:
  line = line[:1].upper() + line[1:] if failed else line  # messages are written to stand after "error: "
  return f"<p role='status'{' class=bad' * failed}>{html.escape(line)}</p>"


def _bar(part: float, left: float | None) -> str:
  about = "" if left is None else f": about {work.duration(left)} to go"
  return f"<progress max='1' value='{part:.3f}' aria-label='Progress'></progress><p>{part:.0%}{about}</p>"


def _data_url(pixels: images.Pixels) -> str:
  buffer = io.BytesIO()
  Image.fromarray(pixels).save(buffer, "JPEG", quality=85)
  return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _job_request(
    whole, photo, kernel, along, ratio, angle, kernel_file, scale, steps, unknown_noise, noise, strength, png, place
) -> JobRequest:
  """The order of a page's values, as they come: whoever speaks to the server without the page may send any.

  Raises:
    UserError: they are of other types than a page's.
  """
  try:
    paths = [given and pathlib.Path(given["path"]) for given in (photo, kernel_file)]
    gaussian = float(along), max(float(along) * float(ratio), work.MIN_BLUR), float(angle)
    level = None if unknown_noise is True else float(noise)
    numbers = float(scale), int(steps), level, float(strength), png is True, (float(place["x"]), float(place["y"]))
    return JobRequest(paths[0], kernel, gaussian, paths[1], *numbers, whole)
  except (KeyError, TypeError, ValueError, OverflowError) as e:
    raise UserError("a number is missing, or the page and the program do not fit: load the page anew") from e
