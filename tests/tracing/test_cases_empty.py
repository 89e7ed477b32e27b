"""Arrays without elements among the parameters and the data: there is nothing to predict."""

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from ppuda_jax.prediction.predict import predict_params
from ppuda_jax.tracing.api import trace, trace_graph
from tests.tracing.expected import check, kernel, s


def net(p, x):
    return jnp.tanh(x @ p["w"]) @ p["h"]


def joined(p, x):
    return jnp.tanh(x @ jnp.concatenate([p["w"], p["z"]])) @ p["h"]


def no_inputs(p, x):
    return net(p, x) + x[:, :0] @ p["z"]


def no_outputs(p, x):
    return jnp.concatenate([net(p, x), x @ p["z"]], -1)


def no_layers(p, x):
    return lax.scan(lambda y, w: (jnp.tanh(y @ w), None), net(p, x), p["z"])[0]


def unused(p, x):
    return net(p, x)


EMPTY = {
    joined: (0, 8),
    no_inputs: (0, 10),
    no_outputs: (12, 0),
    no_layers: (0, 10, 10),
    unused: (0,),
}


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("apply", EMPTY, ids=lambda f: f.__name__)
def test_an_empty_leaf_is_returned(apply, dtype):
    params = {"w": s(12, 8), "h": s(8, 10), "z": s(*EMPTY[apply], dtype=dtype)}
    x = s(2, 12)
    check(trace_graph(apply, params, x), {"w": kernel(8, 12), "h": kernel(10, 8)})
    predicted = predict_params(apply, trace(apply, params, x))
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), predicted) == jax.tree.map(
        lambda leaf: (leaf.shape, leaf.dtype), params
    )
    assert apply(predicted, jnp.ones((2, 12))).shape == (2, 10)


def test_data_without_elements_is_joined():
    def apply(p, x):
        return net(p, jnp.concatenate([x[:, :0], x, jnp.zeros((2, 0))], -1))

    check(
        trace_graph(apply, {"w": s(12, 8), "h": s(8, 10)}, s(2, 12)),
        {"w": kernel(8, 12), "h": kernel(10, 8)},
    )


def test_a_network_of_empty_leaves_has_no_parameters():
    with pytest.raises(ValueError, match="the model has no parameters"):
        trace_graph(lambda p, x: x, {"z": s(0, 10)}, s(2, 12))
