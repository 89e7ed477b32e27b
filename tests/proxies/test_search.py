"""Searches over spaces: budget, history, children of networks."""

import numpy as np
import pytest

from ppuda_jax.archs.mutation import mutate
from ppuda_jax.archs.sampling import arch_at, is_allowed
from ppuda_jax.proxies.search import History, search
from ppuda_jax.proxies.spaces import Cells, DeepNets
from ppuda_jax.structure import nasbench201 as nb


def convolutions(cell):
    return float(sum(nb.OPS[op] == "nor_conv_3x3" for op in cell.values()))


def run(method, history=None, score=convolutions, queries=40, seed=0):
    return search(
        Cells(), score, method, queries=queries, seed=seed, score_name="convs", history=history
    )


@pytest.mark.parametrize("method", ["random", "evolution", "rank"])
def test_budget_and_best(method):
    result = run(method)
    assert len(result.history) == 40
    assert result.score == max(score for _, score in result.history) == convolutions(result.best)
    assert result == run(method) != run(method, seed=1)


def test_evolution_beats_random_and_ranks_have_no_repeats():
    evolved = [run("evolution", seed=seed).score for seed in range(5)]
    drawn = [run("random", seed=seed).score for seed in range(5)]
    assert np.mean(evolved) > np.mean(drawn)
    assert len({nb.to_text(cell) for cell, _ in run("rank").history}) == 40


def test_history_is_read_instead_of_asked(tmp_path):
    path = tmp_path / "history.jsonl"
    first = run("evolution", History(Cells(), path, {"space": "a"}))
    again = run("evolution", History(Cells(), path, {"space": "a"}), score=None)
    assert again == first
    longer = run("evolution", History(Cells(), path, {"space": "a"}), queries=50)
    assert longer.history[:40] == first.history
    with pytest.raises(ValueError, match="holds another evaluation"):
        History(Cells(), path, {"space": "b"})


def test_unknown_methods_are_refused():
    with pytest.raises(ValueError, match="methods must be of random, evolution, rank"):
        run("darts")


def test_children_differ_by_one_edge_and_obey_the_rules():
    rng = np.random.default_rng(0)
    parent = arch_at("search", 5)
    for _ in range(20):
        child = mutate(parent, rng)
        before = parent.genotype.normal + parent.genotype.reduce
        after = child.genotype.normal + child.genotype.reduce
        assert sum(a != b for a, b in zip(before, after, strict=True)) == 1
        assert child.is_connected and is_allowed(child.genotype)
        for edges in (child.genotype.normal, child.genotype.reduce):
            assert all(a[1] != b[1] for a, b in zip(edges[::2], edges[1::2], strict=True))
        parent = child


def test_networks_come_back_from_records():
    space = DeepNets()
    drawn = space.draw(np.random.default_rng(1))
    assert space.read(space.record(drawn)) == drawn
    ranked = space.first(2, np.random.default_rng(0))
    assert [net.index for net in ranked] == [0, 1]
    assert space.read(space.record(ranked[1])) == ranked[1]
    child = space.mutate(ranked[0], np.random.default_rng(2))
    assert child.fingerprint != ranked[0].fingerprint
    with pytest.raises(ValueError, match="there are 15625 cells"):
        Cells().first(20_000, np.random.default_rng(0))
