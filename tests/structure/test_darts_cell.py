"""The cell of DARTS: its edges, its values, its genotypes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ppuda_jax.archs.genotypes import DARTS, NetConfig
from ppuda_jax.graphs.records import network_graph
from ppuda_jax.nets import ops
from ppuda_jax.structure import darts_cell
from ppuda_jax.structure.darts_cell import OPS
from ppuda_jax.structure.discretise import restrict
from tests.close import assert_close

X = jax.random.normal(jax.random.key(1), (2, 6, 6, 8))


def structure_of(edges, steps=4):
    """A structure whose strongest edges are those of a genotype."""
    family = darts_cell.cell(steps)
    weights = {e: np.full(k, 0.01) for e, k in family.num_functions.items()}
    for position, (op, state) in enumerate(edges):
        weights[state + 1, 3 + position // 2][OPS.index(op)] = 0.6
    return weights


def test_a_cell_of_four_steps_has_fourteen_mixed_edges():
    family = darts_cell.cell()
    assert sum(count == 8 for count in family.num_functions.values()) == 14


def test_every_operation_keeps_the_shape():
    shape = jax.ShapeDtypeStruct(X.shape, X.dtype)
    for name in OPS:
        for stride, side in ((1, 6), (2, 3)):
            function = darts_cell.operation(name, stride)
            params = jax.eval_shape(lambda f=function: f.init(jax.random.key(0), X))
            found = jax.eval_shape(function.apply, params, shape).shape
            assert found == (2, side, side, 8), (name, stride)


@pytest.mark.parametrize("stride", [1, 2])
def test_partial_channels_pass_a_quarter_through_the_operation(stride):
    whole = darts_cell.operation("avg_pool_3x3", stride)
    found = darts_cell.on_part(whole, stride, 4).apply((), X)
    # Shuffled: of every four channels, one is from each quarter, the first from the operation.
    assert_close(found[..., ::4], whole.apply((), X[..., :2]), 1e-6)
    rest = X[..., 2:4] if stride == 1 else X[..., 2:4].reshape(2, 3, 2, 3, 2, 2).max((2, 4))
    assert_close(found[..., 1::4], rest, 1e-6)


def test_what_passes_a_mixture_of_parts_passes_once():
    family = darts_cell.cell(1, partial=2)
    weights = jax.jit(family.init)(jax.random.key(0), X)
    assert weights[1, 3][OPS.index("sep_conv_3x3")][1].shape == (1, 1, 2, 2)
    mixed = {e: jnp.full(k, 1 / k) for e, k in family.num_functions.items()}
    found = family.apply(weights, mixed, X)
    assert_close(found[..., 1::2], X[..., 2:4] + X[..., 6:8], 1e-5)


def test_a_vertex_is_the_cell_by_hand():
    family = darts_cell.cell(1)
    weights = jax.jit(family.init)(jax.random.key(0), X)
    sep, pool = OPS.index("sep_conv_3x3"), OPS.index("avg_pool_3x3")
    choice = {(0, 1): 0, (0, 2): 0, (1, 3): sep, (2, 3): pool, (3, 4): 0}
    network, own = restrict(family, choice, weights)
    found = network.apply(own, {edge: jnp.ones(1) for edge in choice}, X)
    by_hand = ops.sep_conv(weights[1, 3][sep], X[..., :4]) + ops.avg_pool_3x3((), X[..., 4:])
    assert_close(found, by_hand, 1e-5)


def test_the_published_genotype_is_read_from_its_weights():
    found = darts_cell.genotype(structure_of(DARTS.normal), structure_of(DARTS.reduce))
    for cell in ("normal", "reduce"):
        pairs = [list(zip(*[iter(getattr(g, cell))] * 2, strict=True)) for g in (found, DARTS)]
        assert [set(step) for step in pairs[0]] == [set(step) for step in pairs[1]]
    assert found.normal_concat == (2, 3, 4, 5)
    config = NetConfig(found, n_cells=3, C=8).to_dict()
    graph = network_graph(config, num_classes=10, image_size=32)
    expected = network_graph(
        NetConfig(DARTS, n_cells=3, C=8).to_dict(), num_classes=10, image_size=32
    )
    assert int(graph.n_node[0]) == int(expected.n_node[0])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: darts_cell.operation("conv_9x9"), "must be one of .*received 'conv_9x9'"),
        (lambda: darts_cell.cell(0), "steps must be at least 1"),
        (
            lambda: darts_cell.genotype(structure_of((), 1), structure_of((), 2)),
            "both cells must have the same edges",
        ),
        (
            lambda: darts_cell.genotype({(0, 1): jnp.ones(1)}, {(0, 1): jnp.ones(1)}),
            "are not those of a cell",
        ),
    ],
)
def test_what_is_no_cell_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
