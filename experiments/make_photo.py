"""Makes experiments/photo.png, the README's example: scikit-image's astronaut (NASA, public domain), degraded by g^d_2.0.

    python -m experiments.make_photo
"""

import pathlib

import skimage.data

from mzsr_jax import benchmark, images, kernels

if __name__ == "__main__":
  path = pathlib.Path(__file__).with_name("photo.png")
  face = skimage.data.astronaut()[:320, 90:410]
  images.write_png(path, benchmark.make_lr(face, kernels.load_degradation("g20d"), 2), overwrite=True)
