"""Meta-trains a graph hypernetwork: `python -m experiments.train --dataset=cifar10`.

Without flags it takes the shipped GHN-2 to scikit-learn's digits in a few minutes, and ends with a
table, a picture and what to do next. Any field of `TrainConfig` is a flag; the recipes are in
`experiments/configs`. A run found in `--workdir` is resumed. `--teacher` and `--teacher_terms` add
terms to the objective: trained networks, fine-tunability, norms (docs/teachers.md).
"""

import dataclasses
import hashlib
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ppuda_jax.config import described
from ppuda_jax.data.names import short_name
from ppuda_jax.runtime.memory import share_one_arena
from ppuda_jax.runtime.progress import say
from ppuda_jax.training.config import TrainConfig
from ppuda_jax.training.task import NonFiniteError

from . import flags
from .configs import recipe


@dataclasses.dataclass(frozen=True)
class TrainFlags(TrainConfig):
    """The run, and what belongs to this process alone."""

    report: bool | None = described(
        None, "compare with chance, random parameters and SGD at the end; done for digits"
    )
    coordinator: str | None = described(None, "several hosts: address:port of the first one")
    num_hosts: int = described(1, "several hosts: how many")
    host_id: int = described(0, "several hosts: number of this one")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_hosts > 1 and self.coordinator is None:
            raise ValueError(
                f"num_hosts={self.num_hosts} needs --coordinator=ADDRESS:PORT of the first host"
            )


def base_of(given: Mapping[str, str]) -> TrainFlags:
    """The recipe of `--dataset`, in the folder named after model and data."""
    dataset = given.get("dataset", "digits")
    settings = recipe(dataset)
    folder = f"runs/{given.get('model', settings.model)}-{short_name(dataset)}"
    fields = {f.name: getattr(settings, f.name) for f in dataclasses.fields(TrainConfig)}
    terms = given.get("teacher", ""), given.get("teacher_terms", "")
    if any(terms):
        # Runs with other teachers or terms are other runs.
        folder += f"-taught-{hashlib.sha256(' '.join(terms).encode()).hexdigest()[:8]}"
    if "teacher" in given:
        fields["max_variants"] = None  # of the few architectures that have a teacher all are taken
    return TrainFlags(**(fields | {"workdir": settings.workdir or folder}))


def run(options: TrainFlags) -> str | None:
    """Trains; returns the report, if one is wanted."""
    share_one_arena()  # before the first use of JAX, which starts threads
    from ppuda_jax import parallel
    from ppuda_jax.training.loop import train
    from ppuda_jax.training.setup import deepnets_task

    if options.num_hosts > 1:
        parallel.init_hosts(options.coordinator, options.num_hosts, options.host_id)
    names = [field.name for field in dataclasses.fields(TrainConfig)]
    settings = TrainConfig(**{name: getattr(options, name) for name in names})
    task = deepnets_task(settings, validation(settings))
    spec = task.images.spec
    say(
        f"{settings.model} from {settings.init_from or 'random parameters'}, "
        f"{settings.meta_batch_size} networks and {settings.batch_size} images a step: "
        f"{spec.name}, {task.images.num_images} images of {spec.num_classes} classes"
    )
    if not settings.terms.plain:
        say(objective(settings))
    result = train(settings, task)
    skipped = f", {result.skipped} updates skipped" if result.skipped else ""
    say(
        f"{result.reason} after {result.step} steps and {result.seconds:.0f} s of training"
        f"{skipped}; checkpoints and configuration in {settings.workdir}"
    )
    wanted = settings.dataset == "digits" if options.report is None else options.report
    if not wanted or options.host_id or result.reason not in ("finished", "time limit"):
        return None
    from . import report

    return report.training_report(settings, task, result)


def objective(settings: TrainConfig) -> str:
    """The terms of the objective, and where its architectures and teachers come from."""
    terms = settings.terms
    text = " + ".join(f"{getattr(terms, name):g} {name}" for name in terms.names)
    if settings.teacher is None:
        return f"objective: {text}"
    if pathlib.Path(settings.teacher).expanduser().is_file():
        return f"objective: {text}, taught by the one network {settings.teacher}"
    from ppuda_jax.teachers.store import open_store

    store = open_store(settings.teacher)
    count = len(store.split(settings.teacher_held_out)[0])
    return (
        f"objective: {text}; each architecture needs a teacher of its own, so that architectures "
        f"are drawn from the {count} of {len(store)} in {settings.teacher} that are not held out"
    )


def validation(settings: TrainConfig) -> Callable[[Any, int], Mapping[str, float]] | None:
    """What `--eval_every` asks for: unseen architectures on validation images."""
    if not settings.eval_every:
        return None
    from ppuda_jax.data.datasets import dataset_spec
    from ppuda_jax.evaluation import EvalSettings, validation_hook
    from ppuda_jax.training.setup import ghn_config

    spec = dataset_spec(settings.dataset, settings.data_dir, settings.image_size)
    ghn = ghn_config(settings, spec.image_size, spec.num_classes)
    options = EvalSettings(compute_dtype=settings.compute_dtype, num_devices=settings.num_devices)
    return validation_hook(
        ghn, settings.dataset, settings.data_dir, image_size=spec.image_size, settings=options
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the script."""
    flags.start(
        TrainFlags,
        run,
        __doc__,
        argv,
        base=base_of,
        errors=(NonFiniteError, OSError),
        interrupted="interrupted; the same command continues from the last checkpoint",
    )


if __name__ == "__main__":
    main()
