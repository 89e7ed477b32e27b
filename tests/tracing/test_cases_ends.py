"""The two ends of a network: the size of its images and its classifier, told from the graph."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest
from jax import lax

import ppuda_jax as pj
from ppuda_jax.tracing.api import trace_graph
from tests.tracing.expected import Listed, check, gain, kernel, s

HIDDEN = {"k": s(3, 3, 3, 8), "h": s(8, 10)}


@pytest.fixture(scope="module")
def trained_at_32():
    config = pj.GHNConfig(hid=8, max_shape=(8, 8, 3, 3), num_classes=10)
    ghn = pj.LoadedGHN(config, pj.init_theta(config, jax.random.key(0)), name="toy")
    return dataclasses.replace(ghn, metadata={"image_size": 32})


def conv(x, w, layout="NHWC", stride=1):
    return lax.conv_general_dilated(
        x, w, (stride, stride), "SAME", dimension_numbers=(layout, "HWIO", layout)
    )


# --- images -----------------------------------------------------------------------------------


def last(p, x):
    return conv(x, p["k"]).mean((1, 2)) @ p["h"] * p["never"].sum()


def first(p, x):
    return conv(x, p["k"], "NCHW").mean((2, 3)) @ p["h"] * p["never"].sum()


def transposed(p, x):
    return last(p, x.transpose(0, 2, 3, 1))


def patches(p, x):
    b, h, w, c = x.shape
    x = x.reshape(b, h // 4, 4, w // 4, 4, c).transpose(0, 1, 3, 2, 4, 5)
    return (x.reshape(b, -1, 16 * c) @ p["k"]).mean(1) @ p["h"] * p["never"].sum()


def padded(p, x):
    return last(p, jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))))


def normalised(p, x):
    return last(p, (x - 0.5) / 0.25)


def one_by_one(p, x):
    return jax.vmap(lambda x: last(p, x[None])[0])(x)


IMAGES = [
    (last, (2, 32, 32, 3), True),
    (last, (2, 32, 32, 103), True),
    (last, (2, 16, 16, 32), False),
    (last, (2, 16, 16, 3), False),
    (last, (2, 64, 64, 3), False),
    (last, (2, 32, 32, 32), True),
    (last, (2, 32, 32, 64), True),
    (last, (2, 32, 32, 1), True),
    (first, (2, 3, 32, 32), True),
    (first, (2, 103, 32, 32), True),
    (first, (2, 32, 16, 16), False),
    (first, (2, 32, 32, 32), True),
    (first, (2, 4, 32, 32), True),
    (transposed, (2, 103, 32, 32), True),
    (transposed, (2, 32, 16, 16), False),
    (patches, (2, 32, 32, 8), True),
    (patches, (2, 16, 16, 32), False),
    (padded, (2, 32, 32, 103), True),
    (normalised, (2, 16, 16, 32), False),
    (one_by_one, (2, 32, 32, 103), True),
]


@pytest.mark.parametrize(("net", "shape", "fits"), IMAGES)
def test_the_size_of_images_is_that_of_the_convolved_axes(net, shape, fits, trained_at_32):
    channels = shape[1] if net in (first, transposed) else shape[-1]
    k = s(16 * channels, 8) if net is patches else s(3, 3, channels, 8)
    graph = trace_graph(net, {"k": k, "h": s(8, 10), "never": s(2, 2)}, s(*shape))
    # a leaf without a decoder stops an accepted network before anything is compiled
    expected = "cannot be predicted" if fits else "trained on images of 32x32"
    with pytest.raises(ValueError, match=expected):
        pj.predict_params(
            net, dataclasses.replace(graph, unbound=[(("never",), (2, 2), "?")]), trained_at_32
        )


# --- classifiers ------------------------------------------------------------------------------


def features(p, x):
    return jax.nn.relu(conv(x, p["k"])).mean((1, 2))


def classifiers(graph):
    return {"/".join(b.path) for b in graph.bindings if b.is_classifier}


LOGITS = {
    "column": lambda p, x: (features(p, x) @ p["h"])[:, 0],
    "squeezed": lambda p, x: (features(p, x) @ p["h"]).squeeze(-1),
    "vector": lambda p, x: features(p, x) @ p["h"][:, 0],
    "with a bias": lambda p, x: (features(p, x) @ p["h"] + p["b"])[:, 0],
    "reshaped": lambda p, x: (features(p, x) @ p["h"]).reshape(-1),
}


@pytest.mark.parametrize("name", LOGITS)
def test_one_logit_per_image_does_not_depend_on_the_batch(name):
    params = {"k": s(3, 3, 3, 8), "h": s(8, 1)} | ({"b": s(1)} if name == "with a bias" else {})
    graphs = [trace_graph(LOGITS[name], params, s(b, 8, 8, 3)) for b in (1, 2, 8, 10)]
    assert len({g.num_classes for g in graphs}) == 1
    assert graphs[0].num_classes in (None, 1)
    assert all(list(g.bindings) == list(graphs[0].bindings) for g in graphs)


def test_one_logit_of_an_image_without_a_batch():
    def apply(p, x):
        return (conv(x[None], p["k"]).mean((0, 1, 2)) @ p["h"])[0]

    graph = trace_graph(apply, {"k": s(3, 3, 3, 8), "h": s(8, 1)}, s(8, 8, 3))
    assert graph.num_classes in (None, 1)


def test_logits_of_an_image_without_a_batch():
    def apply(p, x):
        return conv(x[None], p["k"]).mean((0, 1, 2)) @ p["h"] + p["b"]

    graph = trace_graph(apply, HIDDEN | {"b": s(10)}, s(8, 8, 3))
    assert graph.num_classes == 10 and classifiers(graph) == {"h", "b"}


TEMPERATURES = {
    "divided": lambda p, y: y / p["t"],
    "times": lambda p, y: y * p["t"],
    "exponential": lambda p, y: y * jnp.exp(p["t"]),
    "vector": lambda p, y: y * p["ts"],
    "softplus": lambda p, y: y / (1e-3 + jax.nn.softplus(p["t"])),
    "before the bias": lambda p, y: y * p["t"] + p["b"],
    "after the bias": lambda p, y: (y + p["b"]) * p["t"],
    "fixed": lambda p, y: (y + p["b"]) / 0.7,
    "log softmax": lambda p, y: jax.nn.log_softmax(y + p["b"]),
    "softmax": lambda p, y: jax.nn.softmax(y * p["t"]),
    "soft cap": lambda p, y: 30 * jnp.tanh((y + p["b"]) / 30),
}


@pytest.mark.parametrize("name", TEMPERATURES)
def test_a_classifier_followed_by_a_temperature(name):
    def apply(p, x):
        return TEMPERATURES[name](p, features(p, x) @ p["h"])

    every = {"k": s(3, 3, 3, 8), "h": s(8, 100), "t": s(), "ts": s(100), "b": s(100)}
    used = {
        "vector": {"ts"},
        "fixed": {"b"},
        "log softmax": {"b"},
        "soft cap": {"b"},
        "before the bias": {"t", "b"},
        "after the bias": {"t", "b"},
    }.get(name, {"t"})
    params = {n: every[n] for n in {"k", "h"} | used}
    graph = trace_graph(apply, params, s(2, 8, 8, 3))
    assert graph.num_classes == 100
    assert "h" in classifiers(graph)
    assert classifiers(graph) <= {"h", "b"}


def test_the_leaf_of_a_temperature_is_a_gain_or_listed():
    def apply(p, x):
        return features(p, x) @ p["h"] / p["t"]

    check(
        trace_graph(apply, HIDDEN | {"t": s()}, s(2, 8, 8, 3)),
        {"k": kernel(8, 3, 3, 3), "h": kernel(10, 8), "t": [gain(1), Listed()]},
    )


def test_a_cosine_classifier():
    def apply(p, x):
        y = features(p, x)
        y = y / jnp.sqrt((y * y).sum(-1, keepdims=True))
        w = p["h"] / jnp.sqrt((p["h"] ** 2).sum(0, keepdims=True))
        return jnp.exp(p["t"]) * (y @ w)

    graph = trace_graph(apply, HIDDEN | {"t": s()}, s(2, 8, 8, 3))
    assert graph.num_classes == 10 and classifiers(graph) == {"h"}


HEADS = {
    "mean": lambda y, p: (y @ p["h"] + y @ p["g"]) / 2,
    "sum with biases": lambda y, p: y @ p["h"] + p["b"] + y @ p["g"] + p["c"],
    "side by side": lambda y, p: jnp.concatenate([y @ p["h"], y @ p["g"]], -1),
    "stacked": lambda y, p: jnp.stack([y @ p["h"], y @ p["g"]], 1),
}


@pytest.mark.parametrize("name", ["mean", "sum with biases"])
def test_two_heads_that_are_added_are_both_classifiers(name):
    every = HIDDEN | {"g": s(8, 10), "b": s(10), "c": s(10)}
    params = {n: every[n] for n in ("k", "h", "g", *("bc" if name == "sum with biases" else ""))}
    graph = trace_graph(lambda p, x: HEADS[name](features(p, x), p), params, s(2, 8, 8, 3))
    assert graph.num_classes == 10
    assert classifiers(graph) == set(params) - {"k"}


@pytest.mark.parametrize("name", ["side by side", "stacked"])
def test_two_heads_that_stay_apart_are_treated_alike(name):
    params = HIDDEN | {"g": s(8, 10)}
    graph = trace_graph(lambda p, x: HEADS[name](features(p, x), p), params, s(2, 8, 8, 3))
    assert classifiers(graph) in (set(), {"h", "g"})
    assert graph.num_classes in (None, 10)


def test_an_auxiliary_head_with_its_own_features():
    def apply(p, x):
        y = jax.nn.relu(conv(x, p["k"]))
        early = y.mean((1, 2)) @ p["a"]
        return jax.nn.relu(conv(y, p["k2"])).mean((1, 2)) @ p["h"] + 0.3 * early

    params = HIDDEN | {"a": s(8, 10), "k2": s(3, 3, 8, 8)}
    graph = trace_graph(apply, params, s(2, 8, 8, 3))
    assert graph.num_classes == 10 and classifiers(graph) == {"h", "a"}


def test_a_residual_after_the_head_is_no_classifier():
    def apply(p, x):
        y = x @ p["a"]
        return y + jnp.tanh(y) @ p["h"]

    graph = trace_graph(apply, {"a": s(12, 10), "h": s(10, 10)}, s(2, 12))
    assert "h" not in classifiers(graph) or classifiers(graph) == {"a", "h"}


def test_positions_with_classes_are_no_classifier_of_the_batch():
    def apply(p, x):
        return conv(x, p["k"]) @ p["h"]

    graph = trace_graph(apply, HIDDEN, s(2, 8, 8, 3))
    assert graph.num_classes in (None, 10)
