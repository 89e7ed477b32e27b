"""Streamed images: their order, and ImageNet's augmentation against Pillow and closed forms."""

import colorsys

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from ppuda_jax.data import streamed
from ppuda_jax.data.source import ArrayRows, DatasetError, Row
from tests.data.image_sets import encode, pictures


class Files:
    """Twelve JPEG files of different sizes."""

    declared_size = (None, None)

    def __init__(self):
        rng = np.random.default_rng(0)
        sizes = rng.integers(40, 400, (12, 2))
        self.data = [
            encode(pictures(1, (*size, 3), seed)[0], "JPEG") for seed, size in enumerate(sizes)
        ]

    def __len__(self):
        return 12

    def where(self, index):
        return f"file {index}"

    def read(self, indices):
        return [Row(self.data[i], i) for i in indices]


@pytest.fixture(scope="module")
def files():
    return Files()


def test_a_batch_depends_on_its_step_alone(files):
    ahead = streamed.ImageStream(files, 12, 4, seed=1, threads=2, prefetch=3)
    ahead.batch(0), ahead.batch(1)
    images, labels = ahead.batch(2)
    alone = streamed.ImageStream(files, 12, 4, seed=1, threads=1, prefetch=0)
    again, again_labels = alone.batch(2)
    assert images.shape == (4, 224, 224, 3) and images.dtype == np.uint8
    np.testing.assert_array_equal(images, again)
    np.testing.assert_array_equal(labels, again_labels)
    ahead.close(), alone.close()


def test_a_damaged_file_is_named_when_its_step_comes(files):
    broken = Files()
    broken.data[7] = b"no image"
    stream = streamed.ImageStream(broken, 12, 12, seed=1, threads=1, prefetch=0)
    with pytest.raises(DatasetError, match="file 7: no readable PNG or JPEG image"):
        stream.batch(0)
    stream.close()


def test_a_batch_larger_than_the_set_is_refused(files):
    with pytest.raises(ValueError, match="batch_size must be at most 12 images, received 13"):
        streamed.ImageStream(files, 12, 13, seed=1)


def test_crops_stay_inside_the_image():
    rng = np.random.default_rng(0)
    for width, height in [(30, 500), (500, 30), (224, 224)] * 20:
        left, top, right, bottom = streamed._crop_box(width, height, rng)
        assert 0 <= left < right <= width and 0 <= top < bottom <= height


def test_crops_have_the_published_areas_and_ratios():
    rng = np.random.default_rng(0)
    boxes = np.asarray([streamed._crop_box(300, 300, rng) for _ in range(2000)])
    widths, heights = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    areas, ratios = widths * heights / 300**2, widths / heights
    assert 0.07 < areas.min() < 0.1 and 0.95 < areas.max() <= 1
    assert 0.44 < np.mean(areas) < 0.54  # uniform in 0.08..1, but for boxes that do not fit
    assert 0.73 < ratios.min() < 0.77 and 1.3 < ratios.max() < 1.37
    assert abs(np.mean(np.log(ratios))) < 0.02
    assert boxes[:, :2].min() == 0 and (boxes[:, 2] == 300).any() and (boxes[:, 3] == 300).any()


class Chosen:
    """A generator whose draws are given: factors of the jitter, then the order."""

    def __init__(self, factors, order):
        self.factors, self.order, self.ranges = list(factors), order, []

    def uniform(self, low, high):
        self.ranges.append((low, high))
        return self.factors.pop(0)

    def permutation(self, count):
        assert count == 4
        return np.asarray(self.order)


def test_colours_are_jittered_by_the_published_strengths_in_random_order():
    image = Image.fromarray(pictures(1, (16, 16, 3))[0])
    rng = Chosen([1.3, 0.7, 1.2, 0.1], [2, 3, 0, 1])
    result = streamed._jitter(image, rng)
    assert rng.ranges == [(0.6, 1.4), (0.6, 1.4), (0.6, 1.4), (-0.2, 0.2)]
    expected = ImageEnhance.Color(image).enhance(1.2)
    expected = streamed.turn_hue(expected, 0.1)
    expected = ImageEnhance.Brightness(expected).enhance(1.3)
    expected = ImageEnhance.Contrast(expected).enhance(0.7)
    np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [3, 2, 1, 0]])
def test_factors_of_one_leave_an_image_as_it_is(order):
    pixels = pictures(1, (16, 16, 3))[0]
    result = streamed._jitter(Image.fromarray(pixels), Chosen([1, 1, 1, 0], order))
    assert np.abs(np.asarray(result).astype(int) - pixels).max() <= 6  # 8 bits of hue


def test_brightness_contrast_and_saturation_in_closed_form():
    pixels = pictures(1, (16, 16, 3))[0]
    image = Image.fromarray(pixels)
    grey = pixels @ np.asarray([299, 587, 114]) / 1000
    cases = (
        ([0.6, 1, 1, 0], 0.6 * pixels),
        ([1, 0.6, 1, 0], 0.6 * pixels + 0.4 * np.round(grey.mean())),
        ([1, 1, 0.6, 0], 0.6 * pixels + 0.4 * grey[..., None]),
    )
    for which, (factors, expected) in enumerate(cases):
        result = streamed._ENHANCERS[which](image).enhance(factors[which])
        assert np.abs(np.asarray(result) - expected).max() < 1.5, which


@pytest.mark.parametrize("turn", [0.2, -0.2, 0.05, 0.0])
def test_hue_turns_on_its_circle(turn):
    pixels = pictures(1, (16, 16, 3))[0]
    result = np.asarray(streamed.turn_hue(Image.fromarray(pixels), turn)).reshape(-1, 3)
    for before, after in zip(pixels.reshape(-1, 3), result, strict=True):
        hue, saturation, value = colorsys.rgb_to_hsv(*(before / 255))
        expected = np.asarray(colorsys.hsv_to_rgb((hue + turn) % 1, saturation, value)) * 255
        assert np.abs(after - expected).max() <= 12  # two of 256 steps of hue, six shades each


def test_training_images_are_mirrored_half_of_the_time_where_they_may_be():
    ramp = np.broadcast_to(np.arange(0, 256, 4, dtype=np.uint8)[None, :, None], (64, 64, 3))
    ramp = np.ascontiguousarray(ramp)

    def rising(seed, flip):
        image = streamed.training_image(ramp, np.random.default_rng(seed), 32, flip=flip)
        assert image.shape == (32, 32, 3) and image.dtype == np.uint8
        return bool(image[:, -4:].mean() > image[:, :4].mean())

    assert 20 < sum(rising(seed, True) for seed in range(64)) < 44
    assert all(rising(seed, False) for seed in range(64))


def test_arrays_stream_too():
    rows = ArrayRows(pictures(6, (20, 30)), np.arange(6), "arrays")
    stream = streamed.ImageStream(rows, 6, 3, seed=0, image_size=32, threads=1, prefetch=0)
    images, labels = stream.batch(1)
    assert images.shape == (3, 32, 32, 3) and set(labels.tolist()) < set(range(6))
    stream.close()
