"""Models of the zoo for an image set."""

import flax.linen as nn

from ppuda_jax.data.datasets import dataset_spec
from ppuda_jax.data.spec import IMAGE_SIZES
from ppuda_jax.nets import zoo


def build_model(
    name: str,
    num_classes: int | None = None,
    image_size: int | None = None,
    *,
    dataset: str | None = None,
    data_dir: str | None = None,
) -> nn.Module:
    """Builds a model by name.

    Args:
        name: one of `ppuda_jax.nets.zoo.MODELS`.
        num_classes: K; by default the dataset's, or 10.
        image_size: pixels per side; by default the dataset's, or 32.
        dataset: an image set that the model is for, see `ppuda_jax.data.datasets`.
        data_dir: TFDS folder of the dataset.

    Returns:
        A Flax module: `apply({"params": params}, images)` gives logits [B, K].

    Raises:
        ValueError: there is no such model, or the dataset has another number of classes.
        FileNotFoundError: the dataset is not there.
    """
    if dataset is not None:
        size = image_size if image_size in IMAGE_SIZES else None
        spec = dataset_spec(dataset, data_dir, size)
        if num_classes not in (None, spec.num_classes):
            raise ValueError(
                f"num_classes must be the {spec.num_classes} of {dataset}, received {num_classes}"
            )
        num_classes, image_size = spec.num_classes, image_size or spec.image_size
    return zoo.build_model(name, num_classes or 10, image_size or 32)
