"""What the stored training step of the reference was made from (`golden/make_train_step.py`)."""

import functools

import numpy as np

from ppuda_jax.archs.plan import make_plan
from ppuda_jax.archs.sampling import arch_at
from ppuda_jax.convert.state_dicts import state_dict_from_theta, theta_from_state_dict
from ppuda_jax.executor.layout import Variant
from ppuda_jax.executor.variants import variant_of
from ppuda_jax.ghn.config import ghn2_cifar10
from ppuda_jax.ghn.model import init_theta

GHN2 = ghn2_cifar10()
VARIANT = Variant(11, 1, 32, attention=True)
BATCH = 8


@functools.cache
def network_configs():
    """The first two small visual transformers of the training split."""
    found, index = [], 0
    while len(found) < 2:
        config = arch_at("train", index)
        if config.n_cells <= 8 and variant_of(make_plan(config)) == VARIANT:
            found.append(config)
        index += 1
    return found


def torch_tensors():
    """Random weights of a GHN-2 by PyTorch name, from NumPy's generator."""
    import jax

    shapes = jax.eval_shape(lambda key: init_theta(GHN2, key), jax.random.key(0))
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), shapes)
    rng, tensors = np.random.default_rng(1111), {}
    for name, zero in sorted(state_dict_from_theta(GHN2, zeros).items()):
        fan_in = np.prod(zero.shape[1:]) if zero.ndim > 1 and "embed" not in name else 4
        value = rng.standard_normal(zero.shape) / np.sqrt(fan_in)
        tensors[name] = (value + (name == "ln.weight")).astype(np.float32)
    return tensors


def theta():
    """The same weights as a pytree."""
    return theta_from_state_dict(GHN2, torch_tensors())


def images_and_labels():
    """float32 [B, 32, 32, 3] and int32 [B]."""
    rng = np.random.default_rng(0)
    images = rng.standard_normal((BATCH, 32, 32, 3)).astype(np.float32)
    return images, (np.arange(BATCH) % 10).astype(np.int32)
