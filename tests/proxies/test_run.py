"""Scoring many networks: what is kept, what is left out, and the report."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ppuda_jax.proxies import internals, registry
from ppuda_jax.proxies.base import Batch, UnsupportedError
from ppuda_jax.proxies.nasbench201 import CellScorer
from ppuda_jax.proxies.results import Scorings
from ppuda_jax.proxies.run import finite, report, score_all
from ppuda_jax.structure import nasbench201 as nb
from ppuda_jax.structure import nasbench201_net as net
from tests.close import assert_close


class Scorer:
    """Networks are numbers; the odd ones cannot be scored by `naswot`."""

    def __init__(self):
        self.asked = []

    def name(self, network):
        return f"net-{network}"

    def score(self, network, seed):
        self.asked.append((network, seed))
        scorings = Scorings(self.name(network), seed)
        scorings.add(("synflow",), lambda: {"synflow": float(network) if network else -math.inf})
        scorings.add(("params",), lambda: {"params": float(-network)})

        def odd():
            if network % 2:
                raise UnsupportedError("an odd network")
            return {"naswot": float(network * (1 - 2 * seed))}

        scorings.add(("naswot",), odd)
        scorings.add(("snip",), lambda: {"snip": math.nan})
        return scorings.result(NAMES)


NAMES = ("synflow", "naswot", "snip", "params")
TRUTH = {f"net-{n}": float(n) for n in range(8)}


def test_report_over_seeds_and_networks_without_a_score():
    scored = score_all(Scorer(), range(8), NAMES, seeds=2)
    rows, left_out = report(scored, TRUTH, NAMES)
    synflow, naswot, params = rows
    assert (synflow.proxy, synflow.networks, synflow.spearman) == ("synflow", 8, 1.0)
    assert (synflow.spearman_std, synflow.regret, synflow.params_spearman) == (0.0, 0.0, -1.0)
    assert naswot.networks == 4 and naswot.failed["net-3"] == "an odd network"
    assert (naswot.spearman, naswot.spearman_std) == (0.0, 1.0)  # 1 and -1
    assert_close(params.kendall, -1.0, 1e-12)
    assert_close(params.all_spearman, -1.0, 1e-12)
    assert list(left_out) == ["snip"]
    assert "snip scores 0 networks" in left_out["snip"] and "not a number" in left_out["snip"]


def test_half_of_the_scores_are_not_computed_again(tmp_path):
    path = tmp_path / "scores.jsonl"
    score_all(Scorer(), range(3), NAMES, seeds=1, path=path, identity={"space": "a"})
    text = path.read_text()
    path.write_text(text[:-20])  # the last line is cut off
    scorer = Scorer()
    found = score_all(scorer, range(4), NAMES, seeds=1, path=path, identity={"space": "a"})
    assert scorer.asked == [(2, 0), (3, 0)] and len(found) == 4
    assert len(path.read_text().splitlines()) == 5
    json.loads(path.read_text().splitlines()[1])
    with pytest.raises(ValueError, match="holds another evaluation"):
        score_all(Scorer(), range(3), NAMES, seeds=1, path=path, identity={"space": "b"})


def test_other_proxies_join_those_that_are_there(tmp_path):
    path = tmp_path / "scores.jsonl"
    score_all(Scorer(), range(2), NAMES, seeds=1, path=path)
    text = path.read_text().replace('"synflow"', '"fisher"')
    path.write_text(text)
    (record, _) = score_all(Scorer(), range(2), NAMES, seeds=1, path=path)
    assert set(record.values) == {"fisher", "synflow", "naswot", "params"}


def test_nothing_to_score():
    with pytest.raises(ValueError, match="at least one network and one seed"):
        score_all(Scorer(), [], NAMES, seeds=1)


def test_infinities_rank_at_the_ends():
    np.testing.assert_array_equal(finite(np.array([-np.inf, 2.0, 1.0, np.inf])), [0, 2, 1, 3])
    np.testing.assert_array_equal(finite(np.array([-np.inf, -np.inf])), [0, 0])


def test_names_are_checked():
    with pytest.raises(ValueError, match="proxies must be of grad_norm, .*received zen"):
        registry.check_names(("snip", "zen"))
    assert set(registry.programs_of(("snip", "naswot"))) == {"gradient", "naswot"}


CELL = nb.from_text(
    "|nor_conv_1x1~0|+|none~0|avg_pool_3x3~1|+|skip_connect~0|nor_conv_3x3~1|none~2|"
)
SKELETON = net.Skeleton(4, 4, 1, 8)


def test_a_cell_as_data_scores_like_its_network():
    keys = jax.random.split(jax.random.key(1))
    batch = Batch(jax.random.normal(keys[0], (8, 8, 8, 3)), jnp.arange(8) % 4)
    scorer = CellScorer(SKELETON, batch, ("synflow", "naswot", "l2_norm", "params"))
    found = scorer.score(CELL, 3).values
    params = net.init(SKELETON, jax.random.key(3))
    network = net.network(SKELETON, CELL)
    synflow, naswot = jax.jit(
        lambda params: [f(network, params, batch) for f in (internals.synflow, internals.naswot)]
    )(params)
    assert_close(found["synflow"], synflow, 1e-5)
    assert_close(found["naswot"], naswot, 1e-4)
    has = {(net.edge_name(e), nb.OPS[op]) for e, op in CELL.items()}
    kernels = [
        leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(params)
        if path[-1].key == "kernel"
        and (not path[0].key.startswith("cell") or (path[1].key, path[2].key) in has)
    ]
    expected = sum(np.linalg.norm(np.asarray(leaf)) for leaf in kernels)
    assert_close(found["l2_norm"], expected, 1e-5)
    assert found["params"] == float(
        net.supernet(SKELETON).size(net.supernet(SKELETON).vertex(CELL))
    )


def test_a_cell_scorer_refuses():
    batch = Batch(jnp.ones((8, 8, 8, 3)), jnp.zeros(8, jnp.int32))
    with pytest.raises(ValueError, match="need a hypernetwork"):
        CellScorer(SKELETON, batch, ("predicted_loss",))
    with pytest.raises(ValueError, match="proxies must be of .*received tuned_loss"):
        CellScorer(SKELETON, batch, ("tuned_loss",))
    with pytest.raises(ValueError, match="twice the images"):
        CellScorer(SKELETON, Batch(batch.images[:3], batch.labels[:3]), ("snip",))
