"""Meta-batches as data: graphs, programs, and which decoder rows become which parameter rows.

Everything here is NumPy on the host and has shapes that depend on the variant and the number of
networks only, so that one compiled training step serves every architecture of a variant.

Legend: `M` networks, `N` padded nodes, `T` rows of a table, `C` channels, `k` taps.
"""

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence

import chex
import numpy as np

from ppuda_jax.archs.plan import Plan
from ppuda_jax.executor.layout import Variant, layout_of
from ppuda_jax.executor.program import Program, make_program
from ppuda_jax.executor.run import Programs
from ppuda_jax.executor.tables import Capacity, CapacityError, spill, stack_programs
from ppuda_jax.ghn.normalization import kernel_scale
from ppuda_jax.graphs.batching import Bucket, PaddedGraphs, pad_graphs
from ppuda_jax.graphs.from_plan import graph_from_plan, param_nodes
from ppuda_jax.prediction.rows import Rows

MAX_BLOCK = 64
"""Channels of the largest block that a published decoder makes; larger targets repeat it."""

BUCKET = Bucket(704, 704)
"""The one bucket of graphs; the gated GNN's cost grows with the nodes in use, not with it."""

_TAPS = 49
_TAP_SIDE = 7
_NORM_SCALE, _BIAS = 0, 1


@dataclasses.dataclass(frozen=True)
class Pool:
    """Tables whose rows are decoded together, because their blocks have one shape.

    Attributes:
      block: (inputs, outputs) decoded per row, each at most 64.
      offsets: (first input, first output) modulo 64 of each output layer.
      tables: names of the tables of matrices.
    """

    block: tuple[int, int]
    offsets: tuple[tuple[int, int], ...]
    tables: tuple[str, ...]


@functools.lru_cache(maxsize=256)
def pools_of(variant: Variant) -> tuple[Pool, ...]:
    """Groups a variant's tables of matrices into pools."""
    shapes = layout_of(variant).mats
    found: dict[tuple[int, int], tuple[list[str], dict[tuple[int, int], None]]] = {}
    for name, (width_in, width_out) in shapes.items():
        block = min(width_in, MAX_BLOCK), min(width_out, MAX_BLOCK)
        tables, offsets = found.setdefault(block, ([], {}))
        tables.append(name)
        sources = max(variant.max_concat, variant.stem_slots)
        for k in range(sources):
            offsets[k * width_in % MAX_BLOCK, 0] = None
        for j in range(1, 3 if variant.attention else 1):
            offsets[0, j * width_out % MAX_BLOCK] = None
    return tuple(
        Pool(block, tuple(offsets), tuple(tables)) for block, (tables, offsets) in found.items()
    )


@functools.lru_cache(maxsize=256)
def capacity_of(variant: Variant, count: int) -> Capacity:
    """Rows per table for a meta-batch of `count` networks.

    One network of the published training rules always fits; the room per network shrinks with
    the meta-batch, where large and small ones even out.
    """
    mats, vecs = spill(variant)
    stages = 3 if variant.stages == 1 else 1
    scale = (2 if variant.large else 1) * stages

    def rows(name: str) -> int:
        if name.startswith("s"):
            return scale * (350 + 120 * count)
        return (2 if variant.large else 1) * (16 + 12 * count)

    return Capacity(
        tuple((name, mats[name] + rows(name)) for name in mats),
        tuple((name, vecs[name] + scale * (450 + 250 * count)) for name in vecs),
    )


@chex.dataclass(frozen=True)
class Vectors:
    """Where the rows of one table of vectors come from.

    Attributes:
      source: int32 [V]: row of the vector sources (see `tables.py`), 0 for zeros.
      offset: int32 [V]: first channel, modulo 64.
    """

    source: np.ndarray
    offset: np.ndarray


@chex.dataclass(frozen=True)
class Ends:
    """Stem and head of each network.

    Attributes:
      stem: int32 [M, 2]: node of the first convolution, its kernel size.
      positions: int32 [M]: node of the positional encoding (0 without).
      hidden: int32 [M, 4]: nodes of the first of two dense layers and its bias, its inputs and
        outputs (0 with one layer).
      classifier: int32 [M, 3]: nodes of the classifier and its bias, its inputs.
      scale: float32 [M, 3]: fan-in scales of stem, hidden layer and classifier.
    """

    stem: np.ndarray
    positions: np.ndarray
    hidden: np.ndarray
    classifier: np.ndarray
    scale: np.ndarray


@chex.dataclass(frozen=True)
class MetaBatch:
    """M networks of one variant as arrays.

    Node numbers are flat: network times N plus node.

    Attributes:
      graphs: padded graphs.
      programs: what the executor runs.
      kernel_nodes: int32 [Nk]: nodes whose kernels have more than one tap.
      rows: pool -> rows of matrices to decode.
      place: table -> int32 [T]: row of its pool, or the row of zeros past the pool's end.
      taps: depthwise rows to decode.
      vectors: table -> where its vectors come from.
      ends: stems and heads.
    """

    graphs: PaddedGraphs
    programs: Programs
    kernel_nodes: np.ndarray
    rows: tuple[Rows, ...]
    place: Mapping[str, np.ndarray]
    taps: Rows
    vectors: Mapping[str, Vectors]
    ends: Ends


def build_meta_batch(
    plans: Sequence[Plan], variant: Variant, weight_norm: bool = True
) -> MetaBatch:
    """Builds the arrays of a meta-batch.

    Args:
      plans: M networks of one variant.
      variant: their variant.
      weight_norm: scale predicted weights by their fan-in (GHN-2).

    Returns:
      NumPy arrays.

    Raises:
      CapacityError: the networks need more rows or nodes than a meta-batch has room for.
      UnsupportedPlanError: see `executor.variants.variant_of`.
    """
    programs = [make_program(plan, variant) for plan in plans]
    return _Builder(programs, variant, weight_norm).build()


class _Builder:
    def __init__(self, programs: Sequence[Program], variant: Variant, weight_norm: bool) -> None:
        self.programs, self.variant, self.weight_norm = programs, variant, weight_norm
        self.count = len(programs)
        self.capacity = capacity_of(variant, self.count)
        self.nodes = [param_nodes(p.plan) + b * BUCKET.nodes for b, p in enumerate(programs)]
        self.chunk = min(256, 32 * self.count)
        self.slots: dict[int, int] = {}

    def build(self) -> MetaBatch:
        """Returns the meta-batch."""
        if any(node.max() - b * BUCKET.nodes >= BUCKET.nodes for b, node in enumerate(self.nodes)):
            raise CapacityError(f"a graph must have at most {BUCKET.nodes} nodes: skip it.")
        self.scales = [_scales(p.plan, self.weight_norm) for p in self.programs]
        graphs = pad_graphs([graph_from_plan(p.plan) for p in self.programs], BUCKET)
        rows, place = [], {}
        for pool in pools_of(self.variant):
            decoded, places = self.pool(pool)
            rows.append(decoded)
            place |= places
        taps, vectors = self.vectors()
        return MetaBatch(
            graphs=graphs,
            programs=stack_programs(self.programs),
            kernel_nodes=self.kernel_nodes(),
            rows=tuple(rows),
            place=place,
            taps=taps,
            vectors=vectors,
            ends=self.ends(),
        )

    def feature_rows(
        self, b: int, param: np.ndarray, y: np.ndarray, x: np.ndarray, shared: np.ndarray
    ) -> np.ndarray:
        """Rows of the features: one per node for single taps, then 49 per kernel node."""
        node = self.nodes[b][param]
        rows = node.copy()
        many = ~shared[param]
        for i in np.flatnonzero(many):
            slot = self.slots.setdefault(int(node[i]), len(self.slots))
            rows[i] = self.count * BUCKET.nodes + slot * _TAPS + y[i] * _TAP_SIDE + x[i]
        return rows

    def pool(self, pool: Pool) -> tuple[Rows, dict[str, np.ndarray]]:
        """Sorts a pool's rows into chunks of one output layer each."""
        layer_of = np.full((MAX_BLOCK, MAX_BLOCK), -1, np.int32)
        for number, offset in enumerate(pool.offsets):
            layer_of[offset] = number
        found = []  # (table number, row, layer, source, scale)
        starts = {}
        for number, name in enumerate(pool.tables):
            start = 0
            for b, program in enumerate(self.programs):
                table = program.mat_rows[name]
                used = np.flatnonzero(table.param >= 0)
                param, y, x, i, o = table[used].columns
                source = self.feature_rows(b, param, y, x, _single_tap(program.plan))
                found.append(
                    np.stack(
                        [
                            np.full(len(used), number),
                            start + used,
                            layer_of[i % MAX_BLOCK, o % MAX_BLOCK],
                            source,
                            np.full(len(used), b),
                            param,
                        ]
                    )
                )
                start += len(table)
            starts[name] = start
            self.check(name, start, dict(self.capacity.mats)[name] - spill(self.variant)[0][name])
        table, row, layer, source, owner, param = np.concatenate(found, axis=1)
        scale = np.array([self.scales[b][p] for b, p in zip(owner, param, strict=True)], np.float32)
        cap = sum(dict(self.capacity.mats)[name] for name in pool.tables)
        rows, position = _chunks(layer, source, scale, len(pool.offsets), self.chunk, cap)
        zero = rows.source.size
        place = {}
        for number, name in enumerate(pool.tables):
            at = np.full(dict(self.capacity.mats)[name], zero, np.int32)
            mine = table == number
            at[row[mine]] = position[mine]
            place[name] = at
        return rows, place

    def vectors(self) -> tuple[Rows, dict[str, Vectors]]:
        """Depthwise rows to decode, and the source of every vector.

        Sources: 0 is zeros; then scale and bias of every node; then the depthwise rows.
        """
        first_tap = 1 + 2 * self.count * BUCKET.nodes
        sources, scales, tables = [], [], {}
        for name, capacity in self.capacity.vecs:
            source, offset = np.zeros(capacity, np.int32), np.zeros(capacity, np.int32)
            start = 0
            for b, program in enumerate(self.programs):
                rows = program.vec_rows[name]
                self.check(name, start + len(rows), capacity - spill(self.variant)[1][name])
                kinds = _vector_kinds(program.plan)
                used = np.flatnonzero(rows.param >= 0)
                param, y, x, o = rows[used].columns
                kind = kinds[param]
                node = self.nodes[b][param]
                value = 1 + 2 * node + np.maximum(kind, 0)
                deep = np.flatnonzero(kind < 0)
                value[deep] = first_tap + sum(map(len, sources)) + np.arange(len(deep))
                if len(deep):
                    shared = np.zeros(len(kinds), bool)
                    sources.append(self.feature_rows(b, param[deep], y[deep], x[deep], shared))
                    scales.append(self.scales[b][param[deep]])
                source[start + used] = value
                offset[start + used] = o % MAX_BLOCK
                start += len(rows)
            tables[name] = Vectors(source=source, offset=offset)
        flat = np.concatenate([np.zeros(0, np.int32), *sources])
        scale = np.concatenate([np.zeros(0, np.float32), *scales])
        cap = sum(rows for _, rows in self.capacity.vecs)
        taps, _ = _chunks(np.zeros(len(flat), np.int32), flat, scale, 1, self.chunk, cap)
        return taps, tables

    def check(self, name: str, need: int, have: int) -> None:
        if need > have:
            raise CapacityError(
                f"table {name} has room for {have} rows, the meta-batch needs "
                f"{need}: skip it or draw smaller networks."
            )

    def kernel_nodes(self) -> np.ndarray:
        """Flat numbers of the nodes with several taps, padded."""
        room = (2 if self.variant.large else 1) * (96 + 64 * self.count)
        if len(self.slots) > room:
            raise CapacityError(
                f"a meta-batch has room for {room} kernels with several taps, "
                f"this one has {len(self.slots)}: skip it."
            )
        return np.array([*self.slots, *[0] * (room - len(self.slots))], np.int32)

    def ends(self) -> Ends:
        """Describes stems and heads."""
        stem, positions, hidden, classifier, scale = [], [], [], [], []
        for b, program in enumerate(self.programs):
            specs, nodes = program.plan.params, self.nodes[b]
            stem.append((nodes[0], specs[0].shape[0]))
            positions.append(nodes[1] if self.variant.attention else 0)
            classifier.append((nodes[-2], nodes[-1], specs[-2].shape[0]))
            two = program.head.layers > 1
            hidden.append((nodes[-4], nodes[-3], *specs[-4].shape) if two else (0, 0, 0, 0))
            scales = self.scales[b]
            scale.append((scales[0], scales[-4] if two else 0.0, scales[-2]))
        as_int = functools.partial(np.array, dtype=np.int32)
        return Ends(
            stem=as_int(stem),
            positions=as_int(positions),
            hidden=as_int(hidden),
            classifier=as_int(classifier),
            scale=np.array(scale, np.float32),
        )


def _chunks(
    layer: np.ndarray, source: np.ndarray, scale: np.ndarray, layers: int, size: int, cap: int
) -> tuple[Rows, np.ndarray]:
    """Packs rows into chunks of one layer; returns them and each row's place."""
    room = math.ceil(cap / size) + layers
    order = np.argsort(layer, kind="stable")
    counts = np.bincount(layer, minlength=layers)
    per_layer = -(-counts // size)
    first = (np.cumsum(per_layer) - per_layer) * size
    rank = np.arange(len(layer)) - (np.cumsum(counts) - counts)[layer[order]]
    position = np.empty(len(layer), np.int64)
    position[order] = first[layer[order]] + rank
    chunked_source = np.zeros(room * size, np.int32)
    chunked_scale = np.zeros(room * size, np.float32)
    chunked_source[position], chunked_scale[position] = source, scale
    used = int(per_layer.sum())
    chunk_layer = np.zeros(room, np.int32)
    chunk_layer[:used] = np.repeat(np.arange(layers), per_layer)
    return Rows(
        source=chunked_source.reshape(room, size),
        scale=chunked_scale.reshape(room, size),
        layer=chunk_layer,
        count=np.int32(used),
    ), position


@functools.lru_cache(maxsize=8192)
def _scale(shape: tuple[int, ...], role: str) -> float:
    return kernel_scale(shape, role)


def _scales(plan: Plan, weight_norm: bool) -> np.ndarray:
    return np.array(
        [
            _scale(s.canonical_shape, s.role) if weight_norm and len(s.shape) > 1 else 1.0
            for s in plan.params
        ],
        np.float32,
    )


def _single_tap(plan: Plan) -> np.ndarray:
    return np.array([len(s.shape) < 4 or s.shape[0] * s.shape[1] == 1 for s in plan.params])


def _vector_kinds(plan: Plan) -> np.ndarray:
    """Per parameter: 0 for a norm's scale, 1 for a bias, -1 for a (depthwise) kernel."""
    kinds = {"norm_scale": _NORM_SCALE, "norm_bias": _BIAS, "bias": _BIAS}
    return np.array([kinds.get(spec.role, -1) for spec in plan.params])
