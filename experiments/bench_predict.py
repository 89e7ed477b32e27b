"""Times tracing and prediction: `python -m experiments.bench_predict [--models=resnet50,...]`.

For each model: seconds to trace (median of `--repeats`), to predict the first time (compilation
included) and warm (median), milliseconds per million parameters, and the peak of the process's
memory above what it held before the warm predictions, in multiples of the parameters' size.
"""

import argparse
import resource
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from ppuda_jax.checkpoints import load_ghn
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


def main(argv: Sequence[str] | None = None) -> None:
    """Parses the command line and prints one row a model."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--models",
        default="resnet50,densenet121,vit,vit_b16",
        help=f"comma-separated: densenet121, {', '.join(MODELS)}",
    )
    parser.add_argument("--checkpoint", help="default: random weights of the published size")
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args(argv)
    print(
        f"{'model':20}{'nodes':>6}{'params':>12}{'trace s':>9}{'first s':>9}{'warm ms':>9}"
        f"{'ms/M':>7}{'extra memory':>14}"
    )
    for name in args.models.split(","):
        row = measure(name, args.checkpoint, args.repeats)
        print(
            f"{name:20}{row['nodes']:6.0f}{row['params']:12.0f}{row['trace']:9.2f}"
            f"{row['first']:9.1f}{row['warm'] * 1e3:9.1f}{row['ms/M']:7.2f}{row['memory']:13.1f}x",
            flush=True,
        )


if __name__ == "__main__":
    main()
