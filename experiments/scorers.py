"""What scores networks in `experiments.proxies` and `experiments.search`, from shared flags."""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

from ppuda_jax.config import check_types, described
from ppuda_jax.data.spec import DatasetSpec
from ppuda_jax.ghn.loaded import LoadedGHN
from ppuda_jax.proxies.registry import PREDICTED, TRAINED


@dataclasses.dataclass(frozen=True)
class Source:
    """A hypernetwork beside the images that networks are scored on.

    Attributes:
      ghn: predicts for as many classes as the images have.
      spec: the images.
      own: whether it was trained on them; otherwise the classifiers of networks are random.
    """

    ghn: LoadedGHN
    spec: DatasetSpec
    own: bool

    @property
    def trained(self) -> LoadedGHN | None:
        """The hypernetwork whose size and normalisation the images get; None for their own."""
        return self.ghn if self.own else None


@dataclasses.dataclass(frozen=True)
class ScorerConfig:
    """How networks are scored; every field is a flag."""

    dataset: str | None = described(None, "images; by default those that the checkpoint is for")
    data_dir: str | None = described(None, "TFDS folder with the prepared dataset")
    checkpoint: str = described("ghn2-cifar10", "hypernetwork: a shipped name, or a run's folder")
    batch_size: int = described(64, "validation images that a proxy looks at; naswot: twice that")
    images: int = described(256, "validation images that predicted parameters are scored on")
    cells: int = described(1, "of each of the three stages of nasbench201; published: 5")
    channels: int = described(16, "of the first stage of nasbench201, as published")
    tune_steps: int = described(10, "of training from the prediction, for the proxies tuned_*")
    tune_rate: float = described(0.01, "learning rate of these steps")
    compile_each: bool = described(
        False, "compile networks of deepnets one by one for the proxies that need it"
    )
    compilation_cache: str | None = described("~/.cache/ppuda_jax/xla", "folder, or none")

    def __post_init__(self) -> None:
        check_types(self)
        for name in ("batch_size", "cells", "channels", "tune_steps"):
            least = 2 if name == "batch_size" else 1
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, received {getattr(self, name)}")
        if self.images < 2 * self.batch_size:
            raise ValueError(
                f"images must be at least two batches of batch_size={self.batch_size}, received "
                f"{self.images}"
            )

    @property
    def source(self) -> Source:
        """The hypernetwork beside the images."""
        from ppuda_jax.checkpoints import load_ghn
        from ppuda_jax.finetune.transfer import fitted_to

        return Source(*fitted_to(load_ghn(self.checkpoint), self.dataset, self.data_dir))


def cell_scorer(options: ScorerConfig, source: Source, proxies: Sequence[str]) -> Any:
    """Scores cells of NAS-Bench-201.

    Raises:
      ValueError, FileNotFoundError: no such images, or proxies that do not exist for cells.
    """
    from ppuda_jax.evaluation import load_eval_images
    from ppuda_jax.proxies.base import Batch
    from ppuda_jax.proxies.nasbench201 import CellScorer
    from ppuda_jax.structure.nasbench201_net import Skeleton
    from ppuda_jax.structure.nasbench201_predicted import CellPredictor

    count = 2 * options.batch_size
    images = load_eval_images(
        source.spec.name,
        "val",
        options.data_dir,
        ghn=source.trained,
        batch_size=count,
        max_images=count,
    ).batches[0]
    size, classes = source.spec.image_size, source.spec.num_classes
    skeleton = Skeleton(classes, options.channels, options.cells, size)
    predictor = None
    if set(proxies) & set(PREDICTED):
        predictor = CellPredictor(source.ghn, skeleton)
    return CellScorer(skeleton, Batch(images.images, images.labels), proxies, predictor)


def net_scorer(options: ScorerConfig, source: Source, proxies: Sequence[str]) -> Any:
    """Scores networks of DeepNets-1M.

    Raises:
      ValueError, FileNotFoundError: no such images, or proxies that do not exist.
    """
    from ppuda_jax.data.batches import training_images
    from ppuda_jax.evaluation import load_eval_images
    from ppuda_jax.finetune.recipe import Recipe
    from ppuda_jax.proxies.deepnets import NetScorer, Predictions, Tuning

    whole = options.images // options.batch_size * options.batch_size
    images = load_eval_images(
        source.spec.name,
        "val",
        options.data_dir,
        ghn=source.trained,
        batch_size=options.batch_size,
        max_images=whole,
    )
    tuning = None
    if set(proxies) & set(TRAINED):
        recipe = Recipe(learning_rate=options.tune_rate, batch_size=options.batch_size)
        batches = training_images(
            source.spec.name,
            options.batch_size,
            0,
            options.data_dir,
            trained=source.spec if source.own else None,
        )
        tuning = Tuning(batches, recipe, options.tune_steps)
    predictions = None
    if set(proxies) & {*PREDICTED, *TRAINED}:
        predictions = Predictions(source.ghn, source.own, tuning)
    return NetScorer(images, proxies, predictions, compile_each=options.compile_each)


def property_scorer(
    options: ScorerConfig, source: Source, num: int, steps: int, folder: pathlib.Path | None
) -> Any:
    """Predicts the accuracy of networks of DeepNets-1M from embeddings and trained networks.

    Args:
      options: images and hypernetwork.
      source: the same, loaded.
      num: networks of the val split that are trained, as `experiments.properties` does it.
      steps: updates of each.
      folder: where their records are kept, and taken from.
    """
    from ppuda_jax.data.datasets import open_dataset
    from ppuda_jax.properties.predicted import fit_property

    from . import properties

    pool = properties.PropertiesConfig(
        checkpoint=(options.checkpoint,),
        dataset=source.spec.name,
        data_dir=options.data_dir,
        num_nets=num,
        steps=steps,
    )
    dataset = open_dataset(source.spec.name, options.data_dir)
    nets = properties.pool_networks(pool, dataset)
    measured = properties.measure(pool, dataset, nets, folder)
    return fit_property(source.ghn, nets, measured, channels=pool.channels)


def identity_of(options: ScorerConfig, source: Source, space: str) -> dict[str, Any]:
    """What decides scores, for files of them."""
    fields = ["checkpoint", "batch_size", "images"]
    fields += ["cells", "channels"] if space == "nasbench201" else ["tune_steps", "tune_rate"]
    told = {name: getattr(options, name) for name in fields}
    return {"space": space, "dataset": source.spec.fingerprint, **told}
