"""Whatever a file says of its picture, the pixels come out; what cannot be written is named, and what is untrue is left out."""

import io
import struct
import warnings

import numpy as np
import pytest
from PIL import Image, ImageCms, PngImagePlugin

from mzsr_jax import decode, images
from mzsr_jax.errors import UserError
from mzsr_jax.photo import file as photo_file
from mzsr_jax.photo import metadata

FUZZ = 200
SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8}  # bytes, by EXIF's numbers of types
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
PIXELS = np.stack([*np.meshgrid(np.arange(40) * 6, np.arange(32) * 7), np.full((32, 40), 90)], -1).astype(np.uint8)
TARGETS = [("PNG", 8), ("PNG", 16), ("JPEG", 8), ("WEBP", 8), ("TIFF", 8), ("TIFF", 16), ("BMP", 8)]


def directory(entries, start):
  """An EXIF directory of (tag, type, count, data) that begins at byte `start`."""
  offset, head, body = start + 6 + 12 * len(entries), struct.pack("<H", len(entries)), b""
  for tag, kind, count, data in sorted(entries):
    if len(data) <= 4:
      head += struct.pack("<HHI", tag, kind, count) + data.ljust(4, b"\0")
    else:
      head += struct.pack("<HHII", tag, kind, count, offset + len(body))
      body += data + bytes(len(data) % 2)
  return head + bytes(4) + body


def exif(own=(), camera=(), place=()):
  """An EXIF block of tags of any type, most of which Pillow would refuse to write."""
  below = [(pointer, tags) for pointer, tags in ((0x8769, camera), (0x8825, place)) if tags]
  start = 8 + len(directory([*own, *((pointer, 4, 1, bytes(4)) for pointer, _ in below)], 8))
  pointers, extra = [], b""
  for pointer, tags in below:
    pointers.append((pointer, 4, 1, struct.pack("<I", start + len(extra))))
    extra += directory(tags, start + len(extra))
  return b"Exif\0\0II*\0\x08\0\0\0" + directory([*own, *pointers], 8) + extra


def jpeg(path, *blocks, density=None):
  buffer = io.BytesIO()
  Image.fromarray(PIXELS).save(buffer, "JPEG", quality=97, subsampling=0, **({"dpi": density} if density else {}))
  data = buffer.getvalue()
  segments = b"".join(b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block for block in blocks)
  path.write_bytes(data[:2] + segments + data[2:])


def random_tags(rng, known):
  tags = []
  for tag in rng.choice(known, rng.integers(1, 8), replace=False):
    kind, count = int(rng.integers(1, 13)), int(rng.choice([0, 1, 1, 1, 2, 3, 4, 9, 200]))
    data = rng.bytes(count * SIZES[kind]) if rng.random() < 0.7 else bytes(count * SIZES[kind])
    tags.append((int(tag), kind, count, data))
  return tags


OWN = [0x010E, 0x010F, 0x0110, 0x0112, 0x011A, 0x011B, 0x0128, 0x0131, 0x0132, 0x013B, 0x8298, 0x9C9B, 0x4746]
CAMERA = [0x829A, 0x829D, 0x8827, 0x9000, 0x9003, 0x9101, 0x9201, 0x9204, 0x920A, 0x927C, 0x9286, 0xA000, 0xA002, 0xA005]
PLACE = [*range(0, 32)]


def fuzzed(path, seed):
  """A file whose EXIF, XMP, profile or tags are no such, in any container."""
  rng = np.random.default_rng(seed)
  block = exif(*(random_tags(rng, known) if rng.random() < 0.8 else () for known in (OWN, CAMERA, PLACE)))
  if rng.random() < 0.3:  # bits turned
    block = bytearray(block)
    for _ in range(rng.integers(1, 9)):
      block[rng.integers(6, len(block))] ^= 1 << int(rng.integers(8))
    block = bytes(block)
  xmp = [b"", b"<x>told</x>", rng.bytes(300), b"<x " + b"a" * 300, b'<x tiff:Orientation="7"/>', b"\xff\xfe<x/>"][seed % 6]
  profile = [b"", SRGB, rng.bytes(200), SRGB[:150], b"\0" * 128][seed % 5]
  container = ("JPEG", "PNG", "WEBP", "TIFF")[seed // 7 % 4]
  if container == "JPEG":
    icc = [b"ICC_PROFILE\0\1\1" + profile] if profile else []
    jpeg(path, block[:65000], *([b"http://ns.adobe.com/xap/1.0/\0" + xmp] if xmp else []))
    data = path.read_bytes()
    segments = b"".join(b"\xff\xe2" + struct.pack(">H", len(part) + 2) + part for part in icc)
    path.write_bytes(data[:2] + segments + data[2:])
  elif container == "TIFF":
    own = random_tags(rng, OWN)
    pixels = PIXELS.tobytes()
    stored = {0x100: 40, 0x101: 32, 0x103: 1, 0x106: 2, 0x115: 3, 0x116: 32, 0x117: len(pixels)}
    fixed = [(tag, 4, 1, struct.pack("<I", number)) for tag, number in stored.items()]
    fixed += [(0x102, 3, 3, struct.pack("<3H", 8, 8, 8))]
    fixed += [(0x02BC, 1, len(xmp), xmp)] * bool(xmp) + [(0x8773, 7, len(profile), profile)] * bool(profile)
    length = 8 + len(directory([*fixed, *own, (0x111, 4, 1, bytes(4))], 8))
    entries = [*fixed, *own, (0x111, 4, 1, struct.pack("<I", length))]
    path.write_bytes(b"II*\0\x08\0\0\0" + directory(entries, 8) + pixels)
  else:
    options = {"icc_profile": profile} if profile else {}
    options |= {"xmp": xmp} if xmp and container == "WEBP" else {}
    options |= {"lossless": True} if container == "WEBP" else {}
    if container == "PNG":
      options["pnginfo"] = PngImagePlugin.PngInfo()
      options["pnginfo"].add(b"gAMA", rng.bytes(4))
      options["pnginfo"].add(b"cHRM", rng.bytes(32))
      options["pnginfo"].add_itxt("XML:com.adobe.xmp", xmp.decode("latin-1"))
      options["pnginfo"].add_text("Title", "x" * int(rng.integers(1, 99)))
    Image.fromarray(PIXELS).save(path, container, exif=block, **options)
  return container


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("first", range(0, FUZZ, 50))
def test_pixels_come_out_whatever_is_said_of_them(tmp_path, first):
  path = tmp_path / "x"
  for seed in range(first, first + 50):
    container = fuzzed(path, seed)
    photo = photo_file.read(path)  # never refused: all of its pixels are there
    upright = [np.rot90(t, k) for t in (PIXELS, PIXELS[::-1]) for k in range(4)]
    close = [np.abs(photo.rgb * 255 - one).max() for one in upright if one.shape == photo.rgb.shape]
    assert min(close) < (16 if container == "JPEG" else 0.01), (seed, close)
    for file_format, bits in TARGETS:
      again = tmp_path / "again"
      again.write_bytes(photo_file.encode(photo._replace(bits=bits), file_format))
      pixels = images.read_image(again)
      lossy = file_format == "JPEG" or (file_format == "WEBP" and not photo.lossless_webp)
      assert pixels.shape == photo.rgb.shape, (seed, file_format)
      assert np.abs(pixels - photo.rgb * 255).max() <= (24 if lossy else 0.51), (seed, file_format, bits)


def warned(caplog):
  return " ".join(record.getMessage() for record in caplog.records)


S = struct.pack
CASES = {
    "an altitude's reference in ASCII": (exif(place=[(5, 2, 2, b"0\0"), (6, 5, 1, S("<II", 403, 1))]), "GPSAltitudeRef"),
    "a signed altitude": (exif(place=[(6, 10, 1, S("<ii", -3, 1))]), "GPSAltitude"),
    "a version that is a number": (exif(camera=[(0x9000, 11, 1, S("<f", 2.3)), (0x8827, 3, 1, S("<H", 100))]), "ExifVersion"),
}


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("name", CASES)
def test_a_tag_of_another_type_is_left_out_by_name_and_the_others_kept(tmp_path, caplog, name, orientation):
  block, tag = CASES[name]
  maker = [(0x010F, 2, 6, b"Drone\0"), (0x0112, 3, 1, S("<H", orientation))]
  parsed = Image.Exif()
  parsed.load(block)
  block = exif(
      maker,
      camera=[(0x9000, 11, 1, S("<f", 2.3)), (0x8827, 3, 1, S("<H", 100))] if tag == "ExifVersion" else (),
      place={"GPSAltitudeRef": [(5, 2, 2, b"0\0")], "GPSAltitude": [(6, 10, 1, S("<ii", -3, 1))]}.get(tag, ()),
  )  # fmt: skip
  jpeg(tmp_path / "x.jpg", block)
  for read in (photo_file.read, images.read_image):
    made = read(tmp_path / "x.jpg")
    assert (made.rgb if read is photo_file.read else made).shape[:2] == ((32, 40) if orientation == 1 else (40, 32))
  photo = photo_file.read(tmp_path / "x.jpg")
  for file_format in ("JPEG", "PNG", "WEBP", "TIFF"):
    caplog.clear()
    with Image.open(io.BytesIO(photo_file.encode(photo, file_format, name="x.jpg"))) as again:
      assert again.getexif()[0x010F] == "Drone"
      if tag == "ExifVersion":
        assert again.getexif().get_ifd(0x8769)[0x8827] == 100
    assert tag in warned(caplog) and "x.jpg" in warned(caplog), file_format


@pytest.mark.parametrize("value", [(0, 0), (4_000_000_000, 1), (1, 4_000_000_000)])
@pytest.mark.parametrize("bits", [8, 16])
def test_a_resolution_that_is_none_is_left_out(tmp_path, caplog, bits, value):
  import tifffile

  pixels = PIXELS if bits == 8 else PIXELS.astype(np.uint16) * 257
  tifffile.imwrite(tmp_path / "x.tif", pixels, photometric="rgb", resolution=(7, 7), resolutionunit=2, metadata=None)
  data = (tmp_path / "x.tif").read_bytes()
  (tmp_path / "x.tif").write_bytes(data.replace(S("<II", 7, 1), S("<II", *value)))
  photo = photo_file.read(tmp_path / "x.tif")
  assert photo.metadata.dpi is None and "resolution" in warned(caplog)
  for file_format in ("JPEG", "PNG", "TIFF"):
    photo_file.encode(photo, file_format)


def test_blocks_that_are_too_large_for_jpeg_are_left_out_by_name(tmp_path, caplog):
  big = b"<x>" + b"a" * 100_000 + b"</x>"
  maker = Image.Exif()
  maker[0x010F], maker[0x8769] = "Maker", {0x927C: bytes(70_000), 0x8827: 100}
  told = metadata.Metadata(xmp=big, exif={0x010F: "Maker", 0x8769: {0x927C: bytes(70_000), 0x8827: 100}})
  photo = photo_file.Photo(images.to_float(PIXELS), metadata=told)
  (tmp_path / "x.jpg").write_bytes(photo_file.encode(photo, "JPEG", name="night.jpg"))
  assert all(word in warned(caplog) for word in ("MakerNote", "XMP", "JPEG", "night.jpg"))
  again = photo_file.read(tmp_path / "x.jpg").metadata
  assert again.exif[0x010F] == "Maker" and again.exif[0x8769][0x8827] == 100 and again.xmp is None
  (tmp_path / "x.png").write_bytes(photo_file.encode(photo, "PNG"))  # where all of it fits
  again = photo_file.read(tmp_path / "x.png").metadata
  assert again.xmp == big and len(again.exif[0x8769][0x927C]) == 70_000


def test_what_a_png_file_says_of_its_colours_stays_or_is_named(tmp_path, caplog):
  info = PngImagePlugin.PngInfo()
  chunks = {b"gAMA": S(">I", 100_000), b"cHRM": S(">8I", *range(8)), b"cICP": bytes([9, 16, 0, 1])}
  for kind, data in chunks.items():
    info.add(kind, data)
  Image.fromarray(PIXELS).save(tmp_path / "x.png", pnginfo=info)
  for bits in (8, 16):
    photo = photo_file.read(tmp_path / "x.png")._replace(bits=bits)
    (tmp_path / "y.png").write_bytes(photo_file.encode(photo, "PNG"))
    assert dict(photo_file.read(tmp_path / "y.png").metadata.chunks) == chunks
  assert not warned(caplog)
  photo_file.encode(photo, "JPEG", name="x.png")
  assert "gAMA" in warned(caplog) and "cICP" in warned(caplog)


def test_what_a_format_has_no_place_for_is_named(caplog):
  told = metadata.Metadata(icc_profile=b"profile", xmp=b"<x/>", dpi=(72.0, 72.0), texts=(("Title", "Lake"),), comment=b"mine")
  expected = {
      "BMP": "the colour profile, XMP, the comment, texts", "JPEG": "texts", "PNG": "the comment", "TIFF": "the comment, texts",
      "WEBP": "the comment, texts",
  }  # fmt: skip
  for file_format, words in expected.items():
    caplog.clear()
    metadata.fitting(told, lambda told: None, file_format, "x.jpg")
    assert warned(caplog) == f"'x.jpg': {file_format} has no place for {words}: left out."


def test_the_size_of_a_png_file_is_known_without_its_pixels(tmp_path):
  Image.fromarray(PIXELS).save(tmp_path / "x.png")
  content = (tmp_path / "x.png").read_bytes()
  (tmp_path / "x.png").write_bytes(content[: content.index(b"IDAT") + 8])
  assert decode.header(tmp_path / "x.png").size == PIXELS.shape[:2]


MOTION = b"""<?xpacket begin="\xef\xbb\xbf" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">
<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description rdf:about=""
 xmlns:GCamera="http://ns.google.com/photos/1.0/camera/" xmlns:dc="http://purl.org/dc/elements/1.1/"
 xmlns:Container="http://ns.google.com/photos/1.0/container/" xmlns:hdrgm="http://ns.adobe.com/hdr-gain-map/1.0/"
 xmlns:exif="http://ns.adobe.com/exif/1.0/" exif:PixelXDimension="40"
 GCamera:MotionPhoto="1" GCamera:MotionPhotoVersion="1" hdrgm:Version="1.0" dc:format="image/jpeg">
<Container:Directory><rdf:Seq><rdf:li>video</rdf:li></rdf:Seq></Container:Directory>
<dc:title>Lake</dc:title></rdf:Description></rdf:RDF></x:xmpmeta><?xpacket end="w"?>"""


def test_xmp_claims_no_data_that_are_not_copied(tmp_path):
  Image.fromarray(PIXELS).save(tmp_path / "x.jpg", xmp=MOTION)
  xmp = photo_file.read(tmp_path / "x.jpg").metadata.xmp
  assert b"Lake" in xmp and b"image/jpeg" in xmp and b"xpacket" in xmp
  untrue = (b"MotionPhoto=", b"hdrgm:Version", b"Container:Directory", b"video", b"PixelXDimension")
  assert not any(word in xmp for word in untrue)


def test_lossless_webp_stays_lossless(tmp_path):
  lines = np.where(np.arange(64)[None, :, None] % 7 == np.arange(64)[:, None, None] % 5, np.uint8(255), np.uint8([200, 30, 0]))
  Image.fromarray(lines).save(tmp_path / "x.webp", lossless=True)
  Image.fromarray(lines).save(tmp_path / "lossy.webp", quality=80)
  photo = photo_file.read(tmp_path / "x.webp")
  assert photo.lossless_webp and not photo_file.read(tmp_path / "lossy.webp").lossless_webp
  frames = [Image.fromarray(np.roll(lines, i, 0)) for i in range(3)]
  for lossless in (False, True):
    frames[0].save(tmp_path / "animated.webp", save_all=True, append_images=frames[1:], lossless=lossless)
    assert photo_file.read(tmp_path / "animated.webp").lossless_webp == lossless
  (tmp_path / "y.webp").write_bytes(photo_file.encode(photo, "WEBP"))
  np.testing.assert_array_equal(images.read_image(tmp_path / "y.webp"), lines)
  assert len(photo_file.encode(photo, "JPEG", 50)) < len(photo_file.encode(photo, "JPEG", 95))


def test_formats_that_are_not_written_are_read(tmp_path):
  image = Image.fromarray(PIXELS)
  frames = {"save_all": True, "append_images": [Image.fromarray(255 - PIXELS)]}
  for name, options in {"x.jfif": {"format": "JPEG"}, "x.avif": {}, "x.gif": frames}.items():
    image.save(tmp_path / name, **options)
    assert np.abs(images.read_image(tmp_path / name).astype(int) - PIXELS).mean() < 6, name
  (tmp_path / "none").write_bytes((tmp_path / "x.jfif").read_bytes())
  assert photo_file.read(tmp_path / "none").rgb.shape == PIXELS.shape
  with warnings.catch_warnings(), pytest.raises(UserError, match="cannot be read"):
    warnings.simplefilter("ignore")
    (tmp_path / "none").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n")
    photo_file.read(tmp_path / "none")
