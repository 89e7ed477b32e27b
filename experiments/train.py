"""Meta-trains a graph hypernetwork: `python -m experiments.train --dataset=cifar10`.

Without flags it trains a small GHN-2 on scikit-learn's digits for a few minutes and prints what
came out. Any field of `TrainConfig` is a flag; the recipes are in `experiments/configs`. A run
found in `--workdir` is resumed.
"""

import dataclasses
import sys
from collections.abc import Callable, Mapping
from typing import Any

from absl import app, flags

from experiments import flags as config_flags
from experiments.configs import recipe
from ppuda_jax import config
from ppuda_jax.data.names import short_name
from ppuda_jax.runtime.memory import share_one_arena
from ppuda_jax.training.config import TrainConfig
from ppuda_jax.training.task import NonFiniteError

_FIELDS = config_flags.define(TrainConfig)
flags.DEFINE_bool("report", None, "compare with chance and random initialisation at the end")
flags.DEFINE_string("coordinator", None, "several hosts: address:port of the first one")
flags.DEFINE_integer("num_hosts", 1, "several hosts: how many")
flags.DEFINE_integer("host_id", 0, "several hosts: number of this one")


def settings_from_flags() -> TrainConfig:
    """The recipe of `--dataset`, with the given flags applied."""
    base = recipe(flags.FLAGS.dataset or "digits")
    settings = config_flags.apply(base, _FIELDS)
    if settings.workdir is None:
        settings = dataclasses.replace(
            settings, workdir=f"runs/{settings.model}-{short_name(settings.dataset)}"
        )
    return settings


def main(argv: list[str]) -> None:
    """Runs the script."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments {argv[1:]}; use --flag=value")
    share_one_arena()
    from ppuda_jax import parallel
    from ppuda_jax.training.loop import train
    from ppuda_jax.training.setup import deepnets_task

    try:
        if flags.FLAGS.num_hosts > 1:
            parallel.init_hosts(flags.FLAGS.coordinator, flags.FLAGS.num_hosts, flags.FLAGS.host_id)
        settings = settings_from_flags()
        print(config.to_json(settings), file=sys.stderr)
        task = deepnets_task(settings, validation(settings))
        result = train(settings, task)
    except (ValueError, FileNotFoundError, NonFiniteError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
    print(
        f"{result.reason} after {result.step} steps, {result.seconds:.0f} s of training, "
        f"{result.programs} compiled programs, {result.skipped} updates skipped; "
        f"checkpoints in {settings.workdir}",
        flush=True,
    )
    wanted = flags.FLAGS.report
    wanted = settings.dataset == "digits" if wanted is None else wanted
    if wanted and flags.FLAGS.host_id == 0 and result.reason in ("finished", "time limit"):
        from experiments import report

        theta = report.trained_theta(settings, result.theta)
        print(report.training_report(settings, task, theta))


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


if __name__ == "__main__":
    app.run(main)
