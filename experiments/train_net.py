r"""Trains one network: `python -m experiments.train_net --dataset=digits --model=resnet18`.

    python -m experiments.train_net --dataset=digits --model=resnet18 --init=predicted --steps=20 \
      --workdir=DIR
    python -m experiments.train_net --split=test --index=3 --data_dir=DIR --workdir=DIR
    python -m experiments.train_net --model=darts --recipe=long --data_dir=DIR --workdir=DIR

The network is a model of the zoo, `package.module:factory`, a .json file with a genotype, or one of
a split; it starts from random, predicted or given parameters. `--workdir` gets checkpoints (the
same command continues, exactly), metrics.jsonl, tensorboard/, curve.png and the parameters.
"""

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import jax

from ppuda_jax.checkpoints import load_ghn
from ppuda_jax.config import described
from ppuda_jax.data.batches import TrainingImages, training_images
from ppuda_jax.data.datasets import dataset_spec
from ppuda_jax.data.spec import DatasetSpec
from ppuda_jax.evaluation import load_eval_images
from ppuda_jax.finetune import inits
from ppuda_jax.finetune.choose import Chosen, choose
from ppuda_jax.finetune.curve import Curve
from ppuda_jax.finetune.fit import fit
from ppuda_jax.finetune.inits import Init
from ppuda_jax.finetune.models import with_statistics
from ppuda_jax.finetune.network import Params
from ppuda_jax.finetune.recipe import PUBLISHED, Recipe, default_rate
from ppuda_jax.finetune.session import train_in
from ppuda_jax.finetune.transfer import fitted_to
from ppuda_jax.ghn.loaded import LoadedGHN
from ppuda_jax.params_io import load_params
from ppuda_jax.runtime.compilation import compilation_cache
from ppuda_jax.runtime.progress import say

from . import flags

_STATISTICS = 20  # training batches that statistics of a prediction are measured on


@dataclasses.dataclass(frozen=True)
class TrainNetConfig(Recipe):
    """What is trained, and how; every field is a flag."""

    recipe: Literal["full", "long", "shots"] = described(
        "full", "published settings: 50 epochs, 600 with regularisation, 50 on few images"
    )
    model: str | None = described(
        None, "a model of the zoo, package.module:factory, or a .json file with a genotype"
    )
    split: str | None = described(None, "instead, a split or file path.hdf5[:split]")
    index: int = described(0, "number of the network in the split")
    cells: int | None = described(None, "of a genotype; by default its record's, or 20")
    channels: int | None = described(None, "of its first cell; by default its record's, or 36")
    init: Literal["random", "he", "orthogonal", "predicted", "noise", "orth", "checkpoint"] = (
        described(
            "he",
            "where it starts; noise and orth are predictions with noise and with orthogonal layers",
        )
    )
    checkpoint: str = described("ghn2-cifar10", "GHN: a shipped name, a run's folder, or .pt file")
    params: str | None = described(
        None, "of --init=checkpoint: what predict --output or the end of train_net wrote"
    )
    beta: float = described(3e-5, "size of the noise of noise and orth")
    from_layer: int = described(1, "first layer that orth makes orthogonal")
    dataset: str | None = described(None, "images; by default those that the GHN is for")
    data_dir: str | None = described(None, "TFDS folder with the prepared dataset")
    part: Literal["test", "val"] = described("test", "images that the curve is measured on")
    max_images: int | None = described(None, "only the first of them")
    shots: int | None = described(
        None, "only the first training images of each class; 100 as --recipe=shots"
    )
    epochs: int | None = described(None, "passes over the training images; by default the recipe's")
    steps: int | None = described(None, "updates, instead of epochs")
    every: int | None = described(
        None, "steps between evaluations and checkpoints; an epoch or a tenth of the steps"
    )
    seed: int = described(0, "of initialisation, order, augmentation and dropout")
    workdir: str | None = described(None, "folder of this training; without one nothing is kept")
    compilation_cache: str | None = described("~/.cache/ppuda_jax/xla", "folder, or none")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.epochs is not None and self.steps is not None:
            raise ValueError("give epochs or steps, not both")
        for name in ("epochs", "steps", "every"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, received {value}")
        if (self.params is not None) != (self.init == "checkpoint"):
            raise ValueError(
                f"init=checkpoint and params=PATH go together, received init={self.init} and "
                f"params={self.params}"
            )


def base_of(given: Mapping[str, str]) -> TrainNetConfig:
    """The published recipe that `--recipe` names."""
    name = given.get("recipe", "full")
    if name not in PUBLISHED:
        raise ValueError(f"recipe must be one of {', '.join(PUBLISHED)}, received {name!r}")
    recipe, _ = PUBLISHED[name]
    fields = {field.name: getattr(recipe, field.name) for field in dataclasses.fields(Recipe)}
    fields["learning_rate"] = default_rate(given.get("optimizer", recipe.optimizer))
    return TrainNetConfig(**fields, shots=100 if name == "shots" else None)


def run(options: TrainNetConfig) -> str:
    """Trains; returns what came of it.

    Raises:
      ValueError: options that do not exist or do not fit together, or a folder of another training.
      FileNotFoundError: missing data.
    """
    with compilation_cache(options.compilation_cache):
        return _run(options)


def _run(options: TrainNetConfig) -> str:
    recipe = Recipe(**{f.name: getattr(options, f.name) for f in dataclasses.fields(Recipe)})
    ghn, spec, own = _images_of(options)
    images = training_images(
        spec.name,
        recipe.batch_size,
        options.seed,
        options.data_dir,
        image_size=spec.image_size,
        trained=spec if own else None,
        shots=options.shots,
    )
    held_out = load_eval_images(
        spec.name,
        options.part,
        options.data_dir,
        ghn=ghn if own else None,
        image_size=None if own else spec.image_size,
        max_images=options.max_images,
    )
    chosen = choose(
        recipe,
        spec.num_classes,
        spec.image_size,
        model=options.model,
        split=options.split,
        index=options.index,
        cells=options.cells,
        channels=options.channels,
    )
    chosen, params = _start(options, chosen, ghn, own, images)
    epoch = -(-images.num_images // recipe.batch_size)
    steps = options.steps or epoch * (options.epochs or PUBLISHED[options.recipe][1])
    every = options.every or min(epoch, max(1, steps // 10))
    say(
        f"{chosen.network.name} from {options.init}, {recipe.optimizer} at "
        f"{recipe.learning_rate:g}: {steps} steps of {recipe.batch_size} of {images.num_images} "
        f"images of {spec.name}"
    )
    how = {"steps": steps, "every": every, "seed": options.seed}
    network = chosen.network
    if options.workdir is None:
        curve = fit(network, params, images, held_out, recipe, **how)
    else:
        told = _told(options, chosen, spec) | how
        folder = options.workdir
        curve = train_in(folder, told, network, params, images, held_out, recipe, **how)
    return _summary(options, curve, held_out.num_images)


def _images_of(options: TrainNetConfig) -> tuple[LoadedGHN | None, DatasetSpec, bool]:
    """(hypernetwork, if the network starts from a prediction; images; whether they are its own)."""
    if options.init in ("predicted", "noise", "orth"):
        return fitted_to(load_ghn(options.checkpoint), options.dataset, options.data_dir)
    return None, dataset_spec(options.dataset or "cifar10", options.data_dir), False


def _start(
    options: TrainNetConfig,
    chosen: Chosen,
    ghn: LoadedGHN | None,
    own: bool,
    images: TrainingImages,
) -> tuple[Chosen, Params]:
    """The network with the state that it starts with, and its parameters."""
    if options.params is not None:
        found = load_params(options.params)
        params = inits.given(found, options.params)(chosen.network, options.seed)
        kept = {name: value for name, value in found.items() if name in chosen.network.state}
        state = {**chosen.network.state, **kept}
        return _with_state(chosen, state), params
    if ghn is None:
        plain = {"random": inits.random, "he": inits.he, "orthogonal": inits.orthogonal}
        return chosen, plain[options.init]()(chosen.network, options.seed)
    noise = {"beta": options.beta, "from_layer": options.from_layer, "classifier": own}
    known: dict[str, Init] = {
        "predicted": inits.predicted(ghn, own),
        "noise": inits.postprocessed(ghn, orthogonal=False, **noise),
        "orth": inits.postprocessed(ghn, **noise),
    }
    params = known[options.init](chosen.network, options.seed)
    if chosen.module is None:
        return chosen, params
    resident, load = jax.tree.map(jax.numpy.asarray, images.resident), jax.jit(images.load)
    keys = (jax.random.fold_in(jax.random.key(options.seed), n) for n in itertools.count())
    batches = (load(resident, images.batch(number), next(keys))[0] for number in range(_STATISTICS))
    state = with_statistics(chosen.network, chosen.module, params, batches)
    return _with_state(chosen, state), params


def _with_state(chosen: Chosen, state: Any) -> Chosen:
    network = dataclasses.replace(chosen.network, state=state)
    return dataclasses.replace(chosen, network=network)


def _told(options: TrainNetConfig, chosen: Chosen, spec: DatasetSpec) -> dict[str, Any]:
    """What decides the result."""
    places = ("workdir", "data_dir", "compilation_cache", "steps", "epochs", "every")
    told = {name: v for name, v in dataclasses.asdict(options).items() if name not in places}
    return {**told, "dataset": spec.fingerprint, "network": chosen.fingerprint}


def _summary(options: TrainNetConfig, curve: Curve, num_images: int) -> str:
    first, last = curve.points[0], curve.points[-1]
    text = (
        f"{100 * first.accuracy:.2f} % of {num_images} {options.part} images before training, "
        f"{100 * last.accuracy:.2f} % after {last.step} steps and {last.seconds:.0f} s"
    )
    if curve.diverged_at is not None:
        text += f"; the loss of step {curve.diverged_at} was not finite, which ended it"
    best = max(curve.points, key=lambda point: point.accuracy)
    if best.accuracy > last.accuracy and not math.isclose(best.accuracy, last.accuracy):
        text += f"; the best, {100 * best.accuracy:.2f} %, after {best.step}"
    return text + (f"\nkept in {options.workdir}" if options.workdir else "")


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the script."""
    flags.start(
        TrainNetConfig,
        run,
        __doc__,
        argv,
        base=base_of,
        interrupted="interrupted; with --workdir, the same command continues",
    )


if __name__ == "__main__":
    main()
