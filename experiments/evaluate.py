"""Evaluates a hypernetwork on unseen architectures: `python -m experiments.evaluate`.

    python -m experiments.evaluate --checkpoint=DIR --data_dir=DIR --split=test,wide --output=DIR

Predicts the parameters of the networks of one or several splits of DeepNets-1M, runs them on
the test images (the val split: on validation images) and prints the paper's Table 3 with its
numbers beside. With `--output`, results per network are kept there as JSONL and CSV, and an
interrupted evaluation continues.
"""

import dataclasses
import functools
import json
import pathlib
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from ppuda_jax.config import check_types, described
from ppuda_jax.data.spec import DatasetSpec
from ppuda_jax.runtime.compilation import CompileCounter, compilation_cache

from . import flags


@dataclasses.dataclass(frozen=True)
class EvaluateConfig:
    """What is evaluated; every field is a flag."""

    checkpoint: str = described("ghn2-cifar10", "a shipped name, a run's folder, or a .pt file")
    dataset: str | None = described(None, "images; by default those that the checkpoint is for")
    data_dir: str | None = described(None, "TFDS folder with the prepared dataset")
    split: tuple[str, ...] = described(("test",), "splits, or files path.hdf5[:split]")
    num_nets: int | None = described(None, "networks per split; all of them by default")
    arch: tuple[int, ...] | None = described(None, "numbers of networks, instead of num_nets")
    noise: float = described(0.0, "standard deviation of noise on pixels in [0, 1]; paper: 0.08")
    batch_size: int = described(64, "images per batch, whose statistics batch norm uses")
    calibration_images: int = described(
        0, "training images whose statistics batch norm uses instead of each batch's; 0: published"
    )
    max_images: int | None = described(None, "only the first images")
    max_variants: int | None = described(None, "only networks of the most frequent variants")
    output: str | None = described(None, "folder for results")
    params: Literal["ghn", "random"] = described("ghn", "predicted, or He's random parameters")
    compute_dtype: Literal["float32", "bfloat16"] = described("float32", "type of activations")
    driver: Literal["auto", "host", "executor"] = described(
        "auto",
        "step by step from the host, or one compiled executor per variant; auto takes the host on "
        "one CPU device, where compiling executors takes longest",
    )
    memory_limit_gib: float = described(
        4.0, "networks that need more in the executor are compiled by themselves"
    )
    num_devices: int | None = described(None, "most devices to spread batches over; all of them")
    sgd_nets: int = described(0, "first networks of the first split that SGD trains for an epoch")
    compilation_cache: str | None = described("~/.cache/ppuda_jax/xla", "folder, or none")
    seed: int = described(0, "of noise and random parameters")

    def __post_init__(self) -> None:
        check_types(self)


def run(options: EvaluateConfig) -> str:
    """Evaluates; returns the table.

    Raises:
      ValueError: options that do not exist or do not fit together.
      FileNotFoundError: missing data.
    """
    with compilation_cache(options.compilation_cache), CompileCounter() as counter:
        return _run(options, counter)


def _run(options: EvaluateConfig, counter: CompileCounter) -> str:
    from ppuda_jax import evaluation
    from ppuda_jax.checkpoints import load_ghn
    from ppuda_jax.data.datasets import spec_for
    from ppuda_jax.programs import PROGRAMS

    settings = evaluation.EvalSettings(
        memory_limit_gib=options.memory_limit_gib,
        compute_dtype=options.compute_dtype,
        num_devices=options.num_devices,
        driver=options.driver,
    )
    if options.output is not None:
        _check_file_names(options.split)
    ghn = load_ghn(options.checkpoint)
    spec = spec_for(ghn.metadata, options.dataset, options.data_dir)
    groups = {
        split: evaluation.choose_networks(
            split,
            options.num_nets,
            indices=options.arch,
            num_classes=spec.num_classes,
            image_size=spec.image_size,
            max_variants=options.max_variants,
        )
        for split in options.split
    }
    parameters = (
        evaluation.predicted(ghn) if options.params == "ghn" else evaluation.he(options.seed)
    )
    images: dict[str, evaluation.EvalImages] = {}
    found, loads = {}, PROGRAMS.loads
    for split, nets in groups.items():
        part = _part(split)
        if part not in images:
            images[part] = evaluation.load_eval_images(
                options.dataset or spec.name,
                part,
                options.data_dir,
                ghn=ghn,
                batch_size=options.batch_size,
                max_images=options.max_images,
                noise=options.noise,
                seed=options.seed,
                calibration_images=options.calibration_images,
            )
        found[split] = evaluation.evaluate_archs(
            parameters,
            nets,
            images[part],
            settings=settings,
            results_path=_results_path(options.output, split),
            progress=_Bar(split),
        )
    sgd = _train_first(options, spec, groups, images, settings)
    if options.output is not None:
        _write(options.output, found)
    return flags.report(
        _table(options, ghn, spec.name, found),
        *(describe(split, results) for split, results in found.items()),
        *describe_sgd(sgd, found),
        f"{PROGRAMS.loads - loads} compiled programs, {counter.calls} calls of the compiler "
        f"({counter.cache_hits} answered by the cache), {counter.seconds:.0f} s",
    )


def _part(split: str) -> str:
    """Which images the networks of a split are evaluated on."""
    return "val" if split == "val" else "test"


def _train_first(
    options: EvaluateConfig,
    spec: DatasetSpec,
    groups: Mapping[str, Sequence],
    images: Mapping[str, Any],
    settings: Any,
) -> list:
    """Trains networks of the first split for one epoch (`finetune.trainings.Trained`)."""
    if not options.sgd_nets:
        return []
    from ppuda_jax.data.batches import training_images
    from ppuda_jax.evaluation.evaluate import images_identity
    from ppuda_jax.finetune.deepnets import best_way
    from ppuda_jax.finetune.inits import he
    from ppuda_jax.finetune.recipe import Recipe
    from ppuda_jax.finetune.trainings import Trainings

    split, recipe = next(iter(groups)), Recipe(schedule="constant")
    name, held_out = options.dataset or spec.name, images[_part(split)]
    train = training_images(name, recipe.batch_size, options.seed, options.data_dir, trained=spec)
    trainings = Trainings(
        lambda seed: train,
        {recipe.optimizer: recipe},
        steps=-(-train.num_images // recipe.batch_size),
        path=_results_path(options.output, "sgd"),
        identity=images_identity(held_out, settings),
    )
    found = []
    for net in groups[split][: options.sgd_nets]:
        network = best_way(net, recipe, options.driver, options.memory_limit_gib)
        start = functools.partial(he(), network, options.seed)
        done = trainings.train(
            net, network, "he", start, recipe.optimizer, held_out, seed=options.seed
        )
        last = done.last
        print(f"{net.name}: SGD {last.accuracy:.3f} in {last.seconds:.0f} s", file=sys.stderr)
        found.append(done)
    return found


def describe_sgd(sgd: Sequence, found: Mapping[str, Sequence]) -> list[str]:
    """One line that compares networks trained for an epoch with the predictions for them."""
    from ppuda_jax.evaluation.results import mean_and_error

    if not sgd:
        return []
    split, results = next(iter(found.items()))
    trained = {(done.split, done.index) for done in sgd}
    predicted = [result for result in results if (result.split, result.index) in trained]
    mean, error = mean_and_error([100 * done.last.accuracy for done in sgd])
    ours = mean_and_error([100 * result.top1 for result in predicted])
    epoch, _ = mean_and_error([done.last.seconds for done in sgd])
    predict, _ = mean_and_error([result.predict_s for result in predicted])
    return [
        f"{split}, {len(sgd)} networks trained by SGD for one epoch: top-1 {mean:.1f} ± "
        f"{error:.1f} % in {epoch:.1f} s each; predicted {ours[0]:.1f} ± {ours[1]:.1f} % in "
        f"{predict:.3f} s"
    ]


def _table(options: EvaluateConfig, ghn: Any, dataset: str, found: Mapping[str, Sequence]) -> str:
    """Our row and the paper's."""
    from ppuda_jax.evaluation import published

    metric = published.METRIC.get(dataset, "top1")
    rows = {"ours" if options.params == "ghn" else "random": columns(found, metric)}
    for method in (published.model_of(ghn.config), "SGD, 1 epoch"):
        row = published.published_row(dataset, method)
        if row is not None:
            rows[f"paper, {method}"] = {name: f"{value:.1f}" for name, value in row.items()}
    chance = 100 * (5 if metric == "top5" else 1) / ghn.config.num_classes
    noise = f", noise {options.noise:g}" if options.noise else ""
    title = f"{ghn.name} on {dataset}: {metric} in %, chance {chance:.1f}{noise}"
    return in_papers_order(rows, published.COLUMNS, title)


def columns(groups: Mapping[str, Sequence], metric: str) -> dict[str, str]:
    """Cells of our row of the table, by column."""
    from ppuda_jax.evaluation.results import table_row

    return {
        name: f"{value:.1f}" if error is None else f"{value:.1f} ± {error:.1f}"
        for name, (value, error) in table_row(groups, metric).items()
    }


def in_papers_order(
    rows: Mapping[str, Mapping[str, str]], names: Sequence[str], title: str = ""
) -> str:
    """A table of rows of cells; columns that nothing of ours is in are left out."""
    first = next(iter(rows.values()))
    shown = [name for name in names if name in first]
    shown += [name for name in first if name not in shown]
    cells = [[label, *(row.get(name, "-") for name in shown)] for label, row in rows.items()]
    return flags.table(["", *shown], cells, title)


def describe(split: str, results: Sequence) -> str:
    """One line on a split: number of networks, top-5, times, what needed its own program."""
    from ppuda_jax.evaluation import summarise

    s = summarise(results)
    text = (
        f"{split}: {s.count} networks, {results[0].num_images} images, top-1 {100 * s.top1:.1f} ± "
        f"{100 * s.top1_se:.1f} (max {100 * s.top1_max:.1f}), top-5 {100 * s.top5:.1f} ± "
        f"{100 * s.top5_se:.1f} %; per network {s.predict_s:.3f} s to predict, {s.run_s:.2f} s "
        f"to run; "
    )
    host = sum(r.runner == "host" for r in results)
    ways = [f"{host} driven from the host"] if host else []
    ways += [f"{s.through_executor} through the executor"] if s.through_executor or not host else []
    text += ", ".join(ways)
    reasons = {r.reason.partition(":")[0] for r in results if r.reason}
    if reasons:
        text += f", others compiled by themselves ({'; '.join(sorted(reasons))})"
    return text + (f"; {s.not_finite} without a finite loss" if s.not_finite else "")


class _Bar:
    """A progress bar on stderr with the running mean and the time left."""

    def __init__(self, split: str) -> None:
        self._split, self._bar, self._sum, self._count = split, None, 0.0, 0

    def __call__(self, done: int, total: int, result, left: float) -> None:
        import tqdm

        if self._bar is None:
            layout = "{desc} {n}/{total}{postfix}"
            self._bar = tqdm.tqdm(
                total=total, initial=done - 1, desc=self._split, bar_format=layout
            )
        self._sum, self._count = self._sum + result.top1, self._count + 1
        minutes, seconds = divmod(round(left), 60)
        self._bar.set_postfix_str(
            f"{result.name} {result.top1:.3f}, mean {self._sum / self._count:.3f}, "
            f"{minutes}:{seconds:02d} left",
            refresh=False,
        )
        self._bar.update()
        if done == total:
            self._bar.close()


def _file_name(split: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "-", pathlib.Path(split).name).strip("-")


def _check_file_names(splits: Sequence[str]) -> None:
    """Raises ValueError if the results of two splits would be written to one file."""
    names = [_file_name(split) for split in splits]
    twice = [split for split, name in zip(splits, names, strict=True) if names.count(name) > 1]
    if twice:
        raise ValueError(
            f"the results of {', '.join(twice)} would be written to one file: evaluate them with "
            "different --output"
        )


def _results_path(output: str | None, split: str) -> pathlib.Path | None:
    if output is None:
        return None
    return pathlib.Path(output).expanduser() / f"{_file_name(split)}.jsonl"


def _write(output: str, groups: Mapping[str, Sequence]) -> None:
    """Writes results of all networks as CSV and summaries as JSON."""
    from ppuda_jax import config, evaluation

    folder = pathlib.Path(output).expanduser()
    for split, results in groups.items():
        config.write_atomic(folder / f"{_file_name(split)}.csv", evaluation.to_csv(results))
    summaries = {
        split: dataclasses.asdict(evaluation.summarise(results))
        for split, results in groups.items()
    }
    config.write_atomic(folder / "summary.json", json.dumps(summaries, indent=1) + "\n")


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the script."""
    flags.start(
        EvaluateConfig,
        run,
        __doc__,
        argv,
        interrupted="interrupted; with --output, the same command continues",
    )


if __name__ == "__main__":
    main()
