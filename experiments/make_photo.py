"""Makes experiments/photo.png, the README's example: scikit-image's astronaut (NASA, public domain), degraded by g^d_2.0.

    python -m experiments.make_photo
"""

import pathlib

from mzsr_jax import images
from mzsr_jax.demo import jobs

if __name__ == "__main__":
  path = pathlib.Path(__file__).with_name("photo.png")
  images.write_png(path, jobs.example_photo(), overwrite=True)
