"""Recipes: one module per dataset, each with its command and what to expect."""

from collections.abc import Callable
from types import MappingProxyType

from experiments.configs import cifar10, digits, imagenet
from ppuda_jax.training.config import TrainConfig

RECIPES: MappingProxyType[str, Callable[[], TrainConfig]] = MappingProxyType(
    {"cifar10": cifar10.recipe, "digits": digits.recipe, "imagenet": imagenet.recipe}
)


def recipe(dataset: str) -> TrainConfig:
    """Returns the recipe of a dataset; raises ValueError for an unknown one."""
    if dataset not in RECIPES:
        raise ValueError(f"dataset must be one of {', '.join(RECIPES)}, received {dataset!r}")
    return RECIPES[dataset]()
