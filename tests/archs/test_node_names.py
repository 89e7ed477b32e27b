"""Names in files: every node of every network has one, and old spellings are understood."""

import numpy as np
import pytest
from hypothesis import given, settings

from ppuda_jax.archs.node_names import (
    KIND_NAMES,
    NODE_NAMES,
    decode_kind,
    decode_name,
    encode_kind,
    encode_name,
)
from ppuda_jax.archs.plan import make_plan
from ppuda_jax.graphs.from_plan import graph_from_plan
from ppuda_jax.graphs.records import encode_nodes
from ppuda_jax.primitives import PRIMITIVES
from tests.archs.strategies import archs


@settings(max_examples=40, deadline=None)
@given(archs())
def test_every_node_has_a_name(config):
    plan = make_plan(config)
    graph = graph_from_plan(plan)
    rows = encode_nodes(plan)
    assert rows.shape == (graph.num_nodes, 3) and rows.dtype == np.uint16
    assert (np.diff(rows[:, 1].astype(int)) >= 0).all()
    for (kind, cell, name), node, primitive in zip(rows, graph.names, graph.primitive, strict=True):
        assert decode_kind(KIND_NAMES[kind]) == PRIMITIVES[primitive]
        assert 0 <= cell < config.n_cells
        if node.endswith(("weight", "bias")):
            full = (
                NODE_NAMES[name]
                if node[0] in "sp" or "classifier" in node
                else (f"cells.{cell}.{NODE_NAMES[name]}")
            )
            assert full == node
        else:
            assert NODE_NAMES[name] == PRIMITIVES[primitive]


def test_tables_have_no_repeats_and_fit():
    assert len(set(NODE_NAMES)) == len(NODE_NAMES) < 2**16
    assert len(set(KIND_NAMES)) == len(KIND_NAMES)


@pytest.mark.parametrize(
    ("stored", "ours"),
    [
        ("", "input"),
        ("_ops.1.to_out.0.", "_ops.1.to_out.0.weight"),
        ("_ops.3.1.weight", "_ops.3.op.1.weight"),
        ("_ops.3.op.1.weight", "_ops.3.op.1.weight"),
        ("classifier.0.bias", "classifier.0.bias"),
    ],
)
def test_old_names_are_understood(stored, ours):
    assert decode_name(stored) == ours


@pytest.mark.parametrize(
    ("stored", "ours"),
    [
        ("conv_1x1", "conv"),
        ("conv_7x7", "conv"),
        ("sep_conv_3x3", "sep_conv"),
        ("max_pool_3x3", "max_pool"),
        ("fc-b", "bias"),
        ("glob_avg", "glob_avg"),
    ],
)
def test_kinds_lose_their_kernel_size(stored, ours):
    assert decode_kind(stored) == ours


def test_unknown_kinds_are_refused():
    with pytest.raises(ValueError, match="received 'deconv_3x3'"):
        decode_kind("deconv_3x3")


def test_encoding():
    conv = PRIMITIVES.index("conv")
    assert KIND_NAMES[encode_kind(conv, (8, 8, 1, 1))] == "conv_1x1"
    assert KIND_NAMES[encode_kind(conv, (8, 8, 3, 3))] == "conv"
    assert NODE_NAMES[encode_name("stem.0.weight", conv)] == "stem.0.weight"
    assert NODE_NAMES[encode_name("sum_2", PRIMITIVES.index("sum"))] == "sum"
