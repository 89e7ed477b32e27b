"""Embeddings of many networks are those of each of them alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ppuda_jax.ghn.model import GHN
from ppuda_jax.graphs.batching import pad_graphs
from ppuda_jax.graphs.from_plan import graph_from_plan
from ppuda_jax.properties.embed import batch_size, embed, make_batches
from tests.close import assert_close
from tests.ghn.networks import golden_network, golden_table
from tests.ghn.test_parity import CASES, _golden_ghn


def test_mean_of_the_states_of_a_network_alone(ghn, plans):
    graphs = [graph_from_plan(plan) for plan in plans]
    found = embed(ghn, graphs)
    assert found.shape == (len(plans), 8) and found.dtype == np.float32
    for number in (0, 8):
        padded = pad_graphs([graphs[number]])
        states = np.asarray(jax.jit(GHN(ghn.config).apply)({"params": ghn.theta}, padded))[0]
        assert_close(found[number], states[: graphs[number].num_nodes].mean(axis=0), 1e-5)
    assert np.abs(found[0] - found[8]).max() > 1e-3


@pytest.mark.parametrize("name, number", CASES[:2])
def test_states_that_the_reference_wrote(name, number):
    from ppuda_jax.ghn.loaded import LoadedGHN

    table, arrays = golden_table()
    config, theta = _golden_ghn(name)
    graph = golden_network(table, arrays, number)
    expected = arrays[f"{name}/net{number}/h"].mean(axis=0)
    assert_close(embed(LoadedGHN(config, theta), [graph])[0], expected, 1e-5)


def test_takes_what_trace_gives(ghn, plans):
    graph = graph_from_plan(plans[0])
    assert_close(embed(ghn, [graph.to_graphs_tuple()]), embed(ghn, [graph]), 1e-6)


def test_batches_hold_every_network_once_at_few_sizes():
    sizes = np.random.default_rng(0).integers(20, 700, 500)
    batches = make_batches(sizes.tolist())
    assert sorted(i for batch in batches for i in batch.members) == list(range(500))
    assert all(sizes[i] <= batch.nodes for batch in batches for i in batch.members)
    assert len({batch.nodes for batch in batches}) <= 8
    assert all(len(batch.members) <= batch.size for batch in batches)
    (huge,) = make_batches([2600])
    assert (huge.nodes, huge.size) == (3072, 1) and batch_size(64) > 1


def test_refuses_what_is_no_graph_and_damaged_parameters(ghn, plans):
    assert embed(ghn, []).shape == (0, 8)
    with pytest.raises(ValueError, match="a graph must be from trace.* received Plan"):
        embed(ghn, plans[:1])
    import dataclasses

    broken = dataclasses.replace(ghn, theta=jax.tree.map(lambda x: x * jnp.nan, ghn.theta))
    with pytest.raises(ValueError, match=r"not finite, for networks \[0\]"):
        embed(broken, [graph_from_plan(plans[0])])
