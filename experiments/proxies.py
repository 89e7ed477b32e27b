r"""Says what cheap proxies tell of trained accuracy: `python -m experiments.proxies`.

    python -m experiments.proxies --space=nasbench201 --table=CSV --num_nets=50 --dataset=cifar10 \
      --data_dir=DIR --output=DIR
    python -m experiments.proxies --space=deepnets --dataset=digits --num_nets=20 --output=DIR

Scores a sample of networks at several initialisations, and prints for each proxy its rank
correlations with the accuracy after training, over all networks and among the better half, the
regret of its pick, its cost, and the correlation of the parameter count beside it. The truth is the
benchmark's table, or short trainings of the networks of a split. With `--output`, scores are kept
there in `scores.jsonl`, trainings in `truth.jsonl` and the table in `table.json`, and an
interrupted run continues.
"""

import dataclasses
import json
import pathlib
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from ppuda_jax.config import described, write_atomic
from ppuda_jax.proxies import registry
from ppuda_jax.runtime.compilation import compilation_cache
from ppuda_jax.runtime.progress import Progress, say

from . import flags
from .scorers import ScorerConfig, Source, cell_scorer, identity_of, net_scorer

_HEADER = (
    *(
        "proxy",
        "networks",
        "Spearman",
        "Kendall",
        "of all",
        "upper half",
        "upper Kendall",
        "regret",
    ),
    *("params", "seconds"),
)


@dataclasses.dataclass(frozen=True)
class ProxiesConfig(ScorerConfig):
    """What is scored; every field is a flag."""

    space: Literal["nasbench201", "deepnets"] = described("nasbench201", "of the networks")
    num_nets: int | None = described(None, "networks; 50 of nasbench201, 12 of deepnets")
    seeds: int = described(3, "initialisations")
    proxies: tuple[str, ...] | None = described(
        None,
        "by default those that neither compile nor train a network by itself, and not grasp, "
        "whose second derivative takes longer than all others together; of "
        f"{', '.join(registry.PROXIES)}",
    )
    table: str | None = described(None, "CSV file with the accuracies of nasbench201")
    truth: str | None = described(
        None, "images of the accuracies of nasbench201; by default the dataset"
    )
    sample_seed: int = described(0, "of the sample of nasbench201")
    split: str = described("test", "of deepnets, or a file path.hdf5[:split]")
    max_variants: int | None = described(
        3, "only networks of deepnets of the most frequent variants, which are narrow; none for all"
    )
    truth_steps: int = described(30, "of the trainings that are the truth of deepnets")
    truth_images: int | None = described(1000, "test images that they are evaluated on")
    output: str | None = described(None, "folder for scores and the table")

    def __post_init__(self) -> None:
        super().__post_init__()
        registry.check_names(self.names)
        if self.count < 4:
            raise ValueError(
                f"networks are ranked, and so is their better half: num_nets must be at least 4, "
                f"received {self.count}"
            )
        if self.seeds < 1 or self.truth_steps < 1:
            raise ValueError("seeds and truth_steps must be at least 1")

    @property
    def count(self) -> int:
        """Networks."""
        default = 50 if self.space == "nasbench201" else 12
        return default if self.num_nets is None else self.num_nets

    @property
    def names(self) -> tuple[str, ...]:
        """The proxies, the baseline among them."""
        if self.proxies is not None:
            return tuple(dict.fromkeys((*self.proxies, *registry.STATIC[:1])))
        quick = tuple(name for name in registry.RANDOM if name != "grasp")
        if self.space == "nasbench201":
            return (*quick, *registry.STATIC, *registry.PREDICTED)
        from ppuda_jax.proxies.deepnets import SHARED

        cheap = (*SHARED, *registry.PREDICTED)
        return (
            (*registry.RANDOM, *registry.STATIC, *registry.PREDICTED)
            if self.compile_each
            else cheap
        )


def run(options: ProxiesConfig) -> str:
    """Scores networks; returns the table.

    Raises:
      ValueError: options that do not exist or do not fit together.
      FileNotFoundError: missing data.
    """
    with compilation_cache(options.compilation_cache):
        return _run(options)


def _run(options: ProxiesConfig) -> str:
    from ppuda_jax.proxies.run import report, score_all

    folder = None if options.output is None else pathlib.Path(options.output).expanduser()
    if options.space == "nasbench201":
        if options.table is None:
            raise ValueError("nasbench201 is compared with the benchmark's table: give --table=CSV")
        networks, truth, source = _cells(options, options.table)
        scorer = cell_scorer(options, source, options.names)
    else:
        source = options.source
        networks = _nets(options, source)
        scorer = net_scorer(options, source, options.names)
        truth = {}
    bar = Progress("scores")
    try:
        scored = score_all(
            scorer,
            networks,
            options.names,
            seeds=options.seeds,
            path=None if folder is None else folder / "scores.jsonl",
            identity=identity_of(options, source, options.space),
            progress=lambda done, total, newest: bar.move(done / total, newest.name),
        )
    finally:
        bar.close()
    if not truth:
        truth = _trained(options, source, networks, scorer, folder)
    rows, left_out = report(scored, truth, options.names)
    for name, reason in left_out.items():
        say(f"{name}: {reason}")
    _name_failures(rows)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        entries: list[dict[str, Any]] = [dataclasses.asdict(row) for row in rows]
        entries += [{"proxy": n, "spearman": None, "reason": why} for n, why in left_out.items()]
        write_atomic(folder / "table.json", json.dumps(entries, indent=1) + "\n")
    title = f"{len(networks)} networks of {options.space}, {options.seeds} initialisations"
    return flags.table(
        _HEADER, [_cells_of(row) for row in rows], title, list(map(dataclasses.asdict, rows))
    )


def _cells(options: ProxiesConfig, path: str) -> tuple[list[Any], dict[str, float], Source]:
    """A sample of cells, with their accuracies."""
    from ppuda_jax.structure import nasbench201

    table = nasbench201.read_table(path)
    if options.count > len(table.cells):
        raise ValueError(
            f"the table has {len(table.cells)} cells, received num_nets={options.count}"
        )
    source = options.source
    accuracy = table.column(options.truth or source.spec.name, "test", 200)
    order = np.random.default_rng(options.sample_seed).permutation(len(table.cells))
    rows = order[: options.count]
    truth = {table.cells[row]: float(accuracy[row]) for row in rows}
    return [nasbench201.from_text(text) for text in truth], truth, source


def _nets(options: ProxiesConfig, source: Source) -> list[Any]:
    from ppuda_jax.evaluation import choose_networks

    return list(
        choose_networks(
            options.split,
            options.count,
            num_classes=source.spec.num_classes,
            image_size=source.spec.image_size,
            max_variants=options.max_variants,
        )
    )


def _trained(
    options: ProxiesConfig,
    source: Source,
    networks: Sequence[Any],
    scorer: Any,
    folder: pathlib.Path | None,
) -> dict[str, float]:
    """The accuracies in % of networks that are trained for a short while."""
    from ppuda_jax.data.batches import training_images
    from ppuda_jax.evaluation import load_eval_images
    from ppuda_jax.finetune.deepnets import best_way
    from ppuda_jax.finetune.recipe import Recipe
    from ppuda_jax.finetune.trainings import Trainings

    trained = source.spec if source.own else None
    name, size = source.spec.name, options.batch_size
    images = training_images(name, size, 0, options.data_dir, trained=trained)
    held_out = load_eval_images(
        name, "test", options.data_dir, ghn=source.trained, max_images=options.truth_images
    )
    recipe = Recipe(batch_size=size)
    trainings = Trainings(
        lambda seed: images,
        {"sgd": recipe},
        steps=options.truth_steps,
        path=None if folder is None else folder / "truth.jsonl",
        identity={"dataset": source.spec.fingerprint, "images": options.truth_images},
    )
    accuracies, bar = {}, Progress("trainings")
    for number, net in enumerate(networks, 1):
        network = best_way(net, recipe)
        start = lambda network=network: network.pack(network.initial(0))  # noqa: E731
        done = trainings.train(net, network, "he", start, "sgd", held_out)
        accuracies[scorer.name(net)] = 100 * done.last.accuracy
        bar.move(number / len(networks), net.name)
    bar.close()
    return accuracies


def _name_failures(rows: Sequence[Any]) -> None:
    """Says which networks were left out, once for all proxies with the same reason."""
    proxies: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        for name, reason in row.failed.items():
            proxies.setdefault((name, reason), []).append(row.proxy)
    for (name, reason), whose in proxies.items():
        say(f"{name} is left out of {', '.join(whose)}: {reason}")


def _cells_of(row: Any) -> list[object]:
    def spread(name: str) -> str:
        return f"{getattr(row, name):.3f} ± {getattr(row, f'{name}_std'):.3f}"

    return [
        row.proxy,
        str(row.networks),
        spread("spearman"),
        spread("kendall"),
        row.all_spearman,
        row.upper_spearman,
        row.upper_kendall,
        f"{row.regret:.2f}",
        row.params_spearman,
        f"{row.seconds:.3f}",
    ]


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the script."""
    flags.start(
        ProxiesConfig,
        run,
        __doc__,
        argv,
        interrupted="interrupted; with --output, the same command continues",
    )


if __name__ == "__main__":
    main()
