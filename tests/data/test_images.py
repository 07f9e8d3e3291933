"""Each oddity of an image file has one treatment, checked against Pillow."""

import io
import struct
import zlib

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
from PIL import Image, ImageOps
import pytest

from lfpc_jax.data import images
from lfpc_jax.errors import UserError

_RNG = np.random.default_rng(0)
_PIXELS = _RNG.integers(0, 256, (40, 60, 3), np.uint8)


def _encode(image, kind="PNG", **options):
  if isinstance(image, np.ndarray):
    image = Image.fromarray(image)
  file = io.BytesIO()
  image.save(file, kind, **options)
  return file.getvalue()


def _chunk(name, data):
  body = name + data
  return (
    struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))
  )


def _png_header(width, height, depth=8, colour=2):
  """A PNG that declares a size and holds no pixel."""
  header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
  return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", b"")


@pytest.mark.parametrize(
  "kind, options",
  [
    ("PNG", {}),
    ("WEBP", {"lossless": True}),
    ("BMP", {}),
    ("TIFF", {}),
  ],
)
def test_a_plain_image_comes_out_as_it_went_in(kind, options):
  picture = images.decode(_encode(_PIXELS, kind, **options))
  np.testing.assert_array_equal(picture.pixels, _PIXELS)
  assert picture.pixels.dtype == np.uint8
  assert picture.upright_size == (40, 60)
  assert picture.treatments == ()


def test_a_jpeg_is_what_pillow_decodes():
  data = _encode(_PIXELS, "JPEG", quality=90)
  with Image.open(io.BytesIO(data)) as image:
    expected = np.asarray(image.convert("RGB"))
  np.testing.assert_array_equal(images.decode(data).pixels, expected)


def test_grey_has_three_equal_channels():
  picture = images.decode(_encode(_PIXELS[..., 0]))
  for channel in range(3):
    np.testing.assert_array_equal(picture.pixels[..., channel], _PIXELS[..., 0])


@pytest.mark.parametrize(
  "size, expected",
  [
    ((27, 60), (28, 62)),
    ((60, 27), (62, 28)),
    ((1, 1), (28, 28)),
    ((1, 200), (28, 5600)),
    ((14, 28), (28, 56)),
  ],
)
def test_a_small_image_is_enlarged_to_28(size, expected):
  small = _RNG.integers(0, 256, (*size, 3), np.uint8)
  picture = images.decode(_encode(small))
  assert picture.pixels.shape == (*expected, 3)
  assert picture.upright_size == size
  assert picture.treatments == ("enlarged",)
  resized = Image.fromarray(small).resize(
    expected[::-1], Image.Resampling.BICUBIC
  )
  np.testing.assert_array_equal(picture.pixels, np.asarray(resized))


def test_28_pixels_stay_28():
  exact = _PIXELS[:28, :28]
  picture = images.decode(_encode(exact))
  np.testing.assert_array_equal(picture.pixels, exact)


def test_boxes_follow_an_enlarged_image_outward():
  picture = images.decode(_encode(_PIXELS[:20, :10]))
  assert picture.pixels.shape == (56, 28, 3)  # x 2.8
  boxes = picture.map_boxes(np.array([[1, 1, 4, 5], [0, 0, 10, 20]]))
  # 2.8, 2.8, 11.2, 14.0
  assert boxes.tolist() == [[2, 2, 12, 14], [0, 0, 28, 56]]
  assert boxes.dtype == np.int32


def test_boxes_of_a_plain_image_stay():
  picture = images.decode(_encode(_PIXELS))
  boxes = np.array([[3, 4, 50, 39]], np.int32)
  np.testing.assert_array_equal(picture.map_boxes(boxes), boxes)
  assert picture.map_boxes(()).shape == (0, 4)


@pytest.mark.parametrize(
  "size, room, expected",
  [
    ((80, 60), (40, 60), (40, 30)),
    ((60, 80), (60, 60), (45, 60)),
    ((61, 83), (61, 83), (61, 83)),  # has room
    ((4000, 40), (400, 400), (400, 28)),  # not below a visual token
    ((90, 60), (9, 9), (9, 9)),
  ],
)
def test_a_large_image_is_shrunk_to_its_room(size, room, expected):
  image = Image.fromarray(np.resize(_PIXELS, (*size, 3)))
  picture = images.decode(_encode(image), room=room)
  assert picture.pixels.shape == (*expected, 3)
  assert picture.upright_size == size
  assert images.fit(size, room) == expected
  if size == expected:
    assert picture.treatments == ()
    return
  assert picture.treatments == ("shrunk",)
  wanted = image.resize(expected[::-1], Image.Resampling.BICUBIC)
  np.testing.assert_array_equal(picture.pixels, np.asarray(wanted))


def test_boxes_follow_a_shrunk_image_outward():
  picture = images.decode(
    _encode(np.resize(_PIXELS, (80, 60, 3))), room=(40, 90)
  )
  boxes = picture.map_boxes(np.array([[1, 1, 4, 5], [0, 0, 60, 80]]))
  assert boxes.tolist() == [[0, 0, 2, 3], [0, 0, 30, 40]]


@pytest.mark.parametrize("orientation", [1, 6])
def test_a_turned_image_is_shrunk_upright(orientation):
  exif = Image.Exif()
  exif[0x0112] = orientation
  data = _encode(np.resize(_PIXELS, (80, 40, 3)), exif=exif)
  room = (50, 60)
  picture = images.decode(data, room=room)
  assert picture.pixels.shape[:2] == images.fit(images.read_size(data), room)


def test_cmyk_by_its_formula():
  inks = _RNG.integers(0, 256, (30, 30, 4), np.uint8)
  data = _encode(Image.fromarray(inks, "CMYK"), "TIFF")
  picture = images.decode(data)
  ink = inks.astype(np.float64) / 255
  expected = 255 * (1 - ink[..., :3]) * (1 - ink[..., 3:])
  assert np.abs(picture.pixels - expected).max() <= 1
  assert picture.treatments == ("CMYK",)


def test_a_cmyk_jpeg_is_not_inverted():
  red = Image.new("CMYK", (32, 32), (0, 255, 255, 0))
  picture = images.decode(_encode(red, "JPEG", quality=95))
  np.testing.assert_allclose(picture.pixels[16, 16], [255, 0, 0], atol=8)


@pytest.mark.parametrize("orientation", [3, 6, 8])
def test_a_cmyk_jpeg_on_its_side_is_turned_and_converted(orientation):
  exif = Image.Exif()
  exif[0x0112] = orientation
  inks = np.zeros((32, 64, 4), np.uint8)
  inks[:, :32, 1:3] = 255  # red at the left, cyan at the right
  inks[:, 32:, 0] = 255
  image = Image.fromarray(inks, "CMYK")
  data = _encode(image, "JPEG", quality=95, exif=exif)
  picture = images.decode(data)
  colours = np.zeros((32, 64, 3))
  colours[:, :32, 0] = colours[:, 32:, 1] = colours[:, 32:, 2] = 255
  turns = {3: 2, 6: -1, 8: 1}[orientation]
  expected = np.rot90(colours, turns)
  assert picture.pixels.shape == expected.shape
  assert picture.pixels.shape[:2] == images.read_size(data)
  # Apart from the edge, where a JPEG rings.
  wrong = np.abs(picture.pixels - expected).max(axis=-1) > 16
  assert wrong.mean() < 0.1
  assert picture.treatments == ("rotated", "CMYK")


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_grey_keeps_the_high_byte(kind):
  deep = _RNG.integers(0, 65536, (30, 30), np.uint16)
  picture = images.decode(_encode(Image.fromarray(deep), kind))
  np.testing.assert_array_equal(picture.pixels[..., 1], deep // 256)
  assert picture.treatments == ("16-bit",)


def _deep_png(samples):
  """A PNG of 16 bits: grey with alpha, colour, or colour with alpha."""
  height, width, channels = samples.shape
  colour = {2: 4, 3: 2, 4: 6}[channels]
  rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
  header = struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, 0)
  data = b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header)
  return data + _chunk(b"IDAT", zlib.compress(rows)) + _chunk(b"IEND", b"")


def test_16_bit_colour_keeps_the_high_byte():
  deep = _RNG.integers(0, 65536, (30, 31, 3), np.uint16)
  picture = images.decode(_deep_png(deep))
  np.testing.assert_array_equal(picture.pixels, deep // 256)


@pytest.mark.parametrize("channels", [2, 4])
def test_16_bits_with_alpha_keep_the_high_bytes_and_lie_over_white(channels):
  deep = _RNG.integers(0, 65536, (30, 31, channels), np.uint16)
  picture = images.decode(_deep_png(deep))
  high = (deep // 256).astype(np.float64)
  alpha = high[..., -1:] / 255
  expected = high[..., :-1] * alpha + 255 * (1 - alpha)
  assert np.abs(picture.pixels - expected).max() <= 1
  assert picture.treatments == ("alpha",)


@pytest.mark.parametrize("value", [70000, -1])
def test_more_than_16_bits_are_refused(value):
  deep = np.full((30, 30), value, np.int32)
  with pytest.raises(UserError, match="more than 16 bits"):
    images.decode(_encode(Image.fromarray(deep), "TIFF"))


def test_floating_point_is_refused():
  deep = Image.fromarray(np.zeros((30, 30), np.float32))
  with pytest.raises(UserError, match="mode 'F'"):
    images.decode(_encode(deep, "TIFF"))


def test_a_palette_is_looked_up():
  image = Image.fromarray(_PIXELS).quantize(16)
  picture = images.decode(_encode(image))
  np.testing.assert_array_equal(
    picture.pixels, np.asarray(image.convert("RGB"))
  )
  assert picture.treatments == ("palette",)


def test_a_palette_with_a_transparent_colour_lies_over_white():
  image = Image.new("P", (30, 30), 0)
  image.putpalette([0, 0, 0, 200, 10, 20])
  image.paste(1, (0, 0, 15, 30))
  pixels = images.decode(_encode(image, transparency=0)).pixels
  assert pixels[5, 5].tolist() == [200, 10, 20]
  assert pixels[5, 20].tolist() == [255, 255, 255]


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_alpha_is_laid_over_white(mode):
  channels = len(mode)
  raw = _RNG.integers(0, 256, (30, 30, channels), np.uint8)
  picture = images.decode(_encode(Image.fromarray(raw, mode)))
  alpha = raw[..., -1:].astype(np.float64) / 255
  expected = raw[..., :-1] * alpha + 255 * (1 - alpha)
  assert np.abs(picture.pixels - expected).max() <= 1
  assert picture.treatments == ("alpha",)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_undone(orientation):
  exif = Image.Exif()
  exif[0x0112] = orientation
  data = _encode(_PIXELS, "PNG", exif=exif)
  picture = images.decode(data)
  with Image.open(io.BytesIO(data)) as image:
    expected = np.asarray(ImageOps.exif_transpose(image))
  np.testing.assert_array_equal(picture.pixels, expected)
  assert picture.upright_size == expected.shape[:2]
  assert picture.treatments == (("rotated",) if orientation > 1 else ())


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", [1, 3, 5, 6, 8])
@pytest.mark.parametrize("size", [(40, 60), (60, 40), (10, 15), (15, 10)])
def test_the_size_is_known_without_the_pixels(kind, orientation, size):
  exif = Image.Exif()
  exif[0x0112] = orientation
  image = Image.new("RGB", size)
  data = _encode(image, kind, exif=exif)
  assert images.read_size(data) == images.decode(data).pixels.shape[:2]


def test_an_unreadable_size_is_refused():
  with pytest.raises(UserError, match="bytes are no"):
    images.read_size(b"no image")


def test_orientation_6_stands_on_its_left_side():
  exif = Image.Exif()
  exif[0x0112] = 6  # the stored first row is the right-hand side
  pixels = images.decode(_encode(_PIXELS, "PNG", exif=exif)).pixels
  np.testing.assert_array_equal(pixels, np.rot90(_PIXELS, -1))


def test_a_damaged_exif_block_counts_as_none():
  exif = b"Exif\0\0MM\0*" + b"\xff" * 30
  data = _encode(_PIXELS, "JPEG", quality=90, exif=exif)
  assert images.decode(data).pixels.shape == (40, 60, 3)


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_of_an_animation_the_first_frame(kind):
  frames = [Image.new("RGB", (30, 30), c) for c in ("red", "blue")]
  options = {"lossless": True} if kind == "WEBP" else {}
  data = _encode(
    frames[0], kind, save_all=True, append_images=frames[1:], **options
  )
  picture = images.decode(data)
  assert picture.pixels[3, 3].tolist() == [255, 0, 0]
  assert "first frame" in picture.treatments


@pytest.mark.parametrize("orientation", [1, 6])
def test_of_a_phones_two_pictures_in_one_jpeg_the_first(orientation):
  exif = Image.Exif()
  exif[0x0112] = orientation
  first, second = (Image.new("RGB", (64, 32), c) for c in ("red", "blue"))
  options = dict(save_all=True, append_images=[second], exif=exif)
  data = _encode(first, "MPO", **options)
  assert data.count(b"\xff\xd8\xff") == 2  # two JPEGs
  picture = images.decode(data)
  size = (32, 64) if orientation == 1 else (64, 32)
  assert picture.pixels.shape[:2] == images.read_size(data) == size
  np.testing.assert_allclose(picture.pixels[16, 16], [254, 0, 0], atol=3)
  turned = ("rotated",) if orientation == 6 else ()
  assert picture.treatments == ("first frame", *turned)


def test_a_truncated_gif_is_refused_if_its_first_frame_is_not_whole():
  frames = [Image.fromarray(x) for x in (_PIXELS, _PIXELS[::-1])]
  one = _encode(frames[0], "GIF")
  for length in (len(one) // 3, len(one) // 2, len(one) - 20):
    with pytest.raises(UserError, match="replace"):
      images.decode(one[:length])
  two = _encode(frames[0], "GIF", save_all=True, append_images=frames[1:])
  whole = images.decode(two)
  cut = images.decode(two[: len(two) * 3 // 4])  # in the second
  np.testing.assert_array_equal(cut.pixels, whole.pixels)
  with pytest.raises(UserError, match="replace"):
    images.decode(two[: len(two) // 4])


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF", "BMP"])
@pytest.mark.parametrize("share", [0.3, 0.7, 0.95])
def test_a_truncated_image_is_refused(kind, share):
  data = _encode(_PIXELS, kind)
  with pytest.raises(UserError, match="replace"):
    images.decode(data[: int(len(data) * share)])


def test_a_gigantic_image_is_refused_by_its_header():
  with pytest.raises(UserError, match="limit of 89,478,485 pixels"):
    images.decode(_png_header(10_000, 10_000))


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_pillows_own_limit_is_a_refusal_too():
  with pytest.raises(UserError, match="cannot be decoded"):
    images.decode(_png_header(20_000, 20_000), max_pixels=10**10)


def test_the_pixel_limit_can_be_chosen():
  data = _encode(_PIXELS)
  assert images.decode(data, max_pixels=2400).pixels.shape == (40, 60, 3)
  with pytest.raises(UserError, match="40 x 60 .* 2,399 pixels"):
    images.decode(data, max_pixels=2399)


def test_a_small_file_that_unfolds_is_refused():
  # 4 MB of zeros in a few kilobytes, as a text chunk.
  text = _chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(4 << 20), 9))
  data = _encode(_PIXELS)
  with pytest.raises(UserError):
    images.decode(data[:33] + text + data[33:])


def test_a_side_that_no_box_can_be_placed_on_is_refused():
  with pytest.raises(UserError, match="300 x 32769 .* above 32,768"):
    images.decode(_png_header(32_769, 300))


def test_thin_images_are_refused():
  thin = np.zeros((1, 201, 3), np.uint8)
  with pytest.raises(UserError, match="1 : 200"):
    images.decode(_encode(thin))
  assert images.decode(_encode(thin[:, :200])).pixels.shape == (28, 5600, 3)


@pytest.mark.parametrize(
  "data",
  [
    b"",
    b"\0" * 100,
    b"<svg></svg>",
    b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n",
    b"\x89PNG\r\n\x1a\n",
    b"\xff\xd8\xff\xe0",
  ],
)
def test_what_is_no_image_is_refused(data):
  with pytest.raises(UserError, match="no JPEG|cannot be decoded"):
    images.decode(data)


_FILES = [
  _encode(_PIXELS, "PNG"),
  _encode(_PIXELS, "JPEG"),
  _encode(_PIXELS, "GIF"),
  _encode(_PIXELS, "TIFF"),
  _encode(_PIXELS, "WEBP"),
  _encode(_PIXELS, "BMP"),
]


@pytest.mark.filterwarnings("ignore")
@settings(max_examples=300, deadline=None)
@given(
  st.sampled_from(_FILES),
  st.lists(
    st.tuples(st.integers(0, 2**16), st.binary(min_size=1, max_size=8)),
    min_size=1,
    max_size=6,
  ),
)
def test_damaged_files_are_decoded_or_refused(data, damages):
  damaged = bytearray(data)
  for place, junk in damages:
    place %= len(damaged)
    damaged[place : place + len(junk)] = junk
  try:
    picture = images.decode(bytes(damaged), max_pixels=10**6)
  except UserError as error:
    assert "\n" not in str(error)
  else:
    assert picture.pixels.dtype == np.uint8
    assert picture.pixels.ndim == 3 and min(picture.pixels.shape[:2]) >= 28
