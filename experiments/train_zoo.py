r"""Trains a zoo of networks that teach a hypernetwork: `python -m experiments.train_zoo`.

    python -m experiments.train_zoo --dataset=digits --split=train --num_nets=8 --steps=50 \
      --output=DIR

Trains networks of DeepNets-1M, two side by side, and stores each in a file of its own with its
architecture, seed, epochs, accuracy on validation images and parameters. A run that was interrupted
continues with the same command; a network that diverges is reported, and the others go on. Then
`experiments.train --teacher=DIR --teacher_terms=distill:1,regress:0.1` has these networks in its
objective.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Sequence

import jax

from ppuda_jax.config import check_types, described
from ppuda_jax.finetune.recipe import Recipe
from ppuda_jax.finetune.zoo import Ended
from ppuda_jax.runtime.progress import Progress, say

from . import flags

_AT_ONCE = 2  # one network keeps less than two processors busy


@dataclasses.dataclass(frozen=True)
class ZooConfig:
    """The zoo; every field is a flag."""

    output: str = described("runs/zoo", "folder of the trained networks")
    dataset: str = described("digits", "images: digits, a name of TFDS, folder:PATH or npz:PATH")
    data_dir: str | None = described(None, "TFDS folder with the prepared dataset")
    split: str = described("train", "a split, or a file path.hdf5[:split]")
    num_nets: int = described(8, "networks of the split")
    max_variants: int | None = described(
        3, "only networks of the most frequent variants, which are narrow; none for all"
    )
    max_params: int | None = described(None, "only networks with at most so many parameters")
    seeds: int = described(1, "trainings of each network")
    steps: int | None = described(None, "updates of each training, instead of epochs")
    epochs: float = described(1.0, "passes over the training images")
    init: str = described("he", "where training starts: he, or predicted by --checkpoint")
    checkpoint: str = described("ghn2-cifar10", "init=predicted: a shipped name, folder or .pt")
    optimizer: str = described("sgd", "name of one of optax's optimisers")
    learning_rate: float = described(0.025, "at the start; falls to zero along a cosine")
    weight_decay: float = described(3e-4, "L2 penalty, decoupled for adamw")
    batch_size: int = described(32, "images per step")
    max_images: int | None = described(640, "only the first validation images")
    compilation_cache: str | None = described("~/.cache/ppuda_jax/xla", "folder, or none")

    def __post_init__(self) -> None:
        check_types(self)
        if self.init not in ("he", "predicted"):
            raise ValueError(f"init must be he or predicted, received {self.init!r}")
        for name in ("num_nets", "seeds", "steps", "max_params"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, received {value}")
        if self.epochs <= 0:
            raise ValueError(f"epochs must be above zero, received {self.epochs}")

    @property
    def recipe(self) -> Recipe:
        """How networks are trained."""
        return Recipe(
            self.optimizer,
            self.learning_rate,
            weight_decay=self.weight_decay,
            batch_size=self.batch_size,
        )


def run(options: ZooConfig) -> str:
    """Trains; returns the table.

    Raises:
      ValueError: options that do not exist or do not fit together.
      FileNotFoundError: missing data.
    """
    from ppuda_jax.runtime.compilation import compilation_cache

    with compilation_cache(options.compilation_cache):
        return _run(options)


def _run(options: ZooConfig) -> str:
    from ppuda_jax.data.batches import training_images
    from ppuda_jax.evaluation import load_eval_images
    from ppuda_jax.finetune.inits import he, predicted
    from ppuda_jax.finetune.zoo import Zoo
    from ppuda_jax.runtime.processors import processors

    recipe = options.recipe
    images = functools.cache(
        lambda seed: training_images(options.dataset, recipe.batch_size, seed, options.data_dir)
    )
    spec = images(0).spec
    nets = _networks(options, spec.num_classes, spec.image_size)
    held_out = load_eval_images(
        options.dataset, "val", options.data_dir, max_images=options.max_images
    )
    steps = options.steps or max(
        1, round(options.epochs * images(0).num_images / recipe.batch_size)
    )
    init = he()
    if options.init == "predicted":
        from ppuda_jax.checkpoints import load_ghn
        from ppuda_jax.ghn.transfer import with_classes

        ghn = load_ghn(options.checkpoint)
        own = (
            ghn.config.num_classes == spec.num_classes and ghn.metadata.get("dataset") == spec.name
        )
        init = predicted(with_classes(ghn, spec.num_classes, jax.random.key(0)), own)
    say(
        f"training {len(nets)} networks for {steps} steps of {recipe.batch_size} images: "
        f"{spec.name}, {images(0).num_images} images of {spec.num_classes} classes"
    )
    bar = Progress("training")

    def show(done: int, total: int, newest: Ended) -> None:
        bar.move(done / total)
        if newest.diverged_at is not None:
            text = f"diverged at step {newest.diverged_at}: it is left out, the others go on"
        else:
            text = f"accuracy {newest.start:.3f} to {newest.accuracy:.3f}"
        say(f"{done} of {total}: {newest.split}-{newest.index} seed {newest.seed}, {text}")

    try:
        zoo = Zoo(
            pathlib.Path(options.output).expanduser(),
            init,
            options.init if options.init == "he" else f"predicted by {options.checkpoint}",
            images,
            held_out,
            recipe,
            steps,
        )
        at_once = min(_AT_ONCE, processors())
        found = zoo.train(nets, seeds=options.seeds, at_once=at_once, progress=show)
    finally:
        bar.close()
    return _table(options, found)


def _networks(options: ZooConfig, num_classes: int, image_size: int):
    """The first networks of the split that are small enough."""
    from ppuda_jax.evaluation import choose_networks

    size = {"num_classes": num_classes, "image_size": image_size}
    candidates = options.num_nets
    while True:
        nets = choose_networks(options.split, candidates, max_variants=options.max_variants, **size)
        limit = options.max_params
        small = [net for net in nets if limit is None or net.plan.num_params <= limit]
        if len(small) >= options.num_nets:
            return small[: options.num_nets]
        candidates *= 2
        if candidates > 64 * options.num_nets:
            least = min(net.plan.num_params for net in nets)
            raise ValueError(
                f"of the first {len(nets)} networks of {options.split}, {len(small)} have at most "
                f"max_params={limit} parameters (the smallest {least}), received "
                f"num_nets={options.num_nets}: raise max_params, or ask for fewer"
            )


def _table(options: ZooConfig, found: Sequence[Ended]) -> str:
    rows = [
        (
            f"{ended.split}-{ended.index}",
            ended.seed,
            f"{100 * ended.start:.1f}",
            None if ended.diverged_at is not None else f"{100 * ended.accuracy:.1f}",
            f"{ended.seconds:.0f}",
            ended.file or f"diverged at step {ended.diverged_at}",
        )
        for ended in found
    ]
    header = ("network", "seed", "start, %", "end, %", "seconds", "file")
    stored = sum(bool(ended.file) for ended in found)
    ending = f"{stored} of {len(found)} networks are in {options.output}"
    if not stored:
        raise ValueError(
            f"every network diverged, so {options.output} teaches nothing: lower learning_rate, "
            f"received {options.learning_rate}"
        )
    return flags.report(flags.table(header, rows), ending)


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the script."""
    flags.start(
        ZooConfig,
        run,
        __doc__,
        argv,
        errors=(OSError,),
        interrupted="interrupted; the same command goes on with the networks that are missing",
    )


if __name__ == "__main__":
    main()
