"""Orders of the training images."""

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from ppuda_jax.data.order import ImageOrder


def test_every_image_comes_once_a_pass_and_steps_are_independent():
    rows = [ImageOrder(10, 4, seed=1).batch(step) for step in range(5)]
    order = np.concatenate(rows)
    np.testing.assert_array_equal(np.sort(order[:10]), np.arange(10))
    np.testing.assert_array_equal(np.sort(order[10:]), np.arange(10))
    np.testing.assert_array_equal(ImageOrder(10, 4, seed=1).batch(3), rows[3])
    assert not np.array_equal(order[:10], order[10:])
    assert not np.array_equal(ImageOrder(10, 10, seed=2).batch(0), order[:10])


def test_a_batch_larger_than_the_set_is_refused():
    with pytest.raises(ValueError, match="batch_size must be at most 10 images, received 11"):
        ImageOrder(10, 11, 0)


@hypothesis.settings(deadline=None, max_examples=40)
@hypothesis.given(
    counts=st.lists(st.integers(1, 40), min_size=1, max_size=6),
    size=st.integers(1, 20),
    seed=st.integers(0, 5),
)
def test_stratified_batches_have_the_proportions_of_the_set(counts, size, seed):
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))
    total = len(labels)
    size = min(size, total)
    order = ImageOrder(total, size, seed, labels.astype(np.int32))
    passes = np.concatenate([order.batch(step) for step in range(2 * total)])[: 2 * total]
    for seen in (passes[:total], passes[total:]):
        np.testing.assert_array_equal(np.sort(seen), np.arange(total))
        for label, count in enumerate(counts):
            ahead = np.cumsum(labels[seen] == label)
            expected = np.arange(1, total + 1) * count / total
            assert np.abs(ahead - expected).max() <= 0.5 * len(counts) + 1


def test_each_class_is_shuffled_anew_in_each_pass():
    labels = np.repeat(np.arange(2, dtype=np.int32), 20)
    order = ImageOrder(40, 40, 0, labels)
    first, second = order.batch(0), order.batch(1)
    assert not np.array_equal(first[labels[first] == 0], second[labels[second] == 0])
