"""Image datasets: splits, errors, order, augmentation."""

import dataclasses
import pathlib

import jax
import numpy as np
import pytest

from ppuda_jax.data import images

DIGITS = images.DATASETS["digits"]
TFDS = pathlib.Path(__file__).parents[2].parent / "shared" / "tfds"


def test_digits_splits_are_disjoint_and_complete():
    sizes = {s: len(images.load_images("digits", s)) for s in ("train", "val", "test", "trainval")}
    assert sizes == {"train": 1295, "val": 143, "test": 359, "trainval": 1438}
    both = images.load_images("digits", "trainval").images
    parts = [images.load_images("digits", s).images for s in ("train", "val")]
    np.testing.assert_array_equal(np.concatenate(parts), both)


def test_digits_statistics_are_those_of_the_training_images():
    pixels = images.load_images("digits", "train").images / 255
    np.testing.assert_allclose(pixels.mean((0, 1, 2)), DIGITS.mean, atol=1e-4)
    np.testing.assert_allclose(pixels.std((0, 1, 2)), DIGITS.std, atol=1e-4)


@pytest.mark.skipif(not TFDS.is_dir(), reason="no prepared CIFAR-10 beside the repository")
def test_cifar10_from_a_prepared_folder():
    test = images.load_images("cifar10", "test", str(TFDS))
    assert test.images.shape == (10_000, 32, 32, 3)
    np.testing.assert_array_equal(np.bincount(test.labels), np.full(10, 1000))


def test_missing_data_says_where_it_looked_and_how_to_prepare_it(tmp_path):
    with pytest.raises(FileNotFoundError, match="Looked for .*cifar10.*download_and_prepare"):
        images.load_images("cifar10", "test", str(tmp_path))


@pytest.mark.parametrize(
    ("shape", "labels", "message"),
    [
        ((4, 8, 8, 3), [0, 1, 2, 3], r"images must be \[n, 32, 32, 3\], received \[4, 8, 8, 3\]"),
        ((2, 32, 32, 3), [0], "one label each"),
        ((2, 32, 32, 3), [0, 10], r"labels must lie in 0\.\.9, received 0\.\.10"),
        ((0, 32, 32, 3), [], r"labels must lie in 0\.\.9, received no image at all"),
    ],
)
def test_foreign_arrays_are_refused(shape, labels, message):
    with pytest.raises(ValueError, match=message):
        images.ImageArrays(DIGITS, np.zeros(shape, np.uint8), np.asarray(labels, np.int32))


def test_unknown_names():
    with pytest.raises(ValueError, match="unknown dataset 'mnist'; known: cifar10"):
        images.load_images("mnist", "train")
    with pytest.raises(ValueError, match="split must be"):
        images.load_images("digits", "valid")
    with pytest.raises(ValueError, match="does not fit in memory"):
        images.load_images("imagenet", "train")


def test_augmentation_is_a_shift_a_flip_and_the_normalisation():
    spec = images.DATASETS["cifar10"]
    rng = np.random.default_rng(0)
    batch = rng.integers(1, 256, (16, 32, 32, 3), dtype=np.uint8)
    result = jax.jit(lambda x, key: images.augment(x, key, spec))(batch, jax.random.key(5))
    raw = np.asarray(result) * np.asarray(spec.std) + np.asarray(spec.mean)
    raw = np.round(raw * 255).astype(np.uint8)
    padded = np.pad(batch, ((0, 0), (4, 4), (4, 4), (0, 0)))
    found = set()
    for index, image in enumerate(raw):
        matches = [
            (y, x, flip)
            for y in range(9)
            for x in range(9)
            for flip in (False, True)
            if np.array_equal(padded[index, y : y + 32, x : x + 32][:, :: -1 if flip else 1], image)
        ]
        assert len(matches) == 1
        found.add(matches[0])
    assert len(found) > 8 and {flip for _, _, flip in found} == {False, True}


def test_augmentation_without_crop_and_flip_only_normalises():
    spec = dataclasses.replace(DIGITS, crop_padding=0, flip=False)
    batch = images.load_images("digits", "val").images[:4]
    augmented = images.augment(batch, jax.random.key(0), spec)
    np.testing.assert_array_equal(augmented, images.normalise(batch, spec))
