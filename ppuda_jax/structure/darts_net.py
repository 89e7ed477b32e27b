"""Whole networks of DARTS, all at once: stem, normal and reduction cells with mixed operations.

All normal cells have one structure and all reduction cells another. A network of two edges a step
is a genotype, which the rest of the library knows: a plan, a graph, so that a hypernetwork predicts
its parameters (`DartsPredictor`), and a program of the executor.

Legend: `n` images, `s` their side, `C` channels, `K` = 8 operations.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ppuda_jax.archs.genotypes import DARTS, Genotype, NetConfig
from ppuda_jax.archs.op_params import count_rows, op_params, param_rows
from ppuda_jax.archs.plan import Plan, make_plan
from ppuda_jax.ghn.loaded import LoadedGHN
from ppuda_jax.graphs.from_plan import graph_from_plan
from ppuda_jax.nets import ops
from ppuda_jax.prediction.predict import predict_params
from ppuda_jax.primitives import CELL_OP_KERNELS
from ppuda_jax.structure import darts_cell
from ppuda_jax.structure.darts_cell import OPS
from ppuda_jax.structure.discretise import Choice
from ppuda_jax.structure.family import Edge, Family, Structure
from ppuda_jax.structure.posterior import scaled
from ppuda_jax.structure.supernet import Numbers, Supernet, linear_measure

Params = dict[str, Any]
"""Parameters of a network, nested by the names of its parts."""
_CellFn = Callable[[bool, Any, jax.Array], jax.Array]
_NONE = OPS.index("none")
_PER_STEP = 2


@dataclasses.dataclass(frozen=True)
class Skeleton:
    """What all networks share.

    Attributes:
      classes: outputs.
      channels: C, of the first cell; doubled by each reduction cell.
      cells: of the network; reduction cells are at a third and two thirds.
      steps: of a cell; 4 in DARTS.
      side: s, of the images.
      partial: one of so many channels goes through the operations of an edge (4 in PC-DARTS). For
        searches: measures and genotypes are those of the network of whole channels.

    Raises:
      ValueError: a number below its least, odd channels, or parts that do not divide them.
    """

    classes: int = 10
    channels: int = 8
    cells: int = 3
    steps: int = 2
    side: int = 32
    partial: int = 1

    def __post_init__(self) -> None:
        least_of = {"classes": 1, "channels": 2, "cells": 2, "steps": 1, "partial": 1}
        for name, least in least_of.items():
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, received {getattr(self, name)}")
        if self.channels % 2:
            raise ValueError(f"channels must be even, received {self.channels}")
        if self.channels % self.partial:
            raise ValueError(
                f"partial must divide the {self.channels} channels, received {self.partial}"
            )
        if self.side < 4 or self.side % 4:
            raise ValueError(f"the side must be a multiple of 4, received {self.side}")

    @property
    def reductions(self) -> tuple[int, ...]:
        """Numbers of the reduction cells."""
        return self.config(DARTS).reduction_cells

    def config(self, genotype: Genotype) -> NetConfig:
        """The library's record of a network."""
        return NetConfig(genotype, n_cells=self.cells, C=self.channels)

    @property
    def families(self) -> tuple[Family, Family]:
        """Of normal and of reduction cells."""
        normal, reduce = (
            darts_cell.cell(self.steps, reduction, self.partial) for reduction in (False, True)
        )
        return normal, reduce

    @property
    def edges(self) -> tuple[tuple[Edge, ...], tuple[Edge, ...]]:
        """Edges with a choice, of normal and of reduction cells, which continue the numbers."""
        own, offset = darts_cell.mixed_edges(self.steps), self._offset
        return own, tuple((j + offset, k + offset) for j, k in own)

    @property
    def _offset(self) -> int:
        return self.steps + 4  # vertices of a cell

    def of_kind(self, values: dict[Edge, Any], reduction: bool) -> dict[Edge, Any]:
        """The part of one kind of cells, by the numbers of `darts_cell.cell`."""
        own = darts_cell.mixed_edges(self.steps)
        return {e: values[named] for e, named in zip(own, self.edges[reduction], strict=True)}


def supernet(skeleton: Skeleton) -> Supernet:
    """All networks of the space at once; parameters are those of the plan of a genotype."""
    families = skeleton.families

    def full(structure: Structure, reduction: bool) -> dict[Edge, jax.Array]:
        own = skeleton.of_kind(dict(structure), reduction)
        single = {e: jnp.ones(1) for e in families[reduction].edges if e not in own}
        return own | single

    def apply(params: Params, structure: Structure, x: jax.Array) -> jax.Array:
        def cell(reduction: bool, own: Any, h: jax.Array) -> jax.Array:
            return families[reduction].apply(own, full(structure, reduction), h)

        return _network(skeleton, params, x, cell)

    def apply_vertex(params: Params, numbers: Numbers, x: jax.Array) -> jax.Array:
        def cell(reduction: bool, own: Any, h: jax.Array) -> jax.Array:
            chosen = skeleton.of_kind(dict(numbers), reduction)
            return families[reduction].apply_vertex(own, chosen, h)

        return _network(skeleton, params, x, cell)

    def scale(params: Params, structure: Structure) -> Params:
        new = dict(params)
        for i in range(skeleton.cells):
            own = params[f"cell_{i}"]
            mixed = scaled(own["edges"], full(structure, i in skeleton.reductions))
            new[f"cell_{i}"] = {**own, "edges": mixed}
        return new

    every = [edge for edges in skeleton.edges for edge in edges]
    size, flops = (_costs(skeleton, kernels_only) for kernels_only in (False, True))
    return Supernet(
        dict.fromkeys(every, OPS),
        functools.partial(init, skeleton),
        apply,
        linear_measure(*size),
        linear_measure(*flops),
        scale,
        apply_vertex=apply_vertex,
        discretise=functools.partial(discretise, skeleton),
        connected=lambda choice: skeleton.config(genotype(skeleton, choice)).is_connected,
        text=lambda choice: to_text(genotype(skeleton, choice)),
    )


def discretise(skeleton: Skeleton, structure: Structure) -> dict[Edge, jax.Array]:
    """The two strongest edges of every step, `none` on the others (DARTS, section 2.4).

    The same rule as `discretise.strongest_edges`, for structures that are traced.
    """
    choice: dict[Edge, jax.Array] = {}
    for edges in skeleton.edges:
        for step in sorted({k for _, k in edges}):
            incoming = [edge for edge in edges if edge[1] == step]
            usable = jnp.stack([structure[edge] for edge in incoming]).at[:, _NONE].set(-jnp.inf)
            order = jnp.argsort(-jnp.max(usable, -1))
            best = jnp.argmax(usable, -1)
            for i, edge in enumerate(incoming):
                kept = jnp.any(order[:_PER_STEP] == i)
                choice[edge] = jnp.where(kept, best[i], _NONE)
    return choice


def genotype(skeleton: Skeleton, choice: Choice) -> Genotype:
    """The genotype of a network of at most two edges a step.

    Raises:
      ValueError: a step with more edges, which no genotype has: `discretise` first.
    """
    both = []
    for reduction in (False, True):
        own = skeleton.of_kind(choice, reduction)
        pairs: list[tuple[str, int]] = []
        for step in sorted({k for _, k in own}):
            used = [(OPS[op], j - 1) for (j, k), op in sorted(own.items()) if k == step and op]
            if len(used) > _PER_STEP:
                raise ValueError(
                    f"a step of a genotype has {_PER_STEP} edges, received {used}: take the two "
                    "strongest by `discretise`"
                )
            pairs += [*used, *[("none", 0)] * (_PER_STEP - len(used))]
        both.append(tuple(pairs))
    concat = tuple(range(2, 2 + skeleton.steps))
    return Genotype(both[0], concat, both[1], concat)


def to_text(cells: Genotype) -> str:
    """A genotype in one line, operation~state, steps apart."""
    lines = []
    for name in ("normal", "reduce"):
        words = [f"{op}~{state}" for op, state in getattr(cells, name)]
        steps = [" + ".join(words[i : i + _PER_STEP]) for i in range(0, len(words), _PER_STEP)]
        lines.append(f"{name}: {', '.join(steps)}")
    return "; ".join(lines)


def plan_of(skeleton: Skeleton, choice: Choice) -> Plan:
    """The plan of a network, at the 32 pixels that plans are made for.

    Parameters do not depend on the side of the images.

    Raises:
      ValueError: as `genotype`.
      DisconnectedError: nothing reaches the output.
    """
    return make_plan(skeleton.config(genotype(skeleton, choice)), skeleton.classes)


def init(skeleton: Skeleton, key: jax.Array) -> Params:
    """Draws the parameters of all operations, by He's rule; consumes `key`."""
    keys = iter(jax.random.split(key, 3 * skeleton.cells + 2))
    params: Params = {}
    for name, (kind, c_in, c_out, kernel, _) in _fixed(skeleton).items():
        params[name] = darts_cell.draw(next(keys), kind, c_in, c_out, kernel)
    for i, width in enumerate(_widths(skeleton)):
        family = skeleton.families[i in skeleton.reductions]
        x = jax.ShapeDtypeStruct((1, 4, 4, 2 * width), jnp.float32)
        pre = {f"preprocess{j}": params.pop(f"cells.{i}.preprocess{j}") for j in (0, 1)}
        params[f"cell_{i}"] = {**pre, "edges": family.init(next(keys), x)}
    return params


def _widths(skeleton: Skeleton) -> list[int]:
    """Channels of the cells."""
    reductions = skeleton.reductions
    return [skeleton.channels * 2 ** sum(r <= i for r in reductions) for i in range(skeleton.cells)]


def _fixed(skeleton: Skeleton) -> dict[str, tuple[str, int, int, int, int]]:
    """What every network has: kind, channels in and out, kernel and side of the output."""
    found = {"stem": ("stem_conv", 3, 3 * skeleton.channels, 3, skeleton.side)}
    outputs = [3 * skeleton.channels] * 2
    side, strided = skeleton.side, False
    for i, width in enumerate(_widths(skeleton)):
        kind = "factorized_reduce" if strided else "preprocess"
        found[f"cells.{i}.preprocess0"] = (kind, outputs[-2], width, 1, side)
        found[f"cells.{i}.preprocess1"] = ("preprocess", outputs[-1], width, 1, side)
        outputs.append(skeleton.steps * width)
        strided = i in skeleton.reductions
        side //= 2 if strided else 1
    found["head"] = ("dense", outputs[-1], skeleton.classes, 0, 1)
    return found


def _costs(skeleton: Skeleton, kernels_only: bool) -> tuple[dict[Edge, tuple[float, ...]], float]:
    """Parameters, or operations of kernels, of every operation on every edge, and of the rest."""

    def cost(kind: str, c_in: int, c_out: int, kernel: int, side: int) -> float:
        if not kernels_only:
            return count_rows(kind, c_in, c_out, kernel, True, 1)
        rows = param_rows(kind, c_in, c_out, kernel, True, 1)
        kernels = sum(int(np.prod(shape)) for _, _, shape, role in rows if role == "kernel")
        return 2.0 * kernels * side**2

    costs = {edge: np.zeros(len(OPS)) for edges in skeleton.edges for edge in edges}
    side = skeleton.side
    for i, width in enumerate(_widths(skeleton)):
        reduction = i in skeleton.reductions
        side //= 2 if reduction else 1
        own = darts_cell.mixed_edges(skeleton.steps)
        for (state, _), named in zip(own, skeleton.edges[reduction], strict=True):
            for number, op in enumerate(OPS):
                strided_skip = op == "skip_connect" and reduction and state < 3
                kind = "factorized_reduce" if strided_skip else op
                costs[named][number] += cost(kind, width, width, CELL_OP_KERNELS[op], side)
    rest = sum(cost(*spec) for spec in _fixed(skeleton).values())
    return {edge: tuple(values) for edge, values in costs.items()}, rest


def _network(skeleton: Skeleton, params: Params, x: jax.Array, cell: _CellFn) -> jax.Array:
    first = second = ops.stem_conv(params["stem"], x)
    strided = False
    for i in range(skeleton.cells):
        own = params[f"cell_{i}"]
        reduce = ops.factorized_reduce if strided else ops.conv_norm
        both = [reduce(own["preprocess0"], first), ops.conv_norm(own["preprocess1"], second)]
        strided = i in skeleton.reductions
        first, second = second, cell(strided, own["edges"], jnp.concatenate(both, -1))
    return ops.dense(params["head"], ops.global_pool((), second))


def place(skeleton: Skeleton, choice: Choice, params: Any) -> Params:
    """Parameters of one network in their places in the supernet; zeros where it has none.

    Args:
      skeleton: see there.
      choice: the network.
      params: of the plan's Flax network, trained or predicted.
    """
    shapes = jax.eval_shape(functools.partial(init, skeleton), jax.random.key(0))
    weights = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    cells, plan = genotype(skeleton, choice), plan_of(skeleton, choice)
    leaves = iter(plan.in_order(params))
    for op in plan.ops:
        own = tuple(next(leaves) for _ in op_params(op))
        part, *rest = op.name.split(".")
        if not own:
            continue
        if part != "cells":
            weights["stem" if part == "stem" else "head"] = own
        elif rest[1] != "_ops":
            weights[f"cell_{rest[0]}"][rest[1]] = own
        else:
            position, reduction = int(rest[2]), int(rest[0]) in skeleton.reductions
            name, state = (cells.reduce if reduction else cells.normal)[position]
            edges = weights[f"cell_{rest[0]}"]["edges"]
            edge, number = darts_cell.step_edge(position, state), OPS.index(name)
            edges[edge] = (*edges[edge][:number], own, *edges[edge][number + 1 :])
    return weights


class DartsPredictor:
    """Predicts the parameters of networks by their genotypes, see `weights.Predictor`."""

    def __init__(self, ghn: LoadedGHN, skeleton: Skeleton) -> None:
        """Nothing is compiled before the first network; each genotype compiles its own program.

        Raises:
          ValueError: a skeleton of partial channels, whose networks are no genotypes' own.
        """
        if skeleton.partial != 1:
            raise ValueError(
                f"parameters are predicted for whole channels, received partial={skeleton.partial}"
            )
        self.ghn, self._skeleton = ghn, skeleton

    def inputs(self, choice: Choice) -> Params:
        """The predicted parameters in their places.

        Raises:
          ValueError: the hypernetwork cannot predict them: another number of classes.
        """
        graph = graph_from_plan(plan_of(self._skeleton, choice))
        return place(self._skeleton, choice, predict_params(None, graph, self.ghn))

    def weights(self, inputs: Params) -> Params:
        """As they are."""
        return inputs
