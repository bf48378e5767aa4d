"""The model of JPEG's loss, beside Pillow's coder."""

import io

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from mzsr_jax import images
from mzsr_jax.core import jpeg
from mzsr_jax.training import data


@pytest.mark.parametrize("quality", [50, 75, 95])
def test_loss_is_that_of_a_coder(quality):
  image = images.center_crop(images.read_image(data.sample_photos()[0]), 128)
  file = io.BytesIO()
  Image.fromarray(image).save(file, "JPEG", quality=quality)
  coded = Image.open(file)
  table = np.sort(np.ravel(coded.quantization[0]))
  np.testing.assert_array_equal(np.sort(np.ravel(jpeg.steps(float(quality), jpeg.LUMA_STEPS))), table)
  made = images.to_uint8(np.asarray(jpeg.compress(jnp.asarray(images.to_float(image)), float(quality))))
  deviation = lambda a, b: np.sqrt(((np.float32(a) - np.float32(b)) ** 2).mean())
  loss = deviation(coded.convert("RGB"), image)
  assert deviation(made, image) == pytest.approx(loss, rel=0.05)
  assert deviation(made, coded.convert("RGB")) < 0.5 * loss


def test_a_flat_image_stays_as_it_is():
  gray = jnp.full((16, 32, 3), 128 / 255)
  np.testing.assert_allclose(jpeg.compress(gray, 50.0), gray, atol=1e-6)
