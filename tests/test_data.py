import io
import json

import numpy as np
import pytest
from PIL import Image

from mzsr_jax.errors import UserError
from mzsr_jax.training import data

PATCH, IMAGES = 8, 5


def make(root, **changes):
  settings = dict(patch_size=PATCH, batch_size=IMAGES, seed=3, cache_mb=100, num_threads=2, prefetch=2)
  return data.make_patch_iterator(str(root), **{**settings, **changes})


def take(iterator, count):
  return [next(iterator) for _ in range(count)]


@pytest.fixture
def corpus(tmp_path):
  """Images whose pixels say where they are: red is the row, green the column, blue the image."""
  for i in range(IMAGES):
    y, x = np.mgrid[: 20 + 3 * i, : 30 - 2 * i]
    folder = tmp_path / "corpus" / f"sub{i % 2}"
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.stack([y, x, np.full_like(y, i)], -1).astype(np.uint8)).save(folder / f"{i}.png")
  return tmp_path / "corpus"


def encoded(image_format):
  """A noisy 64x64 image as the bytes of a file."""
  file = io.BytesIO()
  pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
  Image.fromarray(pixels).save(file, image_format)
  return file.getvalue()


def upright(patch):
  """The patch turned back so that rows and columns grow, and the number of its orientation."""
  for k in range(8):
    turned = np.rot90(patch[::-1] if k >= 4 else patch, k % 4).astype(int)
    if turned[0, 0, 0] < turned[-1, 0, 0] and turned[0, 0, 1] < turned[0, -1, 1]:
      return turned, k
  raise AssertionError("not a turned or flipped crop")


def test_patches_are_crops_in_all_orientations(corpus):
  orientations, rows, columns = set(), set(), set()
  for patch in np.concatenate(take(make(corpus), 60)):
    crop, k = upright(patch)
    top, left, i = crop[0, 0]
    y, x = np.mgrid[top : top + PATCH, left : left + PATCH]
    np.testing.assert_array_equal(crop, np.stack([y, x, np.full_like(y, i)], -1))
    orientations.add(k)
    if i == 0:  # 20 x 30 pixels
      rows.add(top)
      columns.add(left)
  assert len(orientations) == 8
  assert {0, 20 - PATCH} <= rows and len(columns) > 10  # both borders are reached


def test_batches_are_uint8_rgb(corpus):
  batch = next(make(corpus, batch_size=3))
  assert batch.shape == (3, PATCH, PATCH, 3) and batch.dtype == np.uint8


def test_an_epoch_visits_each_image_once_in_new_order(corpus):
  epochs = [tuple(batch[:, 0, 0, 2]) for batch in take(make(corpus), 8)]
  assert all(sorted(epoch) == list(range(IMAGES)) for epoch in epochs)
  assert len(set(epochs)) > 1


def test_epochs_differ_in_their_crops(tmp_path):
  Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(tmp_path / "one.png")
  patches = np.concatenate(take(make(tmp_path, batch_size=1), 10))
  assert len({patch.tobytes() for patch in patches}) == 10


def test_sequence_depends_on_the_seed_and_not_on_threads(corpus):
  reference = take(make(corpus, num_threads=0), 12)
  np.testing.assert_array_equal(take(make(corpus, num_threads=4, prefetch=8, cache_mb=0), 12), reference)
  assert not np.array_equal(take(make(corpus, seed=4), 12), reference)


@pytest.mark.parametrize("num_threads", [0, 3])
def test_restored_equals_uninterrupted(corpus, num_threads):
  (corpus / "broken.png").write_bytes(encoded("PNG")[:200])  # a file that gives nothing counts in the position
  iterator = make(corpus, num_threads=num_threads, batch_size=3)
  take(iterator, 4)
  state = json.loads(json.dumps(iterator.get_state()))
  expected = take(iterator, 9)
  restored = make(corpus, num_threads=num_threads, batch_size=3)
  next(restored)
  restored.set_state(state)
  np.testing.assert_array_equal(take(restored, 9), expected)
  assert restored.get_state() == iterator.get_state()


def test_shares_of_processes_make_up_the_whole_and_may_be_dealt_anew(corpus):
  """A broken file among the images: it is replaced by the same other one whoever meets it."""
  (corpus / "broken.png").write_bytes(encoded("PNG")[:200])
  shares = [np.array([0, 2]), np.array([1, 3, 4])]
  whole, *parts = (make(corpus, rows=rows) for rows in (None, *shares))
  for _ in range(9):
    together = np.zeros((IMAGES, PATCH, PATCH, 3), np.uint8)
    for rows, part in zip(shares, parts):
      together[rows] = next(part)
    np.testing.assert_array_equal(together, next(whole))
  assert whole.get_state() == parts[0].get_state() == parts[1].get_state()
  one = make(corpus, rows=np.array([4]))
  one.set_state(parts[0].get_state())
  np.testing.assert_array_equal(next(one)[0], next(whole)[4])


def test_folders_take_turns_by_their_shares(corpus, tmp_path):
  plain = take(make(corpus), 6)
  for name, values in (("one", (100,)), ("two", (200, 201))):
    (tmp_path / name).mkdir()
    for value in values:
      Image.fromarray(np.full((20, 20, 3), value, np.uint8)).save(tmp_path / name / f"{value}.png")
  root = f"{tmp_path / 'one'}:3,{tmp_path / 'two'},{corpus}:0.5"
  blues = np.concatenate(take(make(root, batch_size=9), 20))[:, 0, 0, 2].reshape(-1, 9)
  for share, of in ((6, blues == 100), (2, blues >= 200), (1, blues < IMAGES)):
    assert (of.sum(1) == share).all()  # in every nine patches
  assert set(np.unique(blues)) == {*range(IMAGES), 100, 200, 201}
  np.testing.assert_array_equal(take(make(f"{corpus}:7"), 6), plain)  # a share of one folder means nothing


def test_shares_are_restored_and_their_change_is_told(corpus, tmp_path, caplog):
  (tmp_path / "one").mkdir()
  Image.fromarray(np.full((20, 20, 3), 100, np.uint8)).save(tmp_path / "one" / "one.png")
  iterator = make(f"{corpus}:2,{tmp_path / 'one'}", batch_size=4)
  take(iterator, 3)
  state, expected = iterator.get_state(), take(iterator, 4)
  restored = make(f"{corpus}:2,{tmp_path / 'one'}", batch_size=4)
  restored.set_state(state)
  np.testing.assert_array_equal(take(restored, 4), expected)
  assert not caplog.records
  make(f"{corpus}:3,{tmp_path / 'one'}", batch_size=4).set_state(state)
  assert "images or shares have changed" in caplog.text


def test_what_exists_is_one_folder_whatever_its_name(corpus, tmp_path):
  for name in ("a:3,b", "c:2"):
    (tmp_path / name).mkdir()
    Image.fromarray(np.full((20, 20, 3), 100, np.uint8)).save(tmp_path / name / "one.png")
  assert data.folders(str(tmp_path / "a:3,b")) == [(str(tmp_path / "a:3,b"), 1)]
  assert data.folders(f"{tmp_path / 'c:2'}:3,{corpus}") == [(str(tmp_path / "c:2"), 3), (str(corpus), 1)]


def test_images_are_described_without_paths(tmp_path):
  assert data.describe("") == "sample photos"
  assert data.describe(str(tmp_path)) == f"images in {tmp_path.name}"
  assert data.describe("x/photos:3,y/crops") == "images in photos (3), crops (1)"


@pytest.mark.parametrize("root", ["CORPUS,", "CORPUS:0,CORPUS", "CORPUS:-1", "CORPUS:inf", "CORPUS:much", ":3,CORPUS"])
def test_a_wrong_share_is_refused(corpus, root):
  with pytest.raises(UserError, match="photosA:3,photosB:1"):
    make(root.replace("CORPUS", str(corpus)))


def test_each_folder_must_have_images(corpus, tmp_path):
  (tmp_path / "empty").mkdir()
  for name in ("empty", "missing"):
    with pytest.raises(UserError, match=name):
      make(f"{corpus},{tmp_path / name}")


def test_restoring_a_state_of_an_earlier_version_is_refused(corpus):
  state = {"corpus": make(corpus).get_state()["corpus"], "batches": {"next_index": 5}}
  with pytest.raises(UserError, match="earlier version"):
    make(corpus).set_state(state)


def test_restoring_warns_when_the_images_changed(corpus, caplog):
  state = make(corpus).get_state()
  make(corpus).set_state(state)
  assert not caplog.records
  (corpus / "sub0" / "0.png").unlink()
  make(corpus).set_state(state)
  assert "have changed" in caplog.text


def test_unusable_files_are_named_once_and_skipped(corpus, caplog):
  (corpus / "garbage.png").write_bytes(b"no image")
  (corpus / "truncated.jpg").write_bytes(encoded("JPEG")[:-1000])
  (corpus / "truncated.png").write_bytes(encoded("PNG")[:-1000])
  Image.fromarray(np.zeros((PATCH - 1, 50, 3), np.uint8)).save(corpus / "small.png")
  bad = ["garbage.png", "small.png", "truncated.jpg", "truncated.png"]
  iterator = make(corpus)
  batches = take(iterator, 8)
  assert {int(b) for b in np.unique(np.stack(batches)[..., 2])} == set(range(IMAGES))
  assert iterator.skipped == [corpus / name for name in bad]
  for name in bad:
    assert sum(name in record.getMessage() for record in caplog.records) == 1, name


def test_an_image_beyond_pillows_limit_is_skipped(corpus, monkeypatch):
  Image.fromarray(np.zeros((100, 100, 3), np.uint8)).save(corpus / "bomb.png")
  monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2000)
  assert make(corpus).skipped == [corpus / "bomb.png"]


def test_no_usable_image_is_an_error(tmp_path):
  with pytest.raises(UserError):
    make(tmp_path)
  Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(tmp_path / "small.png")
  with pytest.raises(UserError, match="8x8"):
    make(tmp_path)
  (tmp_path / "truncated.jpg").write_bytes(encoded("JPEG")[:-1000])
  iterator = make(tmp_path)
  for _ in range(2):  # the second time, the file is known to be broken: threads that came late once searched for ever
    with pytest.raises(UserError, match="none of the 1 training images can be decoded"):
      iterator._cropper(tmp_path / "truncated.jpg", np.random.default_rng(0))
  with pytest.raises(UserError, match="none of the 1 training images can be decoded"):
    next(make(tmp_path))


def test_cache_is_bounded_and_spares_decoding(corpus, monkeypatch):
  decoded = []
  read_image = data.images.read_image
  monkeypatch.setattr(data.images, "read_image", lambda path: decoded.append(path) or read_image(path))
  take(make(corpus, num_threads=0), 4)
  assert sorted(decoded) == sorted(corpus.rglob("*.png"))

  paths = sorted(corpus.rglob("*.png"))
  limit = 3 * 20 * 30  # bytes of the first image, of which all differ in size
  cropper = data._Cropper(paths, PATCH, limit)
  for path in paths * 2:
    cropper(path, np.random.default_rng(0))
  assert 0 < sum(image.nbytes for image in cropper._cache.values()) <= limit


def test_sample_photos_are_there_and_stand_in_with_one_warning(caplog):
  for path in data.sample_photos():
    with Image.open(path) as image:
      assert image.mode == "RGB" and min(image.size) >= 300
  iterator = make("", patch_size=64)
  assert next(iterator).shape == (IMAGES, 64, 64, 3)
  (warning,) = caplog.records
  assert "5 sample photos" in warning.getMessage() and "--config.data.root=" in warning.getMessage()
