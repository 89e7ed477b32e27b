"""The spaces that `proxies.search` knows: cells of NAS-Bench-201, and networks of DeepNets-1M."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ppuda_jax.archs.genotypes import NetConfig
from ppuda_jax.archs.mutation import mutate
from ppuda_jax.archs.sampling import sample_arch
from ppuda_jax.evaluation.networks import EvalNet, choose_networks
from ppuda_jax.structure import nasbench201 as nb
from ppuda_jax.structure.discretise import Choice
from ppuda_jax.structure.search.sampling import mutated, uniform

SAMPLED = "sampled"
"""The split of networks that belong to none."""
_COUNTS = dict.fromkeys(nb.EDGES, len(nb.OPS))


class Cells:
    """Cells of NAS-Bench-201."""

    def draw(self, rng: np.random.Generator) -> Choice:
        """See `search.Space`."""
        return uniform(_COUNTS, rng)

    def mutate(self, network: Choice, rng: np.random.Generator) -> Choice:
        """See `search.Space`."""
        return mutated(network, _COUNTS, rng)

    def first(self, count: int, rng: np.random.Generator) -> Sequence[Choice]:
        """See `search.Space`."""
        if count > nb.NUM_CELLS:
            raise ValueError(f"there are {nb.NUM_CELLS} cells, received {count} queries")
        cells = list(nb.all_cells())
        return [cells[i] for i in rng.permutation(len(cells))[:count]]

    def record(self, network: Choice) -> str:
        """See `search.Space`."""
        return nb.to_text(network)

    def read(self, record: Any) -> Choice:
        """See `search.Space`."""
        return nb.from_text(record)


@dataclasses.dataclass(frozen=True)
class DeepNets:
    """Networks of DeepNets-1M.

    Attributes:
      split: by whose rules networks are drawn, and which are ranked.
      num_classes: of the images.
      image_size: pixels per side.
    """

    split: str = "search"
    num_classes: int = 10
    image_size: int = 32

    def draw(self, rng: np.random.Generator) -> EvalNet:
        """See `search.Space`."""
        return self._net(sample_arch(rng, self.split, self.image_size))

    def mutate(self, network: EvalNet, rng: np.random.Generator) -> EvalNet:
        """See `search.Space`."""
        if network.config is None:
            raise ValueError(f"{network.name} is a hand-made model: it has no genotype to change")
        return self._net(mutate(network.config, rng, self.split, self.image_size))

    def first(self, count: int, rng: np.random.Generator) -> Sequence[EvalNet]:
        """The first networks of the split; see `search.Space`."""
        del rng
        return choose_networks(
            self.split, count, num_classes=self.num_classes, image_size=self.image_size
        )

    def record(self, network: EvalNet) -> Mapping[str, Any]:
        """See `search.Space`."""
        config = None if network.config is None else network.config.to_dict()
        return {"split": network.split, "index": network.index, "config": config}

    def read(self, record: Any) -> EvalNet:
        """See `search.Space`."""
        config = record["config"]
        if config is None:
            index, size = [record["index"]], self.image_size
            return choose_networks(
                record["split"], indices=index, num_classes=self.num_classes, image_size=size
            )[0]
        split, index = record["split"], record["index"]
        return self._net(NetConfig.from_dict(config), split, index)

    def _net(self, config: NetConfig, split: str = SAMPLED, index: int = 0) -> EvalNet:
        classes, size = self.num_classes, self.image_size
        return EvalNet(split, index, config, num_classes=classes, image_size=size)
