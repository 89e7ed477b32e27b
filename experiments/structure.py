"""Chooses structures and says what the choices are worth: `python -m experiments.structure`.

    python -m experiments.structure --family=synthetic --method=variational --seeds=5 --output=DIR
    python -m experiments.structure --family=mlp --dataset=digits --method=darts,gdas --output=DIR
    python -m experiments.structure --family=nasbench201 --weights=predicted --table=CSV

The families:

- `synthetic`, the published selection among three models: which one each setting of the two-level
  objective chooses.
- `hyperparameters`, one precision per weight of a regression: random search, greedy steps, DrMAD
  and HOAG.
- `mlp`, the widths of a perceptron: every method searches, what it chose is trained from the start.
- `darts`, normal and reduction cells of whole networks: every method searches, what it chose is
  trained from the start; its genotype is a network that the rest of the library knows.
- `nasbench201`, cells whose worth comes from the benchmark's table, from parameters that a
  hypernetwork predicts, or from shared weights; the picks are looked up in the table.

With `--output`, the table is kept there as `table.json` and a picture beside it, and an interrupted
search over epochs continues.
"""

import contextlib
import dataclasses
import json
import pathlib
from collections.abc import Sequence
from typing import Any, Literal

from ppuda_jax.config import check_types, described, write_atomic
from ppuda_jax.runtime.progress import Progress

from . import flags


@dataclasses.dataclass(frozen=True)
class StructureConfig:
    """What is searched; every field is a flag."""

    family: Literal["synthetic", "hyperparameters", "mlp", "darts", "nasbench201"] = described(
        "synthetic", "of models"
    )
    method: tuple[str, ...] | None = described(
        None,
        "searches, compared at one budget; by default all of hyperparameters, random,evolution of "
        "nasbench201, else variational",
    )
    dataset: str = described("digits", "images")
    data_dir: str | None = described(None, "TFDS folder with the prepared dataset")
    seeds: int = described(5, "independent runs")
    epochs: int = described(40, "of the search, and of the training of what it chose")
    batch_size: int = described(64, "images per step")
    max_images: int | None = described(None, "only the first training images")
    eigenvalue_steps: int = described(
        10, "of power iteration for the Hessian of the structure, every epoch; 0 leaves it out"
    )
    widths: tuple[int, ...] = described((16, 32, 64, 128, 256), "of a layer of the family mlp")
    layers: int = described(4, "most hidden layers of the family mlp")
    steps: int = described(1000, "of the family synthetic")
    weights: Literal["table", "predicted", "shared", "trained"] = described(
        "predicted", "what a cell of nasbench201 is scored with"
    )
    table: str | None = described(None, "CSV file with the accuracies of nasbench201")
    checkpoint: str = described("ghn2-cifar10", "hypernetwork: a shipped name, or a run's folder")
    queries: int = described(100, "cells that a search may ask for, by table or predicted")
    cells: int | None = described(
        None, "of each stage of nasbench201 (default 1, published 5), of darts (default 3)"
    )
    channels: int | None = described(
        None, "of the first stage of nasbench201 (default 16), of darts (default 8)"
    )
    nodes: int = described(2, "steps of a cell of darts; published: 4")
    partial: int = described(
        1, "one of so many channels goes through the operations of darts while searching"
    )
    side: int | None = described(
        None, "pixels that images of darts and nasbench201 are averaged to; by default their own"
    )
    images: int = described(64, "validation images that predicted parameters are scored on")
    output: str | None = described(None, "folder for the table, pictures and searches")

    def __post_init__(self) -> None:
        check_types(self)
        if self.seeds < 1:
            raise ValueError(f"seeds must be at least 1, received {self.seeds}")


def run(options: StructureConfig) -> str:
    """Runs the searches; returns the table.

    Raises:
      ValueError: options that do not exist or do not fit together.
      FileNotFoundError: missing data.
    """
    folder = None if options.output is None else pathlib.Path(options.output).expanduser()
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    families = {
        "synthetic": _synthetic,
        "hyperparameters": _hyperparameters,
        "mlp": _mlp,
        "darts": _darts,
        "nasbench201": _nasbench201,
    }
    return families[options.family](options, folder)


def _synthetic(options: StructureConfig, folder: pathlib.Path | None) -> str:
    from ppuda_jax.structure import synthetic

    if options.method not in (None, ("variational",)):
        raise ValueError(
            f"the family synthetic is for --method=variational, received {options.method}"
        )
    settings = {setting.name: setting for setting in synthetic.settings()}
    with contextlib.closing(Progress("searching")) as bar:
        outcomes = []
        for name, setting in settings.items():
            bar.move(len(outcomes) / len(settings), name)
            outcomes.append(synthetic.select(setting, range(options.seeds), steps=options.steps))
    if folder is not None:
        from ppuda_jax.structure.pictures import draw_outcomes

        table = [
            {
                "setting": o.setting,
                "seed": seed,
                "model": o.modes[seed],
                "place": o.places[seed],
                "probabilities": o.probabilities[seed].tolist(),
                "mean_weights": o.mean_weights[seed].tolist(),
                "error": float(o.error[seed]),
            }
            for o in outcomes
            for seed in range(options.seeds)
        ]
        _write(folder, table)
        draw_outcomes(outcomes, folder / "synthetic.png")
    rows = [
        (
            o.setting,
            " ".join(map(str, o.modes)),
            f"{o.places.count('centre')} of {len(o.places)}",
            " ".join(f"{p:.2f}" for p in o.mean_weights.mean(0)),
            float(o.error.mean()),
        )
        for o in outcomes
    ]
    header = ("setting", "model of each seed", "at the centre", "mean weights", "error")
    return flags.table(header, rows)


def _hyperparameters(options: StructureConfig, folder: pathlib.Path | None) -> str:
    from ppuda_jax.structure import hyperparameters

    methods = options.method or ("random", *hyperparameters.METHODS)
    budget = hyperparameters.Budget()
    outcomes = {}
    with contextlib.closing(Progress("searching")) as bar:
        for name in methods:
            bar.move(len(outcomes) / len(methods), name)
            outcomes[name] = hyperparameters.run(name, range(options.seeds), budget)
    if folder is not None:
        table = [
            {"method": name, "seed": seed, "bound": float(bound), "error": float(error)}
            for name, o in outcomes.items()
            for seed, (bound, error) in enumerate(zip(o.bounds[:, -1], o.errors, strict=True))
        ]
        _write(folder, table)
    random = outcomes.get("random")
    rows = [o.row(None if name == "random" else random) for name, o in outcomes.items()]
    return flags.table(hyperparameters.HEADER, rows)


def _mlp(options: StructureConfig, folder: pathlib.Path | None) -> str:
    from ppuda_jax.structure import tasks

    images = tasks.load(options.dataset, options.data_dir, max_images=options.max_images)
    task = tasks.perceptrons(images, widths=options.widths, layers=options.layers)
    return _compared(options, folder, task)


def _darts(options: StructureConfig, folder: pathlib.Path | None) -> str:
    from ppuda_jax.structure import darts_net, tasks

    images = _images(options)
    skeleton = darts_net.Skeleton(
        images.classes,
        options.channels or 8,
        options.cells or 3,
        options.nodes,
        images.side,
        options.partial,
    )
    return _compared(options, folder, tasks.darts(images, skeleton, options.batch_size))


def _images(options: StructureConfig) -> Any:
    from ppuda_jax.structure import tasks

    return tasks.load(
        options.dataset, options.data_dir, side=options.side, max_images=options.max_images
    )


def _compared(options: StructureConfig, folder: pathlib.Path | None, task: Any) -> str:
    from ppuda_jax.structure import comparison

    methods = options.method or ("variational",)
    with contextlib.closing(Progress("searching")) as bar:
        results = comparison.compare(task, methods, _budget(options, folder), progress=bar.move)
    if folder is not None:
        from ppuda_jax.structure.pictures import draw_comparison

        _write(folder, [dataclasses.asdict(row) for result in results for row in result.rows])
        draw_comparison(results, folder / "comparison.png")
    return flags.table(comparison.HEADER, [result.summary() for result in results])


def _budget(options: StructureConfig, folder: pathlib.Path | None) -> Any:
    from ppuda_jax.structure.comparison import Budget

    seeds = tuple(range(options.seeds))
    return Budget(options.epochs, options.batch_size, seeds, folder, options.eigenvalue_steps)


def _nasbench201(options: StructureConfig, folder: pathlib.Path | None) -> str:
    from ppuda_jax.structure import nasbench201, nasbench201_search

    if options.table is None:
        raise ValueError("the family nasbench201 looks picks up: give --table=CSV")
    table = nasbench201.read_table(options.table)
    methods = options.method or ("random", "evolution")
    with contextlib.closing(Progress("searching")) as bar:
        found = _cells(options, folder, table, methods, bar.move)
    if folder is not None:
        picks = {name: [nasbench201.to_text(c) for c in cells] for name, cells in found.picks}
        _write(folder, {"picks": picks, "notes": found.notes})
    text = flags.table(nasbench201_search.HEADER, found.rows(table))
    return flags.report(text, *found.notes, *found.against_all(table))


def _cells(
    options: StructureConfig,
    folder: pathlib.Path | None,
    table: Any,
    methods: Sequence[str],
    progress: Any,
) -> Any:
    """What the searches among cells find, by the weights that the options name."""
    from ppuda_jax.structure import nasbench201_search, tasks
    from ppuda_jax.structure.nasbench201_net import Skeleton
    from ppuda_jax.structure.weights import trained

    asked = {"queries": options.queries, "seeds": range(options.seeds), "progress": progress}
    if options.weights == "table":
        return nasbench201_search.by_table(table, methods, **asked)
    if options.weights == "predicted":
        return nasbench201_search.by_source(*_predicted(options), table, methods, **asked)
    images = _images(options)
    skeleton = Skeleton(images.classes, options.channels or 16, options.cells or 1, images.side)
    task = tasks.cells(images, skeleton, options.batch_size)
    budget = _budget(options, folder)
    if options.weights == "shared":
        return nasbench201_search.by_sharing(task, table, methods, budget, progress=progress)
    source = trained(task.problem, task.optimizers.weights, budget.settings)
    return nasbench201_search.by_source(task.problem, source, table, methods, **asked)


def _predicted(options: StructureConfig) -> tuple[Any, Any]:
    """The problem of cells on the images of a hypernetwork, and predicted weights."""
    from ppuda_jax.checkpoints import load_ghn
    from ppuda_jax.evaluation import load_eval_images
    from ppuda_jax.structure.nasbench201_net import Skeleton, supernet
    from ppuda_jax.structure.nasbench201_predicted import CellPredictor
    from ppuda_jax.structure.search.problem import Objects, classification
    from ppuda_jax.structure.weights import predicted

    ghn = load_ghn(options.checkpoint)
    images = load_eval_images(
        options.dataset,
        "val",
        options.data_dir,
        ghn=ghn,
        batch_size=options.images,
        max_images=options.images,
    )
    objects = Objects(images.batches[0].images, images.batches[0].labels)
    skeleton = Skeleton(channels=options.channels or 16, cells=options.cells or 1)
    problem = classification(supernet(skeleton), objects, objects, options.images)
    return problem, predicted(CellPredictor(ghn, skeleton))


def _write(folder: pathlib.Path, table: Any) -> None:
    write_atomic(folder / "table.json", json.dumps(table, indent=1) + "\n")


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the script."""
    flags.start(StructureConfig, run, __doc__, argv)


if __name__ == "__main__":
    main()
