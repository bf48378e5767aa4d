"""TIFF layouts: each is read as tifffile reads it, alike by both readers, or refused; nothing is taken for something else."""

import itertools

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms

from mzsr_jax import images
from mzsr_jax.errors import UserError
from mzsr_jax.photo import file as photo_file

LAYOUTS = 200
BITS = {1: bool, 2: np.uint8, 4: np.uint8, 7: np.uint8, 8: np.uint8, 10: np.uint16, 12: np.uint16, 14: np.uint16, 16: np.uint16}


def layout(seed):
  """Bits, colours, extra sample and options of `tifffile.imwrite`, all that it can write among them."""
  rng = np.random.default_rng(seed)
  pick = lambda *choices: choices[rng.integers(len(choices))]
  bits, photometric = pick(1, 2, 4, 7, 8, 8, 10, 12, 14, 16, 16, 16), pick("minisblack", "miniswhite", "rgb")
  extra = pick(None, None, "unspecified", "assocalpha", "unassalpha") if bits in (8, 16) else None
  samples = (3 if photometric == "rgb" else 1) + (extra is not None)
  options = {"photometric": photometric, "metadata": None, "bigtiff": pick(False, True), "byteorder": pick("<", ">")}
  if samples > 1:
    options["planarconfig"] = pick("contig", "separate")
  if extra:
    options["extrasamples"] = [extra]
  if bits in (8, 16):
    options |= pick({}, {"tile": (16, 16)}, {"rowsperstrip": 5}, {"tile": (32, 16)})
    options |= pick({}, {"compression": "zlib"}, {"compression": "zlib", "predictor": True}, {"compression": "lzw"})
  elif bits > 1:
    options |= {"bitspersample": bits}
  values = rng.integers(0, 2**bits, (37, 45, samples)).astype(BITS[bits])
  if extra == "assocalpha":
    values[..., -1] = 2**bits - 1
  return bits, extra, values, options


@pytest.mark.parametrize("first", range(0, LAYOUTS, 50))
def test_layouts_are_read_as_tifffile_reads_them_or_refused(tmp_path, first):
  path, refused = tmp_path / "x.tif", 0
  for seed in range(first, first + 50):
    bits, extra, values, options = layout(seed)
    stored = np.moveaxis(values, -1, 0) if options.get("planarconfig") == "separate" else values
    tifffile.imwrite(path, stored if values.shape[-1] > 1 else values[..., 0], **options)
    theirs = tifffile.TiffFile(path).pages[0].asarray().reshape(stored.shape)
    values = np.moveaxis(theirs, 0, -1) if options.get("planarconfig") == "separate" else theirs
    try:
      photo = photo_file.read(path)
    except UserError as e:
      assert options["photometric"] == "miniswhite" and extra == "assocalpha", (options, e)
      refused += 1
      continue
    white = 2**bits - 1
    colours = values[..., : 3 if options["photometric"] == "rgb" else 1].astype(np.float64) / white
    colours = 1 - colours if options["photometric"] == "miniswhite" else colours
    seen = np.ones(colours.shape[:2], bool) if extra in (None, "unspecified") else values[..., -1] > 0
    assert photo.bits == (8 if bits <= 8 else 16) and photo.gray == (options["photometric"] != "rgb"), options
    assert np.abs(photo.rgb - colours)[seen].max() <= 0.51 / (2**photo.bits - 1), options
    if extra in (None, "unspecified"):
      assert photo.alpha is None, options
      assert np.abs(images.read_image(path) / 255 - colours).max() <= 0.51 / 255, options
    else:
      np.testing.assert_allclose(photo.alpha, values[..., -1] / white, atol=1e-6)
    assert images.image_size(path) == (37, 45)
  assert refused <= 5


@pytest.mark.parametrize("bits", [8, 16])
def test_white_is_zero(tmp_path, bits):
  gray = (np.arange(50) * (4 if bits == 8 else 1200) + 100).astype(f"uint{bits}")[None].repeat(30, 0)
  tifffile.imwrite(tmp_path / "white.tif", 2**bits - 1 - gray, photometric="miniswhite", metadata=None)
  photo = photo_file.read(tmp_path / "white.tif")
  np.testing.assert_allclose(photo.rgb[..., 0], gray / (2**bits - 1), atol=1e-6)
  assert photo.gray


def test_twelve_bits_reach_white(tmp_path):
  gray = (np.arange(50) * 83).astype(np.uint16)[None].repeat(30, 0)
  tifffile.imwrite(tmp_path / "x.tif", gray, bitspersample=12, photometric="minisblack", metadata=None)
  photo = photo_file.read(tmp_path / "x.tif")
  np.testing.assert_allclose(photo.rgb[..., 0], gray / 4095, atol=1e-5)
  assert photo.bits == 16 and photo.rgb.max() == pytest.approx(0.993, abs=1e-3)


@pytest.mark.parametrize("bits", [8, 16])
def test_an_infrared_sample_is_no_alpha(tmp_path, bits):
  pixels = np.random.default_rng(0).integers(0, 2**bits, (9, 12, 4)).astype(f"uint{bits}")
  pixels[..., 3] = 0
  tifffile.imwrite(tmp_path / "x.tif", pixels, photometric="rgb", extrasamples=["unspecified"], metadata=None)
  photo = photo_file.read(tmp_path / "x.tif")
  assert photo.alpha is None
  np.testing.assert_allclose(photo.rgb, pixels[..., :3] / (2**bits - 1), atol=1e-6)


@pytest.mark.parametrize("bits", [8, 16])
def test_colours_multiplied_by_alpha_are_divided_by_it(tmp_path, bits):
  white = 2**bits - 1
  stored = np.full((4, 4, 4), white // 4, f"uint{bits}")
  stored[..., 3] = white // 2
  tifffile.imwrite(tmp_path / "x.tif", stored, photometric="rgb", extrasamples=["assocalpha"], metadata=None)
  exact = (white // 4) / (white // 2)
  np.testing.assert_allclose(photo_file.read(tmp_path / "x.tif").rgb, exact, rtol=0, atol=0.501 / white)


def test_palettes_and_cmyk(tmp_path):
  index = np.random.default_rng(0).integers(0, 256, (9, 12), dtype=np.uint8)
  colours = np.random.default_rng(1).integers(0, 256, (3, 256), dtype=np.uint16)
  tifffile.imwrite(tmp_path / "p.tif", index, photometric="palette", colormap=colours * 257, metadata=None)
  np.testing.assert_array_equal(images.read_image(tmp_path / "p.tif"), np.moveaxis(colours[:, index], 0, -1))
  ink = np.asarray(Image.new("RGB", (8, 8), (30, 180, 90)).convert("CMYK"))
  for bits, pixels in ((8, ink), (16, ink.astype(np.uint16) * 257)):
    tifffile.imwrite(tmp_path / "c.tif", pixels, photometric="separated", metadata=None)
    np.testing.assert_allclose(images.read_image(tmp_path / "c.tif")[0, 0], (30, 180, 90), atol=1, err_msg=str(bits))


def test_a_palette_without_its_colours_is_refused(tmp_path):
  for name, colours in (("none", None), ("short", 4)):
    tifffile.imwrite(tmp_path / "x.tif", np.uint8([[0, 9]]), photometric="palette", colormap=np.zeros((3, 256), np.uint16))
    content = (tmp_path / "x.tif").read_bytes()
    with tifffile.TiffFile(tmp_path / "x.tif") as file:
      tag = file.pages.first.tags["ColorMap"]
    at = tag.offset
    damaged = bytearray(content)
    if colours is None:
      damaged[at : at + 2] = (65000).to_bytes(2, "little")
    else:
      damaged[at + 4 : at + 8] = (3 * colours).to_bytes(4, "little")
    (tmp_path / f"{name}.tif").write_bytes(damaged)
    with pytest.raises(UserError, match=f"{name}.tif"):
      photo_file.read(tmp_path / f"{name}.tif")


def test_the_preview_of_raw_pixels_is_no_photo(tmp_path):
  pixels = np.zeros((8, 9, 3), np.uint8)
  tifffile.imwrite(tmp_path / "x.dng", pixels, photometric="rgb", extratags=[(50706, "B", 4, (1, 4, 0, 0), True)])
  tifffile.imwrite(tmp_path / "x.nef", pixels, photometric="rgb", subfiletype=1)
  for name in ("x.dng", "x.nef"):
    with pytest.raises(UserError, match=f"{name}.*develop it first"):
      photo_file.read(tmp_path / name)


def test_jpeg_in_tiff_is_read(tmp_path):
  y, x = np.mgrid[:64, :64]
  pixels = np.stack([2 * x, 2 * y, x + y], -1).astype(np.uint8)
  Image.fromarray(pixels).save(tmp_path / "x.tif", compression="jpeg", quality=98)
  assert np.abs(images.read_image(tmp_path / "x.tif").astype(int) - pixels).max() < 12


@pytest.mark.parametrize("dtype,words", [
    (np.int16, "16-bit signed"), (np.int8, "8-bit signed"), (np.uint32, "32-bit"), (np.float32, "32-bit floating-point"),
    (np.float16, "16-bit floating-point"), (np.float64, "64-bit floating-point"), (np.complex64, "complex"),
])  # fmt: skip
@pytest.mark.parametrize("samples", [1, 3])
def test_other_types_are_refused_by_their_name(tmp_path, dtype, words, samples):
  pixels = np.zeros((9, 12, samples), dtype)
  options = {"photometric": "rgb", "planarconfig": "contig"} if samples == 3 else {"photometric": "minisblack"}
  tifffile.imwrite(tmp_path / "x.tif", pixels if samples == 3 else pixels[..., 0], metadata=None, **options)
  for read in (photo_file.read, images.read_image):
    with pytest.raises(UserError, match=words):
      read(tmp_path / "x.tif")


def test_many_samples_are_refused_before_decoding(tmp_path, monkeypatch):
  pixels = np.zeros((5, 7, 12000), np.uint8)
  options = {"photometric": "minisblack", "planarconfig": "contig", "extrasamples": ["unspecified"] * 11999}
  tifffile.imwrite(tmp_path / "x.tif", pixels, compression="zlib", metadata=None, **options)
  monkeypatch.setattr(tifffile.TiffPage, "asarray", lambda *_, **__: pytest.fail("decoded"))
  for read in (photo_file.read, images.read_image):
    with pytest.raises(UserError, match="12000 channels"):
      read(tmp_path / "x.tif")


def test_headers_of_too_many_pixels_are_refused_before_decoding(tmp_path):
  with tifffile.TiffWriter(tmp_path / "x.tif") as file:
    file.write(itertools.repeat(bytes(64)), shape=(20000, 20000), dtype=np.uint8, tile=(2048, 2048), photometric="minisblack",
               compression="zlib", metadata=None)  # fmt: skip
  with pytest.raises(UserError, match="20000x20000"):
    photo_file.read(tmp_path / "x.tif")


def test_resolution_in_centimetres_is_kept(tmp_path):
  for bits in (8, 16):
    pixels = np.zeros((5, 7, 3), f"uint{bits}")
    tifffile.imwrite(tmp_path / "x.tif", pixels, photometric="rgb", resolution=(100, 100), resolutionunit=3, metadata=None)
    photo = photo_file.read(tmp_path / "x.tif")
    assert photo.metadata.dpi == pytest.approx((254, 254)) and photo.bits == bits
    (tmp_path / "y.tif").write_bytes(photo_file.encode(photo, "TIFF"))
    assert photo_file.read(tmp_path / "y.tif").metadata.dpi == pytest.approx((254, 254), rel=1e-3)


def test_descriptions_of_layouts_are_left_out(tmp_path):
  for name, options in {"imagej": {"imagej": True}, "ome": {"ome": True}, "shaped": {}}.items():
    path = tmp_path / f"{name}.tif"
    tifffile.imwrite(path, np.zeros((5, 7), np.uint8), photometric="minisblack", **options)
    assert 0x010E in Image.open(path).getexif()
    assert 0x010E not in (photo_file.read(path).metadata.exif or {}), name
  tifffile.imwrite(path, np.zeros((5, 7), np.uint8), photometric="minisblack", description="A lake", metadata=None)
  assert photo_file.read(path).metadata.exif[0x010E] == "A lake"


def test_tags_of_bigtiff_are_read(tmp_path):
  profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
  for byteorder in "<>":
    tags = [(0x0112, "H", 1, 6, True), (0x010F, "s", 0, "Maker", True)]
    pixels = np.zeros((9, 12, 3), np.uint16)
    options = {"photometric": "rgb", "bigtiff": True, "byteorder": byteorder, "extratags": tags, "iccprofile": profile}
    tifffile.imwrite(tmp_path / "x.tif", pixels, metadata=None, **options)
    photo = photo_file.read(tmp_path / "x.tif")
    assert photo.rgb.shape == (12, 9, 3) and images.image_size(tmp_path / "x.tif") == (12, 9)
    assert photo.metadata.exif[0x010F] == "Maker" and photo.metadata.icc_profile == profile


def test_tiles_of_planes_are_the_picture_as_ground_truth_too(tmp_path):
  pixels = np.random.default_rng(0).integers(0, 65536, (3, 40, 70), dtype=np.uint16)
  tifffile.imwrite(tmp_path / "x.tif", pixels, photometric="rgb", planarconfig="separate", tile=(16, 16), metadata=None)
  expected = np.round(np.moveaxis(pixels, 0, -1) / 257)
  np.testing.assert_array_equal(images.read_image(tmp_path / "x.tif"), expected)


def test_a_colour_key_of_16_bit_gray_is_transparency(tmp_path):
  import struct
  import zlib

  gray = (np.arange(12).reshape(3, 4) * 5000).astype(">u2")
  chunk = lambda kind, data: struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
  rows = b"".join(b"\0" + row.tobytes() for row in gray)
  head = chunk(b"IHDR", struct.pack(">IIBBBBB", 4, 3, 16, 0, 0, 0, 0)) + chunk(b"tRNS", struct.pack(">H", 5000))
  (tmp_path / "x.png").write_bytes(b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))
  photo = photo_file.read(tmp_path / "x.png")
  np.testing.assert_array_equal(photo.alpha == 0, gray == 5000)
  (tmp_path / "y.png").write_bytes(photo_file.encode(photo, "PNG"))
  assert imagecodecs.png_decode((tmp_path / "y.png").read_bytes()).shape == (3, 4, 2)
