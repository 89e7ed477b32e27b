"""Batch statistics from data."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ppuda_jax.calibration import calibrate


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
    np.testing.assert_allclose(
        found["mean"], np.mean([x.mean(0) for x in data], axis=0), rtol=1e-4, atol=1e-5
    )
    np.testing.assert_allclose(found["var"], np.mean([x.var(0) for x in data], axis=0), rtol=1e-3)
    assert calibrated["params"] is params


def test_one_batch_gives_that_batch_s_own_logits():
    net, (data,) = Net(), batches(1)
    variables = net.init(jax.random.key(0), data)
    calibrated = calibrate(net.apply, variables, [data], train=True)
    expected, _ = net.apply(variables, data, train=True, mutable=["batch_stats"])
    np.testing.assert_allclose(net.apply(calibrated, data), expected, rtol=1e-3, atol=1e-4)


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
