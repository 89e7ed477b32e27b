"""Leaves that are taken from a network's own parameters: of any type, and checked."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import ppuda_jax as pj
from ppuda_jax.prediction.initial import UnsupportedLeaf, take_leaves

CONFIG = pj.GHNConfig(num_classes=3, max_shape=(8, 8, 3, 3), hid=8)
IMAGES = jax.ShapeDtypeStruct((2, 8, 8, 3), jnp.float32)


@pytest.fixture(scope="module")
def ghn():
    return pj.LoadedGHN(CONFIG, pj.init_theta(CONFIG, jax.random.key(0)), "tiny")


EXTRA = {
    "int32": np.arange(4, dtype=np.int32),
    "bool": np.array([True, False]),
    "uint32 key": np.array([1, 2], np.uint32),
    "typed key": jax.random.key(5),
    "bfloat16": np.ones((2, 2), jnp.bfloat16),
}


def _network(variables, images):
    params = variables["params"]
    return images.mean((1, 2)) @ params["w"]


@pytest.mark.parametrize("kind", EXTRA)
def test_leaves_that_are_no_weights_stay_as_they_are(ghn, kind):
    params = {"w": np.ones((3, 3), np.float32), "extra": EXTRA[kind]}
    graph = pj.trace(_network, {"params": params}, IMAGES)
    got = pj.predict_params(_network, graph, ghn, "init", initial=params)
    assert got["extra"].dtype == params["extra"].dtype
    same = got["extra"] == params["extra"]
    assert bool(jnp.all(same)) and got["w"].shape == (3, 3)


class Dropping(nnx.Module):
    def __init__(self, rngs):
        self.linear = nnx.Linear(3, 3, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x):
        return self.linear(self.dropout(x.mean((1, 2)), deterministic=True))


def test_a_state_with_random_keys_comes_back_as_a_state(ghn):
    graphdef, state = nnx.split(Dropping(nnx.Rngs(0)))

    def apply(state, images):
        return nnx.merge(graphdef, state)(images)

    graph = pj.trace(apply, state, IMAGES)
    got = pj.predict_params(apply, graph, ghn, "init", initial=state)
    assert jax.tree.structure(got) == jax.tree.structure(state)
    assert apply(got, np.ones((2, 8, 8, 3), np.float32)).shape == (2, 3)
    skipped = pj.predict_params(apply, graph, ghn, "skip")
    assert type(skipped) is dict and set(skipped) == {"linear"}


LEAF = UnsupportedLeaf(("a", "b"), (4,), "it is a table")


def test_shapes_in_place_of_arrays_are_named():
    initial = {"a": {"b": jax.ShapeDtypeStruct((4,), jnp.float32)}}
    with pytest.raises(ValueError, match=r"only the shape \(4,\) of 'a/b': pass .* model.init"):
        take_leaves(initial, [LEAF], None)


@pytest.mark.parametrize("shape", [(5,), (4, 1), (), (1, 4)])
def test_leaves_of_another_shape_are_named(shape):
    with pytest.raises(ValueError, match=r"'a/b' must have shape \(4,\), received \("):
        take_leaves({"a": {"b": np.zeros(shape)}}, [LEAF], None)


@pytest.mark.parametrize("initial", [{}, {"params": {"a": {"b": np.zeros(4)}}}, {"a": None}, None])
def test_leaves_that_are_missing_are_named(initial):
    with pytest.raises(ValueError, match="missing .'a/b'.*pass variables"):
        take_leaves(initial, [LEAF], None)


class Table(nn.Module):
    width: int = 4

    @nn.compact
    def __call__(self, x):
        table = self.param("table", nn.initializers.ones, (self.width, self.width))
        x = x.mean((1, 2))
        return nn.Dense(3)(x) * (1 + 0 * jnp.linalg.eigvalsh(table @ table.T).sum())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: jax.eval_shape(lambda: p), "only the shape"),
        (lambda p: {**p, "table": p["table"].astype(jnp.int32)}, "type float32, received int32"),
        (lambda p: {**p, "table": jax.random.split(jax.random.key(0), (4, 4))}, "received key<fry"),
        (lambda p: {**p, "table": p["table"][:2]}, r"shape \(4, 4\), received \(2, 4\)"),
    ],
)
def test_initial_parameters_of_another_network(ghn, change, message):
    net = Table()
    variables = net.init(jax.random.key(0), jnp.zeros((2, 8, 8, 3)))
    graph = pj.trace(net.apply, variables, IMAGES)
    assert [leaf.path for leaf in pj.unsupported_leaves(graph, ghn)] == [("table",)]
    with pytest.raises(ValueError, match=message):
        pj.predict_params(net.apply, graph, ghn, "init", initial=change(dict(variables["params"])))
