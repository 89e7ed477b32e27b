"""Networks of DeepNets-1M that are trained as data of the executor.

All networks of a variant, whatever their initialisation and seed, run in the same programs: one for
a whole step, one for a score, one for a prediction.
"""

import dataclasses
import functools
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import numpy as np

from ppuda_jax.evaluation.executor_runner import why_not_executor
from ppuda_jax.evaluation.networks import EvalNet
from ppuda_jax.evaluation.parameters import he_params
from ppuda_jax.evaluation.runners import UnfitError, count_hits
from ppuda_jax.executor import run
from ppuda_jax.executor.arrays import Tables
from ppuda_jax.executor.layout import Variant
from ppuda_jax.executor.program import make_program
from ppuda_jax.executor.tables import (
    Capacity,
    CapacityError,
    pack_params,
    rows_needed,
    unpack_params,
)
from ppuda_jax.executor.variants import UnsupportedPlanError
from ppuda_jax.finetune.network import Traced, Trainable
from ppuda_jax.ghn.loaded import LoadedGHN
from ppuda_jax.graphs.from_plan import graph_from_plan
from ppuda_jax.prediction.block_classes import capacity_of
from ppuda_jax.prediction.meta_batch import build_meta_batch
from ppuda_jax.prediction.tables import predict_tables
from ppuda_jax.programs import CachedFunction

Rooms = Mapping[Variant, Capacity]
"""Rows of the tables of a variant's networks."""


def rooms_of(nets: Iterable[EvalNet]) -> Rooms:
    """The least room in which all networks of a variant fit, so that they share their programs.

    Rows that no network has cost time in each step: their gradients are zeroed, and the optimiser
    goes over them.
    """
    rooms: dict[Variant, Capacity] = {}
    for net in nets:
        if net.plan is None or net.variant is None:
            continue
        try:
            need = rows_needed([make_program(net.plan, net.variant)])
        except UnsupportedPlanError:
            continue
        known = rooms.get(net.variant, need)
        rooms[net.variant] = Capacity(_most(known.mats, need.mats), _most(known.vecs, need.vecs))
    return rooms


def _most(
    one: tuple[tuple[str, int], ...], other: tuple[tuple[str, int], ...]
) -> tuple[tuple[str, int], ...]:
    pairs = zip(one, other, strict=True)
    return tuple((name, max(rows, more)) for (name, rows), (_, more) in pairs)


def in_executor(
    net: EvalNet, batch_size: int, memory_limit_gib: float = 4.0, rooms: Rooms | None = None
) -> Trainable:
    """A network of DeepNets-1M as data of the executor.

    Args:
      net: the network.
      batch_size: images of a step.
      memory_limit_gib: what training it may take.
      rooms: of the networks that share programs with it, see `rooms_of`; by default room for any
        network of its variant.

    Raises:
      UnfitError: the executor cannot train it.
    """
    reason = why_not_executor(net, batch_size, memory_limit_gib * 2**30, training=True)
    if reason is not None or net.plan is None or net.variant is None:
        raise UnfitError(f"{net.name} cannot be trained in the executor: {reason}")
    plan, variant = net.plan, net.variant
    try:
        arrays = build_meta_batch([plan], variant)
    except CapacityError as error:
        raise UnfitError(f"{net.name} has no room in the executor: {error}") from error
    program, programs = make_program(plan, variant), jax.device_put(arrays.programs)
    room = (rooms or {}).get(variant) or capacity_of(variant, 1)
    traced = Traced(functools.partial(_gradient, variant), programs, variant)
    score = CachedFunction(functools.partial(_score, variant), variant, "scores of networks")
    logits = CachedFunction(functools.partial(_logits, variant), variant, "logits of networks")

    def pack(params: Any) -> Tables:
        return pack_params([program], [params], room)

    def predict(ghn: LoadedGHN, own: Any = None) -> Tables:
        function = functools.partial(predict_tables, ghn.config, variant)
        tables = CachedFunction(function, (ghn.config, variant), "predictors of tables")
        norm = ghn.config.weight_norm
        found = tables(ghn.theta, arrays if norm else build_meta_batch([plan], variant, norm))
        found = _cut(jax.tree.map(np.asarray, found), room)
        if own is None:
            return found
        packed = pack(own)
        return dataclasses.replace(
            found, classifier=packed.classifier, classifier_bias=packed.classifier_bias
        )

    return Trainable(
        net.name,
        traced.compiled(),
        lambda tables, state, *batch: score(tables, programs, *batch),
        lambda tables, state, images: logits(tables, programs, images),
        graph_from_plan(plan),
        functools.partial(he_params, plan),
        pack,
        lambda tables: unpack_params([program], tables)[0],
        predict,
        traced=traced,
    )


def _gradient(variant, programs, tables, state, images, labels, key, smoothing):
    def loss(tables):
        return run.mean_loss(variant, tables, programs, images, labels, key, smoothing)[0]

    return *jax.value_and_grad(loss)(tables), state


def _logits(variant, tables, programs, images):
    return run.logits(variant, tables, programs, images)[0]


def _score(variant, tables, programs, images, labels, weights):
    return count_hits(_logits(variant, tables, programs, images), labels, weights)


def _cut(tables: Tables, room: Capacity) -> Tables:
    """Tables (NumPy) without the rows for which there is no room, which no network has."""
    mats = {name: tables.mats[name][:rows] for name, rows in room.mats}
    vecs = {name: tables.vecs[name][:rows] for name, rows in room.vecs}
    return dataclasses.replace(tables, mats=mats, vecs=vecs)
