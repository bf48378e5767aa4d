"""Damaged files: an error that names the file, or what was written; never another model. Mutations are seeded."""

import collections
import json
import pathlib

import jax
import numpy as np
import pytest
from PIL import Image
from test_train import tiny

from configs import pretrain_x2
from mzsr_jax import images, weights
from mzsr_jax.core import model
from mzsr_jax.errors import UserError
from mzsr_jax.photo import file as photo_file
from mzsr_jax.photo import kernel_files
from mzsr_jax.training import loop
from mzsr_jax.training import step as step_lib
from mzsr_jax.training.checkpoint import Checkpoints

MUTATIONS = 200


def mutated(content: bytes, seed: int) -> bytes:
  """Cut off, bits turned, a stretch zeroed or doubled, or replaced by something else altogether."""
  rng = np.random.default_rng(seed)
  degradation, data = seed % 6, bytearray(content)
  start, length = int(rng.integers(len(data))), int(rng.integers(1, 64))
  if degradation == 0:
    return bytes(data[:start])
  if degradation == 1:
    data[start] ^= 1 << int(rng.integers(8))
  elif degradation == 2:
    data[start : start + length] = bytes(length)
  elif degradation == 3:
    data[start:start] = data[start : start + length]
  elif degradation == 4:
    data[: 16 * length] = rng.bytes(min(16 * length, len(data)))
  else:
    return rng.bytes(length)
  return bytes(data)


def leaves(tree):
  return [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]


def same(a, b):
  return len(a) == len(b) and all(x.dtype == y.dtype and np.array_equal(x, y) for x, y in zip(a, b))


def test_weights_are_whole_or_refused(tmp_path):
  params = model.init(jax.random.key(0), model.MZSRNet(depth=3, features=4))
  path, refused = tmp_path / "w.safetensors", 0
  weights.save_weights(path, params, {"scales": "[2.0]", "inner_lrs": "[0.01, 0.02]"})
  content = path.read_bytes()
  # Half of the mutations hit the header, which is a small part of the file.
  header = int.from_bytes(content[:8], "little") + 8
  for seed in range(MUTATIONS):
    head, body = content[:header], content[header:]
    path.write_bytes(mutated(head, seed) + body if seed % 2 else head + mutated(body, seed))
    try:
      found = weights.load(path)
      loaded = found.params, found.inner_lrs(2), found.scales
    except UserError as e:
      assert "w.safetensors" in str(e) or "metadata" in str(e)
      refused += 1
    else:
      assert same(leaves(loaded[0]), leaves(params)) and loaded[1].tolist() == pytest.approx([0.01, 0.02]), seed
      assert loaded[2] == [2.0]
  assert refused > 0.8 * MUTATIONS


def test_shipped_weights_have_their_checksum():
  for name in weights.names():
    raw = weights.resolve(name).read_bytes()
    header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
    assert len(header["__metadata__"]["content_sha256"]) == 64, name
    weights.load(name)


def _same_json(a: bytes, b: bytes) -> bool:
  """Whether both say the same: a stretch that is doubled may say a key twice."""
  try:
    return json.loads(a) == json.loads(b)
  except ValueError:
    return False


@pytest.mark.slow
def test_checkpoints_are_whole_or_refused(tmp_path):
  config = tiny(pretrain_x2, 2)
  loop.train(config, tmp_path)
  like = step_lib.init_state(config, step_lib.init_params(config))
  folder = tmp_path / "checkpoints" / "2"

  checkpoints = Checkpoints(tmp_path, 3)

  def restored():
    state, data, saved = checkpoints.restore(like)
    return leaves(state), data, saved

  whole, tried, refused = restored(), collections.Counter(), collections.Counter()
  files = sorted(p for p in folder.rglob("*") if p.is_file())
  for seed in range(MUTATIONS):
    path = files[seed % len(files)]
    content = path.read_bytes()
    path.write_bytes(mutated(content, seed) if content else b"x")
    tried[path] += not _same_json(path.read_bytes(), content)
    try:
      now = restored()
    except UserError as e:
      assert "checkpoints/2" in str(e) and "\n" not in str(e)
      refused[path] += 1
    else:
      assert same(now[0], whole[0]) and now[1:] == whole[1:], (seed, path)
    path.write_bytes(content)
  # Many files hold nothing that is read; those that do are orbax's of the three JSON items, and some of the arrays.
  share = {path.relative_to(folder): refused[path] / tried[path] for path in files}
  assert all(share[pathlib.Path(item, "metadata")] > 0.9 for item in ("config", "data", "digest"))
  assert max(found for path, found in share.items() if path.parts[0] == "state" and path.parent.name == "d") > 0.9
  assert same(restored()[0], whole[0])
  checkpoints.close()


def test_configs_of_runs_are_read_or_refused(tmp_path):
  loop.train(tiny(pretrain_x2, 2), tmp_path)
  path = tmp_path / loop.CONFIG_NAME
  content = path.read_bytes()
  for seed in range(MUTATIONS):
    path.write_bytes(mutated(content, seed))
    try:
      loop.read_config(tmp_path)
    except UserError as e:
      assert loop.CONFIG_NAME in str(e) or "config." in str(e), (seed, e)


@pytest.mark.parametrize("suffix", [".npy", ".mat", ".png"])
def test_kernel_files_give_a_kernel_or_one_line(tmp_path, suffix):
  import scipy.io

  path, kernel = tmp_path / f"k{suffix}", kernel_files.load_degradation("gani").kernel
  if suffix == ".npy":
    np.save(path, kernel)
  elif suffix == ".mat":
    scipy.io.savemat(path, {"Kernel": kernel})
  else:
    Image.fromarray((255 * kernel / kernel.max()).astype(np.uint8)).save(path)
  content = path.read_bytes()
  for seed in range(MUTATIONS):
    path.write_bytes(mutated(content, seed))
    try:
      read = kernel_files.read_kernel(path)
    except UserError as e:
      assert "\n" not in str(e)
    else:
      assert read.ndim == 2 and np.isfinite(read).all() and abs(read.sum() - 1) < 1e-3, seed


def test_objects_are_never_unpickled(tmp_path):
  class Trap:
    def __reduce__(self):
      return (pytest.fail, ("unpickled",))

  np.save(tmp_path / "k.npy", np.array([[Trap()]], dtype=object), allow_pickle=True)
  with pytest.raises(UserError, match="k.npy"):
    kernel_files.read_kernel(tmp_path / "k.npy")


@pytest.mark.parametrize("suffix", [*images.FORMATS])
def test_image_files_give_a_picture_or_one_line(tmp_path, suffix):
  """Forty-three mutations of each of eight extensions: 344."""
  path = tmp_path / f"x{suffix}"
  y, x = np.mgrid[:20, :24]
  pixels = np.stack([10 * x, 10 * y, 5 * (x + y)], -1).astype(np.uint8)
  Image.fromarray(pixels).save(path)
  content = path.read_bytes()
  for seed in range(43):
    path.write_bytes(mutated(content, seed))
    for read in (photo_file.read, images.read_image):
      try:
        made = read(path)
      except UserError as e:
        assert path.name in str(e) and "\n" not in str(e), seed
      else:
        rgb = made.rgb if isinstance(made, photo_file.Photo) else made
        assert rgb.ndim == 3 and rgb.shape[-1] == 3 and np.isfinite(rgb).all(), seed
