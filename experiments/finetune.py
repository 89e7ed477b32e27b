r"""Compares where training starts: `python -m experiments.finetune`.

    python -m experiments.finetune --dataset=digits --split=test --num_nets=4 --inits=he,predicted \
      --optimizers=sgd,adam --steps=50 --output=DIR

Trains the same networks of DeepNets-1M from each initialisation by each optimiser at the same
budget, and prints accuracy before and after, the area under the curve, steps to the accuracy that
the first initialisation ends with, how many networks end above it and a paired test, and how many
of its steps an initialisation is worth. `--rate_factors` chooses the rate of each on validation
images. On a CPU `--driver=executor --at_once=2` trains many networks of one variant in three
programs; what was compiled is printed. With `--output`, `table.json`, `curves.png` and `curves.svg`
are written there, and an interrupted comparison continues.
"""

import dataclasses
import functools
import math
import pathlib
import re
import time
from collections.abc import Callable, Sequence
from typing import Any, Literal

import tqdm

from ppuda_jax import config as config_lib
from ppuda_jax.archs.widths import BASE_CHANNELS
from ppuda_jax.config import check_types, described
from ppuda_jax.data.batches import TrainingImages, training_images
from ppuda_jax.evaluation import EvalImages
from ppuda_jax.finetune import inits
from ppuda_jax.finetune.compare import Row, Trained, compare
from ppuda_jax.finetune.inits import Init
from ppuda_jax.finetune.recipe import Recipe, default_rate
from ppuda_jax.finetune.transfer import fitted_to
from ppuda_jax.ghn.loaded import LoadedGHN
from ppuda_jax.runtime.compilation import CompileCounter, compilation_cache
from ppuda_jax.visualization.comparisons import draw_comparison

from . import flags

_KINDS = ("random", "he", "orthogonal", "predicted", "noise", "orth")
_INITS = (
    "random, he, orthogonal, predicted, noise (predicted, with noise), orth (with orthogonal "
    "layers), warmK (K steps by the first optimiser from he)"
)
_WARM = re.compile(r"warm([1-9]\d*)")


@dataclasses.dataclass(frozen=True)
class FinetuneConfig:
    """What is compared; every field is a flag."""

    checkpoint: str = described("ghn2-cifar10", "a shipped name, a run's folder, or a .pt file")
    dataset: str | None = described(None, "images; by default those that the checkpoint is for")
    data_dir: str | None = described(None, "TFDS folder with the prepared dataset")
    split: str = described("test", "a split, or a file path.hdf5[:split]")
    num_nets: int = described(4, "networks of the split")
    channels: int | None = described(
        BASE_CHANNELS,
        "width of all networks; none for their own, of 2.5 million parameters and more",
    )
    max_variants: int | None = described(
        3, "only networks of the most frequent variants, which are narrow; none for all"
    )
    inits: tuple[str, ...] = described(
        ("he", "predicted"), f"what is compared, the first with each of the others: {_INITS}"
    )
    optimizers: tuple[str, ...] = described(("sgd",), "names of optax's optimisers")
    steps: int = described(200, "updates of each training")
    every: int | None = described(None, "steps between evaluations; a tenth of the steps")
    seeds: int = described(1, "trainings of each network and kind")
    batch_size: int = described(96, "images per step")
    learning_rate: tuple[float, ...] = described(
        (), "of each optimiser; by default 0.025 for sgd and 0.001 for the others"
    )
    rate_factors: tuple[float, ...] = described(
        (), "of the learning rate, to choose from on validation images for each initialisation"
    )
    weight_decay: float = described(3e-4, "L2 penalty, decoupled for adamw")
    label_smoothing: float = described(0.0, "of the objective")
    cutout: int = described(0, "side of the square that is cut out of training images")
    beta: float = described(3e-5, "size of the noise of noise and orth")
    from_layer: int = described(1, "first layer that orth makes orthogonal")
    shots: int | None = described(None, "only the first training images of each class")
    max_images: int | None = described(None, "only the first test images")
    driver: Literal["auto", "host", "executor"] = described(
        "auto", "what runs networks: auto is the host on one CPU device, else the executor"
    )
    at_once: int = described(1, "trainings that run at the same time")
    output: str | None = described(None, "folder for results")
    compilation_cache: str | None = described("~/.cache/ppuda_jax/xla", "folder, or none")

    def __post_init__(self) -> None:
        check_types(self)
        rates = self.learning_rate
        if rates and len(rates) != len(self.optimizers):
            raise ValueError(
                f"learning_rate must be one number for each of optimizers={self.optimizers}, "
                f"received {rates}"
            )
        for name in self.inits:
            if name not in _KINDS and not _WARM.fullmatch(name):
                raise ValueError(f"inits are {_INITS}, received {name!r}")
        if min(self.num_nets, self.steps, self.seeds, self.at_once) < 1:
            raise ValueError("num_nets, steps, seeds and at_once must be at least 1")


def run(options: FinetuneConfig) -> str:
    """Compares; returns the table.

    Raises:
      ValueError: options that do not exist or do not fit together.
      FileNotFoundError: missing data.
    """
    with compilation_cache(options.compilation_cache):
        return _run(options)


def _run(options: FinetuneConfig) -> str:
    from ppuda_jax.checkpoints import load_ghn
    from ppuda_jax.evaluation import choose_networks, load_eval_images
    from ppuda_jax.finetune.deepnets import best_way
    from ppuda_jax.finetune.in_executor import rooms_of

    ghn, spec, own = fitted_to(load_ghn(options.checkpoint), options.dataset, options.data_dir)
    nets = choose_networks(
        options.split,
        options.num_nets,
        num_classes=spec.num_classes,
        image_size=spec.image_size,
        max_variants=options.max_variants,
        channels=options.channels,
    )
    images = functools.cache(
        lambda seed: training_images(
            spec.name,
            options.batch_size,
            seed,
            options.data_dir,
            trained=spec if own else None,
            shots=options.shots,
        )
    )
    parts = {
        part: load_eval_images(
            spec.name,
            part,
            options.data_dir,
            ghn=ghn if own else None,
            max_images=options.max_images,
        )
        for part in (("test", "val") if options.rate_factors else ("test",))
    }
    recipes = _recipes(options)
    first = next(iter(recipes.values()))
    folder = None if options.output is None else pathlib.Path(options.output).expanduser()
    rooms = rooms_of(nets)
    images(0)  # what is counted below is of the networks alone
    started, cpu = time.perf_counter(), time.process_time()
    with _Bar() as bar, CompileCounter() as compiles:
        rows = compare(
            [(net, best_way(net, first, options.driver, rooms=rooms)) for net in nets],
            _inits(options, ghn, own, first, images, parts["test"]),
            recipes,
            images,
            parts["test"],
            steps=options.steps,
            every=options.every or max(1, options.steps // 10),
            seeds=options.seeds,
            rate_factors=options.rate_factors,
            tuning=parts.get("val"),
            at_once=options.at_once,
            results_path=folder / "trainings.jsonl" if folder else None,
            identity={
                "dataset": spec.fingerprint,
                "checkpoint": options.checkpoint,
                "beta": options.beta,
                "from_layer": options.from_layer,
                "max_images": options.max_images,
                "shots": options.shots,
            },
            progress=bar,
        )
    if folder is not None:
        _write(folder, rows, 1 / spec.num_classes)
    spent = (
        f"{time.perf_counter() - started:.0f} s ({time.process_time() - cpu:.0f} s of processors), "
        f"{compiles.calls:.0f} programs compiled in "
        f"{compiles.seconds:.0f} s, {compiles.cache_hits:.0f} of them from the cache"
    )
    return flags.report(_table(options, spec.name, rows), spent)


def _recipes(options: FinetuneConfig) -> dict[str, Recipe]:
    given = options.learning_rate or tuple(default_rate(name) for name in options.optimizers)
    return {
        name: Recipe(
            name,
            rate,
            weight_decay=options.weight_decay,
            batch_size=options.batch_size,
            label_smoothing=options.label_smoothing,
            cutout=options.cutout,
        )
        for name, rate in zip(options.optimizers, given, strict=True)
    }


def _inits(
    options: FinetuneConfig,
    ghn: LoadedGHN,
    own: bool,
    recipe: Recipe,
    images: Callable[[int], TrainingImages],
    held_out: EvalImages,
) -> dict[str, Init]:
    noise = {"beta": options.beta, "from_layer": options.from_layer, "classifier": own}
    known = {
        "random": inits.random(),
        "he": inits.he(),
        "orthogonal": inits.orthogonal(),
        "predicted": inits.predicted(ghn, own),
        "noise": inits.postprocessed(ghn, orthogonal=False, **noise),
        "orth": inits.postprocessed(ghn, **noise),
    }
    constant = dataclasses.replace(recipe, schedule="constant")

    def warm(steps: int) -> Init:
        return lambda network, seed: inits.warm(
            steps, images(seed), held_out, constant, inits.he()
        )(network, seed)

    return {
        name: warm(int(found[1])) if (found := _WARM.fullmatch(name)) else known[name]
        for name in options.inits
    }


def _table(options: FinetuneConfig, dataset: str, rows: Sequence[Row]) -> str:
    cells = [
        [
            row.optimizer,
            row.init,
            f"{row.learning_rate:g}",
            _percent(row.start),
            f"{_percent(row.final)} ± {_percent(row.error[-1])}",
            _percent(row.area),
            _steps(row.reached) + f" ({100 * row.reaching:.0f} %)",
            None if math.isnan(row.wins) else f"{100 * row.wins:.0f} %",
            None if math.isnan(row.p_value) else f"{row.p_value:.3f}",
            _steps(row.worth),
            str(row.diverged) if row.diverged else None,
        ]
        for row in rows
    ]
    first = options.inits[0]
    width = "their own width" if options.channels is None else f"{options.channels} channels"
    title = (
        f"{options.num_nets} networks of {options.split} ({width}) on {dataset}, "
        f"{options.steps} steps of "
        f"{options.batch_size} images, {options.seeds} seeds; accuracy in %, "
        f"reaching: steps to the end of {first}, wins and p: against {first}, worth: steps of it"
    )
    header = ["optimiser", "init", "rate", "start", "end", "area", "reaching"]
    header += ["wins", "p", "worth", "diverged"]
    return flags.table(header, cells, title, list(map(dataclasses.asdict, rows)))


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _steps(steps: float) -> str:
    return f"{steps:.0f}" if math.isfinite(steps) else "never"


def _write(folder: pathlib.Path, rows: Sequence[Row], chance: float) -> None:
    table = list(map(dataclasses.asdict, rows))
    curves: dict[str, dict[str, Any]] = {}
    for row in rows:
        curves.setdefault(row.optimizer, {})[row.init] = (row.steps, row.mean, row.error)
    folder.mkdir(parents=True, exist_ok=True)
    config_lib.write_atomic(folder / "table.json", flags.to_json(table) + "\n")
    draw_comparison(curves, chance, [folder / "curves.png", folder / "curves.svg"])


class _Bar:
    """A progress bar on stderr with the newest training and the time left."""

    def __enter__(self) -> "_Bar":
        self._bar = tqdm.tqdm(desc="trainings", unit="net", dynamic_ncols=True)
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.close()

    def __call__(self, done: int, total: int, newest: Trained) -> None:
        self._bar.total = total
        accuracy = newest.curve["points"][-1][1]
        self._bar.set_postfix_str(
            f"{newest.split}-{newest.index} {newest.init} {newest.optimizer} {accuracy:.3f}"
        )
        self._bar.update(done - self._bar.n)


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the script."""
    flags.start(
        FinetuneConfig,
        run,
        __doc__,
        argv,
        interrupted="interrupted; with --output, the same command continues",
    )


if __name__ == "__main__":
    main()
