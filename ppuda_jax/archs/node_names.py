"""Names of node kinds and nodes in DeepNets-1M files, and their ids.

A file names every node within its cell ("_ops.0.op.1.weight", "preprocess0.bn.weight",
"stem.0.weight", "sum"). The reference numbers names as they turn up; here the tables are fixed
(all names a network can have), so that processes can write parts of a file independently.
"""

from collections.abc import Iterator, Sequence
from types import MappingProxyType

from ppuda_jax.archs.op_params import param_rows
from ppuda_jax.primitives import CELL_OP_KERNELS, EDGE_OPS, PRIMITIVES

MAX_EDGES = 32
"""Edges of the largest cell that a file can name (the dense split has 20)."""

KIND_NAMES: tuple[str, ...] = (*PRIMITIVES, "conv_1x1")
"""Kinds of nodes in files; 1x1 convolutions and dense layers have their own."""

_STEM_NAMES = tuple(
    f"{module}.weight"
    for module in (
        *("stem.0", "stem.1", "stem0", "pos_enc"),
        *("stem0.0", "stem0.1", "stem0.3", "stem0.4", "stem1.1", "stem1.2"),
    )
)
_HEAD_NAMES = tuple(
    f"classifier.{layer}.{leaf}" for layer in (0, 3, 6) for leaf in ("weight", "bias")
)
_BARE_KINDS = ("input", "sum", "concat", "msa", "cse", "max_pool", "avg_pool", "glob_avg")


def _param_names(kind: str, kernel: int) -> Iterator[str]:
    for _, module, _, role in param_rows(kind, 8, 8, kernel, True, 1):
        if role != "norm_bias":
            yield f"{module}.{'bias' if role == 'bias' else 'weight'}"


def _all_names() -> Iterator[str]:
    yield from _BARE_KINDS
    yield from _STEM_NAMES
    yield from _HEAD_NAMES
    preprocess = [("preprocess", 1), ("factorized_reduce", 1)]
    for index in range(2):
        for kind, kernel in preprocess:
            yield from (f"preprocess{index}.{name}" for name in _param_names(kind, kernel))
    kinds = [("factorized_reduce", 1), *((op, CELL_OP_KERNELS[op]) for op in EDGE_OPS)]
    for edge in range(MAX_EDGES):
        for kind, kernel in kinds:
            yield from (f"_ops.{edge}.{name}" for name in _param_names(kind, kernel))


NODE_NAMES: tuple[str, ...] = tuple(dict.fromkeys(_all_names()))
"""Every name that a node can have within its cell."""

_KIND_IDS = MappingProxyType({name: index for index, name in enumerate(KIND_NAMES)})
_NODE_IDS = MappingProxyType({name: index for index, name in enumerate(NODE_NAMES)})


def encode_kind(primitive: int, shape: Sequence[int]) -> int:
    """Returns the id of a node's kind in files.

    Args:
      primitive: index in `PRIMITIVES`.
      shape: (O, I, kh, kw), zeros for none.

    Returns:
      Index in `KIND_NAMES`.
    """
    pointwise = PRIMITIVES[primitive] == "conv" and tuple(shape[2:]) == (1, 1)
    return _KIND_IDS["conv_1x1"] if pointwise else primitive


def encode_name(name: str, primitive: int) -> int:
    """Returns the id of a node's name in files.

    Args:
      name: name within the cell; any name for a node without parameters.
      primitive: index in `PRIMITIVES`, whose name stands for nodes without parameters.

    Returns:
      Index in `NODE_NAMES`.
    """
    found = _NODE_IDS.get(name)
    return _NODE_IDS[PRIMITIVES[primitive]] if found is None else found


def decode_kind(name: str) -> str:
    """Returns the node kind of a file's kind name: "conv_1x1" -> "conv", "fc-b" -> "bias".

    Args:
      name: the kind as the file has it.

    Raises:
      ValueError: no kind has that name.
    """
    if name in PRIMITIVES:
        return name
    if name == "fc-b":
        return "bias"
    stem, _, suffix = name.rpartition("_")
    if stem in PRIMITIVES and suffix[:1].isdigit():
        return stem
    raise ValueError(f"node kinds of a file must be among {KIND_NAMES}, received {name!r}.")


def decode_name(name: str) -> str:
    """Returns a node's name as this package has it, from the names of older files."""
    if not name:
        return "input"
    if name.endswith("to_out.0."):
        return name + "weight"
    parts = name.split(".")
    if parts[0] == "_ops" and len(parts) > 2 and parts[2].isdigit():
        parts.insert(2, "op")
    return ".".join(parts)
