"""Tasks: what their patches share, and that those of sons are what meta-test makes of an image."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mzsr_jax.core import degradation, observations, tasks

SIDE, COUNT = 24, 3


def draw(function, scales, subsample, *args, family="gaussian", noise=0.0, **options):
  patches = np.random.default_rng(0).integers(0, 256, (4, COUNT, SIDE, SIDE, 3), np.uint8)
  degrader = degradation.Degrader(SIDE, scales, subsample)
  distribution = tasks.Distribution(degrader, family, noise_std=noise)
  run = jax.jit(lambda patches: function(jax.random.key(5), patches, distribution, *args, **options))
  return patches.astype(np.float32) / 255, jax.device_get(run(patches))


def sons(scales, subsample, **options):
  size = degradation.Degrader(SIDE, scales, subsample).least_size
  return draw(tasks.sample_lr_sons, scales, subsample, son_degrader=degradation.Degrader(size, scales, subsample), **options)


@pytest.mark.parametrize("subsample", ["direct", "bicubic"])
@pytest.mark.parametrize("scales", [(2.0,), (4.0,), (2.2, 3.4)])
def test_support_of_sons_is_what_meta_test_makes_of_the_querys_image(scales, subsample):
  """With the kernel known, as of the family without blur."""
  hr, pairs = sons(scales, subsample, family="bicubic")
  _, query = draw(tasks.sample, scales, subsample, family="bicubic")
  found = set()
  for task in range(4):
    errors = []
    for scale in scales:
      lr = np.clip(degradation.degrade(hr[task], np.ones((1, 1)), scale, subsample), 0, 1)
      enlarged = degradation.enlarge(lr, scale, (SIDE, SIDE))
      size = pairs.targets.shape[2]
      lr = lr[:, :size, :size]
      son = np.clip(degradation.degrade(lr, np.ones((1, 1)), scale, subsample), 0, 1)
      expected = (lr, degradation.enlarge(son, scale, (size, size)), enlarged)
      made = (pairs.targets[task], pairs.inputs[task], query.inputs[task])
      errors.append(max(float(np.abs(a - b).max()) for a, b in zip(made, expected)))
    assert min(errors) < 1e-5
    found.add(int(np.argmin(errors)))
  assert found == set(range(len(scales)))
  np.testing.assert_allclose(query.targets, hr, atol=1e-7)


def test_sons_are_blurred_by_the_kernel_that_blurred_their_fathers():
  """The blur of an impulse is the kernel: seen in the LR patch, and again in the son."""
  patches = np.zeros((2, 1, 64, 64, 3), np.uint8)
  patches[:, :, 32, 32] = 255
  run = lambda side: degradation.Degrader(side, (1.0,), "direct")  # of scale 1: the blur alone
  args = (jax.random.key(0), patches, tasks.Distribution(run(64), "gaussian"))
  once = np.asarray(tasks.sample(*args).inputs)
  support = jax.device_get(tasks.sample_lr_sons(*args, son_degrader=run(64)))
  np.testing.assert_allclose(support.targets, once, atol=1e-6)
  spread = lambda x: (x[..., 0].sum(1) * (np.arange(64) - 32.0) ** 2).sum(-1) / x[..., 0].sum((1, 2))
  np.testing.assert_allclose(spread(support.inputs[:, 0]), 2 * spread(once[:, 0]), rtol=1e-4)
  assert abs(float(spread(once[:, 0])[0] - spread(once[:, 0])[1])) > 0.05, "each task has a kernel of its own"


def test_noise_of_the_lr_patches_is_the_same_for_support_and_query():
  options = dict(noise=0.1, family="bicubic")
  _, support = sons((2.0,), "direct", **options)
  _, query = draw(tasks.sample, (2.0,), "direct", **options)
  lr = support.targets
  enlarged = jax.vmap(lambda lr: degradation.enlarge(lr, 2.0))(lr)
  np.testing.assert_allclose(query.inputs, enlarged, atol=1e-6)
  assert float(np.abs(lr - sons((2.0,), "direct", family="bicubic")[1].targets).mean()) > 0.03


def test_sons_are_as_noisy_as_their_fathers_with_noise_of_their_own():
  options = dict(noise=0.1, family="bicubic")
  _, noisy = sons((2.0,), "direct", **options)
  size = noisy.targets.shape[2]
  without = [np.clip(degradation.degrade(lr, np.ones((1, 1)), 2, "direct"), 0, 1) for lr in noisy.targets]
  without = np.stack([degradation.enlarge(son, 2, (size, size)) for son in without])
  # Interpolation and clipping take some of the noise away.
  assert 0.05 < float((noisy.inputs - without).std()) < 0.1


def test_parts_are_cut_from_input_and_target_alike_and_anywhere():
  hr, whole = draw(tasks.sample, (2.0,), "direct")
  _, parts = draw(tasks.sample, (2.0,), "direct", None, None, 8)
  corners = set()
  for task in range(4):
    for n in range(COUNT):
      windows = np.lib.stride_tricks.sliding_window_view(hr[task, n], (8, 8), axis=(0, 1)).transpose(0, 1, 3, 4, 2)
      (y, x), *others = np.argwhere((np.abs(windows - parts.targets[task, n]) < 1e-6).all((2, 3, 4)))
      assert not others
      np.testing.assert_array_equal(whole.inputs[task, n, y : y + 8, x : x + 8], parts.inputs[task, n])
      corners.add((y, x))
  assert len(corners) > 8


@pytest.mark.parametrize("function", [tasks.sample, sons])
@pytest.mark.parametrize(("scales", "subsample"), [((2.0,), "direct"), ((2.2, 3.4), "bicubic")])
@pytest.mark.slow
def test_accelerators_draw_the_same_tasks_all_at_once(monkeypatch, function, scales, subsample):
  run = function if function is sons else lambda *args, **options: draw(function, *args, **options)
  _, in_turn = run(scales, subsample, noise=0.05)
  monkeypatch.setattr(jax.lax, "platform_dependent", lambda *arrays, cpu, default: default(*arrays))
  _, at_once = run(scales, subsample, noise=0.05)
  for expected, found in zip(in_turn, at_once):
    np.testing.assert_allclose(found, expected, atol=1e-5)


PATCHES = np.zeros((4, COUNT, SIDE, SIDE, 3), np.uint8)
NOISY = tasks.Distribution(degradation.Degrader(SIDE, (2.0, 3.0), "direct"), "gaussian", noise_std=0.1)
DRAWS = {
    "tasks": lambda key: tasks.sample(key, PATCHES, NOISY, size=8),
    "sons": lambda key: tasks.sample_lr_sons(
        key, PATCHES, NOISY, son_degrader=degradation.Degrader(NOISY.degrader.least_size, (2.0, 3.0), "direct")
    ),
    "observations": lambda key: observations.sample(
        key, jnp.zeros((4, 48, 48, 3), jnp.uint8), observations.mixture(48), jnp.arange(4)
    ),
}


@pytest.mark.parametrize("name", DRAWS)
@pytest.mark.slow
def test_no_key_is_used_twice(monkeypatch, name):
  """JAX finds keys that two draws are made of; and no key that others are folded into is drawn from as well."""
  uses = {"drawn": [], "folded": []}

  def noting(function, kind):
    def noted(key, *args, **options):
      uses[kind].append(key)
      return function(key, *args, **options)
    return noted

  for function in ("bernoulli", "choice", "fold_in", "normal", "randint", "split", "uniform"):
    kind = "folded" if function == "fold_in" else "drawn"
    monkeypatch.setattr(jax.random, function, noting(getattr(jax.random, function), kind))
  # It draws a kernel of each family from one key, and uses one of them.
  monkeypatch.setattr(observations.kernel_families, "sample", lambda key, *_: jax.random.uniform(key, (21, 21)))
  with jax.debug_key_reuse(True):
    jax.block_until_ready(DRAWS[name](jax.random.key(0)))
  assert uses["drawn"] and uses["folded"]
  assert not {id(key) for key in uses["drawn"]} & {id(key) for key in uses["folded"]}
