"""Image sets as search problems."""

import numpy as np
import pytest

from ppuda_jax.data.datasets import load_images
from ppuda_jax.data.images import normalise
from ppuda_jax.structure import tasks
from ppuda_jax.structure.nasbench201_net import Skeleton
from tests.close import assert_close

IMAGES = tasks.load("digits", max_images=200)


def test_digits_have_their_own_pixels():
    whole = load_images("digits", "trainval", max_images=200)
    expected = normalise(whole.images, whole.spec)[:, ::4, ::4]
    assert IMAGES.side == 8 and IMAGES.classes == 10
    assert_close(IMAGES.train.x, expected, 1e-5)
    np.testing.assert_array_equal(IMAGES.train.y, whole.labels)


def test_images_are_averaged():
    coarse = tasks.load("digits", side=2, max_images=200)
    blocks = np.asarray(IMAGES.train.x).reshape(200, 2, 4, 2, 4, 3)
    assert_close(coarse.train.x, blocks.mean((2, 4)), 1e-4)


def test_perceptrons_see_standardised_vectors():
    task = tasks.perceptrons(IMAGES, widths=(4, 8), layers=2)
    assert task.problem.train.x.shape == task.problem.valid.x.shape == (100, 64)
    assert task.final.train.x.shape == (200, 64)
    assert task.final.valid.x.shape == (359, 64)
    assert abs(float(task.final.train.x.mean())) < 1e-4
    assert float(task.final.train.x.std()) == pytest.approx(1, rel=1e-4)


def test_cells_are_searched_on_halves():
    task = tasks.cells(IMAGES, Skeleton(10, 4, 1, 8), batch_size=64)
    assert task.problem.train.x.shape == task.problem.valid.x.shape == (100, 8, 8, 3)
    assert task.final.valid.x.shape == (359, 8, 8, 3)
    assert task.problem.batch_size == 64 and task.candidates is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_images": 1}, "two halves need at least 2 training images, received 1"),
        ({"side": 5}, "the side must divide that of the images, 32, received 5"),
        ({"side": 64}, "the side must divide"),
    ],
)
def test_images_without_sense_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        tasks.load("digits", **options)
