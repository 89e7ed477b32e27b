"""What a step gets of the images."""

import jax
import numpy as np
import pytest

from ppuda_jax.data import batches, datasets
from ppuda_jax.data.batches import ResidentImages, StreamedImages, training_images
from ppuda_jax.data.order import ImageOrder
from ppuda_jax.data.spec import PUBLISHED
from tests.data.image_sets import simple_tfds


def test_resident_images_are_named_by_index_and_augmented_inside_jit():
    data = training_images("digits", 16, seed=3)
    assert isinstance(data, ResidentImages) and data.num_images == 1295
    index = data.batch(7)
    np.testing.assert_array_equal(index, ImageOrder(1295, 16, 3).batch(7))
    pixels, labels = jax.jit(data.load)(data.resident, index, jax.random.key(0))
    assert pixels.shape == (16, 32, 32, 3) and pixels.dtype == np.float32
    np.testing.assert_array_equal(labels, data.resident[1][index])


def test_streamed_images_are_only_normalised():
    spec = PUBLISHED["imagenet"]

    class Stream:
        def batch(self, step):
            return np.full((2, 224, 224, 3), step, np.uint8), np.asarray([1, 2], np.int32)

    data = StreamedImages(spec, Stream(), 10)
    pixels, labels = jax.jit(data.load)(data.resident, data.batch(9), jax.random.key(0))
    expected = (9 / 255 - np.asarray(spec.mean)) / np.asarray(spec.std)
    np.testing.assert_allclose(pixels[0, 0, 0], expected, rtol=1e-5)
    np.testing.assert_array_equal(labels, [1, 2])


def test_a_batch_larger_than_the_data_is_refused():
    with pytest.raises(
        ValueError, match="at most the 1295 training images of digits, received 2000"
    ):
        batches.training_images("digits", 2000, 0)


def test_stratified_batches_have_all_classes():
    data = training_images("digits", 30, seed=3, stratified=True)
    labels = data.resident[1]
    for step in range(60):
        assert np.bincount(labels[data.batch(step)], minlength=10).min() >= 1


def test_streamed_images_are_not_stratified(tmp_path, monkeypatch):
    simple_tfds(tmp_path, "tiny")
    monkeypatch.setattr(datasets, "_RESIDENT_BYTES", 0)
    with pytest.raises(ValueError, match="stratified batches need images in memory; tiny"):
        training_images("tiny", 8, 0, str(tmp_path), stratified=True)
