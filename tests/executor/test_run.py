"""The executor equals the Flax network of the same plan, in logits and in gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ppuda_jax.executor import run
from ppuda_jax.executor.program import make_program
from ppuda_jax.executor.tables import Capacity, pack_params, rows_needed, stack_programs
from ppuda_jax.executor.variants import variant_of
from ppuda_jax.nets.context import OpContext
from ppuda_jax.nets.network import Network
from tests.networks import plan_of, random_params

BATCH = 4
IMAGES = jnp.asarray(np.random.default_rng(0).normal(size=(BATCH, 32, 32, 3)), jnp.float32)
LABELS = jnp.arange(BATCH) % 10

# Two lists of networks, each of one variant: one compilation serves a list.
STRIDED = {
    "separable": plan_of("sep_conv_3x3:0 dil_conv_5x5:1", "dil_conv_3x3:0 sep_conv_5x5:1", ks=5),
    "convolutions": plan_of(
        "conv_3x3:0 conv_7x1_1x7:1", "conv_5x5:0 conv_7x1_1x7:1", n_cells=4, fc_layers=2
    ),
    "pools": plan_of("max_pool_3x3:1 cse:0", "avg_pool_3x3:0 skip_connect:1", stem_type=1, ks=7),
    "concatenation": plan_of(
        "conv_1x1:0 skip_connect:1 conv_7x7:2 avg_pool_3x3:0",
        "cse:0 max_pool_3x3:1 conv_3x3:2 conv_1x1:1",
        concat=(2, 3),
    ),
    "absent states": plan_of(
        "none:0 none:1 conv_1x1:0 skip_connect:1 max_pool_3x3:3 skip_connect:3",
        "none:0 conv_1x1:1 skip_connect:0 none:2 skip_connect:2 skip_connect:3",
        concat=(2, 3, 4),
    ),
    "no norm": plan_of("conv_3x3:0 sep_conv_3x3:1", "conv_1x1:0 skip_connect:1", norm=None),
    "no preprocessing": plan_of(
        "conv_1x1:0 cse:1", "conv_3x3:0 skip_connect:1", preproc=False, stem_type=1, n_cells=6
    ),
    "no preprocessing, simple stem": plan_of(
        "conv_1x1:0 cse:1", "conv_3x3:0 skip_connect:1", preproc=False
    ),
    "three cells": plan_of("conv_1x1:0 cse:1", "conv_3x3:0 skip_connect:1", n_cells=3),
}
TRANSFORMERS = {
    "attention": plan_of("msa:0 conv_3x3:1", "skip_connect:0 msa:1"),
    "mixed": plan_of(
        "msa:0 conv_1x1:1 sep_conv_3x3:2 skip_connect:0",
        "max_pool_3x3:0 msa:1 msa:2 dil_conv_3x3:1",
        concat=(2, 3),
        preproc=True,
    ),
    "bare": plan_of(
        "msa:1 skip_connect:0",
        "conv_1x1:0 none:1",
        preproc=False,
        norm=None,
        fc_layers=2,
        n_cells=7,
    ),
}


class Compiled:
    """One compilation for all networks of a list, with a count of traces."""

    def __init__(self, plans):
        self.traces = 0
        self.variant = variant_of(next(iter(plans.values())))
        needs = [rows_needed([make_program(plan)]) for plan in plans.values()]
        self.capacity = Capacity(
            *(
                tuple(
                    (name, max(dict(getattr(need, kind))[name] for need in needs))
                    for name, _ in getattr(needs[0], kind)
                )
                for kind in ("mats", "vecs")
            )
        )

        def evaluate(tables, programs):
            self.traces += 1

            def loss(tables):
                return run.mean_loss(self.variant, tables, programs, IMAGES, LABELS, None)[0]

            return run.logits(self.variant, tables, programs, IMAGES), jax.value_and_grad(loss)(
                tables
            )

        self.evaluate = jax.jit(evaluate)

    def __call__(self, plan, params):
        program = make_program(plan, self.variant)
        tables = pack_params([program], [params], self.capacity)
        return program, self.evaluate(tables, stack_programs([program]))


@pytest.fixture(scope="module")
def strided():
    return Compiled(STRIDED)


@pytest.fixture(scope="module")
def transformers():
    return Compiled(TRANSFORMERS)


def _check(compiled, plan):
    params, net = random_params(plan, seed=3), Network(plan)
    program, (logits, (loss, gradient)) = compiled(plan, params)

    def flax_loss(params):
        out = net.apply({"params": params}, IMAGES)
        losses = optax.softmax_cross_entropy_with_integer_labels(out, LABELS)
        return jnp.mean(losses), out

    slope = jax.jit(jax.value_and_grad(flax_loss, has_aux=True))
    (expected_loss, expected), flax_gradient = slope(params)
    scale = float(jnp.abs(expected).max())
    np.testing.assert_allclose(logits[0], expected, atol=1e-5 * scale)
    np.testing.assert_allclose(loss, expected_loss, rtol=1e-5)
    packed = pack_params([program], [flax_gradient], compiled.capacity)
    largest = max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(packed) if leaf.size)
    for ours, theirs in zip(jax.tree.leaves(gradient), jax.tree.leaves(packed), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-4 * largest)


@pytest.mark.parametrize("name", STRIDED)
def test_equals_the_flax_network(strided, name):
    _check(strided, STRIDED[name])


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_equals_the_flax_transformer(transformers, name):
    _check(transformers, TRANSFORMERS[name])


def test_all_networks_of_a_list_share_one_compilation(transformers):
    for plan in TRANSFORMERS.values():
        transformers(plan, random_params(plan))
    assert transformers.traces == 1


@pytest.mark.parametrize(
    "settings",
    [
        {"C_mult": 2, "n_cells": 4},
        {"glob_avg": False, "stem_pool": False},
        {"C_mult": 2, "attention": True, "n_cells": 4},
    ],
    ids=str,
)
def test_other_variants_forward(settings):
    settings = dict(settings)
    first = "msa:0 conv_3x3:1" if settings.pop("attention", False) else "conv_3x3:0 cse:1"
    plan = plan_of(first, "sep_conv_3x3:0 skip_connect:1", **settings)
    program, params = make_program(plan), random_params(plan, seed=1)
    logits = jax.jit(run.logits, static_argnums=0)(
        program.variant, pack_params([program], [params]), stack_programs([program]), IMAGES
    )
    expected = jax.jit(Network(plan).apply)({"params": params}, IMAGES)
    np.testing.assert_allclose(logits[0], expected, atol=1e-5 * float(jnp.abs(expected).max()))


def test_norms_look_at_the_first_images_as_the_flax_network_does():
    plan = plan_of("conv_3x3:0 cse:1", "sep_conv_3x3:0 skip_connect:1", n_cells=3, stem_type=1)
    program, params = make_program(plan), random_params(plan, seed=2)
    arrays = pack_params([program], [params]), stack_programs([program]), IMAGES
    logits = jax.jit(run.logits, static_argnums=(0, 4))
    context = OpContext(norm_images=2)
    got = logits(program.variant, *arrays, context)[0]
    want = jax.jit(Network(plan, context=context).apply)({"params": params}, IMAGES)
    np.testing.assert_allclose(got, want, atol=1e-5 * float(jnp.abs(want).max()))
    # The first images neither see nor need the others.
    alone = jax.jit(Network(plan).apply)({"params": params}, IMAGES[:2])
    np.testing.assert_allclose(got[:2], alone, atol=1e-5 * float(jnp.abs(alone).max()))
    tables, programs, images = arrays
    with pytest.raises(ValueError, match="no gradient, received norm_images=2"):
        jax.grad(
            lambda t: run.mean_loss(
                program.variant, t, programs, images, LABELS, None, 0.0, context
            )[0]
        )(tables)


def test_a_meta_batch_is_its_networks_one_by_one(transformers):
    plans = list(TRANSFORMERS.values())[:2]
    programs = [make_program(plan) for plan in plans]
    params = [random_params(plan, seed) for seed, plan in enumerate(plans)]
    together = jax.jit(run.logits, static_argnums=0)(
        transformers.variant, pack_params(programs, params), stack_programs(programs), IMAGES
    )
    for plan, tree, logits in zip(plans, params, together, strict=True):
        alone = transformers(plan, tree)[1][0][0]
        np.testing.assert_allclose(logits, alone, atol=1e-5 * float(jnp.abs(alone).max()))


def test_bfloat16_has_nearly_the_same_logits(strided):
    plan = STRIDED["three cells"]
    params = random_params(plan, seed=3)
    program, (logits, _) = strided(plan, params)
    tables = pack_params([program], [params], strided.capacity)
    short = jax.jit(run.logits, static_argnums=0)(
        strided.variant, tables, stack_programs([program]), IMAGES.astype(jnp.bfloat16)
    )
    assert short.dtype == jnp.float32
    deviation = float(jnp.abs(short - logits).max() / jnp.abs(logits).max())
    assert 1e-6 < deviation < 0.05
