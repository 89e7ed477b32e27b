"""Recurrent cells of other libraries: as Python loops they have the leaves of their scans."""

import equinox as eqx
import flax.linen as nn
import haiku as hk
import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from jax import lax

from ppuda_jax.tracing.api import trace_graph
from tests.tracing.expected import found, s, same_leaves

X = s(2, 5, 12)
KEY = jax.random.PRNGKey(0)


@pytest.mark.parametrize("cell", ["VanillaRNN", "LSTM", "GRU"])
def test_haiku_unrolled(cell):
    def build(unroll):
        def net(x):
            core = getattr(hk, cell)(8)
            y, _ = unroll(core, x.swapaxes(0, 1), core.initial_state(2))
            return hk.Linear(10)(y[-1])

        init, apply = hk.without_apply_rng(hk.transform(net))
        return trace_graph(apply, jax.eval_shape(init, KEY, X), X)

    want, got = build(hk.dynamic_unroll), build(hk.static_unroll)
    assert all(not isinstance(leaf, str) for leaf in found(want).values())
    same_leaves(got, want)


@pytest.mark.parametrize("cell", ["SimpleCell", "LSTMCell", "OptimizedLSTMCell", "GRUCell"])
def test_linen_loop(cell):
    class Net(nn.Module):
        scan: bool

        @nn.compact
        def __call__(self, x):
            core = getattr(nn, cell)(8, name="core")
            if self.scan:
                y = nn.RNN(core, name="rnn")(x)[:, -1]
            else:
                carry = core.initialize_carry(jax.random.key(0), (2, 12))
                for t in range(x.shape[1]):
                    carry, y = core(carry, x[:, t])
            return nn.Dense(10, name="out")(y)

    def build(scan):
        net = Net(scan)
        return trace_graph(net.apply, jax.eval_shape(net.init, KEY, X), X)

    want = {path.removeprefix("rnn/"): leaf for path, leaf in found(build(True)).items()}
    got = {path.removeprefix("rnn/"): leaf for path, leaf in found(build(False)).items()}
    assert {p.split("/", 1)[1]: leaf for p, leaf in want.items()} == {
        p.split("/", 1)[1]: leaf for p, leaf in got.items()
    }


@pytest.mark.parametrize("cell", ["GRUCell", "LSTMCell"])
def test_equinox_loop(cell):
    class Net(eqx.Module):
        core: eqx.Module
        out: eqx.nn.Linear
        scan: bool = eqx.field(static=True)

        def __call__(self, x):
            h = jnp.zeros(8) if cell == "GRUCell" else (jnp.zeros(8), jnp.zeros(8))
            if self.scan:
                h, _ = lax.scan(lambda h, x: (self.core(x, h), None), h, x)
            else:
                for t in range(x.shape[0]):
                    h = self.core(x[t], h)
            return self.out(h[0] if isinstance(h, tuple) else h)

    def build(scan):
        net = eqx.filter_eval_shape(
            lambda key: Net(
                getattr(eqx.nn, cell)(12, 8, key=key), eqx.nn.Linear(8, 10, key=key), scan
            ),
            KEY,
        )
        return trace_graph(lambda net, x: net(x), net, s(5, 12))

    same_leaves(build(False), build(True))


@pytest.mark.parametrize("cell", ["SimpleCell", "GRUCell", "OptimizedLSTMCell"])
def test_nnx_loop(cell):
    def build(scan):
        def net():
            core = getattr(nnx, cell)(12, 8, rngs=nnx.Rngs(0))
            return {"core": core, "out": nnx.Linear(8, 10, rngs=nnx.Rngs(1))}

        graphdef, params, rest = nnx.split(nnx.eval_shape(lambda: nnx.Dict(net())), nnx.Param, ...)

        def apply(v, x):
            model = nnx.merge(graphdef, v["params"], v["rest"])
            if scan:
                y = nnx.RNN(model["core"])(x)[:, -1]
            else:
                carry = model["core"].initialize_carry((2, 12), nnx.Rngs(0))
                for t in range(x.shape[1]):
                    carry, y = model["core"](carry, x[:, t])
            return model["out"](y)

        return trace_graph(apply, {"params": params, "rest": rest}, X)

    same_leaves(build(False), build(True))
