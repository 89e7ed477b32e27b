"""Meta-batches as data: graphs, programs, and which decoder rows become which parameter rows.

Everything here is NumPy on the host and has shapes that depend on the variant and the number of
networks only, so that one compiled training step serves every architecture of a variant.

Rows of features, which the decoder turns into blocks, are numbered as `tables.py` makes them: one
per node of the meta-batch, for kernels of a single tap; then `TAP_SIDE**2` per kernel of several.

Legend: `M` networks, `N` padded nodes, `T` and `V` rows of a table of matrices or vectors.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import jax
import numpy as np

from ppuda_jax.archs.plan import Plan
from ppuda_jax.executor.arrays import Programs
from ppuda_jax.executor.columns import Column, Columns
from ppuda_jax.executor.layout import Variant
from ppuda_jax.executor.program import Program, make_program
from ppuda_jax.executor.tables import CapacityError, spill, stack_programs
from ppuda_jax.graphs.batching import PaddedGraphs, pad_graphs
from ppuda_jax.graphs.from_plan import graph_from_plan, param_nodes
from ppuda_jax.prediction.block_classes import (
    BUCKET,
    BlockClass,
    block_classes,
    capacity_of,
    check_room,
    kernel_room,
)
from ppuda_jax.prediction.blocks import MAX_BLOCK, TAP_SIDE, VECTOR_ROWS, weight_scale
from ppuda_jax.prediction.ends import Ends, describe_ends
from ppuda_jax.prediction.rows import Rows, pack_rows

_DEPTHWISE = -1


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class VectorSource(Columns):
    """Where the rows of one table of vectors come from.

    Attributes:
      source: int32 [V]: 0 for zeros; then scale and bias of every node; then the depthwise rows.
      offset: int32 [V]: first channel, modulo 64.
    """

    source: Column
    offset: Column


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class MetaBatch:
    """M networks of one variant as arrays.

    Node numbers are flat: network times N plus node.

    Attributes:
      graphs: padded graphs.
      programs: what the executor runs.
      kernel_nodes: int32 [Nk]: nodes whose kernels have more than one tap.
      rows: per class of blocks, the rows of matrices to decode.
      place: table -> int32 [T]: row of its class, or the row of zeros past the last one.
      taps: depthwise rows to decode.
      vectors: table -> where its vectors come from.
      ends: stems and heads.
    """

    graphs: PaddedGraphs
    programs: Programs
    kernel_nodes: Column
    rows: tuple[Rows, ...]
    place: Mapping[str, Column]
    taps: Rows
    vectors: Mapping[str, VectorSource]
    ends: Ends


@dataclasses.dataclass(frozen=True)
class _Wanted(Columns):
    """Rows of matrices that are wanted from one class of blocks.

    Attributes:
      table: number of the table in its class.
      row: row of the table.
      layer: output layer.
      source: row of the features.
      network: whose.
      param: index into its plan's parameters.
    """

    table: Column
    row: Column
    layer: Column
    source: Column
    network: Column
    param: Column


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
    return _MetaBatchBuilder(programs, variant, weight_norm).build()


class _MetaBatchBuilder:
    """Numbers rows of features as they are met, and counts the rows of each table."""

    def __init__(self, programs: Sequence[Program], variant: Variant, weight_norm: bool) -> None:
        self.programs, self.variant = programs, variant
        self.count = len(programs)
        self.capacity = capacity_of(variant, self.count)
        self.nodes = [param_nodes(p.plan) + b * BUCKET.nodes for b, p in enumerate(programs)]
        self.scales = [_scales(p.plan, weight_norm) for p in programs]
        self.chunk = min(256, 32 * self.count)
        self.slots: dict[int, int] = {}  # flat node -> its place among kernels of several taps

    def build(self) -> MetaBatch:
        """Returns the meta-batch."""
        if any(node.max() - b * BUCKET.nodes >= BUCKET.nodes for b, node in enumerate(self.nodes)):
            raise CapacityError(f"a graph must have at most {BUCKET.nodes} nodes: skip it.")
        graphs = pad_graphs([graph_from_plan(p.plan) for p in self.programs], BUCKET)
        rows: list[Rows] = []
        place: dict[str, np.ndarray] = {}
        for block_class in block_classes(self.variant):
            decoded, places = self.matrices(block_class)
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
            ends=describe_ends(self.programs, self.nodes, self.scales),
        )

    def feature_rows(
        self, b: int, param: np.ndarray, y: np.ndarray, x: np.ndarray, single: np.ndarray
    ) -> np.ndarray:
        """Rows of the features for taps (y, x) of parameters of network b.

        Args:
          b: the network.
          param: int32 [T], its parameters.
          y: int32 [T], row of the tap.
          x: int32 [T], column of the tap.
          single: bool [params], whether a parameter is a kernel of a single tap.
        """
        node = self.nodes[b][param]
        rows = node.copy()
        for i in np.flatnonzero(~single[param]):
            slot = self.slots.setdefault(int(node[i]), len(self.slots))
            rows[i] = self.count * BUCKET.nodes + (slot * TAP_SIDE + y[i]) * TAP_SIDE + x[i]
        return rows

    def matrices(self, block_class: BlockClass) -> tuple[Rows, dict[str, np.ndarray]]:
        """Rows to decode for a class of blocks, and where each table finds its own."""
        layer_of = np.full((MAX_BLOCK, MAX_BLOCK), -1, np.int32)
        for number, offset in enumerate(block_class.offsets):
            layer_of[offset] = number
        capacity, spilled = dict(self.capacity.mats), spill(self.variant)[0]
        found = []
        for number, name in enumerate(block_class.tables):
            start = 0
            for b, program in enumerate(self.programs):
                table = program.mat_rows[name]
                used = np.flatnonzero(table.param >= 0)
                rows = table[used]
                single = _single_tap(program.plan)
                found.append(
                    _Wanted(
                        table=np.full(len(used), number),
                        row=start + used,
                        layer=layer_of[rows.first_in % MAX_BLOCK, rows.first_out % MAX_BLOCK],
                        source=self.feature_rows(b, rows.param, rows.tap_y, rows.tap_x, single),
                        network=np.full(len(used), b),
                        param=rows.param,
                    )
                )
                start += len(table)
            check_room(f"rows in table {name}", start, capacity[name] - spilled[name])
        wanted = _Wanted.join(found)
        scale = np.array(
            [self.scales[b][p] for b, p in zip(wanted.network, wanted.param, strict=True)],
            np.float32,
        )
        cap = sum(capacity[name] for name in block_class.tables)
        layers = len(block_class.offsets)
        packed, position = pack_rows(wanted.layer, wanted.source, scale, (layers, self.chunk, cap))
        place = {}
        for number, name in enumerate(block_class.tables):
            place[name] = np.full(capacity[name], packed.source.size, np.int32)
            mine = wanted.table == number
            place[name][wanted.row[mine]] = position[mine]
        return packed, place

    def vectors(self) -> tuple[Rows, dict[str, VectorSource]]:
        """Depthwise rows to decode, and the source of every vector."""
        first_tap = 1 + 2 * self.count * BUCKET.nodes
        spilled = spill(self.variant)[1]
        sources, scales, tables = [np.zeros(0, np.int32)], [np.zeros(0, np.float32)], {}
        for name, capacity in self.capacity.vecs:
            source, offset = np.zeros(capacity, np.int32), np.zeros(capacity, np.int32)
            start = 0
            for b, program in enumerate(self.programs):
                table = program.vec_rows[name]
                check_room(f"rows in table {name}", start + len(table), capacity - spilled[name])
                kinds = _vector_kinds(program.plan)
                used = np.flatnonzero(table.param >= 0)
                rows = table[used]
                kind = kinds[rows.param]
                value = 1 + 2 * self.nodes[b][rows.param] + np.maximum(kind, 0)
                deep = np.flatnonzero(kind == _DEPTHWISE)
                value[deep] = first_tap + sum(map(len, sources)) + np.arange(len(deep))
                if len(deep):
                    taps, many = rows[deep], np.zeros(len(kinds), bool)
                    sources.append(self.feature_rows(b, taps.param, taps.tap_y, taps.tap_x, many))
                    scales.append(self.scales[b][taps.param])
                source[start + used] = value
                offset[start + used] = rows.first_out % MAX_BLOCK
                start += len(table)
            tables[name] = VectorSource(source=source, offset=offset)
        flat, scale = np.concatenate(sources), np.concatenate(scales)
        cap = sum(rows for _, rows in self.capacity.vecs)
        taps_to_decode, _ = pack_rows(
            np.zeros(len(flat), np.int32), flat, scale, (1, self.chunk, cap)
        )
        return taps_to_decode, tables

    def kernel_nodes(self) -> np.ndarray:
        """Flat numbers of the nodes with several taps, padded."""
        room = kernel_room(self.variant, self.count)
        check_room("kernels with several taps", len(self.slots), room)
        return np.array([*self.slots, *[0] * (room - len(self.slots))], np.int32)


def _scales(plan: Plan, weight_norm: bool) -> np.ndarray:
    """Factor of each parameter."""
    return np.array(
        [weight_scale(spec.canonical_shape, spec.role, weight_norm) for spec in plan.params],
        np.float32,
    )


def _single_tap(plan: Plan) -> np.ndarray:
    """Whether each parameter is a kernel of a single tap."""
    return np.array([len(s.shape) < 4 or s.shape[0] * s.shape[1] == 1 for s in plan.params])


def _vector_kinds(plan: Plan) -> np.ndarray:
    """Per parameter: its row of a node's vectors, or `_DEPTHWISE` for a kernel."""
    return np.array([VECTOR_ROWS.get(spec.role, _DEPTHWISE) for spec in plan.params])
