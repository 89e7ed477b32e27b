"""Predicts properties of networks from their embeddings: `python -m experiments.properties`.

    python -m experiments.properties --dataset=digits --num_nets=40 --steps=20 --output=DIR

Trains networks of a split at one budget and measures accuracy on clean and on noisy images, the
time of a pass, and how early in the run they learn (the truth). Then predicts each property from
the embedding of a hypernetwork by a support vector regression with the published grid, by ridge
regression and by a Gaussian process, over divisions of the pool into networks to fit on and
networks to rank. Beside it stand an untrained hypernetwork's embedding and the parameter count,
through the same regressors and as it is. Prints Kendall's tau, the same among the better half, what
the first pick loses, and a paired test; with `--output`, `table.json` is written there, and an
interrupted run continues.
"""

import dataclasses
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from ppuda_jax import config as config_lib
from ppuda_jax.archs.widths import BASE_CHANNELS
from ppuda_jax.config import check_types, described
from ppuda_jax.properties.ground_truth import NOISE, PROPERTIES
from ppuda_jax.properties.regressors import FOLDS, REGRESSORS
from ppuda_jax.runtime.compilation import compilation_cache
from ppuda_jax.runtime.progress import Progress, say

from . import flags

if TYPE_CHECKING:
    from ppuda_jax.data.datasets import Dataset
    from ppuda_jax.evaluation.networks import EvalNet
    from ppuda_jax.ghn.loaded import LoadedGHN
    from ppuda_jax.properties.compare import Row
    from ppuda_jax.properties.ground_truth import Images, Measured

PARAMS = "params"
"""Name of the parameter count in tables."""

_FIELDS = tuple(PROPERTIES)


@dataclasses.dataclass(frozen=True)
class PropertiesConfig:
    """What is measured and predicted; every field is a flag."""

    checkpoint: tuple[str, ...] = described(
        ("ghn2-cifar10",),
        "shipped names, runs' folders or .pt files; the first is tested against the others",
    )
    dataset: str | None = described(None, "images; by default those that the first one is for")
    data_dir: str | None = described(None, "TFDS folder with the prepared dataset")
    split: str = described("val", "a split, or a file path.hdf5[:split]")
    num_nets: int = described(100, "networks of the split")
    channels: int | None = described(
        BASE_CHANNELS, "width of all networks; none for their own, of 2.5 million parameters"
    )
    max_variants: int | None = described(
        2, "only networks of the most frequent variants, which are cheap to train; none for all"
    )
    properties: tuple[str, ...] = described(_FIELDS, f"some of {', '.join(_FIELDS)}")
    regressors: tuple[str, ...] = described(REGRESSORS, f"some of {', '.join(REGRESSORS)}")
    steps: int = described(200, "updates of each training")
    batch_size: int = described(32, "images per step")
    learning_rate: float = described(0.025, "at the start, falling to zero along a cosine")
    every: int | None = described(None, "steps between points of a curve; a fifth of the steps")
    max_images: int = described(128, "held-out images of accuracies, and training images of curves")
    noise: float | None = described(None, "standard deviation; 0.08 on small images, else 0.18")
    target: float | None = described(
        None,
        "accuracy on training images that counts as convergence (published: 0.95); by default what "
        "three quarters of the networks reach",
    )
    divisions: int = described(5, "of the pool into networks to fit on and to rank")
    test_share: float = described(0.5, "of the pool that is ranked")
    folds: int = described(FOLDS, "by which regressors choose their settings")
    untrained: int = described(1, "untrained hypernetworks to compare with; each has its seed")
    seed: int = described(0, "of initialisation, order and augmentation")
    driver: Literal["auto", "host", "executor"] = described("auto", "what trains networks")
    output: str | None = described(None, "folder for results")
    compilation_cache: str | None = described("~/.cache/ppuda_jax/xla", "folder, or none")

    def __post_init__(self) -> None:
        check_types(self)
        for name, known in (("properties", _FIELDS), ("regressors", REGRESSORS)):
            given = getattr(self, name)
            unknown = [item for item in given if item not in known]
            if unknown or not given:
                raise ValueError(f"{name} must be some of {', '.join(known)}, received {given}")
        for name in ("num_nets", "steps", "max_images"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, received {getattr(self, name)}")
        if self.divisions < 2:
            raise ValueError(f"divisions must be at least 2, received {self.divisions}")
        if not self.checkpoint or self.untrained < 0:
            raise ValueError(
                "give at least one checkpoint, and a number of untrained ones that is not negative"
            )
        if self.target is not None and not 0 < self.target <= 1:
            raise ValueError(f"target must lie in (0, 1], received {self.target}")


def run(options: PropertiesConfig) -> str:
    """Measures and predicts; returns the table.

    Raises:
      ValueError: options that do not exist or do not fit together, a pool that is too small, or a
        property that does not vary.
      FileNotFoundError: missing data.
    """
    from ppuda_jax.properties.compare import divide

    divide(options.num_nets, 0, options.test_share, options.folds)  # before hours of training
    with compilation_cache(options.compilation_cache):
        return _run(options)


def _run(options: PropertiesConfig) -> str:
    from ppuda_jax.checkpoints import load_ghn
    from ppuda_jax.data.datasets import open_dataset
    from ppuda_jax.data.spec import trained_spec
    from ppuda_jax.properties.compare import compare_features
    from ppuda_jax.properties.ground_truth import reached_by, targets

    ghns = [load_ghn(name) for name in options.checkpoint]
    name = options.dataset
    if name is None:
        trained = trained_spec(ghns[0].metadata)
        if trained is None:
            raise ValueError(f"{ghns[0].name} does not say what it was trained on: give --dataset")
        name = trained.name
    dataset = open_dataset(name, options.data_dir)
    nets = pool_networks(options, dataset)
    folder = None if options.output is None else pathlib.Path(options.output).expanduser()
    measured = measure(options, dataset, nets, folder)
    kept = [number for number, m in enumerate(measured) if not m.failure]
    pool = [measured[number] for number in kept]
    target = reached_by(pool) if options.target is None else options.target
    features = _features(options, ghns, [nets[number] for number in kept])
    counts = np.array([m.num_params for m in pool], np.float64)
    bar = Progress("regressors")
    try:
        rows = compare_features(
            {**features, PARAMS: np.log10(counts)[:, None]},
            {name: targets(name, pool, target) for name in options.properties},
            scores={PARAMS: counts},
            regressors=options.regressors,
            divisions=options.divisions,
            test_share=options.test_share,
            folds=options.folds,
            progress=bar.move,
        )
    finally:
        bar.close()
    failed = {m.name: m.failure for m in measured if m.failure}
    if folder is not None:
        _write(folder, options, rows, target, failed, len(pool))
    return _table(options, dataset.name, rows, target, failed, len(pool))


def pool_networks(options: PropertiesConfig, dataset: "Dataset") -> "tuple[EvalNet, ...]":
    """The networks that are trained."""
    from ppuda_jax.evaluation.networks import choose_networks

    nets = choose_networks(
        options.split,
        options.num_nets,
        num_classes=dataset.spec.num_classes,
        image_size=dataset.spec.image_size,
        channels=options.channels,
        max_variants=options.max_variants,
    )
    if any(net.plan is None for net in nets):
        raise ValueError(f"{options.split} has hand-made models: take a split of DeepNets-1M")
    return nets


def measure(
    options: PropertiesConfig,
    dataset: "Dataset",
    nets: "Sequence[EvalNet]",
    folder: pathlib.Path | None,
) -> "tuple[Measured, ...]":
    """Trains and measures networks; continues with what the folder has."""
    from ppuda_jax.finetune.recipe import Recipe
    from ppuda_jax.properties.ground_truth import ground_truth

    recipe = Recipe(learning_rate=options.learning_rate, batch_size=options.batch_size)
    bar = Progress("networks")

    def show(done: int, total: int, newest: "Measured") -> None:
        result = newest.failure or f"{newest.clean_accuracy:.3f}"
        if newest.failure:
            say(f"{newest.name} is left out: {newest.failure}")
        bar.move(done / total, f"{newest.name} {result}")

    try:
        return ground_truth(
            nets,
            _images(options, dataset),
            recipe,
            steps=options.steps,
            every=options.every,
            seed=options.seed,
            driver=options.driver,
            results_path=None if folder is None else folder / "ground_truth.jsonl",
            progress=show,
        )
    finally:
        bar.close()


def _images(options: PropertiesConfig, dataset: "Dataset") -> "Images":
    from ppuda_jax.data.batches import training_images
    from ppuda_jax.evaluation.images import make_images
    from ppuda_jax.properties.ground_truth import Images

    noise = NOISE[dataset.image_size] if options.noise is None else options.noise
    train = training_images(dataset.name, options.batch_size, options.seed, options.data_dir)
    parts = {
        part: dataset.load(part, range(min(options.max_images, len(dataset.rows(part)))))
        for part in ("train", "val")
    }
    clean = make_images(parts["val"], "val")
    noisy = make_images(parts["val"], "val", noise=noise, seed=options.seed)
    return Images(train, make_images(parts["train"], "train"), clean, noisy)


def _features(
    options: PropertiesConfig, ghns: "Sequence[LoadedGHN]", nets: "Sequence[EvalNet]"
) -> dict[str, np.ndarray]:
    """Embeddings of networks by the name of what embeds them."""
    import jax

    from ppuda_jax.ghn.model import init_theta
    from ppuda_jax.graphs.from_plan import graph_from_plan
    from ppuda_jax.properties.embed import embed

    graphs = [graph_from_plan(net.plan) for net in nets if net.plan is not None]
    found = {ghn.name: embed(ghn, graphs) for ghn in ghns}
    for seed in range(options.untrained):
        theta = init_theta(ghns[0].config, jax.random.key(seed))
        ghn = dataclasses.replace(ghns[0], theta=theta)
        name = "untrained" if options.untrained == 1 else f"untrained {seed}"
        found[name] = embed(ghn, graphs)
    return found


def model_name(row: "Row") -> str:
    """Name of what predicts, in tables: features and regressor."""
    return f"{row.features}, {row.regressor}"


def _table(
    options: PropertiesConfig,
    dataset: str,
    rows: "Sequence[Row]",
    target: float,
    failed: Mapping[str, str],
    count: int,
) -> str:
    width = "their own width" if options.channels is None else f"{options.channels} channels"
    title = (
        f"{count} networks of {options.split} ({width}) on {dataset}, {options.steps} steps of "
        f"{options.batch_size} images; mean ± standard deviation over {options.divisions} "
        f"divisions, {options.test_share:g} of the pool ranked; convergence: {target:.3f} of "
        f"training images right. Upper: Kendall's tau among the better half. Loss: what the first "
        f"pick is worse than the best. p: of {options.checkpoint[0]} against it, paired."
    )
    header = ["property", "features", "regressor", "Kendall", "upper", "Spearman", "loss", "p"]
    cells = [
        [
            row.target,
            row.features,
            row.regressor,
            f"{row.kendall:.3f} ± {row.deviation:.3f}",
            _number(row.ranking.upper_kendall),
            _number(row.ranking.spearman),
            f"{row.ranking.regret:.3g} {PROPERTIES[row.target].unit.split()[0]}",
            "" if row.against is None else f"{row.against.p_value:.3f}",
        ]
        for row in rows
    ]
    records = [{**dataclasses.asdict(row), "kendall": row.kendall} for row in rows]
    notes = [f"{name} is left out: {reason}" for name, reason in failed.items()]
    return flags.report(flags.table(header, cells, title, records), *notes)


def _number(value: float) -> str:
    return f"{value:.3f}" if math.isfinite(value) else "-"


def _write(
    folder: pathlib.Path,
    options: PropertiesConfig,
    rows: "Sequence[Row]",
    target: float,
    failed: Mapping[str, str],
    count: int,
) -> None:
    kendall: dict[str, dict[str, float]] = {}
    for row in rows:
        kendall.setdefault(row.target, {})[model_name(row)] = row.kendall
    table = {
        "kendall": kendall,
        "rows": [{**dataclasses.asdict(row), "kendall": row.kendall} for row in rows],
        "networks": count,
        "failed": dict(failed),
        "convergence_target": target,
        "options": config_lib.to_dict(options),
    }
    folder.mkdir(parents=True, exist_ok=True)
    config_lib.write_atomic(folder / "table.json", flags.to_json(table) + "\n")


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the script."""
    flags.start(
        PropertiesConfig,
        run,
        __doc__,
        argv,
        interrupted="interrupted; with --output, the same command continues",
    )


if __name__ == "__main__":
    main()
