"""A network to train, by what a person calls it."""

import dataclasses
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import flax.linen as nn

from ppuda_jax.archs.genotypes import Genotype, NetConfig
from ppuda_jax.evaluation.networks import EvalNet, choose_networks
from ppuda_jax.finetune.deepnets import best_way
from ppuda_jax.finetune.models import of_module, of_variables
from ppuda_jax.finetune.network import Trainable
from ppuda_jax.finetune.recipe import Recipe
from ppuda_jax.nets.network import Network
from ppuda_jax.zoo import load_model

_CELLS, _CHANNELS = 20, 36  # of DARTS on small images


@dataclasses.dataclass(frozen=True)
class Chosen:
    """A network.

    Attributes:
      network: what is trained.
      fingerprint: of it; JSON-ready.
      module: the Flax module, if it keeps batch statistics of its own.
    """

    network: Trainable
    fingerprint: Any
    module: nn.Module | None = None


def choose(
    recipe: Recipe,
    num_classes: int,
    image_size: int,
    *,
    model: str | None = None,
    split: str | None = None,
    index: int = 0,
    cells: int | None = None,
    channels: int | None = None,
) -> Chosen:
    """Finds a network.

    Args:
      recipe: how it is going to be trained.
      num_classes: of the images.
      image_size: 32 or 224.
      model: a name of the zoo, `package.module:factory`, or a .json file with a genotype or a
        whole record (`NetConfig`).
      split: instead of `model`, a split or file of DeepNets-1M.
      index: number of the network there.
      cells: of a genotype; by default those of its record, or 20.
      channels: of its first cell; by default those of its record, or 36.

    Raises:
      ValueError: no such network, both or none of `model` and `split`, cells or channels of what
        has no genotype, or drop path or an auxiliary classifier for such a network.
      FileNotFoundError: no such file.
    """
    if split is not None and model is None:
        _refuse(cells or channels, "cells and channels", split)
        chosen = choose_networks(
            split, indices=(index,), num_classes=num_classes, image_size=image_size
        )
        return _of_net(chosen[0], recipe)
    if model is None or split is not None:
        raise ValueError(f"give model or split, received model={model} and split={split}")
    if model.endswith(".json"):
        config = _read_record(pathlib.Path(model).expanduser(), cells, channels)
        name = pathlib.Path(model).stem
        return _of_net(EvalNet(name, 0, config, None, num_classes, image_size), recipe)
    built = load_model(model, num_classes, image_size)
    if isinstance(built, Network):
        config = dataclasses.replace(built.plan.config, **_changed(cells, channels))
        return _of_net(EvalNet(model, 0, config, None, num_classes, image_size), recipe)
    _refuse(cells or channels, "cells and channels", model)
    _refuse(recipe.drop_path or recipe.auxiliary, "drop_path and auxiliary", model)
    if isinstance(built, tuple):
        apply_fn, variables, inputs = built
        return Chosen(of_variables(apply_fn, variables, inputs, model), model)
    return Chosen(of_module(built, image_size, model), model, built)


def _of_net(net: EvalNet, recipe: Recipe) -> Chosen:
    if net.plan is None:
        _refuse(recipe.drop_path or recipe.auxiliary, "drop_path and auxiliary", net.name)
    return Chosen(best_way(net, recipe), net.fingerprint)


def _refuse(given: Any, what: str, name: str) -> None:
    if given:
        raise ValueError(f"{what} are of networks that a genotype describes, not of {name}")


def _read_record(path: pathlib.Path, cells: int | None, channels: int | None) -> NetConfig:
    try:
        found = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is no JSON: {error}") from error
    if not isinstance(found, Mapping):
        raise ValueError(f"{path} must hold a genotype or a record, received {type(found)}")
    record = dict(found) if "genotype" in found else {"genotype": Genotype.from_dict(found)}
    return NetConfig.from_dict(
        {"n_cells": _CELLS, "C": _CHANNELS, **record, **_changed(cells, channels)}
    )


def _changed(cells: int | None, channels: int | None) -> dict[str, Any]:
    return {n: v for n, v in (("n_cells", cells), ("C", channels)) if v is not None}
