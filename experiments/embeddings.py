"""Where networks lie in the space of embeddings: `python -m experiments.embeddings`.

    python -m experiments.embeddings --output=DIR

Prints distances between named networks (paper, Table 10), Frechet distances between the splits and
the training networks (Table 11), and how much predicted parameters differ and how many are near
zero (Table 12), beside the published numbers. With `--output`, `table.json` and the embeddings of
the splits are written there, and an interrupted run continues.
"""

import dataclasses
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ppuda_jax import config as config_lib
from ppuda_jax.checkpoints import load_ghn
from ppuda_jax.config import check_types, described
from ppuda_jax.evaluation.networks import choose_networks
from ppuda_jax.evaluation.published import model_of
from ppuda_jax.ghn.loaded import LoadedGHN
from ppuda_jax.graphs.arch_graph import ArchGraph
from ppuda_jax.hostloop.leaves import leaves_of_pages
from ppuda_jax.hostloop.network import make_network
from ppuda_jax.hostloop.predictor import predictor_of
from ppuda_jax.nets.zoo import build_model
from ppuda_jax.properties.distances import (
    diversity,
    frechet_distance,
    sparsity,
    without_skips,
)
from ppuda_jax.properties.embed import embed
from ppuda_jax.properties.embed_split import Networks, embed_networks
from ppuda_jax.runtime.progress import Progress
from ppuda_jax.tracing.api import trace_graph

from . import flags

_SPLITS = ("test", "wide", "deep", "dense", "bnfree")
_KERNEL = (3, 3, 1, 128)  # of the depthwise convolutions that the paper compares
_PUBLISHED: Mapping[str, Mapping[str, Mapping[str, float]]] = {
    "distances": {
        "mlp": {"resnet34": 0.4, "resnet50 without skips": 0.2, "vit": 1.0},
        "ghn1": {"resnet34": 0.6, "resnet50 without skips": 0.5, "vit": 1.7},
        "ghn2": {"resnet34": 1.0, "resnet50 without skips": 1.3, "vit": 3.1},
    },
    "frechet": {
        "mlp": dict(zip(_SPLITS, (0.50, 1.04, 0.37, 0.39, 1.10), strict=True)),
        "ghn1": dict(zip(_SPLITS, (0.15, 0.45, 0.16, 0.21, 5.45), strict=True)),
        "ghn2": dict(zip(_SPLITS, (0.30, 0.80, 1.11, 0.59, 3.64), strict=True)),
    },
    "parameters": {
        "mlp": {"diversity": 0.01, "sparsity": 0.16},
        "ghn1": {"diversity": 0.07, "sparsity": 0.20},
        "ghn2": {"diversity": 0.17, "sparsity": 0.39},
    },
}


@dataclasses.dataclass(frozen=True)
class EmbeddingsConfig:
    """What is embedded; every field is a flag."""

    checkpoint: str = described("ghn2-cifar10", "a shipped name, a run's folder, or a .pt file")
    num_train: int = described(1000, "training networks that splits are compared with; paper: 5000")
    num_nets: int = described(200, "networks of each split")
    num_predicted: int = described(40, "networks of the test split whose parameters are compared")
    output: str | None = described(None, "folder for results")

    def __post_init__(self) -> None:
        check_types(self)
        for name in ("num_train", "num_nets", "num_predicted"):
            if getattr(self, name) < 2:
                raise ValueError(f"{name} must be at least 2, received {getattr(self, name)}")


def run(options: EmbeddingsConfig) -> str:
    """Embeds and predicts; returns the tables.

    Raises:
      ValueError: no such checkpoint, or an output folder of another one.
    """
    ghn = load_ghn(options.checkpoint)
    found = {
        "distances": named_distances(ghn),
        "frechet": _split_distances(ghn, options),
        "parameters": predicted_parameters(ghn, options.num_predicted),
    }
    if options.output is not None:
        folder = pathlib.Path(options.output).expanduser()
        folder.mkdir(parents=True, exist_ok=True)
        config_lib.write_atomic(folder / "table.json", json.dumps(found, indent=1) + "\n")
    titles = {
        "distances": f"distance of embeddings of {ghn.name} from that of resnet50",
        "frechet": (
            f"Frechet distance of {options.num_nets} networks of each split from "
            f"{options.num_train} training networks"
        ),
        "parameters": (
            f"predicted parameters of {options.num_predicted} test networks: mean |1 - cos| of "
            "depthwise 3x3 kernels of 128 channels, share below 0.05 in first layers"
        ),
    }
    model = model_of(ghn.config)
    tables = [_table(values, name, model, titles[name]) for name, values in found.items()]
    return flags.report(*(part for table in tables for part in (table, "")))


def named_distances(ghn: LoadedGHN) -> dict[str, float]:
    """Euclidean distances of embeddings from that of ResNet-50 (paper, Table 10)."""
    size = ghn.metadata.get("image_size", 32)
    graphs = {name: _graph(name, ghn, size) for name in ("resnet50", "resnet34", "vit")}
    graphs["resnet50 without skips"] = without_skips(graphs["resnet50"])
    rows = dict(zip(graphs, embed(ghn, list(graphs.values())), strict=True))
    origin = rows.pop("resnet50")
    return {name: float(np.linalg.norm(row - origin)) for name, row in rows.items()}


def _graph(name: str, ghn: LoadedGHN, size: int) -> ArchGraph:
    module = build_model(name, ghn.config.num_classes, size)
    images = jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32)
    return trace_graph(module.apply, jax.eval_shape(module.init, jax.random.key(0), images), images)


def _split_distances(ghn: LoadedGHN, options: EmbeddingsConfig) -> dict[str, float]:
    folder = None if options.output is None else pathlib.Path(options.output).expanduser()
    counts = {"train": options.num_train} | dict.fromkeys(_SPLITS, options.num_nets)
    total, bar, before = sum(counts.values()), Progress("embedding"), 0
    rows = {}
    try:
        for split, count in counts.items():
            embedded = embed_networks(
                ghn,
                Networks(split, ghn.metadata.get("image_size", 32), ghn.config.num_classes),
                count,
                folder=None if folder is None else folder / split,
                progress=lambda done, _, before=before: bar.move((before + done) / total),
            )
            rows[split], before = embedded.embeddings, before + count
    finally:
        bar.close()
    return {split: frechet_distance(rows[split], rows["train"]) for split in _SPLITS}


def predicted_parameters(ghn: LoadedGHN, num: int) -> dict[str, float | None]:
    """Diversity and sparsity of what is predicted (paper, Table 12).

    Returns:
      `diversity`, None if fewer than two kernels of the paper's shape are predicted, and
      `sparsity` of first layers.
    """
    size, predictor = ghn.metadata.get("image_size", 32), predictor_of(ghn.config)
    kernels: list[np.ndarray] = []
    first: list[np.ndarray] = []
    for net in choose_networks("test", num, num_classes=ghn.config.num_classes, image_size=size):
        if net.plan is None:
            continue
        network = make_network(net.plan, ghn.config)
        leaves = leaves_of_pages(network, predictor.predict(ghn.theta, network))
        first.append(leaves[0])
        kernels += [leaf for leaf in leaves if leaf.shape == _KERNEL]
    return {
        "diversity": diversity(kernels) if len(kernels) > 1 else None,
        "sparsity": sparsity(first),
    }


def _table(values: Mapping[str, Any], name: str, model: str, title: str) -> str:
    known = _PUBLISHED[name].get(model, {})
    rows = [(key, value, known.get(key)) for key, value in values.items()]
    return flags.table(("", "ours", f"paper, {model}"), rows, title)


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the script."""
    flags.start(
        EmbeddingsConfig,
        run,
        __doc__,
        argv,
        interrupted="interrupted; with --output, the same command continues",
    )


if __name__ == "__main__":
    main()
