"""Look-up tables and node features."""

import jax
import numpy as np
import pytest

from ppuda_jax.ghn.config import GHNConfig
from ppuda_jax.ghn.embeddings import (
    NodeEmbedding,
    channel_lookup,
    channel_sizes,
    shape_rows,
    spatial_lookup,
    spatial_sizes,
)
from tests.close import assert_close


def test_table_sizes_are_those_of_the_published_checkpoints():
    assert len(channel_sizes(10)) == 391
    assert len(channel_sizes(16)) == 390  # already on the grid
    assert spatial_sizes(11).tolist() == [1, 3, 5, 7, 9, 11, 14, 16]
    assert spatial_sizes(16).tolist() == [1, 3, 5, 7, 9, 11, 13, 14, 15, 16]


@pytest.mark.parametrize(
    "channels, nearest",
    [(1, 1), (2, 1), (3, 3), (4, 8), (7, 8), (9, 8), (10, 10), (13, 10), (20, 16), (4104, 4096)],
)
def test_channels_use_the_nearest_row(channels, nearest):
    assert channel_sizes(10)[channel_lookup(10)[channels]] == nearest


@pytest.mark.parametrize("size, nearest", [(1, 1), (2, 3), (4, 3), (12, 11), (13, 14), (15, 14)])
def test_kernel_sizes_use_the_nearest_row(size, nearest):
    assert spatial_sizes(11)[spatial_lookup(11)[size]] == nearest


def test_no_shape_uses_the_dummy_rows_and_large_sizes_the_last():
    shape = np.array([[0, 0, 0, 0], [9999, 8192, 40, 16]], np.int32)
    rows = np.asarray(shape_rows(shape, 10, 11))
    assert rows.tolist() == [[391, 391, 8, 8], [390, 390, 7, 7]]


def test_features_are_the_sum_of_primitive_and_shape_rows():
    module = NodeEmbedding(GHNConfig(hid=8))
    primitive = np.array([[4, 9]], np.int32)
    shape = np.array([[[64, 3, 7, 5], [0, 0, 0, 0]]], np.int32)
    variables = module.init(jax.random.key(0), primitive, shape)
    table = jax.tree.map(np.asarray, variables["params"])
    rows = np.asarray(shape_rows(shape, 10, 11))[0]
    expected = [
        table["primitive"][kind]
        + np.concatenate(
            [
                table["channel"][r[0]],
                table["channel"][r[1]],
                table["spatial"][r[2]],
                table["spatial"][r[3]],
            ]
        )
        for kind, r in zip(primitive[0], rows, strict=True)
    ]
    got = module.apply(variables, primitive, shape)
    assert_close(got[0], np.array(expected), 1e-6)
