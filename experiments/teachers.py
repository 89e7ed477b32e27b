r"""Do trained networks in the objective make better predictions? `python -m experiments.teachers`.

    python -m experiments.train_zoo --dataset=digits --num_nets=8 --steps=50 --output=ZOO
    python -m experiments.teachers --dataset=digits --teachers=ZOO --steps=20 --num_nets=4 \
      --max_images=128 --output=DIR

Trains on from one hypernetwork with several objectives: the same architectures (those of the
teachers), images, steps and seed; only the terms differ. Each is evaluated on the same unseen
networks of the test split, and compared with the task alone, network by network. Below are the
controls of the memorisation audit: a hypernetwork that has learnt more than the parameters of its
teachers beats the nearest of them, the same with noise, and the mean of all. What is done already
is not done again.
"""

import dataclasses
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ppuda_jax import config as config_lib
from ppuda_jax.config import check_types, described
from ppuda_jax.runtime.memory import share_one_arena
from ppuda_jax.runtime.progress import say
from ppuda_jax.training.config import TrainConfig

from . import flags

ARMS = ("task", "distill", "regress", "regress_unaligned", "reptile")


@dataclasses.dataclass(frozen=True)
class TeachersConfig:
    """The experiment; every field is a flag."""

    teachers: str = described("runs/zoo", "folder of experiments.train_zoo")
    output: str = described("runs/teachers", "folder of the runs and results")
    trained: str | None = described(
        None,
        "regress: another folder of the same architectures, such as one that was trained from "
        "random parameters; by default the teachers",
    )
    checkpoint: str = described("ghn2-cifar10", "where every arm starts")
    dataset: str = described("cifar10", "images")
    data_dir: str | None = described(None, "TFDS folder with the prepared dataset")
    arms: tuple[str, ...] = described(ARMS, "objectives, the first with each of the others")
    steps: int = described(80, "updates of each arm")
    batch_size: int = described(32, "images per update, of one network")
    learning_rate: float = described(1e-4, "of Adam, after a warm-up; falls along a cosine")
    head_rate: float = described(1.0, "factor on the rate of the class heads")
    distill: float = described(1.0, "weight of the term")
    regress: float = described(0.3, "weight of the term, aligned and not")
    reptile: float = described(1.0, "weight of the term")
    temperature: float = described(4.0, "distill: that logits are divided by")
    reptile_steps: int = described(3, "reptile: steps of SGD from the predicted parameters")
    reptile_rate: float = described(0.01, "reptile: their learning rate")
    scale_free: bool = described(False, "regress: compare directions of filters before norms")
    teacher_held_out: float = described(0.1, "share of the teachers' architectures left out")
    seed: int = described(1111, "of architectures and images, the same for all arms")
    num_nets: int = described(20, "unseen networks of the test split, as narrow as the teachers")
    max_images: int = described(640, "the first test images")
    compilation_cache: str | None = described("~/.cache/ppuda_jax/xla", "folder, or none")

    def __post_init__(self) -> None:
        check_types(self)
        unknown = [arm for arm in self.arms if arm not in ARMS]
        if unknown or not self.arms or len(set(self.arms)) < len(self.arms):
            raise ValueError(f"arms are different ones of {', '.join(ARMS)}, received {self.arms}")
        if self.num_nets < 2:
            raise ValueError(
                f"differences are tested over networks, at least 2, received {self.num_nets}"
            )

    def settings(self, arm: str) -> TrainConfig:
        """The run of an arm."""
        weights = {"distill": self.distill, "regress": self.regress, "reptile": self.reptile}
        term = f"{arm}:{weights[arm.removesuffix('_unaligned')]:g}" if arm != "task" else "task:1"
        regresses = arm.startswith("regress")
        return TrainConfig(
            dataset=self.dataset,
            data_dir=self.data_dir,
            init_from=self.checkpoint,
            teacher=(self.trained if regresses else None) or self.teachers,
            teacher_terms=(term,),
            temperature=self.temperature,
            reptile_steps=self.reptile_steps,
            reptile_rate=self.reptile_rate,
            scale_free=self.scale_free,
            teacher_held_out=self.teacher_held_out,
            meta_batch_size=1,
            batch_size=self.batch_size,
            steps=self.steps,
            learning_rate=self.learning_rate,
            head_rate=self.head_rate,
            lr_schedule="cosine",
            lr_warmup=0.1,
            grad_clip=1.0,
            stratified=True,
            seed=self.seed,
            probe_archs=64,
            compile_ahead=20,
            log_every=10,
            checkpoint_every=20,
            arch_workers=0,
            compilation_cache=self.compilation_cache,
            workdir=str(pathlib.Path(self.output).expanduser() / arm),
        )


@dataclasses.dataclass(frozen=True)
class Row:
    """One way to get parameters; accuracies are fractions.

    Attributes:
      name: of an arm or a control.
      accuracies: of each test network.
      distance: of predictions from the teachers' parameters after alignment, mean over teachers.
      unaligned: without alignment.
      held_out: `distance` for architectures that were held out; NaN if none was.
    """

    name: str
    accuracies: tuple[float, ...]
    distance: float = float("nan")
    unaligned: float = float("nan")
    held_out: float = float("nan")


def run(options: TeachersConfig) -> str:
    """Runs what is missing; returns the table.

    Raises:
      ValueError: options that do not fit together, or teachers of other images.
      FileNotFoundError: missing data or teachers.
    """
    share_one_arena()  # before the first use of JAX, which starts threads
    from ppuda_jax.runtime.compilation import compilation_cache

    folder = pathlib.Path(options.output).expanduser()
    _check_same_architectures(options)
    ghns = {"start": _start(options)}
    for arm in options.arms:
        say(f"{arm}: {options.steps} steps")
        ghns[arm] = dataclasses.replace(ghns["start"], theta=_train(options.settings(arm)))
    with compilation_cache(options.compilation_cache):
        rows = _measure(options, ghns, folder)
    first = next(row for row in rows if row.name == options.arms[0])
    table = [_compared(row, first) for row in rows]
    folder.mkdir(parents=True, exist_ok=True)
    config_lib.write_atomic(folder / "table.json", json.dumps(table, indent=1) + "\n")
    return _table(options, table)


def _check_same_architectures(options: TeachersConfig) -> None:
    from ppuda_jax.teachers.store import open_store

    keys = [set(open_store(path).teachers) for path in (options.teachers, options.trained) if path]
    if len(keys) == 2 and keys[0] != keys[1]:
        raise ValueError(
            f"all arms must see the same architectures: {options.teachers} and {options.trained} "
            f"share {len(keys[0] & keys[1])} of {len(keys[0])} and {len(keys[1])}; make both with "
            "the same --split, --num_nets, --max_variants and --max_params"
        )


def _start(options: TeachersConfig) -> Any:
    """The hypernetwork that all arms begin with, its class heads those of the images."""
    from ppuda_jax.ghn.config import GHNConfig
    from ppuda_jax.ghn.loaded import LoadedGHN
    from ppuda_jax.training.setup import deepnets_task

    task = deepnets_task(options.settings(options.arms[0]))
    config = GHNConfig.from_dict(task.record["ghn"])
    return LoadedGHN(config, task.theta, options.checkpoint, task.record["metadata"])


def _train(settings: TrainConfig) -> Any:
    from ppuda_jax.training.loop import train
    from ppuda_jax.training.setup import deepnets_task

    result = train(settings, deepnets_task(settings))
    if result.reason != "finished":
        raise KeyboardInterrupt
    return result.theta


def _measure(options: TeachersConfig, ghns: Mapping[str, Any], folder: pathlib.Path) -> list[Row]:
    from ppuda_jax.evaluation import evaluate_archs, given, load_eval_images, predicted
    from ppuda_jax.evaluation.parameters import he_params
    from ppuda_jax.teachers.controls import borrowed, mean_of_all, nearest, with_noise
    from ppuda_jax.teachers.store import open_store
    from ppuda_jax.training.setup import deepnets_task

    from .report import unseen_networks

    settings = options.settings(options.arms[0])
    nets = unseen_networks(settings, deepnets_task(settings), options.num_nets)
    images = load_eval_images(
        options.dataset,
        "test",
        options.data_dir,
        max_images=options.max_images,
        batch_size=options.batch_size,  # what training compiled is used again
    )
    store = open_store(options.teachers)

    def evaluate(name: str, parameters: Any) -> tuple[float, ...]:
        say(f"{name}: {len(nets)} networks on {images.num_images} images")
        path = folder / f"{name.replace(' ', '_')}.jsonl"
        results = evaluate_archs(parameters, nets, images, results_path=path)
        return tuple(result.top1 for result in results)

    rows = []
    for name, ghn in ghns.items():
        distances = _distances(options, ghn)
        rows.append(Row(name, evaluate(name, predicted(ghn)), *distances))

    def control(make: Any) -> Any:
        def params(net: Any) -> Any:
            plan = net.plan
            return plan.as_tree(make(plan, plan.in_order(he_params(plan, net.index))))

        return params

    def from_nearest(plan: Any, others: Any) -> Any:
        return borrowed(plan, nearest(plan, store), others)

    controls = {
        "nearest trained network": from_nearest,
        "nearest with noise": lambda plan, he: with_noise(from_nearest(plan, he), 0.1, 0),
        "mean of trained networks": lambda plan, he: mean_of_all(plan, store, he),
    }
    for name, make in controls.items():
        identity = f"{name} of {store.digest}"
        rows.append(Row(name, evaluate(name, given(control(make), identity))))
    return rows


def _distances(options: TeachersConfig, ghn: Any) -> tuple[float, float, float]:
    """Distances of predictions from trained parameters: aligned, not, and of what is held out."""
    from ppuda_jax.hostloop.leaves import leaves_of_pages
    from ppuda_jax.hostloop.network import make_network
    from ppuda_jax.hostloop.predictor import predictor_of
    from ppuda_jax.teachers.alignment import aligned
    from ppuda_jax.teachers.distances import regression
    from ppuda_jax.teachers.groups import channel_groups
    from ppuda_jax.teachers.store import open_store

    store = open_store(options.trained or options.teachers)
    parts: list[tuple[float, float]] = []
    for part in store.split(options.teacher_held_out):
        pairs = []
        for teacher in part.teachers.values():
            plan = teacher.record.plan
            network = make_network(plan, ghn.config)
            ours = leaves_of_pages(network, predictor_of(ghn.config).predict(ghn.theta, network))
            matched = aligned(channel_groups(plan), ours, teacher.leaves)
            pairs.append((regression(ours, matched)[0], regression(ours, teacher.leaves)[0]))
        parts.append(tuple(np.mean(pairs, axis=0)) if pairs else (float("nan"),) * 2)
    (with_alignment, without), (held_out, _) = parts
    return with_alignment, without, held_out


def _compared(row: Row, first: Row) -> dict[str, Any]:
    """A row of the table, JSON-ready, with a paired test against the first arm."""
    import scipy.stats

    from ppuda_jax.evaluation.results import mean_and_error

    mean, error = mean_and_error(row.accuracies)
    differences = np.subtract(row.accuracies, first.accuracies)
    gain, gain_error = mean_and_error(differences.tolist())
    tested = np.count_nonzero(differences) >= 2
    p_value = float(scipy.stats.wilcoxon(differences).pvalue) if tested else None
    values = {
        "name": row.name,
        "accuracy": mean,
        "error": error,
        "gain": gain,
        "gain_error": gain_error,
        "wins": float(np.mean(differences > 0)),
        "p_value": p_value,
        "distance": row.distance,
        "distance_unaligned": row.unaligned,
        "distance_held_out": row.held_out,
        "accuracies": list(row.accuracies),
    }
    return {
        name: None if isinstance(value, float) and np.isnan(value) else value
        for name, value in values.items()
    }


def _table(options: TeachersConfig, rows: Sequence[Mapping[str, Any]]) -> str:
    first = options.arms[0]
    cells = []
    for row in rows:
        gain = f"{100 * row['gain']:+.1f} ± {100 * row['gain_error']:.1f}"
        other = row["name"] != first
        cells.append(
            (
                row["name"],
                f"{100 * row['accuracy']:.1f} ± {100 * row['error']:.1f}",
                gain if other else None,
                f"{100 * row['wins']:.0f} %" if other else None,
                None if row["p_value"] is None else f"{row['p_value']:.3f}",
                row["distance"],
                row["distance_unaligned"],
                row["distance_held_out"],
            )
        )
    title = (
        f"{options.num_nets} unseen networks of the test split, {options.max_images} test images "
        f"of {options.dataset}; every arm {options.steps} steps of one network and "
        f"{options.batch_size} images from {options.checkpoint}. Gain, wins and p (Wilcoxon, "
        f"network by network): against {first}. Distance of predictions from trained parameters, "
        "channels aligned and not, and of architectures that were held out"
    )
    header = ("parameters", "top-1, %", "gain", "wins", "p", "distance", "unaligned", "held out")
    return flags.table(header, cells, title, rows)


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the script."""
    from ppuda_jax.training.task import NonFiniteError

    flags.start(
        TeachersConfig,
        run,
        __doc__,
        argv,
        errors=(NonFiniteError, OSError),
        interrupted="interrupted; the same command goes on with what is missing",
    )


if __name__ == "__main__":
    main()
