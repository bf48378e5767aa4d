"""How much of what a network adds is kept."""

import numpy as np
import pytest

from mzsr_jax.core.kernels import Degradation
from mzsr_jax.photo import enhance, response
from mzsr_jax.photo import file as photo_file
from mzsr_jax.photo import trust as trust_lib
from mzsr_jax.photo.kernel_net import Prediction


def trust(lr, noise_std, most=trust_lib.SHARE):
  return trust_lib.trust(lr, noise_std, most)


def gray(luma):
  return np.repeat(np.float32(luma)[..., None], 3, -1)


def stripes(period, contrast=0.3):
  return gray(0.5 + contrast * np.cos(2 * np.pi * np.arange(64) / period) * np.ones((48, 1)))


def inner(kept):
  return kept[8:-8, 8:-8]


@pytest.mark.parametrize("lr", [gray(np.full((48, 64), 0.4)), gray(np.arange(64) / 80 * np.ones((48, 1))), stripes(8)])
def test_what_is_plain_to_see_is_trusted_alike(lr):
  kept = trust(lr, 0.0)
  assert kept.shape == (48, 64) and 0.5 < kept.min() and np.ptp(kept) < 1e-6 and kept.max() <= 1


@pytest.mark.parametrize("turned", [False, True])
def test_stripes_of_two_pixels_stay_as_they_are(turned):
  lr = stripes(2.2)
  kept = trust(lr.swapaxes(0, 1) if turned else lr, 0.0)
  np.testing.assert_array_equal(inner(kept), 0)


def test_finer_details_are_trusted_less():
  means = [inner(trust(stripes(period), 0.0)).mean() for period in (2, 2.5, 3, 3.5, 4, 6)]
  assert means == sorted(means) and means[0] == 0 < means[-1]


def test_noise_is_no_detail():
  noise = 0.02 * np.random.default_rng(0).standard_normal((48, 64, 1))
  lr = np.clip(0.5 + noise * np.ones(3), 0, 1)
  assert inner(trust(lr, 0.0)).mean() < inner(trust(lr, 0.02)).mean() == pytest.approx(trust(gray(np.ones((9, 9))), 0.0).max())


def test_contrast_does_not_matter_but_where_there_is_none():
  weak, strong = (inner(trust(stripes(3, contrast), 0.0)) for contrast in (0.15, 0.3))
  np.testing.assert_allclose(weak, strong, atol=0.01)


@pytest.mark.parametrize("of_alpha", [False, True])
def test_each_part_of_a_blend_has_its_own_share(of_alpha):
  rng = np.random.default_rng(0)
  drawn = lambda: rng.integers(0, 256, (600, 8, 3)).astype(np.uint8)
  alpha = lambda: rng.random((600, 8), np.float32) if of_alpha else None
  plain, made = (photo_file.Photo(drawn(), alpha()) for _ in range(2))
  share = rng.random((300, 4)).astype(np.float32)
  blended = enhance.blend(plain, made, share)
  own = np.repeat(np.repeat(share, 2, 0), 2, 1)
  expected = plain.rgb + own[..., None] * (made.rgb.astype(float) - plain.rgb)
  assert blended.rgb.dtype == np.uint8 and np.abs(blended.rgb - expected).max() <= 0.501
  if of_alpha:
    np.testing.assert_allclose(blended.alpha, plain.alpha + own * (made.alpha - plain.alpha), atol=1e-6)


def test_only_a_kernel_that_was_estimated_of_a_photo_is_doubted():
  photo = photo_file.Photo(stripes(5))
  recipe = lambda of: enhance.Recipe({}, None, of, 2.0, 2.0, strength=0.5)
  estimated = enhance.estimate(photo, recipe(Degradation(None))).recipe
  assert estimated.trusted < 1 and enhance.estimate(photo, estimated).recipe.trusted == estimated.trusted
  kept = enhance.kept(photo, estimated)
  np.testing.assert_allclose(kept, 0.5 * trust(photo.rgb, estimated.degradation.noise_std, estimated.trusted))
  told = enhance.estimate(photo, recipe(Degradation(None))._replace(noise_level=40.0)).recipe
  assert told.trusted < estimated.trusted and enhance.estimate(photo, told).recipe.trusted == told.trusted
  given = enhance.estimate(photo, recipe(Degradation(np.ones((1, 1), np.float32)))).recipe
  assert given.trusted == 1 and enhance.kept(photo, given) == 0.5


def test_a_halo_is_halved_and_what_is_within_the_photo_stays():
  lr = gray([[0.2, 0.2, 0.2, 0.8, 0.8, 0.8]])
  low, high = trust_lib.limits(lr)
  plain, made = (gray([row]) for row in ([0.2, 0.16, 0.2, 0.8, 0.84, 0.8], [0.2, 0.1, 0.3, 0.7, 1.0, 0.8]))
  limited = trust_lib.limited(made, plain, low, high, 0.5)
  np.testing.assert_allclose(limited, gray([[0.2, 0.13, 0.3, 0.7, 0.92, 0.8]]), atol=1e-6)
  np.testing.assert_array_equal(trust_lib.limited(plain, plain, low, high, 0.5), plain)
  assert 0 < trust_lib.beyond(0.4) == trust_lib.beyond(0.5) < trust_lib.beyond(0.9) < 1


def test_a_blend_is_limited_at_every_part_and_where_a_kernel_was_estimated_only():
  lr = gray(np.where(np.arange(300)[:, None] < 150, 0.3, 0.6) * np.ones((300, 4)))
  plain, made = (photo_file.Photo(gray(np.full((600, 8), value))) for value in (0.45, 0.9))
  free, held = (enhance.blend(plain, made, 1.0, limits, 0.5).rgb for limits in (None, trust_lib.limits(lr)))
  np.testing.assert_allclose(free, 0.9, atol=1e-6)
  np.testing.assert_allclose(held[[0, 297, 302, 599]], np.repeat([0.675, 0.675, 0.75, 0.75], 24).reshape(4, 8, 3), atol=1e-6)


def test_sharpening_is_not_believed_of_lines_on_white():
  found = response.prior()._replace(mean=np.append(np.log([1.1, 1.2, 1.2, 1.0, 0.7, 0.2]), [0.1, 0.2]))
  same, half, none = (response.unclipped(found, share).mean for share in (0.2, 0.45, 0.8))
  np.testing.assert_array_equal(same, found.mean)
  assert (none <= half).all() and (half <= same).all() and (none[:4] < half[:4]).any()
  np.testing.assert_array_equal(none[3:], found.mean[3:])
  assert np.ptp(none[:3]) < 1e-9
  page = np.ones((20, 20, 3))
  page[:10] = 0.5
  assert response.saturated(page) == response.saturated(1 - page) == 0.5


def test_clear_blurs_are_trusted_more_and_doubtful_ones_alike():
  found = lambda response_at, error: Prediction(response.encode(np.full(6, response_at), np.zeros(2)), np.full(8, error**2))
  shares = [response.trusted(found(kept, 0.3)) for kept in (1.3, 0.8, 0.4, 0.35, 0.3, 0.1)]
  assert 0.5 < shares[0] == shares[1] and shares == sorted(shares) and shares[0] < shares[-1] < 1
  assert response.trusted(found(0.1, 1.0)) == shares[0]


def test_of_noisy_photos_less_is_kept_however_clear_their_blur():
  kept = [trust_lib.share(0.9, level / 255, 1.0) for level in (0, 1, 1.5, 2, 9)]
  np.testing.assert_allclose(kept, [0.9, 0.9, 0.725, 0.55, 0.55], atol=1e-6)
  assert trust_lib.share(0.4, 9 / 255, 1.0) == pytest.approx(0.4)
  assert trust(gray(np.full((9, 9), 0.5)), 9 / 255, 0.4).max() == pytest.approx(0.4)


def test_less_is_kept_where_undoing_the_blur_would_amplify_noise():
  kept = [trust_lib.share(0.5, 4 / 255, fine) for fine in (1.2, 0.4, 1 / 3, 0.25, 0.2, 0.01, 0.0, -0.03)]
  np.testing.assert_allclose(kept, [0.5, 0.5, 0.5, 0.425, 0.35, 0.35, 0.35, 0.35], atol=1e-6)
  assert trust_lib.share(0.5, 0.0, 0.0) == 0.5


def test_there_is_no_caution_where_a_blur_is_clear():
  clear = response.prior()._replace(mean=np.full(8, -3.0), variance=np.full(8, 0.01))
  np.testing.assert_array_equal(response.cautious(clear).mean, clear.mean)
