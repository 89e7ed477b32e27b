"""Random parameters."""

import numpy as np
import pytest

from ppuda_jax import evaluation
from ppuda_jax.evaluation.parameters import he_params


@pytest.mark.parametrize("gain", [2.0, 1.0])
def test_random_parameters_have_the_published_spread(gain):
    net = evaluation.choose_networks("test", 1)[0]
    params = he_params(net.plan, 0, gain)
    for spec, leaf in zip(net.plan.params, net.plan.in_order(params), strict=True):
        assert leaf.shape == spec.shape and leaf.dtype == np.float32
        if spec.role == "kernel" and spec.size > 4000:
            fan_in = np.prod(spec.shape[:-1])
            assert leaf.std() == pytest.approx(np.sqrt(gain / fan_in), rel=0.1)
