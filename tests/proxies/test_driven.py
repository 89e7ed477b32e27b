"""Proxies from the functions of steps are those of the network as one function."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ppuda_jax.archs.genotypes import Genotype, NetConfig
from ppuda_jax.archs.plan import make_plan
from ppuda_jax.evaluation.parameters import he_params
from ppuda_jax.nets.context import OpContext
from ppuda_jax.nets.network import Network
from ppuda_jax.proxies import driven, registry
from ppuda_jax.proxies.base import Batch, UnsupportedError
from tests.close import assert_close

MIXED = NetConfig(
    genotype=Genotype(
        normal=(("sep_conv_3x3", 0), ("cse", 1), ("none", 0), ("none", 1)),
        normal_concat=(2, 3),  # the second state is absent
        reduce=(("conv_1x1", 0), ("skip_connect", 1)),
        reduce_concat=(2,),
    ),
    n_cells=2,
    C=8,
    C_mult=1,
    fc_layers=2,
    fc_dim=8,
)
VIT = NetConfig(
    genotype=Genotype((("none", 0), ("msa", 1)), (2,), (("none", 0), ("msa", 1)), (2,)),
    n_cells=1,
    C=8,
    C_mult=1,
    preproc=False,
)


def _case(config):
    plan = make_plan(config)
    images = jax.random.normal(jax.random.key(1), (4, 32, 32, 3))
    return plan, he_params(plan, 0), Batch(images, jnp.arange(4) % 10)


def _by_itself(plan, params, batch, names):
    network = Network(plan, context=OpContext(form="library"))
    roles = {spec.path: spec.role for spec in plan.params}

    def scores(params, batch):
        found = {}
        for program in registry.programs_of(names).values():
            found |= program.scores(network.apply, params, batch, roles)
        return found

    return jax.jit(scores)(params, batch)


@pytest.mark.parametrize(
    ("config", "names"), [(MIXED, ("synflow", "jacob_cov", "naswot")), (VIT, ("synflow",))]
)
def test_equal_to_the_network_as_one_function(config, names):
    plan, params, batch = _case(config)
    expected = _by_itself(plan, jax.tree.map(jnp.asarray, params), batch, names)
    found = {name: driven.DRIVEN[name](plan, plan.in_order(params), batch) for name in names}
    assert all(np.isfinite(float(value)) for value in found.values())
    assert_close(found, {name: expected[name] for name in names}, 1e-4)


def test_a_network_without_relus_has_no_codes():
    plan, params, batch = _case(VIT)
    with pytest.raises(UnsupportedError, match="the network has none"):
        driven.naswot(plan, plan.in_order(params), batch)
