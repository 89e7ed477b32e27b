"""A small model and images that every test of this folder can train."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ppuda_jax.data.batches import ResidentImages
from ppuda_jax.data.images import ImageArrays
from ppuda_jax.data.order import ImageOrder
from ppuda_jax.data.spec import DatasetSpec
from ppuda_jax.evaluation.images import make_images
from ppuda_jax.finetune.network import of_apply

HALF, QUARTER = (0.5,) * 3, (0.25,) * 3
SPEC = DatasetSpec(
    "noise", 3, ("r", "g", "b"), 32, HALF, QUARTER, 48, "none", crop_padding=0, flip=False
)


def drawn(count: int, seed: int) -> ImageArrays:
    """Images whose class is their brightest channel."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count, dtype=np.int32) % 3
    images = rng.integers(0, 120, (count, 32, 32, 3))
    images[np.arange(count), :, :, labels] += 100
    return ImageArrays(SPEC, images.astype(np.uint8), labels)


@pytest.fixture(scope="package")
def train_images():
    arrays = drawn(48, 0)
    order = ImageOrder(len(arrays), 8, 0)
    return ResidentImages(SPEC, (arrays.images, arrays.labels), order)


@pytest.fixture(scope="package")
def held_out():
    return make_images(drawn(16, 1), "test", batch_size=8)


def linear(variables, images):
    """Logits of the channels' means."""
    params = variables["params"]
    return images.mean((1, 2)) @ params["kernel"] + params["bias"][None]


def initial(seed: int):
    kernel = 0.1 * jax.random.normal(jax.random.key(seed), (3, 3))
    return {"kernel": kernel, "bias": jnp.zeros(3)}


@pytest.fixture(scope="package")
def network():
    return of_apply(linear, initial, name="linear")
