"""Cropping and repeating blocks."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ppuda_jax.prediction.blocks import tile_index, tile_to


@given(
    block=st.lists(st.integers(1, 4), min_size=1, max_size=4),
    data=st.data(),
)
@settings(max_examples=12, deadline=None)
def test_tiling_takes_positions_modulo_the_block(block, data):
    shape = [data.draw(st.integers(1, 9)) for _ in block]
    values = np.arange(np.prod(block), dtype=np.float32).reshape(block)
    index = np.ix_(*[tile_index(s, min(b, s)) for s, b in zip(shape, block, strict=True)])
    np.testing.assert_array_equal(tile_to(values, shape), values[index])


def test_axes_before_those_of_the_target_stay():
    block = np.arange(6.0).reshape(3, 2)
    np.testing.assert_array_equal(tile_to(block, (3,)), block[:, [0, 1, 0]])


def test_a_block_has_the_axes_of_its_target():
    with pytest.raises(ValueError, match="at least the axes of its target"):
        tile_to(np.zeros((2, 2)), (2, 2, 1))
