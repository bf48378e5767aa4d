"""Cutting images into windows, and sizes into buckets."""

import itertools

import numpy as np
import pytest

from mzsr_jax.inference import tiles


@pytest.mark.parametrize("window,halo,cell", [(20, 3, 1), (17, 8, 1), (64, 0, 1), (20, 3, 4), (24, 9, 4)])
def test_cores_cover_an_axis_once_and_keep_the_halo(window, halo, cell):
  for length in range(1, 200):
    spans = tiles.spans(length, window, halo, cell)
    assert [s.first for s in spans] == [0, *(s.stop for s in spans[:-1])] and spans[-1].stop == length
    for s in spans:
      assert s.first < s.stop
      assert s.start == 0 or s.first - s.start >= halo
      assert s.stop == length or s.start + window - s.stop >= halo
      assert s.start % cell == 0
      assert len(spans) == 1 or 0 <= s.start < length - window + cell


@pytest.mark.parametrize("parts", [1, 2, 5])
def test_fitted_windows_hold_the_image_or_keep_to_the_area(parts):
  for size in ((1, 1), (33, 100), (400, 300), (3000, 5000)):
    height, width = window = tiles.fit(size, 120_000, 8, parts)
    assert height > 16 and width > 16 or parts == 1
    assert height * width <= 120_000
    if size[0] * size[1] < 100_000:
      assert len(tiles.grid(size, window, 8)) <= parts


def test_an_image_is_cut_for_all_devices_but_not_into_strips_of_halo():
  """A device without a tile of its own repeats another's, so fewer and larger tiles would save none of its time."""
  height, width = tiles.fit((256, 256), 10**6, 8, parts=64)
  assert width == 256 and 3 * 8 <= height and len(tiles.grid((256, 256), (height, width), 8)) <= (256 - 16) // 8
  assert tiles.fit((320, 320), 10**6, 48, parts=2) == (208, 320)
  assert tiles.fit((128, 320), 10**6, 48, parts=2) == (128, 320)


def test_buckets_are_few_hold_their_images_and_waste_the_least():
  rng = np.random.default_rng(0)
  for limit in (1, 2, 3):
    sizes = [tuple(int(x) for x in rng.integers(10, 60, 2)) for _ in range(7)]
    found = tiles.buckets(sizes, limit)
    assert set(found) == set(sizes) and len(set(found.values())) <= limit
    assert all(b[0] >= s[0] and b[1] >= s[1] for s, b in found.items())
    ordered = sorted(sizes, key=lambda s: (s[0] * s[1], s))
    cover = lambda run: len(run) * max(h for h, _ in run) * max(w for _, w in run)
    best = min(
        sum(cover(ordered[a:b]) for a, b in itertools.pairwise([0, *cuts, 7]))
        for cuts in itertools.combinations(range(1, 7), limit - 1)
    )
    assert sum(found[s][0] * found[s][1] for s in sizes) <= best


def test_one_size_is_its_own_bucket():
  assert tiles.buckets([(5, 7), (5, 7)], 4) == {(5, 7): (5, 7)}
