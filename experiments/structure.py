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
- `nasbench201`, cells whose worth comes from the benchmark's table, from parameters that a
  hypernetwork predicts, or from shared weights; the picks are looked up in the table.

With `--output`, the table is kept there as `table.json` and a picture beside it, and an interrupted
search of the family mlp continues.
"""

import dataclasses
import json
import pathlib
from collections.abc import Sequence
from typing import Any, Literal

from ppuda_jax.config import check_types, described, write_atomic

from . import flags


@dataclasses.dataclass(frozen=True)
class StructureConfig:
    """What is searched; every field is a flag."""

    family: Literal["synthetic", "hyperparameters", "mlp", "nasbench201"] = described(
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
    widths: tuple[int, ...] = described((16, 32, 64, 128, 256), "of a layer of the family mlp")
    layers: int = described(4, "most hidden layers of the family mlp")
    steps: int = described(1000, "of the family synthetic")
    weights: Literal["table", "predicted", "shared"] = described(
        "predicted", "what a cell of nasbench201 is scored with"
    )
    table: str | None = described(None, "CSV file with the accuracies of nasbench201")
    checkpoint: str = described("ghn2-cifar10", "hypernetwork: a shipped name, or a run's folder")
    queries: int = described(100, "cells that a search may ask for, by table or predicted")
    cells: int = described(1, "of each of the three stages of nasbench201; published: 5")
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
        "nasbench201": _nasbench201,
    }
    return families[options.family](options, folder)


def _synthetic(options: StructureConfig, folder: pathlib.Path | None) -> str:
    from ppuda_jax.structure import synthetic

    if options.method not in (None, ("variational",)):
        raise ValueError(
            f"the family synthetic is for --method=variational, received {options.method}"
        )
    outcomes = [
        synthetic.select(setting, range(options.seeds), steps=options.steps)
        for setting in synthetic.settings()
    ]
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
    outcomes = {name: hyperparameters.run(name, range(options.seeds), budget) for name in methods}
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
    from ppuda_jax.structure import comparison

    budget = comparison.Budget(
        options.epochs, options.batch_size, tuple(range(options.seeds)), folder
    )
    task = comparison.image_task(
        options.dataset,
        options.data_dir,
        widths=options.widths,
        layers=options.layers,
        max_images=options.max_images,
    )
    results = comparison.compare(task, options.method or ("variational",), budget)
    if folder is not None:
        from ppuda_jax.structure.pictures import draw_comparison

        _write(folder, [dataclasses.asdict(row) for result in results for row in result.rows])
        draw_comparison(results, folder / "comparison.png")
    return flags.table(comparison.HEADER, [result.summary() for result in results])


def _nasbench201(options: StructureConfig, folder: pathlib.Path | None) -> str:
    from ppuda_jax.structure import nasbench201, nasbench201_search
    from ppuda_jax.structure.nasbench201_net import Skeleton
    from ppuda_jax.structure.search import SearchSettings

    if options.table is None:
        raise ValueError("the family nasbench201 looks picks up: give --table=CSV")
    table = nasbench201.read_table(options.table)
    seeds = range(options.seeds)
    skeleton = Skeleton(cells=options.cells)
    methods = options.method or ("random", "evolution")
    if options.weights == "table":
        found = nasbench201_search.by_table(table, methods, queries=options.queries, seeds=seeds)
    elif options.weights == "predicted":
        scorer = _scorer(options, skeleton)
        found = nasbench201_search.by_prediction(
            scorer, table, methods, queries=options.queries, seeds=seeds
        )
    else:
        problem = nasbench201_search.image_problem(
            options.dataset, options.data_dir, skeleton, options.max_images
        )
        settings = SearchSettings(options.epochs, options.batch_size)
        found = nasbench201_search.by_sharing(problem, methods, settings, seeds)
    if folder is not None:
        picks = {name: [nasbench201.to_text(c) for c in cells] for name, cells in found.picks}
        _write(folder, {"picks": picks, "notes": found.notes})
    text = flags.table(nasbench201_search.HEADER, found.rows(table))
    return flags.report(text, *found.notes)


def _scorer(options: StructureConfig, skeleton: Any) -> Any:
    from ppuda_jax.checkpoints import load_ghn
    from ppuda_jax.evaluation import load_eval_images
    from ppuda_jax.structure.nasbench201_predicted import PredictedScorer

    ghn = load_ghn(options.checkpoint)
    images = load_eval_images(
        options.dataset,
        "val",
        options.data_dir,
        ghn=ghn,
        batch_size=options.images,
        max_images=options.images,
    )
    batch = images.batches[0]
    return PredictedScorer(ghn, skeleton, batch.images, batch.labels)


def _write(folder: pathlib.Path, table: Any) -> None:
    write_atomic(folder / "table.json", json.dumps(table, indent=1) + "\n")


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the script."""
    flags.start(StructureConfig, run, __doc__, argv)


if __name__ == "__main__":
    main()
