"""Makes the pictures of the README, from sample photos of scikit-image.

    python -m experiments.make_photo

experiments/photo.png: the astronaut (NASA, public domain), degraded by g^d_2.0. experiments/photo_steps.png: above, what the
paper's model makes of the astronaut degraded by g^d_0.2, a kernel unlike those that it was trained for; below, a real photo
(the cat Chelsea, Stefan van der Walt, CC0) by default. Parts of each, magnified.
"""

import pathlib

import numpy as np
import skimage.data
from PIL import Image

from mzsr_jax import images, weights
from mzsr_jax.core.kernels import Degradation
from mzsr_jax.demo import jobs
from mzsr_jax.inference import plain
from mzsr_jax.inference.tiled import TiledAdapter
from mzsr_jax.photo import enhance, kernel_files
from mzsr_jax.photo import file as photo_file
from mzsr_jax.photo.file import Photo

HERE = pathlib.Path(__file__).parent
STEPS = (0, 1, 10)
_WIDTH = 1000  # pixels, of each row
_FACE = (slice(78, 161), slice(94, 177))  # rows and columns of the SR images that are shown
_CAT = (slice(60, 200), slice(90, 300))  # of the photo
_EYES = (slice(110, 235), slice(80, 329))


def of_the_paper() -> dict[str, images.Pixels]:
  """Bicubic, and the paper's model before adaptation, after one step and after ten."""
  of, loaded = kernel_files.load_degradation("g02d"), weights.load("x2_direct")
  lr = images.to_float(jobs.example_photo("g02d"))
  adapter = TiledAdapter()
  made = adapter.trajectory(loaded.params, lr, of, STEPS, 2, loaded.inner_lrs(STEPS[-1]))
  names = {0: "before adaptation", 1: "after 1 step", 10: "after 10 steps"}
  return {"bicubic": plain.enlarge(lr, 2), **{names[step]: made[step] for step in STEPS}}


def of_a_photo() -> dict[str, images.Pixels]:
  """A real photo, enlarged by bicubic interpolation and by default."""
  photo, adapter, loaded = Photo(images.to_float(skimage.data.chelsea()[_CAT])), TiledAdapter(), weights.load(weights.DEFAULT)
  steps = enhance.default_steps(loaded)
  recipe = enhance.make_recipe(loaded, Degradation(None), 2, steps)
  *_, enlarged = enhance.run(adapter, photo, recipe, [steps])
  bicubic = enhance.enlarge_plainly(photo, recipe.scale)
  return {"a photo, bicubic": photo_file.on_white(bicubic), "by default": photo_file.on_white(enlarged.photo)}


def row(pictures: dict[str, images.Pixels], part: tuple[slice, slice]) -> images.Pixels:
  """A part of each picture, magnified, side by side, as wide as all rows."""
  width = (_WIDTH - 2 * (len(pictures) - 1)) // len(pictures)
  shown = []
  for picture in pictures.values():
    crop = picture[part]
    size = width, round(width * crop.shape[0] / crop.shape[1])
    shown.append(np.array(Image.fromarray(crop).resize(size, Image.Resampling.NEAREST)))
  made = images.side_by_side(shown, list(pictures))
  return np.pad(made, ((0, 0), (0, _WIDTH - made.shape[1]), (0, 0)), constant_values=255)


if __name__ == "__main__":
  images.write_png(HERE / "photo.png", jobs.example_photo(), overwrite=True)
  rows = row(of_the_paper(), _FACE), row(of_a_photo(), _EYES)
  images.write_png(HERE / "photo_steps.png", np.concatenate(rows), overwrite=True)
