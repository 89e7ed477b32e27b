"""A whole training step equals the reference's: loss, gradients, parameters after Adam."""

import functools
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ppuda_jax.archs.plan import make_plan
from ppuda_jax.convert.state_dicts import state_dict_from_theta
from ppuda_jax.prediction.meta_batch import build_meta_batch
from ppuda_jax.training.config import TrainConfig
from ppuda_jax.training.objective import meta_loss
from ppuda_jax.training.state import make_state
from ppuda_jax.training.step import make_step
from tests.training import parity

EXPECTED = json.loads(
    (pathlib.Path(__file__).parents[1] / "golden" / "train_step.json").read_text()
)
_BETA1 = 0.9  # Adam's
SETTINGS = TrainConfig(meta_batch_size=2, batch_size=parity.BATCH)


def load(resident, batch, rng):
    """Images without augmentation."""
    del batch, rng
    return resident


@functools.cache
def reference_step():
    plans = [make_plan(config) for config in parity.network_configs()]
    networks = build_meta_batch(plans, parity.VARIANT)

    def loss_fn(theta, networks, images, labels, rng):
        del rng  # no dropout
        return meta_loss(parity.GHN2, parity.VARIANT, theta, networks, images, labels, None)

    theta = parity.theta()
    step = jax.jit(make_step(loss_fn, load, SETTINGS))
    images = parity.images_and_labels()
    state, metrics = step(make_state(theta, SETTINGS), images, networks, None, jnp.float32(1e-3))
    # After one step Adam's first moment is a share of the clipped gradient.
    scale = max(1.0, metrics["grad_norm"] / SETTINGS.grad_clip) / (1 - _BETA1)
    moment = optax.tree.get(state.opt_state, "mu")
    gradient = jax.tree.map(lambda leaf: leaf * scale, moment)
    as_torch = functools.partial(state_dict_from_theta, parity.GHN2)
    return as_torch(state.theta), as_torch(gradient), metrics


def test_loss_and_norm_of_the_gradient():
    _, _, metrics = reference_step()
    np.testing.assert_allclose(metrics["loss"], EXPECTED["loss"], rtol=1e-4)
    np.testing.assert_allclose(metrics["grad_norm"], EXPECTED["grad_norm"], rtol=1e-3)


@pytest.mark.parametrize("name", EXPECTED["tensors"])
def test_gradient_and_updated_parameters(name):
    after, gradient, _ = reference_step()
    expected = EXPECTED["tensors"][name]
    np.testing.assert_allclose(np.linalg.norm(gradient[name]), expected["grad_norm"], rtol=1e-3)
    np.testing.assert_allclose(np.linalg.norm(after[name]), expected["after_norm"], rtol=1e-5)
    flat = after[name].reshape(-1)
    picks = np.linspace(0, flat.size - 1, 8).astype(int)
    np.testing.assert_allclose(flat[picks], expected["after"], rtol=1e-4, atol=2e-4)
