"""Batch statistics from data."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ppuda_jax.calibration import calibrate
from tests.close import assert_close


class Net(nn.Module):
    momentum: float = 0.9

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.BatchNorm(use_running_average=not train, momentum=self.momentum)(x)
        return nn.Dense(3)(x)


def batches(count):
    keys = jax.random.split(jax.random.key(1), count)
    return [2 * jax.random.normal(key, (16, 4)) + i for i, key in enumerate(keys)]


@pytest.mark.parametrize("momentum", [0.0, 0.9, 0.99])
def test_statistics_are_the_mean_over_batches_at_any_momentum(momentum):
    net, data = Net(momentum), batches(3)
    params = net.init(jax.random.key(0), data[0])["params"]
    calibrated = calibrate(net.apply, {"params": params}, iter(data), train=True)
    found = calibrated["batch_stats"]["BatchNorm_0"]
    assert_close(found["mean"], np.mean([x.mean(0) for x in data], axis=0), 1e-4)
    assert_close(found["var"], np.mean([x.var(0) for x in data], axis=0), 1e-3)
    assert calibrated["params"] is params


def test_one_batch_gives_that_batch_s_own_logits():
    net, (data,) = Net(), batches(1)
    variables = net.init(jax.random.key(0), data)
    calibrated = calibrate(net.apply, variables, [data], train=True)
    expected, _ = net.apply(variables, data, train=True, mutable=["batch_stats"])
    assert_close(net.apply(calibrated, data), expected, 1e-3)


# --- collections that hold more than moving averages -------------------------------------------


class Spectral(nn.Module):
    """Spectral norm before, between and after batch norms."""

    norms: bool = True

    @nn.compact
    def __call__(self, x, train=False):
        for i in range(2):
            x = nn.SpectralNorm(nn.Dense(4, name=f"dense{i}"))(x, update_stats=train)
            if self.norms:
                x = nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.9)(x))
        return nn.SpectralNorm(nn.Dense(3))(x, update_stats=train)


class Counted(nn.Module):
    """A norm beside counters of batches, whole and floating, and a constant."""

    @nn.compact
    def __call__(self, x, train=False):
        for name, one in (("whole", 1), ("floating", 1.0)):
            counter = self.variable("batch_stats", name, lambda one=one: jnp.zeros_like(one))
            counter.value += one if train else 0
        limit = self.variable("batch_stats", "limit", lambda: jnp.full((), 6.0))
        return jnp.minimum(nn.BatchNorm(not train)(x), limit.value)


class Ranged(nn.Module):
    """Ranges of a quantised activation, and a sum over all batches."""

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.BatchNorm(not train)(x)
        for name, start, choose in (("low", 0.0, jnp.minimum), ("high", 0.0, jnp.maximum)):
            limit = self.variable("batch_stats", name, lambda start=start: jnp.asarray(start))
            if train:
                limit.value = choose(limit.value, choose.reduce(x, axis=None))
        total = self.variable("batch_stats", "sum", lambda: jnp.zeros(4))
        total.value += jnp.abs(x).sum(0) if train else 0.0
        return x


class Renormalised(nn.Module):
    """Batch renorm: the stored mean takes part in training, the variance needs the stored mean."""

    @nn.compact
    def __call__(self, x, train=False):
        mean = self.variable("batch_stats", "mean", lambda: jnp.full((4,), 0.5))
        square = self.variable("batch_stats", "square", lambda: jnp.ones(4))
        y = nn.BatchNorm(not train)(x - mean.value[None])
        if train:
            old = mean.value
            mean.value = 0.8 * old + 0.2 * x.mean(0)
            square.value = 0.8 * square.value + 0.2 * (
                (x - old[None]) * (x - mean.value[None])
            ).mean(0)
        return y / jnp.sqrt(square.value)[None] if not train else y


OTHERS = [Spectral(), Spectral(norms=False), Counted(), Ranged(), Renormalised()]


def by_name(tree):
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path): leaf for path, leaf in leaves}


# flax draws the vectors of spectral norm at initialisation only: they must be given
GIVEN = [(net, True) for net in OTHERS] + [(net, False) for net in OTHERS[2:]]


@pytest.mark.parametrize(("net", "given"), GIVEN, ids=lambda v: type(v).__name__)
def test_what_is_no_moving_average_is_left_as_the_network_updates_it(net, given):
    data = batches(4)
    variables = net.init(jax.random.key(0), data[0], train=False)
    if not given:
        variables = {"params": variables.get("params", {})}
    calibrated = calibrate(net.apply, variables, data, train=True)["batch_stats"]
    state, seen = variables.get("batch_stats"), []
    if state is None:
        _, made = net.apply(variables, data[0], train=True, mutable=["batch_stats"])
        state = made["batch_stats"]
    for batch in data:
        given_now = {**variables, "batch_stats": state}
        _, updated = net.apply(given_now, batch, train=True, mutable=["batch_stats"])
        seen.append((by_name(state), by_name(updated["batch_stats"])))
        state = updated["batch_stats"]
    for name, leaf in by_name(calibrated).items():
        expected = seen[-1][1][name]
        if "BatchNorm" in name or "square" in name:  # moving averages: their batches' own values
            keep = 0.8 if "square" in name else 0.9 if isinstance(net, Spectral) else 0.99
            values = [(new[name] - keep * old[name]) / (1 - keep) for old, new in seen]
            expected = np.mean(values, axis=0)
        assert_close(leaf, expected, 2e-3, name)
    assert jax.tree.structure(calibrated) == jax.tree.structure(state)


def test_spectral_norm_that_is_not_updated_is_a_mistake():
    net, data = Spectral(norms=False), batches(1)
    variables = net.init(jax.random.key(0), data[0])
    with pytest.raises(ValueError, match="training mode"):
        calibrate(net.apply, variables, data, train=False)


def test_tokens():
    class Words(nn.Module):
        @nn.compact
        def __call__(self, ids, train=False):
            return nn.BatchNorm(not train, momentum=0.7)(nn.Embed(9, 4, name="table")(ids))

    net = Words()
    data = [jax.random.randint(jax.random.key(i), (8, 5), 0, 9) for i in range(3)]
    variables = net.init(jax.random.key(0), data[0])
    table = variables["params"]["table"]["embedding"]
    found = calibrate(net.apply, variables, data, train=True)["batch_stats"]["BatchNorm_0"]
    assert_close(found["mean"], np.mean([table[x].mean((0, 1)) for x in data], axis=0), 1e-3)


def test_one_compilation_serves_all_calls():
    traces = []

    class Traced(Net):
        @nn.compact
        def __call__(self, x, train=False, rngs=None):
            traces.append(1)
            return nn.Dense(3)(nn.BatchNorm(not train)(x))

    net, data = Traced(), batches(2)
    variables = net.init(jax.random.key(0), data[0])
    calibrate(net.apply, variables, data, train=True)
    traces.clear()
    other = jax.tree.map(lambda leaf: 2 * leaf, variables)
    calibrate(net.apply, other, data, train=True)
    calibrate(net.apply, other, data[:1], train=True)
    assert len(traces) <= 2  # shapes are told without compiling


def test_keys_among_the_arguments():
    class Dropped(nn.Module):
        @nn.compact
        def __call__(self, x, train=False):
            return nn.Dropout(0.5, deterministic=not train)(nn.BatchNorm(not train)(x))

    net, data = Dropped(), batches(2)
    variables = net.init(jax.random.key(0), data[0])
    rngs = {"dropout": jax.random.key(1)}
    found = calibrate(net.apply, variables, data, train=True, rngs=rngs)["batch_stats"]
    expected = np.mean([x.mean(0) for x in data], axis=0)
    assert_close(found["BatchNorm_0"]["mean"], expected, 1e-3)


def test_mistakes():
    net, data = Net(), batches(1)
    variables = net.init(jax.random.key(0), data[0])
    with pytest.raises(ValueError, match="at least one batch"):
        calibrate(net.apply, variables, [], train=True)
    with pytest.raises(ValueError, match="training mode"):
        calibrate(net.apply, variables, data)
    dense = nn.Dense(3)
    params = dense.init(jax.random.key(0), data[0])
    with pytest.raises(ValueError, match="updated no batch_stats"):
        calibrate(dense.apply, params, [jnp.ones((2, 4))])
