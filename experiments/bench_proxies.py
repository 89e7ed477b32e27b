"""Times predicted parameters as a proxy: `python -m experiments.bench_proxies [--num_nets=4]`.

Scores new networks on validation images in three ways, in one run: with predicted parameters
through functions that all networks share, with the same parameters and a program compiled for each
network, and after an epoch of SGD through shared functions. Other networks come first, so that
functions are shared with someone; nothing is read from a cache of programs. Prints networks a
minute, by the clock and of a processor, and what each way says of the networks.
"""

import dataclasses
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from experiments import flags
from ppuda_jax.archs.widths import BASE_CHANNELS
from ppuda_jax.checkpoints import load_ghn
from ppuda_jax.config import check_types, described
from ppuda_jax.data.batches import TrainingImages, training_images
from ppuda_jax.evaluation import EvalImages, choose_networks, load_eval_images
from ppuda_jax.evaluation.networks import EvalNet
from ppuda_jax.finetune.deepnets import best_way, by_itself
from ppuda_jax.finetune.fit import fit
from ppuda_jax.finetune.network import Params, Trainable
from ppuda_jax.finetune.recipe import Recipe
from ppuda_jax.finetune.transfer import fitted_to
from ppuda_jax.ghn.loaded import LoadedGHN
from ppuda_jax.runtime.progress import Progress

_HEADER = ("way", "networks a minute", "a minute of a processor", "seconds each", "accuracy, %")
SHARED, ALONE, TRAINED = (
    "predicted, shared functions",
    "predicted, a program each",
    "an epoch of SGD",
)


@dataclasses.dataclass(frozen=True)
class BenchConfig:
    """What is timed; every field is a flag."""

    checkpoint: str = described("ghn2-cifar10", "a shipped name, or a run's folder")
    dataset: str = described("digits", "images")
    data_dir: str | None = described(None, "TFDS folder with the prepared dataset")
    split: str = described("test", "of the networks")
    num_nets: int = described(4, "networks that are timed")
    before: int = described(8, "networks that come first, and are not timed")
    channels: int | None = described(BASE_CHANNELS, "width of the networks; none for their own")
    max_variants: int | None = described(2, "only the most frequent variants; none for all")
    images: int = described(256, "validation images that networks are scored on")
    batch_size: int = described(32, "images per step of training")
    steps: int | None = described(None, "of training; by default an epoch")

    def __post_init__(self) -> None:
        check_types(self)
        if self.num_nets < 1 or self.before < 0 or (self.steps is not None and self.steps < 1):
            raise ValueError("num_nets and steps must be at least 1, and before not negative")


@dataclasses.dataclass(frozen=True)
class _Ways:
    """The three ways to score a network, each (network) -> share of the images that is right."""

    ghn: LoadedGHN
    own: bool
    held_out: EvalImages
    images: TrainingImages
    recipe: Recipe
    steps: int

    def shared(self, net: EvalNet) -> float:
        network = best_way(net, self.recipe)
        return self._accuracy(network, self._predict(network))

    def alone(self, net: EvalNet) -> float:
        shared, network = best_way(net, self.recipe), by_itself(net)
        params = network.pack(shared.unpack(self._predict(shared)))
        return self._accuracy(network, params)

    def trained(self, net: EvalNet) -> float:
        network = best_way(net, self.recipe)
        start = network.pack(network.initial(0))
        curve = fit(
            network,
            start,
            self.images,
            self.held_out,
            self.recipe,
            steps=self.steps,
            every=(self.steps,),
        )
        return curve.final

    def _predict(self, network: Trainable) -> Params:
        own = () if self.own else (network.initial(0),)
        return network.predict(self.ghn, *own)

    def _accuracy(self, network: Trainable, params: Params) -> float:
        sums = [
            network.score(params, network.state, b.images, b.labels, b.weights)
            for b in self.held_out.batches
        ]
        hits = np.sum(np.asarray(jax.device_get(sums), np.float64), axis=0)[0]
        return float(hits) / self.held_out.num_images


def run(options: BenchConfig) -> str:
    """Measures; returns the table.

    Raises:
      ValueError: options that do not fit together.
      FileNotFoundError: missing data.
    """
    ways = _ways(options)
    nets = choose_networks(
        options.split,
        options.before + options.num_nets,
        num_classes=ways.held_out.spec.num_classes,
        image_size=ways.held_out.spec.image_size,
        channels=options.channels,
        max_variants=options.max_variants,
    )
    if any(net.plan is None for net in nets):
        raise ValueError(f"{options.split} has hand-made models: take a split of DeepNets-1M")
    one_step, bar = dataclasses.replace(ways, steps=1), Progress("networks")
    for number, net in enumerate(nets[: options.before], 1):
        one_step.shared(net)
        one_step.trained(net)
        bar.move(number / len(nets), "before")
    timed = {SHARED: ways.shared, ALONE: ways.alone, TRAINED: ways.trained}
    found: dict[str, list[tuple[float, float, float]]] = {name: [] for name in timed}
    for number, net in enumerate(nets[options.before :], options.before + 1):
        for name, way in timed.items():
            found[name].append(_measured(way, net))
        bar.move(number / len(nets), net.name)
    bar.close()
    title = (
        f"{options.num_nets} networks of {options.split} after {options.before} others, "
        f"{ways.held_out.num_images} images of {options.dataset}, {ways.steps} steps of SGD"
    )
    return flags.table(_HEADER, [_row(name, values) for name, values in found.items()], title)


def _ways(options: BenchConfig) -> _Ways:
    ghn, spec, own = fitted_to(load_ghn(options.checkpoint), options.dataset, options.data_dir)
    held_out = load_eval_images(
        spec.name,
        "val",
        options.data_dir,
        ghn=ghn if own else None,
        batch_size=64,
        max_images=options.images,
    )
    size = options.batch_size
    images = training_images(spec.name, size, 0, options.data_dir, trained=spec if own else None)
    steps = options.steps or max(1, images.num_images // size)
    return _Ways(ghn, own, held_out, images, Recipe(batch_size=size), steps)


def _measured(way: Callable[[EvalNet], float], net: EvalNet) -> tuple[float, float, float]:
    """Seconds by the clock and of processors, and the accuracy."""
    wall, used = time.perf_counter(), time.process_time()
    accuracy = way(net)
    return time.perf_counter() - wall, time.process_time() - used, accuracy


def _row(name: str, values: Sequence[tuple[float, float, float]]) -> tuple[Any, ...]:
    wall, used, accuracies = zip(*values, strict=True)
    mean = 100 * statistics.mean(accuracies)
    rates = (f"{60 * len(wall) / sum(wall):.1f}", f"{60 * len(used) / sum(used):.1f}")
    return name, *rates, f"{sum(wall) / len(wall):.2f}", f"{mean:.1f}"


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the script."""
    flags.start(BenchConfig, run, __doc__, argv)


if __name__ == "__main__":
    main()
