"""The table of transitions, and the rules that must follow it."""

import jax.numpy as jnp
import pytest
from jax import lax

from ppuda_jax.tracing.api import trace_graph
from ppuda_jax.tracing.builder import GraphBuilder
from ppuda_jax.tracing.labels import Label
from ppuda_jax.tracing.params import param_tree
from ppuda_jax.tracing.patterns import norms, pools
from ppuda_jax.tracing.states import (
    PLAIN,
    TABLE,
    TRANSITIONS,
    Event,
    Joint,
    Normalised,
    Plain,
    Pooled,
    Scaled,
    Statistic,
    Taps,
    after,
)
from ppuda_jax.tracing.table import Kind
from ppuda_jax.tracing.values import Act, Weight
from ppuda_jax.tracing.views import View
from tests.tracing.expected import s

LABELS = ((Label("b", 2),), (Label("s0", 4),), (Label("s1", 4),), (Label("c", 8),))
SOURCE = Act(frozenset((0,)), LABELS)
KEY = frozenset((0,))
STATES = {
    Plain: PLAIN,
    Pooled: Pooled((KEY,), mixes=False),
    Statistic: Statistic((KEY,), mixes=True),
    Normalised: Normalised(mixes=True, of=(KEY,)),
    Scaled: Scaled(0, (KEY,), 8),
    Taps: Taps(frozenset(((0, 1),)), Joint.NOT, SOURCE),
}
PASSIVE = [e for e in Event if e.value.startswith(("reshape", "slice over f", "plus or minus a c"))]
PASSIVE += [Event.TIMES_CONSTANT, Event.LIMIT, Event.SQUARE, Event.ROOT, Event.FUNCTION]


def test_every_state_meets_every_event():
    assert set(TRANSITIONS) == {(state, event) for state in STATES for event in Event}
    assert len(TABLE.strip().splitlines()) == len(Event) + 1


@pytest.mark.parametrize("state", STATES, ids=lambda s: s.__name__)
@pytest.mark.parametrize("event", PASSIVE, ids=lambda e: e.name)
def test_events_that_create_nothing_keep_or_forget(state, event):
    result = after(STATES[state], event)
    assert type(result) is TRANSITIONS[state, event]
    assert result in (STATES[state], PLAIN)


@pytest.mark.parametrize("state", STATES, ids=lambda s: s.__name__)
@pytest.mark.parametrize(
    ("event", "axes"),
    [(Event.OVER_SPACE, (1, 2)), (Event.OVER_BATCH, (0, 1, 2)), (Event.OVER_FEATURES, (3,))],
    ids=lambda value: getattr(value, "name", ""),
)
def test_reductions(state, event, axes):
    result = pools.reduce(SOURCE.put(STATES[state]), axes, Kind.ADDITIVE)
    assert type(result.state) is TRANSITIONS[state, event]


@pytest.mark.parametrize("state", STATES, ids=lambda s: s.__name__)
@pytest.mark.parametrize("event", [Event.SCALE, Event.SHIFT], ids=lambda e: e.name)
def test_parameters(state, event):
    graph = GraphBuilder(param_tree({"g": s(8)})[0])
    weight = Weight(View.of_leaf(0, (8,))).fit((2, 4, 4, 8))
    meet = norms.scale if event is Event.SCALE else norms.shift
    result = meet(graph, SOURCE.put(STATES[state]), weight)
    assert type(result.state) is TRANSITIONS[state, event]


def norm_of(p, x):
    y = (x - x.mean(-1, keepdims=True)) * lax.rsqrt(x.var(-1, keepdims=True) + 1e-6)
    return (y * p["g"] + p["b"]) @ p["h"]


SINUSOID = jnp.sin(jnp.arange(60.0).reshape(5, 12))
VECTORS = {"g": s(12), "b": s(12), "h": s(12, 10)}


def kinds(apply, params):
    return trace_graph(apply, params, s(2, 5, 12)).primitive_names


def test_array_constants_are_no_running_statistics():
    def positions(p, x):
        return ((x + SINUSOID) * p["g"] + p["b"]) @ p["h"]

    def masked(p, x):
        return (x * (SINUSOID > 0) + p["b"]) @ p["h"]

    assert kinds(positions, VECTORS) == ("input", "ln", "bias", "conv")
    assert kinds(masked, {n: VECTORS[n] for n in "bh"}) == ("input", "bias", "conv")
    assert kinds(norm_of, VECTORS) == ("input", "ln", "conv")


def test_kernels_looked_up_by_data_are_listed():
    def experts(p, x):
        w = p["w"][jnp.argmax(x[:, 0] @ p["r"], -1)]
        return jnp.einsum("bnc,bcd->bnd", x, w).mean(1) @ p["h"]

    graph = trace_graph(experts, {"w": s(5, 12, 8), "r": s(12, 5), "h": s(8, 10)}, s(2, 5, 12))
    assert [path for path, _, _ in graph.unbound] == [("w",)]
    assert "looked up" in graph.unbound[0].reason
