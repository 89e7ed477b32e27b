"""Recipes: one module per dataset, each with its command and what to expect."""

import dataclasses
from collections.abc import Callable
from types import MappingProxyType

from ppuda_jax.training.config import TrainConfig

from . import cifar10, digits, imagenet

RECIPES: MappingProxyType[str, Callable[[], TrainConfig]] = MappingProxyType(
    {"cifar10": cifar10.recipe, "digits": digits.recipe, "imagenet": imagenet.recipe}
)


def recipe(dataset: str) -> TrainConfig:
    """Returns the recipe of a dataset: its own, or CIFAR-10's for any other."""
    if dataset in RECIPES:
        return RECIPES[dataset]()
    return dataclasses.replace(cifar10.recipe(), dataset=dataset)
