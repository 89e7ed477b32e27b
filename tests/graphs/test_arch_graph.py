"""ArchGraph: invariants that hold on creation, cached distances, pickling."""

import pickle

import numpy as np
import pytest

from ppuda_jax.archs.genotypes import DARTS, NetConfig
from ppuda_jax.archs.plan import make_plan
from ppuda_jax.graphs.arch_graph import ArchGraph, Binding, LazyTuple
from ppuda_jax.graphs.from_plan import graph_from_plan
from ppuda_jax.primitives import PRIMITIVE_IDS

KINDS = [PRIMITIVE_IDS[name] for name in ("input", "conv", "bn", "sum")]
EDGES = [[0, 1], [1, 2], [1, 3], [2, 3]]
SHAPES = np.zeros((4, 4))


def make(primitive=KINDS, edges=EDGES, shapes=SHAPES, **fields):
    return ArchGraph(np.array(primitive), np.array(edges), shapes, **fields)


def test_a_graph():
    graph = make(names=["a", "b", "c", "d"])
    assert (graph.num_nodes, graph.num_edges) == (4, 4)
    assert graph.primitive.dtype == graph.edges.dtype == graph.shapes.dtype == np.int32
    assert graph.primitive_names == ("input", "conv", "bn", "sum")
    distances = graph.distances()
    assert distances[0].tolist() == [0, 1, 2, 2] and graph.distances() is distances
    assert graph.distances(1)[0].tolist() == [0, 1, 0, 0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shapes": np.zeros((3, 4))}, "shapes \\[N, 4\\]"),
        ({"primitive": [9, 4, 11, 15]}, "node kinds must be below 15, received 15"),
        ({"edges": [[1, 0], [1, 2], [2, 3]]}, "reorder the nodes"),
        ({"edges": [[0, 1], [1, 2], [2, 4]]}, "to a later node below 4"),
        ({"edges": [*EDGES, [0, 1]]}, "edges must not repeat"),
        ({"edges": [[0, 2], [1, 2], [2, 3]]}, "no incoming edge, received \\[\\(1, 'conv'\\)\\]"),
        ({"edges": [[0, 1], [1, 3], [0, 2]]}, "dead ends \\[2\\]"),
        ({"names": ["a"]}, "names must be one per node"),
    ],
)
def test_impossible_graphs_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        make(**change)


def test_bindings_must_name_nodes():
    binding = Binding(("w",), 4, "kernel", (1,), (1,), (0,), (1,), (1,))
    with pytest.raises(ValueError, match="bindings must name nodes below 4"):
        make(bindings=[binding])


def test_graphs_can_be_pickled():
    graph = graph_from_plan(make_plan(NetConfig(DARTS, 4, 32)))
    copy = pickle.loads(pickle.dumps(graph))
    assert copy.bindings == graph.bindings and copy.names == graph.names
    np.testing.assert_array_equal(copy.distances(), graph.distances())


def test_lazy_tuples_compute_once():
    calls = []

    def compute():
        calls.append(0)
        return (1, 2, 3)

    items = LazyTuple(compute)
    assert calls == []
    assert len(items) == 3 and items[1] == 2 and items[1:] == (2, 3) and list(items) == [1, 2, 3]
    assert items == (1, 2, 3) and hash(items) == hash((1, 2, 3)) and repr(items) == "(1, 2, 3)"
    assert calls == [0]
