"""Genotypes, and the record that describes one network of DeepNets-1M.

A genotype (DARTS, Liu et al. 2019) lists two edges (operation, input state) per step of a cell;
states 0 and 1 are the outputs of the previous cells. A `NetConfig` adds the rest (section 3).
"""

import dataclasses
import operator
from collections.abc import Mapping
from typing import Any

from ppuda_jax.config import check_types
from ppuda_jax.primitives import CELL_OPS

Edge = tuple[str, int]
"""(operation, number of the state that it reads)."""


@dataclasses.dataclass(frozen=True, slots=True)
class Genotype:
    """The two cells of a network.

    Attributes:
      normal: two edges (operation, input state) per step of the normal cell.
      normal_concat: the states whose concatenation is the normal cell's output.
      reduce: the same for the reduction cell.
      reduce_concat: the same for the reduction cell.
    """

    normal: tuple[Edge, ...]
    normal_concat: tuple[int, ...]
    reduce: tuple[Edge, ...]
    reduce_concat: tuple[int, ...]

    def __post_init__(self) -> None:
        for field in ("normal", "reduce"):
            edges = _edges(field, getattr(self, field))
            object.__setattr__(self, field, edges)
            _check_edges(field, edges)
        for field, edges in (("normal_concat", self.normal), ("reduce_concat", self.reduce)):
            concat = _states(field, getattr(self, field))
            object.__setattr__(self, field, concat)
            if not concat or not all(2 <= state < 2 + len(edges) // 2 for state in concat):
                raise ValueError(
                    f"{field} must name at least one state between 2 and {1 + len(edges) // 2}, "
                    f"received {concat}: list the steps whose outputs form the cell's output."
                )

    @property
    def steps(self) -> int:
        """Number of states that a cell concatenates."""
        return len(self.normal_concat)

    @property
    def op_names(self) -> tuple[str, ...]:
        """The operations of both cells, normal cell first."""
        return tuple(op for op, _ in self.normal + self.reduce)

    @classmethod
    def of(cls, genotype: Any) -> "Genotype":
        """Reads a genotype in any usual form.

        Args:
          genotype: a `Genotype`, its JSON form, or any object with its four fields, such as the
            `namedtuple` of the architecture search codes that follow DARTS.

        Returns:
          The genotype.

        Raises:
          ValueError: it has not those fields, or see `from_dict`.
        """
        if isinstance(genotype, cls):
            return genotype
        if isinstance(genotype, Mapping):
            return cls.from_dict(genotype)
        names = _names(cls)
        if isinstance(genotype, type) or not all(hasattr(genotype, name) for name in names):
            raise ValueError(
                f"a genotype must be a mapping or an object with the fields {list(names)}, "
                f"received {type(genotype).__name__}: see genotypes.DARTS for an example."
            )
        return cls(**{name: getattr(genotype, name) for name in names})

    @classmethod
    def from_dict(cls, genotype: Mapping[str, Any]) -> "Genotype":
        """Reads the JSON form.

        Args:
          genotype: mapping with exactly the keys normal, normal_concat, reduce, reduce_concat.

        Returns:
          The genotype.

        Raises:
          ValueError: on missing or unknown keys, unknown operations or impossible states.
        """
        _check_keys("genotype", genotype, required=_names(cls), optional=())
        return cls(**{name: genotype[name] for name in _names(cls)})

    def to_dict(self) -> dict[str, list]:
        """Returns the JSON form: lists in place of tuples."""
        return {
            "normal": [list(edge) for edge in self.normal],
            "normal_concat": list(self.normal_concat),
            "reduce": [list(edge) for edge in self.reduce],
            "reduce_concat": list(self.reduce_concat),
        }


@dataclasses.dataclass(frozen=True, slots=True)
class NetConfig:
    """One network of DeepNets-1M (a record of its meta files, with the number of channels).

    Attributes:
      genotype: the two cells, given in any form that `Genotype.of` reads.
      n_cells: number of cells.
      C: channels of the first cell.
      C_mult: factor on the channels at each of the two reduction cells.
      ks: kernel size of the stem's first convolution.
      stem_type: 0 simple, 1 ImageNet style (two resolutions).
      stem_pool: 3x3 max pooling in a simple stem.
      norm: 'bnorm' (batch statistics) or None.
      preproc: 1x1 convolutions on the inputs of each cell.
      glob_avg: global average pooling before the classifier, else flattening.
      fc_layers: number of dense layers of the head (0 means 1, as in the reference).
      fc_dim: width of the hidden dense layers, used if fc_layers > 1.
    """

    genotype: Genotype
    n_cells: int
    C: int
    C_mult: int = 2
    ks: int = 3
    stem_type: int = 0
    stem_pool: bool = False
    norm: str | None = "bnorm"
    preproc: bool = True
    glob_avg: bool = True
    fc_layers: int = 1
    fc_dim: int = 256

    def __post_init__(self) -> None:
        object.__setattr__(self, "genotype", Genotype.of(self.genotype))
        check_types(self)
        norm = self.norm
        if norm in ("", "none"):
            object.__setattr__(self, "norm", None)
        elif norm is not None and norm.startswith("bn") and "track" not in norm:
            object.__setattr__(self, "norm", "bnorm")
        elif norm is not None:
            raise ValueError(
                f"norm must be 'bnorm' or None, received {norm!r}: running averages and other "
                "norms are not part of DeepNets-1M, use 'bnorm'."
            )
        checks = (
            ("n_cells", self.n_cells >= 1, "at least 1"),
            ("C", self.C >= 2 and self.C % 2 == 0, "a positive even number"),
            ("C_mult", self.C_mult >= 1, "at least 1"),
            ("ks", self.ks % 2 == 1, "odd"),
            ("stem_type", self.stem_type in (0, 1), "0 (simple) or 1 (ImageNet style)"),
            ("fc_layers", self.fc_layers >= 0, "0 or more"),
            ("fc_dim", self.fc_layers < 2 or self.fc_dim > 0, "positive if fc_layers > 1"),
        )
        for name, holds, rule in checks:
            if not holds:
                raise ValueError(
                    f"{name} must be {rule}, received {getattr(self, name)!r}: correct the record."
                )
        if not self.preproc and (self.genotype.steps > 1 or self.C_mult > 1):
            raise ValueError(
                "preproc must be True if a cell concatenates several states or C_mult > 1, "
                f"received False with {self.genotype.steps} states and C_mult={self.C_mult}."
            )

    @property
    def is_vit(self) -> bool:
        """True for a visual transformer: any self-attention in the genotype."""
        return any(op == "msa" for op, _ in self.genotype.normal + self.genotype.reduce)

    @property
    def reduction_cells(self) -> tuple[int, ...]:
        """Indices of the cells that multiply the channels (and halve the resolution)."""
        return tuple(sorted({i for i in (self.n_cells // 3, 2 * self.n_cells // 3) if i > 0}))

    @property
    def is_connected(self) -> bool:
        """Whether the image reaches the output in spite of `none` edges."""
        first, second, reductions = True, True, self.reduction_cells
        for cell in range(self.n_cells):
            reduction = cell in reductions
            edges = self.genotype.reduce if reduction else self.genotype.normal
            states = [first, second]
            for pair in zip(edges[::2], edges[1::2], strict=True):
                states.append(any(op != "none" and states[state] for op, state in pair))
            concat = self.genotype.reduce_concat if reduction else self.genotype.normal_concat
            first, second = second, any(states[state] for state in concat)
        return second

    @classmethod
    def from_dict(cls, net_args: Mapping[str, Any], **overrides: Any) -> "NetConfig":
        """Reads a record of the DeepNets-1M meta files.

        Args:
          net_args: the record; `genotype`, `n_cells` and `C` are required, `num_nodes` and
            `num_params` are ignored, everything else has the reference's default.
          **overrides: fields that replace those of the record (C, for instance).

        Returns:
          The configuration.

        Raises:
          ValueError: on missing or unknown keys or impossible values.
        """
        fields = {k: v for k, v in net_args.items() if k not in ("num_nodes", "num_params")}
        fields.update(overrides)
        required = ("genotype", "n_cells", "C")
        _check_keys("network record", fields, required, set(_names(cls)) - set(required))
        return cls(**fields)

    def to_dict(self) -> dict[str, Any]:
        """Returns the JSON form, which `from_dict` reads."""
        record = {name: getattr(self, name) for name in _names(type(self))}
        record["genotype"] = self.genotype.to_dict()
        return record


def _names(cls: type) -> tuple[str, ...]:
    return tuple(field.name for field in dataclasses.fields(cls))


def _check_keys(what: str, mapping: Mapping[str, Any], required, optional) -> None:
    missing = [key for key in required if key not in mapping]
    unknown = sorted(set(mapping) - set(required) - set(optional))
    if missing or unknown:
        hint = (
            " (files of evaluation splits made by the reference's generator lack C: choose it by "
        )
        hint = f"{hint}sampling.evaluation_width)" if "C" in missing else ""
        may = f" and may have {sorted(optional)}" if optional else ""
        raise ValueError(
            f"a {what} must have the keys {sorted(required)}{may}{hint}; missing {missing}, "
            f"unknown {unknown}: correct the record."
        )


def _edges(field: str, given: Any) -> tuple[Edge, ...]:
    """Reads the edges of a cell: any iterable of (operation, state)."""
    try:
        return tuple((str(op), _state(state)) for op, state in given)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{field} must be pairs (operation, input state), received {given!r}: list the edges "
            "as in genotypes.DARTS."
        ) from error


def _states(field: str, given: Any) -> tuple[int, ...]:
    """Reads numbers of states: any iterable, such as `range(2, 6)`."""
    try:
        return tuple(_state(state) for state in given)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{field} must be numbers of states, received {given!r}: list them as in "
            "genotypes.DARTS."
        ) from error


def _state(value: Any) -> int:
    """A whole number, not one that `int` would cut or read from text."""
    return operator.index(value)


def _check_edges(field: str, edges: tuple[Edge, ...]) -> None:
    if not edges or len(edges) % 2:
        raise ValueError(
            f"{field} must have two edges per step, received {len(edges)}: add or drop one."
        )
    for position, (op, state) in enumerate(edges):
        if op not in CELL_OPS:
            raise ValueError(f"{field} must use the operations {CELL_OPS}, received {op!r}.")
        if not 0 <= state < 2 + position // 2:
            raise ValueError(
                f"edge {position} of {field} must start at a state below {2 + position // 2}, "
                f"received {state}: an edge starts at an earlier state."
            )


DARTS = Genotype(
    normal=(
        ("sep_conv_3x3", 0),
        ("sep_conv_3x3", 1),
        ("sep_conv_3x3", 0),
        ("sep_conv_3x3", 1),
        ("sep_conv_3x3", 1),
        ("skip_connect", 0),
        ("skip_connect", 0),
        ("dil_conv_3x3", 2),
    ),
    normal_concat=(2, 3, 4, 5),
    reduce=(
        ("max_pool_3x3", 0),
        ("max_pool_3x3", 1),
        ("skip_connect", 2),
        ("max_pool_3x3", 1),
        ("max_pool_3x3", 0),
        ("skip_connect", 2),
        ("skip_connect", 2),
        ("max_pool_3x3", 1),
    ),
    reduce_concat=(2, 3, 4, 5),
)
"""The cells found by DARTS (Liu et al. 2019)."""

PDARTS = Genotype(
    normal=(
        ("skip_connect", 0),
        ("dil_conv_3x3", 1),
        ("skip_connect", 0),
        ("sep_conv_3x3", 1),
        ("sep_conv_3x3", 1),
        ("sep_conv_3x3", 3),
        ("sep_conv_3x3", 0),
        ("dil_conv_5x5", 4),
    ),
    normal_concat=(2, 3, 4, 5),
    reduce=(
        ("avg_pool_3x3", 0),
        ("sep_conv_5x5", 1),
        ("sep_conv_3x3", 0),
        ("dil_conv_5x5", 2),
        ("max_pool_3x3", 0),
        ("dil_conv_3x3", 1),
        ("dil_conv_3x3", 1),
        ("dil_conv_5x5", 3),
    ),
    reduce_concat=(2, 3, 4, 5),
)
"""The cells found by P-DARTS (Chen et al. 2019)."""

VIT = Genotype(
    normal=(("none", 0), ("msa", 1)),
    normal_concat=(2,),
    reduce=(("none", 0), ("avg_pool_3x3", 1)),
    reduce_concat=(2,),
)
"""The cells of the predefined visual transformer."""

VIT_CONFIG = NetConfig(genotype=VIT, n_cells=12, C=128, C_mult=1, preproc=False)
"""The predefined visual transformer (paper, section 5.1)."""
