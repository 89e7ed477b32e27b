"""The streamed ImageNet loader, on a handful of random pictures."""

import io

import numpy as np
import pytest
from PIL import Image

from ppuda_jax.data import imagenet


@pytest.fixture(scope="module")
def source():
    rng = np.random.default_rng(0)
    rows = []
    for label in range(12):
        height, width = rng.integers(40, 400, 2)
        pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        data = io.BytesIO()
        Image.fromarray(pixels).save(data, "JPEG")
        rows.append({"image": data.getvalue(), "label": label})
    return rows


def test_a_batch_depends_on_its_step_alone(source):
    ahead = imagenet.ImageNetStream(source, 12, 4, seed=1, threads=2, prefetch=3)
    ahead.batch(0), ahead.batch(1)
    images, labels = ahead.batch(2)
    alone = imagenet.ImageNetStream(source, 12, 4, seed=1, threads=1, prefetch=0)
    again, again_labels = alone.batch(2)
    assert images.shape == (4, 224, 224, 3) and images.dtype == np.uint8
    np.testing.assert_array_equal(images, again)
    np.testing.assert_array_equal(labels, again_labels)
    ahead.close(), alone.close()


def test_evaluation_images_are_centre_crops(source):
    assert imagenet.evaluation_image(source[0]["image"]).shape == (224, 224, 3)


def test_crops_stay_inside_the_image():
    rng = np.random.default_rng(0)
    for width, height in [(30, 500), (500, 30), (224, 224)] * 20:
        left, top, right, bottom = imagenet._crop_box(width, height, rng)
        assert 0 <= left < right <= width and 0 <= top < bottom <= height
