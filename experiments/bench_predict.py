"""Times tracing and prediction: `python -m experiments.bench_predict [--models=resnet50,...]`.

For each model: seconds to trace (median of `--repeats`), to predict the first time (compilation
included) and warm (median), milliseconds per million parameters, and the peak of the process's
memory above what it held before the warm predictions, in multiples of the parameters' size.
"""

import dataclasses
import resource
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from experiments import flags
from ppuda_jax.checkpoints import load_ghn
from ppuda_jax.config import check_types, described
from ppuda_jax.ghn.config import ghn2_cifar10, ghn2_imagenet
from ppuda_jax.ghn.loaded import LoadedGHN
from ppuda_jax.ghn.model import init_theta
from ppuda_jax.nets.zoo import MODELS, build_model
from ppuda_jax.nets.zoo.norm import BatchNorm
from ppuda_jax.prediction.predict import predict_params
from ppuda_jax.tracing.api import trace


class DenseNet(nn.Module):
    """DenseNet-121 for 32x32 images: 306 nodes, as in the paper's timing."""

    num_classes: int = 10

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Logits [B, K] of images [B, 32, 32, 3]."""
        x = nn.Conv(64, (3, 3), use_bias=False)(x)
        x = nn.relu(BatchNorm()(x))
        for stage, layers in enumerate((6, 12, 24, 16)):
            for _ in range(layers):
                y = nn.Conv(128, (1, 1), use_bias=False)(nn.relu(BatchNorm()(x)))
                y = nn.Conv(32, (3, 3), use_bias=False)(nn.relu(BatchNorm()(y)))
                x = jnp.concatenate([x, y], axis=-1)
            x = nn.relu(BatchNorm()(x))
            if stage < 3:
                x = nn.Conv(x.shape[-1] // 2, (1, 1), use_bias=False)(x)
                x = nn.avg_pool(x, (2, 2), (2, 2))
        return nn.Dense(self.num_classes)(x.mean((1, 2)))


def _build(name: str) -> tuple[nn.Module, int]:
    """A model and its image size; "vit_b16" and names ending in "@224" are for 224 pixels."""
    base, _, size = name.partition("@")
    pixels = int(size) if size else 224 if base == "vit_b16" else 32
    classes = 1000 if pixels == 224 else 10
    if base == "densenet121":
        return DenseNet(classes), pixels
    return build_model(base, classes, pixels), pixels


def _random_ghn(pixels: int) -> LoadedGHN:
    config = ghn2_imagenet() if pixels == 224 else ghn2_cifar10()
    return LoadedGHN(config, init_theta(config, jax.random.key(0)), "random", {})


def _seconds(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - start


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measure(name: str, checkpoint: str | None, repeats: int) -> dict[str, float]:
    """Measures one model; seconds, counts and multiples by column name."""
    net, pixels = _build(name)
    images = jax.ShapeDtypeStruct((1, pixels, pixels, 3), jnp.float32)
    variables = jax.eval_shape(net.init, jax.random.key(0), images)
    ghn = load_ghn(checkpoint) if checkpoint else _random_ghn(pixels)
    traced = [_timed_trace(net, variables, images) for _ in range(repeats)]
    graph = trace(net.apply, variables, images)
    predict = lambda: predict_params(net.apply, graph, ghn=ghn, any_image_size=True)  # noqa: E731
    first = _seconds(predict)
    count = sum(leaf.size for leaf in jax.tree.leaves(predict()))
    before = _peak_bytes()
    warm = statistics.median(_seconds(predict) for _ in range(max(repeats, 9)))
    return {
        "nodes": int(graph.n_node[0]),
        "params": count,
        "trace": statistics.median(traced),
        "first": first,
        "warm": warm,
        "ms/M": warm * 1e9 / count,
        "memory": (_peak_bytes() - before) / (4 * count),
    }


def _timed_trace(net: nn.Module, variables: Any, images: Any) -> float:
    start = time.perf_counter()
    trace(net.apply, variables, images)
    return time.perf_counter() - start


@dataclasses.dataclass(frozen=True)
class BenchConfig:
    """What is timed; every field is a flag."""

    models: tuple[str, ...] = described(
        ("resnet50", "densenet121", "vit", "vit_b16"), f"of densenet121, {', '.join(MODELS)}"
    )
    checkpoint: str | None = described(
        None, "a shipped name, a run's folder, or a .pt file; by default random weights"
    )
    repeats: int = described(5, "times that each is measured")

    def __post_init__(self) -> None:
        check_types(self)
        if self.repeats < 1:
            raise ValueError(f"repeats must be at least 1, received {self.repeats}")


def run(options: BenchConfig) -> str:
    """Measures each model; returns a table."""
    header = ["model", "nodes", "params", "trace s", "first s", "warm ms", "ms/M", "extra memory"]
    rows = []
    for name in options.models:
        row = measure(name, options.checkpoint, options.repeats)
        cells = [f"{row['trace']:.2f}", f"{row['first']:.1f}", f"{row['warm'] * 1e3:.1f}"]
        counts = [int(row["nodes"]), int(row["params"])]
        rows.append([name, *counts, *cells, f"{row['ms/M']:.2f}", f"{row['memory']:.1f}x"])
    return flags.table(header, rows)


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the script."""
    flags.start(BenchConfig, run, __doc__, argv)


if __name__ == "__main__":
    main()
