"""Parameters from pages in NumPy, against the functions that steps read theirs with."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ppuda_jax.ghn.config import ghn2_cifar10
from ppuda_jax.hostloop.leaves import leaves_of_pages, pages_of_cotangents
from ppuda_jax.hostloop.network import make_network
from ppuda_jax.hostloop.pages import blocks_of, read_leaves
from tests.hostloop.pages import random_pages
from tests.networks import plan_of

_CELL = "sep_conv_3x3:0 conv_3x3:1 cse:0 conv_7x1_1x7:2"
PLANS = {
    "narrow": plan_of(_CELL, "skip_connect:0 conv_1x1:1 none:0 dil_conv_5x5:2", concat=(2, 3)),
    "wider than a block": plan_of("conv_1x1:0 none:1", "conv_1x1:0 none:1", C=80, fc_layers=2),
    "transformer": plan_of("msa:0 none:1", "msa:0 none:1", n_cells=2),
}


@pytest.mark.parametrize("name", PLANS)
def test_leaves_are_those_that_steps_read(name):
    plan = PLANS[name]
    network = make_network(plan, ghn2_cifar10())
    pages = random_pages(network, 0)
    leaves = leaves_of_pages(network, pages)
    assert [leaf.shape for leaf in leaves] == [spec.shape for spec in plan.params]
    for step, place in zip(network.steps, network.places, strict=True):
        own = [pages[b][n] for b, n in zip(blocks_of(step.key), place.pages, strict=True)]
        read = jax.eval_shape(lambda *p, key=step.key: read_leaves(key, *p), own, place.starts)
        assert [leaf.shape for leaf in read] == [leaves[i].shape for i in step.params]
        if len({leaf.shape for leaf in step.key.leaves}) > 1 or step is network.steps[-1]:
            for number, leaf in zip(
                step.params, read_leaves(step.key, own, jnp.asarray(place.starts)), strict=True
            ):
                np.testing.assert_array_equal(leaves[number], leaf)


@pytest.mark.parametrize("name", PLANS)
def test_cotangents_go_back_by_the_transpose(name):
    plan = PLANS[name]
    network = make_network(plan, ghn2_cifar10())
    pages = random_pages(network, 0, np.float64)
    rng = np.random.default_rng(1)
    cotangents = [rng.standard_normal(spec.shape) for spec in plan.params]
    pulled = pages_of_cotangents(network, cotangents, pages)
    there = sum(
        np.vdot(c, x) for c, x in zip(cotangents, leaves_of_pages(network, pages), strict=True)
    )
    back = sum(np.vdot(g, x) for b in pages for g, x in zip(pulled[b], pages[b], strict=True))
    np.testing.assert_allclose(back, there, rtol=1e-12)
