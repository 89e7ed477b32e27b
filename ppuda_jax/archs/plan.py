"""From a network record to its ordered operations: the one source for graph, net and program.

`make_plan` resolves a `NetConfig` at a class count and an image size into a list of operations
on numbered values (feature maps), each with its channels, sizes, kernel and stride, in the
order of execution (semantics: paper, appendix A.2, and the reference's `Network`). Parts whose
result cannot reach the output are left out, as is everything that only `none` edges feed.

Legend: H spatial size, C channels; a value id numbers a feature map, value 0 is the image.
"""

import dataclasses
import functools
import operator
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from ppuda_jax.archs.genotypes import NetConfig
from ppuda_jax.archs.op_params import op_param_count, op_params
from ppuda_jax.primitives import CELL_OP_KERNELS
from ppuda_jax.types import ParamSpec, nest

IMAGE_SIZES = (32, 224)
"""The resolutions of CIFAR and ImageNet, for which the stems are defined."""


class DisconnectedError(ValueError):
    """The network has no path from the image to its output (all edges are `none`)."""


class Op(NamedTuple):
    """One operation of a plan.

    Attributes:
      kind: one of `primitives.OP_KINDS`.
      name: module path in the reference ("stem0.3", "cells.3._ops.1", "classifier.0", ...).
      cell: index of the cell; -1 in the stem, n_cells in the head.
      inputs: ids of the values read (a concat's absent states left out, repeats kept).
      output: id of the value written.
      c_in: channels of each input (of the sum over the inputs for a concat).
      c_out: channels of the output (features after flatten and dense).
      h_in: spatial size of the inputs; 1 for vectors.
      h_out: spatial size of the output; 1 for vectors.
      kernel: kernel size, 0 where there is none.
      stride: 1, 2 or the stem's stride.
      norm: whether the operation ends in (or, sep_conv, contains) batch norm.
      relu: stem_conv and dense: a ReLU comes first (dense: dropout too, in training).
      concat_slots: concat only: value id, or None for zeros, of each concatenated state.
    """

    kind: str
    name: str
    cell: int
    inputs: tuple[int, ...]
    output: int
    c_in: int
    c_out: int
    h_in: int
    h_out: int
    kernel: int = 0
    stride: int = 1
    norm: bool = False
    relu: bool = False
    concat_slots: tuple[int | None, ...] = ()


@dataclasses.dataclass(frozen=True)
class Plan:
    """A network as ordered operations on numbered values.

    Attributes:
      config: the record the plan was made from.
      num_classes: size of the output.
      image_size: height and width of the input.
      ops: the operations in the order of execution; the last one's output are the logits.
      value_channels: channels (or features) of each value.
      value_size: spatial size of each value, 1 for vectors.
    """

    config: NetConfig
    num_classes: int
    image_size: int
    ops: tuple[Op, ...]
    value_channels: tuple[int, ...]
    value_size: tuple[int, ...]

    @functools.cached_property
    def params(self) -> tuple[ParamSpec, ...]:
        """All parameters in the order of the operations (see `op_params`)."""
        return tuple(spec for op in self.ops for spec in op_params(op))

    @property
    def num_params(self) -> int:
        """Number of trainable scalars."""
        return sum(op_param_count(op) for op in self.ops)

    def in_order(self, params: Mapping[str, Any]) -> list[Any]:
        """Leaves of the parameters of its Flax module, in the order of `self.params`."""
        paths = (spec.path for spec in self.params)
        return [functools.reduce(operator.getitem, path, params) for path in paths]

    def as_tree(self, leaves: Iterable[Any]) -> dict[str, Any]:
        """The inverse of `in_order`."""
        return nest({spec.path: x for spec, x in zip(self.params, leaves, strict=True)})


def make_plan(config: NetConfig, num_classes: int = 10, image_size: int = 32) -> Plan:
    """Resolves a network record into its operations.

    Args:
      config: the network.
      num_classes: size of the classifier's output.
      image_size: 32 (CIFAR stems) or 224 (ImageNet stems).

    Returns:
      The plan, without parts that cannot reach the output.

    Raises:
      ValueError: for another image size or class count, or channels the network cannot have.
      DisconnectedError: if only `none` edges lead to the output.
    """
    if image_size not in IMAGE_SIZES:
        raise ValueError(
            f"image_size must be one of {IMAGE_SIZES}, received {image_size}: resize the images."
        )
    if num_classes < 1:
        raise ValueError(f"num_classes must be at least 1, received {num_classes}.")
    if config.is_vit and config.C % 8:
        raise ValueError(
            f"C must be a multiple of the 8 attention heads, received {config.C}: use 16, 32, ..."
        )
    builder = _PlanBuilder(config, image_size)
    first: int | None
    second: int | None
    first, second = builder.add_stem()
    strided = config.stem_type == 1 and not config.is_vit
    for cell in range(config.n_cells):
        reduction = cell in builder.reduction_cells
        first, second = second, builder.add_cell(cell, first, second, reduction, strided)
        strided = reduction and not config.is_vit
    if second is None:
        raise DisconnectedError(
            "a network needs a path from the image to its output, received a genotype whose "
            f"`none` edges cut it ({config.genotype}): reject it or replace a `none`."
        )
    builder.add_head(second, num_classes)
    return builder.finish(num_classes)


class _PlanBuilder:
    """Collects operations and values while the network is walked from the image on."""

    def __init__(self, config: NetConfig, image_size: int) -> None:
        self.config = config
        self.large = image_size == 224
        self.image_size = image_size
        self.norm = config.norm is not None
        self.is_vit = config.is_vit
        self.reduction_cells = config.reduction_cells
        self.channels = [3]
        self.sizes = [image_size]
        self.ops: list[Op] = []
        self.width = config.C

    def add(
        self,
        kind: str,
        name: str,
        cell: int,
        inputs: tuple[int, ...],
        c_out: int,
        kernel: int = 0,
        stride: int = 1,
        norm: bool = False,
        relu: bool = False,
        h_out: int = 0,
    ) -> int:
        """Appends an operation and returns the id of its value (default size ceil(H/stride))."""
        source = inputs[0]
        h_in = self.sizes[source]
        size = h_out or -(-h_in // stride)
        output = len(self.channels)
        self.ops.append(
            Op(
                kind,
                name,
                cell,
                inputs,
                output,
                self.channels[source],
                c_out,
                h_in,
                size,
                kernel,
                stride,
                norm,
                relu,
            )
        )
        self.channels.append(c_out)
        self.sizes.append(size)
        return output

    def add_stem(self) -> tuple[int, int]:
        """Adds the stem and returns the two inputs of the first cell."""
        config, norm = self.config, self.norm
        if self.is_vit:
            kernel, tokens = (16, 14) if self.large else (3, 11)
            x = self.add("patch_conv", "stem0", -1, (0,), config.C, kernel, kernel, h_out=tokens)
            x = self.add("pos_enc", "pos_enc", -1, (x,), config.C)
            return x, x
        if config.stem_type == 0:
            width = config.C * (3 if config.preproc and not self.large else 1)
            stride = 4 if self.large else 1
            x = self.add("stem_conv", "stem.0", -1, (0,), width, config.ks, stride, norm)
            if config.stem_pool:
                x = self.add("stem_pool", "stem.2", -1, (x,), width, 3, 2)
            return x, x
        stride = 2 if self.large else 1
        x = self.add("stem_conv", "stem0.0", -1, (0,), config.C // 2, config.ks, stride, norm)
        x = self.add("stem_conv", "stem0.3", -1, (x,), config.C, 3, stride, norm, relu=True)
        return x, self.add("stem_conv", "stem1.1", -1, (x,), config.C, 3, 2, norm, relu=True)

    def add_cell(
        self, cell: int, first: int | None, second: int | None, reduction: bool, strided: bool
    ) -> int | None:
        """Adds one cell on two (possibly absent) values and returns its output, None if absent.

        `strided` says that the first input has twice the resolution of the second.
        """
        genotype = self.config.genotype
        if reduction:
            self.width *= self.config.C_mult
        edges, concat = (
            (genotype.reduce, genotype.reduce_concat)
            if reduction
            else (genotype.normal, genotype.normal_concat)
        )
        states = [
            self._preprocess(cell, 0, first, strided),
            self._preprocess(cell, 1, second, False),
        ]
        for step in range(len(edges) // 2):
            terms = []
            for position in (2 * step, 2 * step + 1):
                op, state = edges[position]
                value = states[state]
                if value is not None and op != "none":
                    stride = 2 if reduction and state < 2 and not self.is_vit else 1
                    terms.append(self._edge(cell, position, op, value, stride))
            if len(terms) == 2:
                name = f"cells.{cell}.sum_{step + 2}"
                terms = [self.add("sum", name, cell, tuple(terms), self.width)]
            states.append(terms[0] if terms else None)
        return self._concat(cell, tuple(states[state] for state in concat))

    def _preprocess(self, cell: int, index: int, value: int | None, strided: bool) -> int | None:
        if value is None:
            return None
        name = f"cells.{cell}.preprocess{index}"
        if self.config.preproc:
            if strided:
                return self.add(
                    "factorized_reduce", name, cell, (value,), self.width, 1, 2, self.norm
                )
            return self.add("preprocess", name, cell, (value,), self.width, 1, 1, self.norm)
        if strided:
            return self.add("subsample", name, cell, (value,), self.channels[value], 0, 2)
        return value

    def _edge(self, cell: int, position: int, op: str, value: int, stride: int) -> int:
        name = f"cells.{cell}._ops.{position}"
        if op == "skip_connect":
            if stride == 1:
                return value
            return self.add(
                "factorized_reduce", name, cell, (value,), self.width, 1, stride, self.norm
            )
        norm = self.norm and "conv" in op
        return self.add(op, name, cell, (value,), self.width, CELL_OP_KERNELS[op], stride, norm)

    def _concat(self, cell: int, slots: tuple[int | None, ...]) -> int | None:
        present = tuple(value for value in slots if value is not None)
        if not present or len(slots) == 1:
            return slots[0]
        output = self.add("concat", f"cells.{cell}.concat", cell, present, 0)
        channels = len(slots) * self.width
        self.ops[-1] = self.ops[-1]._replace(
            c_in=len(present) * self.width, c_out=channels, concat_slots=slots
        )
        self.channels[output] = channels
        return output

    def add_head(self, value: int, num_classes: int) -> None:
        """Adds pooling or flattening and the dense layers."""
        config, cell = self.config, self.config.n_cells
        features = self.channels[value]
        if config.glob_avg:
            x = self.add("global_pool", "global_pooling", cell, (value,), features, h_out=1)
        else:
            features *= self.sizes[value] ** 2
            x = self.add("flatten", "flatten", cell, (value,), features, h_out=1)
        layers = max(config.fc_layers, 1)
        for layer in range(layers):
            width = num_classes if layer == layers - 1 else config.fc_dim
            x = self.add("dense", f"classifier.{3 * layer}", cell, (x,), width, relu=layer > 0)

    def finish(self, num_classes: int) -> Plan:
        """Drops what does not reach the output, renumbers the values and returns the plan."""
        live = {self.ops[-1].output}
        for op in reversed(self.ops):
            if op.output in live:
                live.update(op.inputs)
        live.add(0)
        ops = self.ops
        channels, sizes = self.channels, self.sizes
        if len(live) < len(channels):
            kept = sorted(live)
            new = {old: index for index, old in enumerate(kept)}
            ops = [_renumbered(op, new) for op in ops if op.output in live]
            channels, sizes = [channels[v] for v in kept], [sizes[v] for v in kept]
        return Plan(
            self.config, num_classes, self.image_size, tuple(ops), tuple(channels), tuple(sizes)
        )


def _renumbered(op: Op, new: dict[int, int]) -> Op:
    return op._replace(
        inputs=tuple(new[value] for value in op.inputs),
        output=new[op.output],
        concat_slots=tuple(None if value is None else new[value] for value in op.concat_slots),
    )


def plan_stats(plans: Iterable[Plan]) -> dict[str, int]:
    """Counts the operations of several plans by kind.

    Args:
      plans: the plans.

    Returns:
      Kind -> number of operations, only kinds that occur, in alphabetical order.
    """
    counts: dict[str, int] = {}
    for plan in plans:
        for op in plan.ops:
            counts[op.kind] = counts.get(op.kind, 0) + 1
    return dict(sorted(counts.items()))
