"""Images and networks for tests of the evaluation."""

import dataclasses

import numpy as np

from ppuda_jax import evaluation
from ppuda_jax.archs.sampling import arch_rng, sample_arch
from ppuda_jax.archs.splits import SPLITS
from ppuda_jax.data.images import ImageArrays
from ppuda_jax.data.spec import PUBLISHED
from ppuda_jax.executor.layout import Variant

SMALL = Variant(11, 1, 32, attention=True)  # compiles fastest


def arrays(count: int) -> ImageArrays:
    rng = np.random.default_rng(count)
    images = rng.integers(0, 256, (count, 32, 32, 3)).astype(np.uint8)
    return ImageArrays(PUBLISHED["digits"], images, (np.arange(count) % 10).astype(np.int32))


def small_nets(count: int) -> tuple[evaluation.EvalNet, ...]:
    """Short networks of the val split at training widths, all of one small variant."""
    split = dataclasses.replace(SPLITS["val"], width="training")
    drawn = (
        evaluation.EvalNet("val", i, sample_arch(arch_rng(split, i), split)) for i in range(300)
    )
    found = [net for net in drawn if net.variant == SMALL]
    return tuple(sorted(found, key=lambda net: len(net.plan.ops))[:count])
