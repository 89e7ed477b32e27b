"""DeepNets-1M as a set of TFDS.

    import tensorflow_datasets as tfds
    import ppuda_jax.data.deepnets1m  # registers the builder

    nets = tfds.data_source("deepnets1m", split="test")
    net = pj.build_network(net_args(nets[3]), num_classes=10, image_size=32)

Nothing is downloaded: the default configuration samples the evaluation splits by the published
rules. Others take any splits, any number of networks, or a file of DeepNets-1M. TensorFlow is not
needed.

Legend: `N` nodes.
"""

import dataclasses
import json
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from ppuda_jax.archs.genotypes import NetConfig
from ppuda_jax.archs.hdf5 import FILE_DISTANCE, load_split
from ppuda_jax.archs.plan import make_plan
from ppuda_jax.archs.sampling import split_archs
from ppuda_jax.archs.splits import SPLITS, get_split
from ppuda_jax.graphs.from_plan import graph_from_plan
from ppuda_jax.graphs.records import encode_nodes

_EVALUATION = ("val", "test", "wide", "deep", "dense", "bnfree")


@dataclasses.dataclass
class DeepNetsConfig(tfds.core.BuilderConfig):
    """Which networks the set has.

    Attributes:
      splits: names of splits of DeepNets-1M.
      num_nets: networks of each; the published number, or all of the file, if None.
      path: HDF5 file of DeepNets-1M to read instead of sampling.
    """

    splits: tuple[str, ...] = _EVALUATION
    num_nets: int | None = None
    path: str | None = None


class Deepnets1m(tfds.core.GeneratorBasedBuilder):
    """Architectures with their graphs.

    An example has `index` (number in the split), `net` (the record as JSON, see `net_args`),
    `num_nodes`, `adjacency` [N, N] uint8 (lengths of shortest paths up to 250, 1 for edges, 0 for
    none) and `nodes` [N, 3] uint16 (kind, cell and name, by `archs.node_names`).
    """

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = (DeepNetsConfig(name="eval", description="the evaluation splits, sampled"),)

    def __init__(self, *args: Any, file_format: Any = None, **options: Any) -> None:
        """Takes what builders take; the format is one that needs no TensorFlow."""
        super().__init__(*args, file_format=file_format or "array_record", **options)

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="Computational graphs of neural networks (Knyazev et al., 2021).",
            homepage="https://arxiv.org/abs/2110.13100",
            features=tfds.features.FeaturesDict(
                {
                    "index": np.int64,
                    "net": tfds.features.Text(),
                    "num_nodes": np.int64,
                    "adjacency": tfds.features.Tensor(
                        shape=(None, None), dtype=np.uint8, encoding="zlib"
                    ),
                    "nodes": tfds.features.Tensor(shape=(None, 3), dtype=np.uint16),
                }
            ),
            disable_shuffling=True,  # networks are found by their numbers
        )

    def _split_generators(self, dl_manager: Any) -> Mapping[str, Iterator[tuple[int, Any]]]:
        del dl_manager  # there is nothing to download
        config = self.builder_config
        for split in config.splits:
            get_split(split)
        return {split: self._generate_examples(config, split) for split in config.splits}

    def _generate_examples(
        self, config: DeepNetsConfig, split: str
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        for index, net in _networks(config, split):
            yield index, example(index, net)


def _networks(config: DeepNetsConfig, split: str) -> Iterator[tuple[int, NetConfig]]:
    if config.path is None:
        number = SPLITS[split].num_nets if config.num_nets is None else config.num_nets
        yield from split_archs(split, number)
        return
    records = load_split(config.path, split)
    for index in range(len(records) if config.num_nets is None else config.num_nets):
        yield index, records[index].config


def example(index: int, config: NetConfig) -> dict[str, Any]:
    """One network as an example of the set, see `Deepnets1m`."""
    plan = make_plan(config)
    graph = graph_from_plan(plan)
    return {
        "index": index,
        "net": json.dumps(config.to_dict()),
        "num_nodes": graph.num_nodes,
        "adjacency": graph.distances(FILE_DISTANCE),
        "nodes": encode_nodes(plan),
    }


def net_args(example: Mapping[str, Any]) -> dict[str, Any]:
    """The record of an example, as `build_network` and `network_graph` take it."""
    text = example["net"]
    return json.loads(text.decode() if isinstance(text, bytes) else text)
