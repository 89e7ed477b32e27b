"""Random parameters of a network in pages."""

import numpy as np

from ppuda_jax.hostloop.network import Network
from ppuda_jax.hostloop.pages import block_of


def random_pages(network: Network, seed: int, dtype=np.float32) -> dict:
    rng = np.random.default_rng(seed)
    counts = {block: len(rows) for block, rows in network.rows.items()}
    for leaf in network.steps[-1].key.leaves:
        counts[block_of(leaf)] = 1
    return {
        block: tuple(0.2 * rng.standard_normal(block.shape).astype(dtype) for _ in range(count))
        for block, count in counts.items()
    }
