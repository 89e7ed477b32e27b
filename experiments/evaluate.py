"""Evaluates a hypernetwork on unseen architectures: `python -m experiments.evaluate`.

    python -m experiments.evaluate --checkpoint=DIR --data_dir=DIR --split=test,wide --output=DIR

Predicts the parameters of the networks of one or several splits of DeepNets-1M, runs them on
the test images (the val split: on validation images) and prints the paper's Table 3 with its
numbers beside. With `--output`, results per network are kept there as JSONL and CSV, and an
interrupted evaluation continues.
"""

import json
import pathlib
import re
import sys
from collections.abc import Mapping, Sequence

from absl import app, flags, logging

FLAGS = flags.FLAGS

flags.DEFINE_string("checkpoint", "ghn2-cifar10", "a shipped name, a run's folder, or a .pt file")
flags.DEFINE_string("dataset", None, "images; by default those that the checkpoint is for")
flags.DEFINE_string("data_dir", None, "TFDS folder with the prepared dataset")
flags.DEFINE_list("split", ["test"], "splits, comma separated, or a file path.hdf5[:split]")
flags.DEFINE_integer("num_nets", None, "networks per split; all of them by default")
flags.DEFINE_list("arch", None, "numbers of the networks to evaluate, instead of num_nets")
flags.DEFINE_float("noise", 0.0, "standard deviation of noise on pixels in [0, 1]; paper: 0.08")
flags.DEFINE_integer("batch_size", 64, "images per batch, whose statistics batch norm uses")
flags.DEFINE_integer("max_images", None, "only the first images")
flags.DEFINE_integer("max_variants", None, "only networks of the most frequent executor variants")
flags.DEFINE_string("output", None, "folder for results")
flags.DEFINE_enum("params", "ghn", ["ghn", "random"], "predicted, or He's random parameters")
flags.DEFINE_enum("compute_dtype", "float32", ["float32", "bfloat16"], "type of activations")
flags.DEFINE_float("memory_limit_gib", 4.0, "networks that need more are compiled by themselves")
flags.DEFINE_string("compilation_cache", "~/.cache/ppuda_jax/xla", "folder, or none")
flags.DEFINE_integer("seed", 0, "of noise and random parameters")


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments {argv[1:]}; use --flag=value")
    logging.set_verbosity(logging.ERROR)
    try:
        print(run())
    except (ValueError, FileNotFoundError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
    except KeyboardInterrupt:
        sys.exit("interrupted; the same command with --output continues" if FLAGS.output else 130)


def run() -> str:
    """Evaluates what the flags ask for; returns the table."""
    from ppuda_jax import evaluation
    from ppuda_jax.checkpoints import load_ghn
    from ppuda_jax.evaluation import published
    from ppuda_jax.training.compilation import CompileCounter, use_cache

    use_cache(None if FLAGS.compilation_cache.lower() == "none" else FLAGS.compilation_cache)
    counter = CompileCounter()
    settings = evaluation.EvalSettings(
        params=FLAGS.params,
        memory_limit_gib=FLAGS.memory_limit_gib,
        compute_dtype=FLAGS.compute_dtype,
        seed=FLAGS.seed,
    )
    ghn = load_ghn(FLAGS.checkpoint)
    dataset = FLAGS.dataset or ghn.metadata.get("dataset", "cifar10")
    groups, evaluators = {}, {}
    for split in FLAGS.split:
        part = "val" if split == "val" else "test"
        if part not in evaluators:
            images = evaluation.load_eval_images(
                dataset, part, FLAGS.data_dir, batch_size=FLAGS.batch_size,
                max_images=FLAGS.max_images, noise=FLAGS.noise, seed=FLAGS.seed,
            )  # fmt: skip
            evaluators[part] = evaluation.Evaluator(ghn.config, images, settings)
        evaluator = evaluators[part]
        nets = evaluation.choose_networks(
            split, FLAGS.num_nets,
            indices=None if FLAGS.arch is None else [int(i) for i in FLAGS.arch],
            num_classes=evaluator.images.spec.num_classes,
            image_size=evaluator.images.spec.image_size, max_variants=FLAGS.max_variants,
        )  # fmt: skip
        groups[split] = evaluation.evaluate_archs(
            ghn, nets, evaluator.images, evaluator=evaluator,
            results_path=_results_path(split), progress=_Bar(split),
        )  # fmt: skip
    if FLAGS.output is not None:
        _write(groups)
    metric = published.METRIC.get(dataset, "top1")
    rows = {"ours" if FLAGS.params == "ghn" else "random": columns(groups, metric)}
    for method in (published.model_of(ghn.config), "SGD, 1 epoch"):
        row = published.published_row(dataset, method)
        if row is not None:
            rows[f"paper, {method}"] = {name: f"{value:.1f}" for name, value in row.items()}
    noise = f", noise {FLAGS.noise:g}" if FLAGS.noise else ""
    programs = sum(evaluator.programs for evaluator in evaluators.values())
    return "\n".join([
        f"{ghn.name} on {dataset}: {metric} in %, chance "
        f"{100 * (5 if metric == 'top5' else 1) / ghn.config.num_classes:.1f}{noise}",
        format_table(rows, published.COLUMNS),
        *(describe(split, results) for split, results in groups.items()),
        f"{programs} compiled programs, {counter.calls} calls of the compiler "
        f"({counter.cache_hits} answered by the cache), {counter.seconds:.0f} s",
    ])  # fmt: skip


def columns(groups: Mapping[str, Sequence], metric: str) -> dict[str, str]:
    """Cells of our row of the table, by column."""
    from ppuda_jax.evaluation.results import mean_and_error

    cells = {}
    for split, results in groups.items():
        values = [100 * getattr(result, metric) for result in results]
        if split == "predefined":
            for result, value in zip(results, values, strict=True):
                cells["resnet50" if result.index == 0 else "vit"] = f"{value:.1f}"
            continue
        mean, error = mean_and_error(values)
        cells[split] = f"{mean:.1f} ± {error:.1f}"
        if split == "test":
            cells["test max"] = f"{max(values):.1f}"
    return cells


def format_table(rows: Mapping[str, Mapping[str, str]], names: Sequence[str]) -> str:
    """Lays out rows of cells; columns that nothing of ours is in are left out."""
    first = next(iter(rows.values()))
    shown = [name for name in names if name in first]
    shown += [name for name in first if name not in shown]
    lines = [["", *shown]]
    lines += [[label, *(cells.get(name, "-") for name in shown)] for label, cells in rows.items()]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(f"{cell:>{width}}" for cell, width in zip(line, widths, strict=True))
        for line in lines
    )


def describe(split: str, results: Sequence) -> str:
    """One line on a split: number of networks, top-5, times, what needed its own program."""
    from ppuda_jax.evaluation import summarise

    s = summarise(results)
    text = (
        f"{split}: {s.count} networks, {results[0].num_images} images, top-1 {100 * s.top1:.1f} ± "
        f"{100 * s.top1_se:.1f} (max {100 * s.top1_max:.1f}), top-5 {100 * s.top5:.1f} ± "
        f"{100 * s.top5_se:.1f} %; per network {s.predict_s:.3f} s to predict, {s.run_s:.2f} s "
        f"to run; {s.through_executor} through the executor"
    )
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


def _results_path(split: str) -> pathlib.Path | None:
    if FLAGS.output is None:
        return None
    return pathlib.Path(FLAGS.output).expanduser() / f"{_file_name(split)}.jsonl"


def _write(groups: Mapping[str, Sequence]) -> None:
    """Writes results of all networks as CSV and the summaries as JSON."""
    import dataclasses

    from ppuda_jax import config, evaluation

    folder = pathlib.Path(FLAGS.output).expanduser()
    for split, results in groups.items():
        config.write_atomic(folder / f"{_file_name(split)}.csv", evaluation.to_csv(results))
    summaries = {
        split: dataclasses.asdict(evaluation.summarise(results))
        for split, results in groups.items()
    }
    config.write_atomic(folder / "summary.json", json.dumps(summaries, indent=1) + "\n")


if __name__ == "__main__":
    app.run(main)
