"""The vocabulary: kinds of graph nodes, operations of a cell, operations of a network.

Read-only data, standard library only. The order of `PRIMITIVES` is the row order of the GHN's
primitive embedding (paper, appendix A.1), so it must never change.
"""

from types import MappingProxyType

PRIMITIVES: tuple[str, ...] = (
    "max_pool",
    "avg_pool",
    "sep_conv",
    "dil_conv",
    "conv",
    "msa",
    "cse",
    "sum",
    "concat",
    "input",
    "bias",
    "bn",
    "ln",
    "pos_enc",
    "glob_avg",
)
"""The 15 kinds of graph nodes; the index is the row of the embedding."""

PRIMITIVE_IDS = MappingProxyType({name: index for index, name in enumerate(PRIMITIVES)})
"""Name of a node kind -> its index in `PRIMITIVES`."""

CELL_OPS: tuple[str, ...] = (
    "none",
    "max_pool_3x3",
    "avg_pool_3x3",
    "skip_connect",
    "sep_conv_3x3",
    "sep_conv_5x5",
    "dil_conv_3x3",
    "dil_conv_5x5",
    "conv_1x1",
    "conv_7x1_1x7",
    "conv_3x3",
    "conv_5x5",
    "conv_7x7",
    "msa",
    "cse",
)
"""The operations a genotype may name, in the order in which they are sampled."""

CELL_OP_KERNELS = MappingProxyType(
    {
        "none": 0,
        "max_pool_3x3": 3,
        "avg_pool_3x3": 3,
        "skip_connect": 0,
        "sep_conv_3x3": 3,
        "sep_conv_5x5": 5,
        "dil_conv_3x3": 3,
        "dil_conv_5x5": 5,
        "conv_1x1": 1,
        "conv_7x1_1x7": 7,
        "conv_3x3": 3,
        "conv_5x5": 5,
        "conv_7x7": 7,
        "msa": 0,
        "cse": 0,
    }
)
"""Kernel size of each cell operation (0 where there is none)."""

EDGE_OPS: tuple[str, ...] = tuple(op for op in CELL_OPS if op not in ("none", "skip_connect"))
"""The cell operations that become an operation of a plan under their own name."""

OP_KINDS: tuple[str, ...] = (
    "stem_conv",
    "patch_conv",
    "pos_enc",
    "stem_pool",
    "preprocess",
    "factorized_reduce",
    "subsample",
    *EDGE_OPS,
    "sum",
    "concat",
    "global_pool",
    "flatten",
    "dense",
)
"""Every kind an operation of a plan (`archs.plan.Op`) may have."""
