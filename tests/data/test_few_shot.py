"""Few images per class."""

import numpy as np
import pytest

from ppuda_jax.data.few_shot import few_shot
from tests.finetune.conftest import drawn


def test_the_first_of_each_class_in_the_order_of_the_file():
    images = drawn(30, 0)
    got = few_shot(images, 2)
    assert list(got.labels) == [0, 1, 2, 0, 1, 2]
    assert np.array_equal(got.images, images.images[:6])


def test_drawn_ones_differ_by_seed_and_have_as_many_of_each():
    images = drawn(30, 0)
    one, again, other = (few_shot(images, 3, "seeded", seed) for seed in (0, 0, 1))
    assert np.array_equal(one.images, again.images)
    assert not np.array_equal(one.images, other.images)
    assert (np.bincount(one.labels) == 3).all()


@pytest.mark.parametrize("shots", [0, 11])
def test_more_shots_than_images(shots):
    with pytest.raises(ValueError, match=r"shots must lie in 1 \.\.\. 10, .* of noise, received"):
        few_shot(drawn(30, 0), shots)
