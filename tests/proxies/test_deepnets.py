"""Networks of DeepNets-1M: what their layers cost, and what a scorer refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ppuda_jax.data.images import ImageArrays
from ppuda_jax.data.spec import PUBLISHED
from ppuda_jax.evaluation.images import make_images
from ppuda_jax.evaluation.networks import choose_networks
from ppuda_jax.nets.context import OpContext
from ppuda_jax.nets.network import Network
from ppuda_jax.proxies import costs
from ppuda_jax.proxies.base import Batch
from ppuda_jax.proxies.deepnets import NetScorer


@pytest.fixture(scope="module")
def images():
    pixels = np.zeros((8, 32, 32, 3), np.uint8)
    return ImageArrays(PUBLISHED["cifar10"], pixels, np.arange(8, dtype=np.int32))


PLAIN = [n.index for n in choose_networks("val", 8) if n.config and not n.config.is_vit][:3]
"""Not transformers, whose attention multiplies values with values."""


def products(jaxpr):
    """Multiplications of weights and values in convolutions and products, from the jaxpr."""
    total = 0
    for eqn in jaxpr.eqns:
        for inner in jax.tree.leaves(
            list(eqn.params.values()), is_leaf=lambda x: hasattr(x, "eqns")
        ):
            inner = getattr(inner, "jaxpr", inner)
            total += products(inner) if hasattr(inner, "eqns") else 0
        if eqn.primitive.name == "conv_general_dilated":
            taps = np.prod(eqn.invars[1].aval.shape[:3])
            total += taps * eqn.outvars[0].aval.size
        elif eqn.primitive.name == "dot_general":
            depth = [eqn.invars[0].aval.shape[i] for i in eqn.params["dimension_numbers"][0][0]]
            total += np.prod(depth) * eqn.outvars[0].aval.size
    return int(total)


@pytest.mark.parametrize("index", PLAIN)
def test_operations_and_parameters_of_a_plan(index):
    (net,) = choose_networks("val", indices=[index])
    network = Network(net.plan, context=OpContext(form="library"))
    image = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    shapes = jax.eval_shape(network.init, jax.random.key(0), image)["params"]
    jaxpr = jax.make_jaxpr(lambda p, x: network.apply({"params": p}, x))(shapes, image)
    assert costs.plan_flops(net.plan) == 2 * products(jaxpr.jaxpr)
    batch = Batch(jnp.zeros((1, 32, 32, 3)), jnp.zeros(1, jnp.int32))
    assert costs.params(network.apply, shapes, batch) == net.plan.num_params


@pytest.mark.parametrize(
    ("proxies", "batch_size", "message"),
    [
        (("snip",), 8, "two batches of 8 images"),
        (("zen",), 4, "proxies must be of"),
        (("predicted_loss",), 4, "predicted_loss need a hypernetwork"),
        ((), 4, "proxies must be of"),
    ],
)
def test_a_scorer_refuses(images, proxies, batch_size, message):
    found = make_images(images, "val", batch_size=batch_size)
    with pytest.raises(ValueError, match=message):
        NetScorer(found, proxies)
