"""Makes experiments/photo.png, the README's example: scikit-image's astronaut (NASA, public domain), degraded by g^d_2.0.

    python -m experiments.make_photo
"""

import pathlib

from mzsr_jax import demo_jobs, images

if __name__ == "__main__":
  path = pathlib.Path(__file__).with_name("photo.png")
  images.write_png(path, demo_jobs.example_photo(), overwrite=True)
