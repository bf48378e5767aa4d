"""Photos go through files whole: depth, gray, transparency, orientation, profile and metadata, in every format that can."""

import io

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms

from mzsr_jax import images
from mzsr_jax.errors import UserError
from mzsr_jax.photo import file as photo_file

RNG = np.random.default_rng(0)
RGBA_16 = RNG.integers(0, 65536, (9, 12, 4), dtype=np.uint16)
RGBA = (RGBA_16 // 257).astype(np.uint8)
RGBA_16[..., 3] |= 1  # nothing is fully transparent
RGBA[..., 3] |= 1
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
CHANNELS = {"gray": [0], "gray with alpha": [0, 3], "rgb": [0, 1, 2], "rgb with alpha": [0, 1, 2, 3]}


def picture(kind, bits):
  channels = (RGBA_16 if bits == 16 else RGBA)[..., CHANNELS[kind]]
  return channels[..., 0] if kind == "gray" else channels


def write(path, pixels, **options):
  """A file by another hand than ours, where there is one."""
  if pixels.dtype == np.uint8:
    Image.fromarray(pixels).save(path, **options)
  elif path.suffix == ".png":
    path.write_bytes(imagecodecs.png_encode(np.ascontiguousarray(pixels)))
  else:
    alpha = ["unassalpha"] if pixels.shape[-1] in (2, 4) else None
    photometric = "rgb" if pixels.shape[-1] in (3, 4) else "minisblack"
    tifffile.imwrite(path, pixels, photometric=photometric, planarconfig="contig", extrasamples=alpha)


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("kind", CHANNELS)
@pytest.mark.parametrize("extension", [".png", ".tif"])
def test_lossless_formats_keep_every_pixel(tmp_path, extension, kind, bits):
  pixels = picture(kind, bits)
  write(tmp_path / f"in{extension}", pixels)
  photo = photo_file.read(tmp_path / f"in{extension}")
  assert photo.bits == bits and photo.gray == ("gray" in kind) and (photo.alpha is not None) == ("alpha" in kind)
  colours = np.repeat(pixels.reshape(9, 12, -1)[..., :1], 3, -1) if photo.gray else pixels[..., :3]
  np.testing.assert_allclose(photo.rgb, colours / (2**bits - 1), atol=1e-7)
  out = tmp_path / f"out{extension}"
  out.write_bytes(photo_file.encode(photo, images.FORMATS[extension]))
  again = photo_file.read(out)
  for a, b in zip(photo[:4], again[:4]):
    np.testing.assert_array_equal(a, b)
  if extension == ".png":
    np.testing.assert_array_equal(imagecodecs.png_decode(out.read_bytes()), pixels)
  else:
    np.testing.assert_array_equal(tifffile.imread(out), pixels)


@pytest.mark.parametrize("extension", [".jpg", ".webp", ".bmp"])
def test_formats_of_8_bits_round_deeper_photos(tmp_path, extension):
  smooth = np.linspace(0, 1, 48 * 48 * 3, dtype=np.float32).reshape(48, 48, 3)
  photo = photo_file.Photo(smooth, bits=16)
  (tmp_path / f"x{extension}").write_bytes(photo_file.encode(photo, images.FORMATS[extension]))
  again = photo_file.read(tmp_path / f"x{extension}")
  assert again.bits == 8 and np.abs(again.rgb - smooth).max() < 0.02


def test_transparency_that_a_format_cannot_hold_is_refused():
  photo = photo_file.Photo(np.zeros((4, 4, 3), np.float32), alpha=np.ones((4, 4), np.float32))
  for file_format in ("JPEG", "BMP"):
    with pytest.raises(UserError, match=f"transparency, which {file_format}"):
      photo_file.encode(photo, file_format)


def test_what_is_hidden_takes_the_colour_of_what_is_next_to_it(tmp_path):
  pixels = np.zeros((8, 8, 4), np.uint8)
  pixels[:, :4] = (200, 100, 50, 255)
  write(tmp_path / "x.png", pixels)
  photo = photo_file.read(tmp_path / "x.png")
  np.testing.assert_allclose(photo.rgb, np.broadcast_to(np.float32([200, 100, 50]) / 255, (8, 8, 3)), atol=1e-6)
  np.testing.assert_array_equal(photo.alpha, pixels[..., 3] / 255)


def test_palettes_bilevel_and_colour_keys(tmp_path):
  gray = (RGBA[..., 0] > 100).astype(np.uint8) * 255
  Image.fromarray(gray).convert("1").save(tmp_path / "bilevel.png")
  photo = photo_file.read(tmp_path / "bilevel.png")
  assert photo.gray and photo.bits == 8
  np.testing.assert_array_equal(photo.rgb[..., 1], gray / 255)
  palette = Image.fromarray(RGBA[..., :3]).quantize(4)
  palette.save(tmp_path / "palette.png")
  photo = photo_file.read(tmp_path / "palette.png")
  np.testing.assert_allclose(photo.rgb, np.asarray(palette.convert("RGB")) / 255, atol=1e-7)
  palette.save(tmp_path / "key.png", transparency=2)
  photo = photo_file.read(tmp_path / "key.png")
  np.testing.assert_array_equal(photo.alpha == 0, np.asarray(palette) == 2)


@pytest.mark.parametrize("bits,extension", [(8, ".png"), (8, ".tif"), (8, ".jpg"), (16, ".tif")])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_made_upright_and_forgotten(tmp_path, orientation, bits, extension):
  pixels = picture("rgb", bits) if extension != ".jpg" else np.kron(RGBA[:4, :5, :3], np.ones((16, 16, 1), np.uint8))
  path = tmp_path / f"x{extension}"
  if bits == 8:
    exif = Image.Exif()
    exif[0x0112] = orientation
    xmp = f'<x tiff:Orientation="{orientation}"/>'.encode() if extension == ".jpg" else b""
    Image.fromarray(pixels).save(path, exif=exif, **({"quality": 98, "subsampling": 0, "xmp": xmp} if xmp else {}))
  else:
    tifffile.imwrite(path, pixels, photometric="rgb", extratags=[(0x0112, "H", 1, orientation, True)])
  expected = images.to_float(images.read_image(path))  # Pillow's own
  photo = photo_file.read(path)
  assert photo.rgb.shape[:2] == images.image_size(path)
  np.testing.assert_allclose(photo.rgb, expected, atol=1e-6 if bits == 8 else 1 / 255)
  encoded = photo_file.encode(photo, images.FORMATS[extension])
  with Image.open(io.BytesIO(encoded)) as again:
    assert again.getexif().get(0x0112, 1) == 1 and again.size == photo.rgb.shape[1::-1]
    assert orientation == 1 or f'Orientation="{orientation}"'.encode() not in again.info.get("xmp", b"")


@pytest.mark.parametrize("source", [".png", ".jpg", ".webp", ".tif"])
@pytest.mark.parametrize("target,bits", [(".png", 8), (".png", 16), (".jpg", 8), (".webp", 8), (".tif", 8), (".tif", 16)])
def test_metadata_go_from_any_format_to_any_other(tmp_path, source, target, bits):
  exif = Image.Exif()
  exif[0x010F], exif[0x8298], exif[0x0112] = "Maker", "Somebody", 1
  exif[0x8769] = {0x829A: 0.01, 0x8827: 200, 0xA002: 12, 0xA003: 9}
  exif[0x8825] = {1: "N", 2: (47.0, 20.0, 0.0)}
  options = {"exif": exif.tobytes(), "icc_profile": SRGB}
  options |= {"dpi": (300, 300)} if source != ".webp" else {}
  options |= {"xmp": b"<x>told</x>"} if source in (".jpg", ".webp") else {}
  write(tmp_path / f"in{source}", RGBA[..., :3], **options)
  photo = photo_file.read(tmp_path / f"in{source}")._replace(bits=bits)
  larger = photo._replace(rgb=np.kron(photo.rgb, np.ones((2, 2, 1), np.float32)))
  (tmp_path / f"out{target}").write_bytes(photo_file.encode(larger, images.FORMATS[target]))
  again = photo_file.read(tmp_path / f"out{target}")
  assert again.bits == bits and again.metadata.icc_profile == SRGB
  assert again.metadata.exif[0x010F] == "Maker" and again.metadata.exif[0x8298] == "Somebody"
  if "xmp" in options:
    assert again.metadata.xmp.rstrip(b"\0") == b"<x>told</x>"
  if "dpi" in options and target != ".webp":
    np.testing.assert_allclose(again.metadata.dpi, 300, rtol=1e-3)
  camera, place = again.metadata.exif[0x8769], again.metadata.exif[0x8825]
  assert float(camera[0x829A]) == 0.01 and camera[0x8827] == 200 and (camera[0xA002], camera[0xA003]) == (24, 18)
  assert place[1] == "N" and tuple(map(float, place[2])) == (47, 20, 0)
  if target == ".tif":
    with tifffile.TiffFile(tmp_path / "out.tif") as file:
      tags = file.pages.first.tags
      assert tags[0x8769].value["ISOSpeedRatings"] == 200 and tags[0x8825].value["GPSLatitudeRef"] == "N"


def test_texts_and_comments_stay(tmp_path):
  metadata = photo_file.Metadata(texts=(("Title", "Ätna"),), comment=b"hello")
  photo = photo_file.Photo(np.zeros((4, 4, 3), np.float32), metadata=metadata)
  for bits in (8, 16):
    (tmp_path / "x.png").write_bytes(photo_file.encode(photo._replace(bits=bits), "PNG"))
    assert photo_file.read(tmp_path / "x.png").metadata.texts == (("Title", "Ätna"),)
  (tmp_path / "x.jpg").write_bytes(photo_file.encode(photo, "JPEG"))
  assert photo_file.read(tmp_path / "x.jpg").metadata.comment == b"hello"


def test_cmyk_becomes_srgb_without_its_profile(tmp_path):
  rgb = Image.new("RGB", (8, 8), (30, 180, 90))
  rgb.convert("CMYK").save(tmp_path / "x.tif", icc_profile=b"no profile")
  photo = photo_file.read(tmp_path / "x.tif")
  np.testing.assert_allclose(photo.rgb[0, 0] * 255, (30, 180, 90), atol=1)
  assert photo.metadata.icc_profile is None and not photo.gray


def test_associated_alpha_and_separate_planes(tmp_path):
  colours, alpha = RGBA_16[..., :3].astype(np.float64), RGBA_16[..., 3:] | 0x4000
  stored = np.concatenate([np.round(colours * (alpha / 65535)), alpha], -1).astype(np.uint16)
  options = dict(photometric="rgb", planarconfig="separate", extrasamples=["assocalpha"])
  tifffile.imwrite(tmp_path / "x.tif", np.moveaxis(stored, -1, 0), **options)
  photo = photo_file.read(tmp_path / "x.tif")
  np.testing.assert_allclose(photo.rgb * 65535, colours, atol=4)  # rounded twice, once at a quarter of the range
  np.testing.assert_allclose(photo.alpha * 65535, alpha[..., 0], atol=0.01)


def test_bad_files_are_one_line(tmp_path):
  Image.fromarray(RGBA[..., 0].astype(np.float32)).save(tmp_path / "float.tif")
  Image.fromarray(RGBA).save(tmp_path / "cut.png")
  (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:200])
  (tmp_path / "deep.png").write_bytes(imagecodecs.png_encode(RGBA_16)[:300])
  (tmp_path / "text.webp").write_text("no picture")
  five = np.zeros((4, 4, 5), np.uint16)
  tifffile.imwrite(tmp_path / "five.tif", five, photometric="rgb", planarconfig="contig", extrasamples=["unspecified"] * 2)
  for name in ("float.tif", "cut.png", "deep.png", "text.webp", "five.tif", "none.png"):
    with pytest.raises(UserError, match=name) as error:
      photo_file.read(tmp_path / name)
    assert "\n" not in str(error.value)


def test_sizes_that_a_format_cannot_hold_are_said():
  with pytest.raises(UserError, match="20000x2 pixels cannot be written as WEBP"):
    photo_file.encode(photo_file.Photo(np.zeros((2, 20000, 3), np.float32)), "WEBP")
