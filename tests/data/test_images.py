"""Arrays of images, and their augmentation on the device."""

import dataclasses

import jax
import numpy as np
import pytest

from ppuda_jax.data import images
from ppuda_jax.data.datasets import load_images
from ppuda_jax.data.spec import PUBLISHED

DIGITS = PUBLISHED["digits"]


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


def _crops(count, seed=5):
    """(row, column, mirrored) of each of `count` augmented images, by search."""
    spec = PUBLISHED["cifar10"]
    rng = np.random.default_rng(0)
    batch = rng.integers(1, 256, (count, 32, 32, 3), dtype=np.uint8)
    result = jax.jit(lambda x, key: images.augment(x, key, spec))(batch, jax.random.key(seed))
    raw = np.asarray(result) * np.asarray(spec.std) + np.asarray(spec.mean)
    raw = np.round(raw * 255).astype(np.uint8)
    padded = np.pad(batch, ((0, 0), (4, 4), (4, 4), (0, 0)))
    found = []
    for index, image in enumerate(raw):
        matches = [
            (y, x, flip)
            for y in range(9)
            for x in range(9)
            for flip in (False, True)
            if np.array_equal(padded[index, y : y + 32, x : x + 32][:, :: -1 if flip else 1], image)
        ]
        assert len(matches) == 1
        found.append(matches[0])
    return found


def test_augmentation_is_a_shift_a_flip_and_the_normalisation():
    found = set(_crops(16))
    assert len(found) > 8 and {flip for _, _, flip in found} == {False, True}


def test_crops_reach_every_position_equally_often():
    rows, columns, flips = zip(*_crops(360), strict=True)
    for offsets in (rows, columns):
        counts = np.bincount(offsets, minlength=9)
        assert len(counts) == 9  # 2 * 4 + 1 positions, the last among them
        # 40 expected each: chi-squared with 8 degrees of freedom exceeds 26 once in a thousand.
        assert ((counts - 40) ** 2 / 40).sum() < 26
    assert 140 < sum(flips) < 220


def test_augmentation_without_crop_and_flip_only_normalises():
    spec = dataclasses.replace(DIGITS, crop_padding=0, flip=False)
    batch = load_images("digits", "val").images[:4]
    augmented = images.augment(batch, jax.random.key(0), spec)
    np.testing.assert_array_equal(augmented, images.normalise(batch, spec))
