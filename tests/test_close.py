"""The helper of other tests: what it accepts and what it refuses."""

import numpy as np
import pytest

from tests.close import assert_close


def test_entries_near_zero_are_held_against_the_largest():
    assert_close(np.array([1e-6, 1.0]), np.array([2e-6, 1.0]), 1e-5)
    assert_close({"a": [np.ones(3, np.float32)]}, {"a": [np.ones(3)]}, 0.0)
    assert_close(np.zeros(2), np.zeros(2), 1e-6)
    assert_close(np.zeros((0, 3)), np.zeros((0, 3)), 1e-6)
    assert_close(1j * np.ones(2), 1j * np.ones(2), 1e-6)


@pytest.mark.parametrize(
    ("actual", "desired", "message"),
    [
        (np.array([1.0, 2.1]), np.array([1.0, 2.0]), r"at \(1,\): 2.1 is not 2.0"),
        (np.array([np.nan, 1.0]), np.array([1.0, 1.0]), "nan is not 1.0"),
        (np.ones(3), np.ones(2), "shape"),
        (np.ones(1), np.ones(3), "shape"),
        ({"a": np.ones(1)}, {"b": np.ones(1)}, "trees differ"),
        ({"a": np.array([1e-3]), "b": np.ones(1)}, {"a": np.zeros(1) + 2e-3, "b": np.ones(1)}, "a"),
        (np.zeros(2) + 1e-3, np.zeros(2), "differ by"),
    ],
)
def test_differences_are_named(actual, desired, message):
    with pytest.raises(AssertionError, match=message):
        assert_close(actual, desired, 1e-4)
