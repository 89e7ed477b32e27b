"""The same function made twice is known without tracing it again."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ppuda_jax as pj
from ppuda_jax.tracing import api
from ppuda_jax.tracing.identity import same_function


class Net(nn.Module):
    width: int = 8

    @nn.compact
    def __call__(self, x, scale=1.0):
        return nn.Dense(3)(nn.relu(nn.Dense(self.width)(x.mean((1, 2))))) * scale


def _lambda(net, scale=1.0):
    return lambda v, x: net.apply(v, x, scale=scale)


MAKERS = {
    "method": lambda width: Net(width).apply,
    "partial": lambda width: functools.partial(Net(width).apply, scale=2.0),
    "jitted": lambda width: jax.jit(Net(width).apply),
    "lambda": lambda width: _lambda(Net(width)),
    "jitted partial": lambda width: jax.jit(functools.partial(Net(width).apply, scale=2.0)),
    "lambda around a lambda": lambda width: functools.partial(_lambda(Net(width), 3.0)),
}


@pytest.mark.parametrize("name", MAKERS)
def test_an_equal_network_made_anew_is_the_same_function(name):
    make = MAKERS[name]
    assert same_function(make(8), make(8))
    assert not same_function(make(8), make(9))


def test_functions_that_differ_in_what_they_close_over_differ():
    assert not same_function(_lambda(Net(), 1.0), _lambda(Net(), 2.0))
    assert not same_function(Net().apply, Net().init)
    first, second = np.zeros(3), np.zeros(3)
    assert not same_function(lambda: first, lambda: second)
    assert not same_function(_lambda(first), _lambda(second))  # arrays: it cannot be told
    assert same_function(_lambda(first), _lambda(first))


@pytest.mark.parametrize("name", ["method", "partial", "jitted", "lambda"])
def test_an_equal_network_is_not_traced_again(name, monkeypatch):
    make, images = MAKERS[name], jnp.zeros((2, 8, 8, 3))
    variables = Net().init(jax.random.key(0), images)
    arch = api.trace_graph(make(8), variables, images)
    traced = []
    monkeypatch.setattr(api, "trace_graph", lambda *args: traced.append(args))
    api.check_apply_fn(arch.source, make(8))
    assert not traced


def test_a_method_of_another_object_with_the_same_graph_is_traced_once(monkeypatch):
    class Holder:
        def __init__(self):
            self.net = Net()

        def apply(self, variables, x):
            return self.net.apply(variables, x)

    first, second, images = Holder(), Holder(), jnp.zeros((2, 8, 8, 3))
    variables = Net().init(jax.random.key(0), images)
    arch = api.trace_graph(first.apply, variables, images)
    count, trace_graph = [], api.trace_graph
    monkeypatch.setattr(api, "trace_graph", lambda *args: (count.append(1), trace_graph(*args))[1])
    for _ in range(3):
        api.check_apply_fn(arch.source, second.apply)
    assert len(count) == 2  # both functions, the first time


def test_another_network_is_still_refused():
    images = jnp.zeros((2, 8, 8, 3))
    variables = Net().init(jax.random.key(0), images)
    graph = pj.trace(Net().apply, variables, images)
    config = pj.GHNConfig(num_classes=3, hid=8, max_shape=(8, 8, 3, 3))
    ghn = pj.LoadedGHN(config, {}, "none")
    with pytest.raises(ValueError, match="another apply_fn"):
        pj.predict_params(lambda v, x: Net(8).apply(v, x) @ jnp.ones((3, 3)) + x.sum(), graph, ghn)
