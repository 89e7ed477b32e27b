"""Laying out blocks: the short way equals the documented one for any binding."""

import math

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ppuda_jax.ghn.config import GHNConfig
from ppuda_jax.ghn.model import init_theta
from ppuda_jax.graphs.arch_graph import Binding
from ppuda_jax.prediction.blocks import tile_index
from ppuda_jax.prediction.leaves import _axis_order, _lay_out, assemble, unsupported_reason


@st.composite
def _cases(draw):
    """A binding of up to four axes of up to two digits each, and a block to lay out."""
    digits, shape = [], []
    for _ in range(draw(st.integers(1, 4))):
        own = draw(st.lists(st.integers(1, 3), min_size=1, max_size=2))
        digits += own
        shape.append(math.prod(own))
    perm = tuple(draw(st.permutations(range(len(digits)))))
    part = tuple(digits[axis] for axis in perm)
    binding = Binding(("w",), 0, "kernel", tuple(shape), tuple(digits), perm, part, part)
    block = [draw(st.integers(1, size)) for size in shape]
    return binding, np.arange(math.prod(block), dtype=np.float32).reshape(block)


@given(case=_cases())
@settings(max_examples=40, deadline=None)
def test_layout_is_the_documented_transposition(case):
    binding, block = case
    index = [tile_index(n, b) for n, b in zip(binding.shape, block.shape, strict=True)]
    canonical = block[np.ix_(*index)].reshape(binding.split)
    expected = canonical.transpose(binding.perm).reshape(binding.part_shape)
    with jax.disable_jit():
        np.testing.assert_array_equal(_lay_out(block, binding), expected)


@pytest.mark.parametrize(
    "shape, split, perm, order",
    [
        ((8, 3, 5, 5), (8, 3, 5, 5), (2, 3, 1, 0), (2, 3, 1, 0)),
        ((24, 8), (3, 2, 4, 8), (3, 0, 1, 2), (1, 0)),  # digits of an axis together, in order
        ((24, 8), (3, 2, 4, 8), (3, 1, 0, 2), None),  # out of order
        ((6, 4), (2, 3, 4), (0, 2, 1), None),  # apart
        ((4, 6), (6, 4), (1, 0), None),  # digits across axes
        ((64, 1, 3, 3), (64, 1, 3, 3), (2, 3, 1, 0), (2, 3, 0, 1)),  # axes of one anywhere
    ],
)
def test_axes_that_stay_in_one_piece_are_found(shape, split, perm, order):
    part = tuple(split[axis] for axis in perm)
    assert _axis_order(Binding(("w",), 0, "kernel", shape, split, perm, part, part)) == order


def test_roles_and_classes_without_a_decoder_are_named():
    config = GHNConfig(num_classes=10)
    table = Binding(("t",), 0, "table", (4, 4), (4, 4), (0, 1), (4, 4), (4, 4))
    assert "no decoder for the role 'table'" in unsupported_reason(table, config)
    head = Binding(("w",), 0, "kernel", (7, 4), (7, 4), (1, 0), (4, 7), (4, 7), None, True)
    assert "classifier of 7 classes" in unsupported_reason(head, config)


def test_the_big_leaf_is_written_once_and_little_else_is_kept():
    config = GHNConfig(hid=4, max_shape=(8, 8, 3, 3))
    theta = init_theta(config, jax.random.key(0))
    shape, leaf = (512, 256, 3, 3), (3, 3, 256, 512)
    binding = Binding(("w",), 0, "kernel", shape, shape, (2, 3, 1, 0), leaf, leaf)
    compiled = jax.jit(lambda theta, h: assemble(config, theta, h, [binding]))
    memory = compiled.lower(theta, np.zeros((1, 4), np.float32)).compile().memory_analysis()
    assert memory.output_size_in_bytes < 1.01 * 4 * math.prod(shape)
    assert memory.temp_size_in_bytes < 0.05 * 4 * math.prod(shape)
