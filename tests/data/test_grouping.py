"""Grouping architectures by variant: counts, limits, exact continuation."""

import numpy as np
import pytest

from ppuda_jax.archs.plan import make_plan
from ppuda_jax.archs.sampling import arch_at
from ppuda_jax.data.grouping import (
    Grouping,
    GroupingState,
    StreamError,
    Survey,
    balanced_shares,
    node_limit,
)
from ppuda_jax.graphs.from_plan import graph_from_plan


def surveys(count, seed=0):
    rng = np.random.default_rng(seed)
    variants = rng.choice(["a", "b", "c"], count, p=[0.6, 0.3, 0.1])
    nodes = rng.integers(10, 100, count)
    return [Survey(i, str(v), int(n)) for i, (v, n) in enumerate(zip(variants, nodes, strict=True))]


def groups_of(grouping, stream):
    return [g for g in map(grouping.feed, stream) if g is not None]


def test_groups_hold_one_variant_in_stream_order_and_lose_nothing():
    stream = surveys(500)
    grouping = Grouping(8, max_nodes=10_000)
    groups = groups_of(grouping, stream)
    for group in groups:
        assert len(group.indices) == 8 and list(group.indices) == sorted(group.indices)
        assert {stream[i].variant for i in group.indices} == {group.variant}
    used = sorted(i for g in groups for i in g.indices)
    assert sorted([*used, *grouping.state().pending]) == list(range(500))


def test_meta_batches_that_are_too_large_are_dropped_whole():
    stream = surveys(400)
    grouping = Grouping(4, max_nodes=200)
    groups = groups_of(grouping, stream)
    assert all(sum(stream[i].num_nodes for i in g.indices) <= 200 for g in groups)
    state = grouping.state()
    assert state.large_skipped > 0
    assert 4 * (len(groups) + state.large_skipped) + len(state.pending) == 400


def test_other_variants_are_skipped_and_counted():
    stream = surveys(300)
    grouping = Grouping(4, 10_000, {"a": 1.0})
    assert {g.variant for g in groups_of(grouping, stream)} == {"a"}
    assert grouping.state().rare_skipped == sum(s.variant != "a" for s in stream)


@pytest.mark.parametrize("cut", [0, 3, 10])
def test_continues_exactly_from_any_group(cut):
    stream = surveys(600)
    whole = groups_of(Grouping(4, 230), stream)
    state = GroupingState.from_dict(whole[cut].state.to_dict())
    grouping = Grouping(4, 230, state=state)
    again = [stream[i] for i in state.pending] + stream[state.next_index :]
    assert groups_of(grouping, again) == whole[cut + 1 :]


def test_order_is_checked():
    grouping = Grouping(4, 100)
    grouping.feed(Survey(5, "a", 1))
    with pytest.raises(ValueError, match="must be fed in stream order, received 4 after 5"):
        grouping.feed(Survey(4, "a", 1))


def test_foreign_state_is_refused():
    with pytest.raises(ValueError, match="stream position must have the keys"):
        GroupingState.from_dict({"next": 3})


def test_balanced_shares_even_out_variants_and_repeat_themselves():
    stream = surveys(4000)
    counts = {name: sum(s.variant == name for s in stream) for name in "abc"}
    assert balanced_shares(counts, 0) == dict.fromkeys("abc", 1.0)
    kept = {}
    for balance in (0.5, 1.0):
        grouping = Grouping(1, 10_000, balanced_shares(counts, balance))
        kept[balance] = [stream[g.indices[0]].variant for g in groups_of(grouping, stream)]
        assert grouping.state().rare_skipped == 4000 - len(kept[balance])
    assert kept[1.0].count("a") == pytest.approx(counts["c"], rel=0.2)
    assert kept[1.0].count("c") == counts["c"]
    root = (counts["a"] / counts["c"]) ** 0.5
    assert kept[0.5].count("a") / kept[0.5].count("c") == pytest.approx(root, rel=0.2)
    whole = groups_of(Grouping(1, 10_000, balanced_shares(counts, 0.5)), stream)
    late = Grouping(1, 10_000, balanced_shares(counts, 0.5), whole[50].state)
    assert groups_of(late, stream[whole[50].state.next_index :]) == whole[51:]


@pytest.fixture(scope="module")
def sampled():
    """Surveys of networks of the training split, as if all were of one variant."""
    plans = [make_plan(arch_at("train", i, 32, 0), 10, 32) for i in range(768)]
    return [Survey(i, "a", graph_from_plan(p).num_nodes) for i, p in enumerate(plans)]


@pytest.mark.parametrize("size", [8, 12, 16, 24, 32, 64])
def test_large_meta_batches_of_sampled_networks_are_kept(sampled, size):
    grouping = Grouping(size, 2200)
    groups = groups_of(grouping, sampled)
    assert len(groups) >= 0.85 * (len(sampled) // size)


def test_the_published_limit_is_that_of_eight_networks():
    assert node_limit(2200, 8) == 2200
    assert node_limit(2200, 32) == 4 * 2200
    assert node_limit(2200, 1) == 2200  # a large network alone is trained on


def test_a_limit_that_no_meta_batch_keeps_is_an_error():
    grouping = Grouping(16, max_nodes=100)
    with pytest.raises(
        StreamError,
        match=r"16 networks .* at most 200 graph nodes, received 200 .*max_nodes to 384",
    ):
        groups_of(grouping, (Survey(i, "a", 40) for i in range(100_000)))
    repaired = Grouping(16, max_nodes=400)
    assert len(groups_of(repaired, (Survey(i, "a", 40) for i in range(160)))) == 10


@pytest.mark.parametrize("shares", [{}, {"b": 1.0}, {"a": 0.0}])
def test_variants_that_never_come_are_an_error(shares):
    grouping = Grouping(2, 100, shares)
    with pytest.raises(StreamError, match="others in a row; raise max_variants"):
        groups_of(grouping, (Survey(i, "a", 40) for i in range(100_000)))


def test_many_dropped_meta_batches_are_no_error_while_some_are_kept():
    grouping = Grouping(1, max_nodes=50)
    stream = [Survey(i, "a", 40 if i % 50 == 0 else 90) for i in range(5000)]
    assert len(groups_of(grouping, stream)) == 100
    assert grouping.state().large_skipped == 4900
