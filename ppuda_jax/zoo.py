"""Models by name: those of the zoo for an image set, and those of anyone's modules."""

import importlib
import inspect
from typing import Any

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

    Examples:
        >>> import jax
        >>> import ppuda_jax as pj
        >>> model = pj.build_model("resnet18", num_classes=100)
        >>> images = jax.ShapeDtypeStruct((1, 32, 32, 3), "float32")
        >>> variables = jax.eval_shape(model.init, jax.random.key(0), images)
        >>> jax.eval_shape(model.apply, variables, images).shape
        (1, 100)
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


def load_model(name: str, num_classes: int, image_size: int) -> Any:
    """Builds a model of the zoo, or what a factory of any module returns.

    Args:
        name: one of `ppuda_jax.nets.zoo.MODELS`, or `package.module:factory`; a factory gets
            `num_classes` and `image_size` if it has arguments of these names.
        num_classes: K.
        image_size: pixels per side.

    Returns:
        A Flax module, or whatever else the factory returns.

    Raises:
        ValueError: there is no such model, or its factory needs more arguments.
    """
    if name in zoo.MODELS:
        return zoo.build_model(name, num_classes, image_size)
    module_name, _, factory_name = name.partition(":")
    if not factory_name:
        raise ValueError(
            f"model must be one of {sorted(zoo.MODELS)} or package.module:factory, received "
            f"{name!r}."
        )
    try:
        factory = getattr(importlib.import_module(module_name), factory_name)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"model {name!r} cannot be imported: {error}") from error
    options = {"num_classes": num_classes, "image_size": image_size}
    if not callable(factory):
        raise ValueError(
            f"model {name!r} must be a function or class that makes a model, it is of type "
            f"{type(factory).__name__}"
        )
    signature = inspect.signature(factory)
    given = {key: value for key, value in options.items() if key in signature.parameters}
    try:
        signature.bind(**given)
    except TypeError as error:
        raise ValueError(
            f"model {name!r} gets num_classes and image_size alone, by keyword: {error}; give its "
            "other arguments defaults"
        ) from error
    return factory(**given)
