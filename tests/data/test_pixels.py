"""Pictures of every mode, against closed forms."""

import io

import numpy as np
import pytest
from PIL import Image

from ppuda_jax.data.pixels import centre_square, to_rgb
from ppuda_jax.data.source import DatasetError
from tests.data.image_sets import encode, pictures


def _png(image):
    data = io.BytesIO()
    image.save(data, "PNG")
    return data.getvalue()


GREY = pictures(1, (5, 7), 1)[0]
RGB = pictures(1, (5, 7, 3), 2)[0]
RGBA = pictures(1, (5, 7, 4), 3)[0]
ON_BLACK = np.round(RGBA[..., :3] * (RGBA[..., 3:] / 255)).astype(np.uint8)
WIDE = np.random.default_rng(4).integers(0, 65536, (5, 7)).astype(np.uint16)
TWO = (GREY > 127).astype(np.uint8)


def _grey(pixels):
    return np.repeat(pixels[..., None], 3, axis=2)


def _palette(transparent=None):
    image = Image.new("P", (7, 5))
    image.putdata(TWO.reshape(-1).tolist())
    image.putpalette([10, 20, 30, 200, 150, 100])
    if transparent is not None:
        image.info["transparency"] = transparent
    return image


COLOURS = np.asarray([[10, 20, 30], [200, 150, 100]], np.uint8)
MODES = {
    "grey": (encode(GREY), _grey(GREY)),
    "RGB": (encode(RGB), RGB),
    "RGBA": (encode(RGBA), ON_BLACK),
    "grey and alpha": (
        encode(RGBA[..., [0, 3]]),
        _grey(np.round(RGBA[..., 0] * (RGBA[..., 3] / 255)).astype(np.uint8)),
    ),
    "16 bit": (encode(WIDE), _grey(np.round(WIDE / 257).astype(np.uint8))),
    "1 bit": (_png(Image.fromarray(TWO * 255).convert("1")), _grey(TWO * 255)),
    "palette": (_png(_palette()), COLOURS[TWO]),
    "palette with a clear colour": (_png(_palette(1)), COLOURS[TWO] * (TWO == 0)[..., None]),
    "array, grey": (GREY, _grey(GREY)),
    "array, one channel": (GREY[..., None], _grey(GREY)),
    "array, RGBA": (RGBA, ON_BLACK),
}


@pytest.mark.parametrize(("picture", "expected"), MODES.values(), ids=MODES)
def test_every_mode_becomes_rgb(picture, expected):
    result = to_rgb(picture, "here")
    assert result.dtype == np.uint8
    np.testing.assert_array_equal(result, expected)


def test_jpeg_of_one_and_four_channels():
    flat = np.full((8, 8), 77, np.uint8)
    np.testing.assert_array_equal(to_rgb(encode(flat, "JPEG"), "here"), _grey(flat))
    data = io.BytesIO()
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(data, "JPEG")
    red = to_rgb(data.getvalue(), "here")
    assert red[..., 0].min() > 240 and red[..., 1:].max() < 15


@pytest.mark.parametrize(
    "picture", [b"", b"text", encode(RGB)[:40], encode(RGB)[:-30], np.zeros((2, 3, 5), np.uint8)]
)
def test_what_is_no_image_is_named(picture):
    with pytest.raises(DatasetError, match="^some/file.png: "):
        to_rgb(picture, "some/file.png")


def test_the_centre_is_kept_and_the_middle_of_a_resized_picture_stays():
    square = pictures(1, (32, 32, 3))[0]
    assert centre_square(square, 32, 32) is square
    wide = np.zeros((32, 64, 3), np.uint8)
    wide[:, 16:48] = square
    np.testing.assert_array_equal(centre_square(wide, 32, 32), square)
    halved = centre_square(
        np.tile(np.arange(64, dtype=np.uint8)[:, None, None], (1, 64, 3)), 32, 32
    )
    assert np.abs(halved[2:-2, 0, 0] - (2 * np.arange(32) + 0.5)[2:-2]).max() <= 0.5
    ramp = np.broadcast_to(np.arange(256, dtype=np.uint8)[None, :, None], (256, 256, 3))
    cut = centre_square(np.ascontiguousarray(ramp), 224, 256)
    np.testing.assert_array_equal(cut[0, :, 0], np.arange(16, 240))
    for shape in [(10, 300, 3), (300, 10, 3), (1, 1, 3)]:
        assert centre_square(np.zeros(shape, np.uint8), 32, 37).shape == (32, 32, 3)
