"""Label smoothing and dropout of the executor, beside their formulas and the Flax network."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ppuda_jax.executor import run
from ppuda_jax.executor.program import make_program
from ppuda_jax.executor.tables import pack_params, stack_programs
from ppuda_jax.nets import ops
from ppuda_jax.nets.network import Network
from tests.networks import plan_of, random_params

IMAGES = jnp.asarray(np.random.default_rng(0).normal(size=(4, 32, 32, 3)), jnp.float32)
LABELS = jnp.asarray([3, 0, 9, 3])
KEY = jax.random.key(5)
CELLS = ("msa:0 cse:1", "conv_1x1:0 skip_connect:1")  # with attention it compiles fastest
ONE_LAYER = plan_of(*CELLS, n_cells=3)
TWO_LAYERS = plan_of(*CELLS, n_cells=3, fc_layers=2)
PLANS = (TWO_LAYERS, TWO_LAYERS, ONE_LAYER)  # the first two with the same parameters
DROP_OUT = ops.head_dropout


class Executor:
    """One compilation for the meta-batch of `PLANS`, with dropout and any smoothing."""

    def __init__(self):
        self.params = [random_params(plan, seed=3) for plan in PLANS]
        self.programs = [make_program(plan) for plan in PLANS]
        self.hidden = []
        variant = self.programs[0].variant
        self.stacked = stack_programs(self.programs)

        def loss(tables, programs, smoothing):
            return run.mean_loss(variant, tables, programs, IMAGES, LABELS, KEY, smoothing)

        self.evaluate = jax.jit(jax.value_and_grad(loss, has_aux=True))
        self.flax = {
            id(plan): jax.jit(jax.value_and_grad(functools.partial(flax_loss, self, plan)))
            for plan in PLANS
        }

    def pack(self, trees):
        return pack_params(self.programs, trees)

    def __call__(self, smoothing):
        """(per-network losses [3], gradient of their mean)."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(ops, "head_dropout", self._recorded)
            (_, scores), gradient = self.evaluate(
                self.pack(self.params), self.stacked, jnp.float32(smoothing)
            )
        return scores["loss"], gradient

    def _recorded(self, key, x):
        self.hidden.append(x.shape)
        return DROP_OUT(key, x)


@pytest.fixture(scope="module")
def executor():
    return Executor()


def flax_loss(executor, plan, params, index, smoothing):
    """Mean loss of a Flax network in training, under the executor's mask of network `index`."""

    def same_mask(_, x):  # the executor's hidden layers are padded
        wide = jnp.zeros(executor.hidden[0], x.dtype).at[:, : x.shape[1]].set(x)
        return DROP_OUT(jax.random.fold_in(KEY, index), wide)[:, : x.shape[1]]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ops, "head_dropout", same_mask)
        logits = Network(plan).apply({"params": params}, IMAGES, train=True, rngs={"dropout": KEY})
    logp = jax.nn.log_softmax(logits)
    picked = jnp.take_along_axis(logp, LABELS[:, None], axis=1)[:, 0]
    # A share of each target is spread over all classes.
    return -jnp.mean((1 - smoothing) * picked + smoothing * logp.mean(axis=1))


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
def test_smoothing_and_dropout_are_those_of_the_flax_networks(executor, smoothing):
    losses, gradient = executor(smoothing)
    expected, slopes = zip(
        *(
            executor.flax[id(PLANS[i])](params, i, smoothing)
            for i, params in enumerate(executor.params)
        ),
        strict=True,
    )
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    packed = jax.tree.map(lambda leaf: leaf / len(PLANS), executor.pack(list(slopes)))
    largest = max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(packed) if leaf.size)
    for ours, theirs in zip(jax.tree.leaves(gradient), jax.tree.leaves(packed), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-4 * largest)


def test_smoothing_and_dropout_change_the_losses(executor):
    plain, smooth = executor(0.0)[0], executor(0.5)[0]
    assert np.all(np.abs(plain - smooth) > 1e-3)
    assert abs(plain[0] - plain[1]) > 1e-4  # one network twice: each draws its own mask
