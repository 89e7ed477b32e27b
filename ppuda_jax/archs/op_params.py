"""The parameters of each operation of a plan: names, shapes and roles, in a fixed order.

`op_params` is the one table from which the Flax nets, the executor's parameter layout, the
graph's parameter nodes and the reference's parameter names are derived. The order is the order
in which the operation's maths uses its parameters.

Legend: k kernel size, I and O input and output channels, S tokens per side.
"""

import functools
import math
from typing import Protocol

from ppuda_jax.types import ParamSpec, Role

MLP_REDUCTION = 2
"""Squeeze and excitation: the hidden layer has C / 2 units."""

_STEM_PATHS = {
    # module of the convolution: (Flax modules of convolution and norm, module of the norm)
    "stem.0": (("stem", "conv"), ("stem", "norm"), "stem.1"),
    "stem0.0": (("stem0", "conv1"), ("stem0", "norm1"), "stem0.1"),
    "stem0.3": (("stem0", "conv2"), ("stem0", "norm2"), "stem0.4"),
    "stem1.1": (("stem1", "conv"), ("stem1", "norm"), "stem1.2"),
}


class OpLike(Protocol):
    """What of an operation decides its parameters (see `archs.plan.Op`)."""

    @property
    def kind(self) -> str:
        """See `archs.plan.Op`."""

    @property
    def name(self) -> str:
        """See `archs.plan.Op`."""

    @property
    def c_in(self) -> int:
        """See `archs.plan.Op`."""

    @property
    def c_out(self) -> int:
        """See `archs.plan.Op`."""

    @property
    def h_out(self) -> int:
        """See `archs.plan.Op`."""

    @property
    def kernel(self) -> int:
        """See `archs.plan.Op`."""

    @property
    def norm(self) -> bool:
        """See `archs.plan.Op`."""


# One row per tensor: (Flax module, torch module, shape, role). Norms add two rows.
_Row = tuple[str, str, tuple[int, ...], Role]


def _norm(module: str, torch_module: str, channels: int) -> tuple[_Row, ...]:
    return (
        (module, torch_module, (channels,), "norm_scale"),
        (module, torch_module, (channels,), "norm_bias"),
    )


def _dense(module: str, torch_module: str, c_in: int, c_out: int) -> tuple[_Row, ...]:
    return (
        (module, torch_module, (c_in, c_out), "kernel"),
        (module, torch_module, (c_out,), "bias"),
    )


def _conv_rows(c_in: int, c_out: int, k: int, norm: bool, size: int) -> tuple[_Row, ...]:
    rows: tuple[_Row, ...] = (("conv", "op.1", (k, k, c_in, c_out), "kernel"),)
    return rows + (_norm("norm", "op.2", c_out) if norm else ())


def _factorized_conv_rows(c_in: int, c_out: int, k: int, norm: bool, size: int):
    rows: tuple[_Row, ...] = (
        ("conv1", "op.1", (1, k, c_in, c_in), "kernel"),
        ("conv2", "op.2", (k, 1, c_in, c_out), "kernel"),
    )
    return rows + (_norm("norm", "op.3", c_out) if norm else ())


def _sep_conv_rows(c_in: int, c_out: int, k: int, norm: bool, size: int):
    return (
        ("depthwise1", "op.1", (k, k, 1, c_in), "kernel"),
        ("pointwise1", "op.2", (1, 1, c_in, c_in), "kernel"),
        *(_norm("norm1", "op.3", c_in) if norm else ()),
        ("depthwise2", "op.5", (k, k, 1, c_in), "kernel"),
        ("pointwise2", "op.6", (1, 1, c_in, c_out), "kernel"),
        *(_norm("norm2", "op.7", c_out) if norm else ()),
    )


def _dil_conv_rows(c_in: int, c_out: int, k: int, norm: bool, size: int):
    return (
        ("depthwise", "op.1", (k, k, 1, c_in), "kernel"),
        ("pointwise", "op.2", (1, 1, c_in, c_out), "kernel"),
        *(_norm("norm", "op.3", c_out) if norm else ()),
    )


def _factorized_reduce_rows(c_in: int, c_out: int, k: int, norm: bool, size: int):
    return (
        ("conv1", "conv_1", (1, 1, c_in, c_out // 2), "kernel"),
        ("conv2", "conv_2", (1, 1, c_in, c_out // 2), "kernel"),
        *(_norm("norm", "bn", c_out) if norm else ()),
    )


def _cse_rows(c_in: int, c_out: int, k: int, norm: bool, size: int):
    hidden = c_in // MLP_REDUCTION
    return _dense("fc1", "fc1", c_in, hidden) + _dense("fc2", "fc2", hidden, c_in)


def _msa_rows(c_in: int, c_out: int, k: int, norm: bool, size: int):
    return (
        *_norm("ln1", "ln1", c_in),
        ("qkv", "to_qkv", (c_in, 3 * c_in), "kernel"),
        *_dense("out", "to_out.0", c_in, c_out),
        *_norm("ln2", "ln2", c_in),
        *_dense("ff1", "ff.net.0", c_in, c_out),
        *_dense("ff2", "ff.net.3", c_out, c_in),
    )


def _patch_conv_rows(c_in: int, c_out: int, k: int, norm: bool, size: int):
    return (("conv", "", (k, k, c_in, c_out), "kernel"),)


def _pos_enc_rows(c_in: int, c_out: int, k: int, norm: bool, size: int):
    return (("", "", (1, size, size, c_in), "pos_enc"),)


def _dense_rows(c_in: int, c_out: int, k: int, norm: bool, size: int):
    return _dense("", "", c_in, c_out)


_ROWS = {
    "stem_conv": _conv_rows,
    "patch_conv": _patch_conv_rows,
    "pos_enc": _pos_enc_rows,
    "preprocess": _conv_rows,
    "factorized_reduce": _factorized_reduce_rows,
    "sep_conv_3x3": _sep_conv_rows,
    "sep_conv_5x5": _sep_conv_rows,
    "dil_conv_3x3": _dil_conv_rows,
    "dil_conv_5x5": _dil_conv_rows,
    "conv_1x1": _conv_rows,
    "conv_3x3": _conv_rows,
    "conv_5x5": _conv_rows,
    "conv_7x7": _conv_rows,
    "conv_7x1_1x7": _factorized_conv_rows,
    "msa": _msa_rows,
    "cse": _cse_rows,
    "dense": _dense_rows,
}

# role: (leaf name, suffix of the torch name)
_LEAVES: dict[Role, tuple[str, str]] = {
    "kernel": ("kernel", "weight"),
    "bias": ("bias", "bias"),
    "norm_scale": ("scale", "weight"),
    "norm_bias": ("bias", "bias"),
    "pos_enc": ("embedding", "weight"),
}


@functools.lru_cache(maxsize=65536)
def param_rows(
    kind: str, c_in: int, c_out: int, kernel: int, norm: bool, h_out: int
) -> tuple[_Row, ...]:
    """Parameters of an operation without its name: (Flax module, torch module, shape, role).

    Args:
      kind: one of `primitives.OP_KINDS`.
      c_in: input channels.
      c_out: output channels.
      kernel: kernel size.
      norm: whether there is batch norm.
      h_out: output size (tokens per side of a positional encoding).

    Returns:
      One row per tensor, in the order in which the maths uses them; empty without parameters.
    """
    rows = _ROWS.get(kind)
    return () if rows is None else tuple(rows(c_in, c_out, kernel, norm, h_out))


def op_params(op: OpLike) -> tuple[ParamSpec, ...]:
    """Describes the parameters of an operation, in the order in which the maths uses them.

    Args:
      op: the operation.

    Returns:
      One `ParamSpec` per tensor; empty for operations without parameters.
    """
    rows = param_rows(op.kind, op.c_in, op.c_out, op.kernel, op.norm, op.h_out)
    if not rows:
        return ()
    specs = []
    stem = _STEM_PATHS.get(op.name)
    prefix = _module_path(op.name)
    for module, torch_module, shape, role in rows:
        leaf, suffix = _LEAVES[role]
        if stem is not None:
            is_norm = role.startswith("norm")
            path: tuple[str, ...] = stem[1] if is_norm else stem[0]
            torch_path = stem[2] if is_norm else op.name
        else:
            path = prefix + ((module,) if module else ())
            torch_path = f"{op.name}.{torch_module}" if torch_module else op.name
        specs.append(ParamSpec((*path, leaf), f"{torch_path}.{suffix}", shape, role))
    return tuple(specs)


@functools.lru_cache(maxsize=4096)
def _module_path(name: str) -> tuple[str, ...]:
    """Flax modules of a reference module: "cells.3._ops.1" -> ("cells_3", "ops_1")."""
    parts = name.split(".")
    if parts[0] == "cells":
        cell = f"cells_{parts[1]}"
        return (cell, f"ops_{parts[3]}") if parts[2] == "_ops" else (cell, parts[2])
    if parts[0] == "classifier":
        return (f"classifier_{int(parts[1]) // 3}",)
    return tuple(parts)


def op_param_count(op: OpLike) -> int:
    """Number of trainable scalars of an operation.

    Args:
      op: the operation.

    Returns:
      The count, 0 without parameters.
    """
    return count_rows(op.kind, op.c_in, op.c_out, op.kernel, op.norm, op.h_out)


@functools.lru_cache(maxsize=65536)
def count_rows(kind: str, c_in: int, c_out: int, kernel: int, norm: bool, h_out: int) -> int:
    """Number of trainable scalars of an operation.

    Args:
      kind: as in `param_rows`.
      c_in: as in `param_rows`.
      c_out: as in `param_rows`.
      kernel: as in `param_rows`.
      norm: as in `param_rows`.
      h_out: as in `param_rows`.

    Returns:
      The sum of the sizes of its tensors.
    """
    rows = param_rows(kind, c_in, c_out, kernel, norm, h_out)
    return sum(math.prod(shape) for _, _, shape, _ in rows)
