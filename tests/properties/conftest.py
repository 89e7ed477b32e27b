"""A small hypernetwork, small networks and images to train them on."""

import jax
import pytest

from ppuda_jax.data.batches import ResidentImages
from ppuda_jax.data.order import ImageOrder
from ppuda_jax.evaluation.images import make_images
from ppuda_jax.evaluation.networks import EvalNet
from ppuda_jax.ghn.config import GHNConfig
from ppuda_jax.ghn.loaded import LoadedGHN
from ppuda_jax.ghn.model import init_theta
from ppuda_jax.properties.ground_truth import Images
from tests.finetune.conftest import SPEC, drawn
from tests.networks import plan_of

CELLS = ("conv_1x1:0 skip_connect:1", "max_pool_3x3:0 conv_1x1:1", "sep_conv_3x3:0 conv_3x3:1")
# With attention all maps have one size, and the executor compiles a fifth.
ATTENTION = ("msa:0 conv_1x1:1", "max_pool_3x3:0 msa:1")


@pytest.fixture(scope="package")
def ghn():
    config = GHNConfig(weight_norm=True, virtual_edges=50, layernorm=True, hid=8)
    return LoadedGHN(config, init_theta(config, jax.random.key(0)), "tiny")


@pytest.fixture(scope="package")
def plans():
    """Networks of different sizes: 3 to 5 cells."""
    return [plan_of(cells, cells, n_cells=n) for n in (3, 4, 5) for cells in CELLS]


@pytest.fixture(scope="package")
def nets():
    """Two networks of three classes."""
    configs = [plan_of(cells, cells, n_cells=3).config for cells in ATTENTION]
    return [EvalNet("test", i, config, num_classes=3) for i, config in enumerate(configs)]


@pytest.fixture(scope="package")
def images():
    arrays = drawn(48, 0)
    train = ResidentImages(SPEC, (arrays.images, arrays.labels), ImageOrder(48, 8, 0))
    clean, noisy = (
        make_images(drawn(16, 1), "val", batch_size=8, noise=noise) for noise in (0.0, 0.3)
    )
    return Images(train, make_images(arrays, "train", batch_size=8, max_images=16), clean, noisy)
