"""Networks of NAS-Bench-201 from the library's own operations, one by one and all at once.

Macro skeleton: a 3x3 convolution, three stages of N cells with C, 2C and 4C channels, a residual
block of stride 2 between stages, norm, ReLU, global pooling, a dense layer. Norms use the
statistics of the batch.

Legend: `n` images, `s` their side, `C` channels, `N` cells of a stage, `K` = 5 operations.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ppuda_jax.nets import ops
from ppuda_jax.nets.norms import batch_norm
from ppuda_jax.structure.discretise import Choice
from ppuda_jax.structure.family import Edge, Structure
from ppuda_jax.structure.nasbench201 import EDGES, KERNEL_SIDES, NAMES, NODES, OPS, to_text
from ppuda_jax.structure.supernet import Measure, Supernet, linear_measure

Params = dict[str, Any]
"""Parameters of a network, nested by the names of its parts."""
_EdgeFn = Callable[[Edge, Params, jax.Array], jax.Array | None]
_STAGES = 3
_CONVS = tuple(OPS.index(op) for op in KERNEL_SIDES)


@dataclasses.dataclass(frozen=True)
class Skeleton:
    """What all networks share.

    Attributes:
      classes: outputs.
      channels: C, of the first stage.
      cells: N, of a stage; 5 in the benchmark.
      image_size: s, a multiple of 4.

    Raises:
      ValueError: a number below 1, or a side that cannot be halved twice.
    """

    classes: int = 10
    channels: int = 16
    cells: int = 5
    image_size: int = 32

    def __post_init__(self) -> None:
        for name in ("classes", "channels", "cells"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, received {getattr(self, name)}")
        if self.image_size < 4 or self.image_size % 4:
            raise ValueError(f"image_size must be a multiple of 4, received {self.image_size}")

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of the stages."""
        return tuple(self.channels * 2**stage for stage in range(_STAGES))


def init(skeleton: Skeleton, key: jax.Array) -> Params:
    """Draws the parameters of all operations, kernels by He's rule; consumes `key`."""
    keys = iter(jax.random.split(key, 3 * 2 * len(EDGES) * skeleton.cells + 8))

    def conv(side: int, inputs: int, outputs: int) -> jax.Array:
        shape = (side, side, inputs, outputs)
        return (2 / (side**2 * inputs)) ** 0.5 * jax.random.normal(next(keys), shape)

    def normed(side: int, inputs: int, outputs: int) -> Params:
        return {"kernel": conv(side, inputs, outputs), **_norm(outputs)}

    params: Params = {"stem": normed(3, 3, skeleton.channels)}
    for stage, width in enumerate(skeleton.widths):
        if stage:
            params[f"reduction_{stage}"] = {
                "first": normed(3, width // 2, width),
                "second": normed(3, width, width),
                "shortcut": {"kernel": conv(1, width // 2, width)},
            }
        for cell in range(skeleton.cells):
            params[f"cell_{stage}_{cell}"] = {
                edge_name(edge): {
                    op: normed(side, width, width) for op, side in KERNEL_SIDES.items()
                }
                for edge in EDGES
            }
    width = skeleton.widths[-1]
    params["last"] = _norm(width)
    kernel = width**-0.5 * jax.random.normal(next(keys), (width, skeleton.classes))
    params["head"] = {"kernel": kernel, "bias": jnp.zeros(skeleton.classes)}
    return params


def apply(skeleton: Skeleton, params: Params, structure: Structure, x: jax.Array) -> jax.Array:
    """Logits of the mixture that a structure gives.

    Args:
      skeleton: see there.
      params: from `init`, or predicted.
      structure: weights of the operations, [K] for each edge.
      x: images [n, s, s, 3], normalised.

    Returns:
      [n, classes].
    """

    def edge_value(edge: Edge, own: Params, h: jax.Array) -> jax.Array:
        gamma = structure[edge]
        parts = [gamma[i] * y for i, op in enumerate(OPS) if (y := _op(op, own, h)) is not None]
        return sum(parts[1:], start=parts[0])

    return _network(skeleton, params, x, edge_value)


def apply_vertex(
    skeleton: Skeleton, params: Params, choice: Mapping[Edge, jax.Array], x: jax.Array
) -> jax.Array:
    """Logits of one network whose operations are data: only those that it has are computed.

    Args:
      skeleton: see there.
      params: as of `apply`.
      choice: operation of every edge, int [].
      x: images [n, s, s, 3], normalised.

    Returns:
      [n, classes].
    """
    reached = {0: jnp.ones((), bool)}
    for k in range(1, NODES):
        ways = [reached[j] & (choice[j, k] != OPS.index("none")) for j in range(k)]
        reached[k] = jnp.any(jnp.stack(ways))

    def edge_value(edge: Edge, own: Params, h: jax.Array) -> jax.Array:
        def branch(op: str) -> Callable[[jax.Array], jax.Array]:
            def run(h: jax.Array) -> jax.Array:
                value = _op(op, own, h)
                return jnp.zeros_like(h) if value is None else value

            return run

        # Nothing stays nothing: a norm behind it would add its bias.
        number = jnp.where(reached[edge[0]], choice[edge], OPS.index("none"))
        return jax.lax.switch(number, [branch(op) for op in OPS], h)

    return _network(skeleton, params, x, edge_value)


def network(skeleton: Skeleton, choice: Choice) -> Callable[[Any, jax.Array], jax.Array]:
    """One network as a function `(variables, images) -> logits`, which can be traced to a graph.

    Args:
      skeleton: see there.
      choice: operation of every edge.

    Raises:
      ValueError: a cell whose output does not depend on its input.
    """
    if not connected(choice):
        raise ValueError(
            f"nothing reaches the output of the cell {dict(choice)}: it has no network"
        )

    kept = pruned(choice)

    def edge_value(edge: Edge, own: Params, h: jax.Array) -> jax.Array | None:
        return _op(OPS[kept[edge]], own, h)

    def apply_fn(variables: Mapping[str, Any], x: jax.Array) -> jax.Array:
        return _network(skeleton, variables["params"], x, edge_value)

    return apply_fn


def used_edges(choice: Choice) -> set[Edge]:
    """Edges on a path from the cell's input to its output, without `none`."""
    active = {edge for edge in EDGES if OPS[choice[edge]] != "none"}
    forwards, backwards = {0}, {NODES - 1}
    for j, k in sorted(active, key=lambda edge: edge[1]):
        if j in forwards:
            forwards.add(k)
    for j, k in sorted(active, key=lambda edge: -edge[0]):
        if k in backwards:
            backwards.add(j)
    return {(j, k) for j, k in active if j in forwards and k in backwards}


def pruned(choice: Choice) -> Choice:
    """The cell with `none` on every edge that is not used.

    The benchmark's own code lets a norm behind nothing add its bias; here nothing stays nothing.
    """
    used = used_edges(choice)
    return {edge: op if edge in used else OPS.index("none") for edge, op in choice.items()}


def connected(choice: Choice) -> bool:
    """Whether a path of operations other than `none` leads through the cell."""
    return bool(used_edges(choice))


def supernet(skeleton: Skeleton) -> Supernet:
    """All networks of the space at once; parameters are those that a network uses."""

    def measure(per_conv: Callable[[int, int, int], int], fixed: float) -> Measure:
        """The sum over cells of a number of kernel side, width and image side."""
        costs = dict.fromkeys(OPS, 0)
        for op, side in KERNEL_SIDES.items():
            for stage, width in enumerate(skeleton.widths):
                images = skeleton.image_size // 2**stage
                costs[op] += skeleton.cells * per_conv(side, width, images)
        return linear_measure(dict.fromkeys(EDGES, tuple(costs.values())), fixed)

    fixed_params, fixed_flops = _fixed(skeleton)
    return Supernet(
        NAMES,
        lambda key: init(skeleton, key),
        lambda params, structure, x: apply(skeleton, params, structure, x),
        measure(lambda k, c, s: k * k * c * c + 2 * c, fixed_params),
        measure(lambda k, c, s: 2 * k * k * c * c * s * s, fixed_flops),
        scale,
        apply_vertex=lambda params, numbers, x: apply_vertex(skeleton, params, numbers, x),
        connected=connected,
        text=to_text,
    )


def scale(params: Params, structure: Structure) -> Params:
    """Every parameter of an operation times the operation's weight, see `posterior`."""

    def scaled(cell: Params) -> Params:
        return {
            edge_name(edge): {
                OPS[number]: _times(structure[edge][number], cell[edge_name(edge)][OPS[number]])
                for number in _CONVS
            }
            for edge in EDGES
        }

    return {
        name: scaled(part) if name.startswith("cell") else part for name, part in params.items()
    }


def _times(factor: jax.Array, params: Params) -> Params:
    return {name: factor * leaf for name, leaf in params.items()}


def _fixed(skeleton: Skeleton) -> tuple[float, float]:
    """Parameters and operations of convolutions outside of the cells."""
    shapes = jax.eval_shape(lambda key: init(skeleton, key), jax.random.key(0))
    outside = {name: part for name, part in shapes.items() if not name.startswith("cell")}
    params = sum(leaf.size for leaf in jax.tree.leaves(outside))
    side = skeleton.image_size
    flops = 2 * outside["stem"]["kernel"].size * side**2 + 2 * outside["head"]["kernel"].size
    for stage in range(1, _STAGES):
        kernels = [block["kernel"].size for block in outside[f"reduction_{stage}"].values()]
        flops += 2 * sum(kernels) * (side // 2**stage) ** 2
    return float(params), float(flops)


def _network(skeleton: Skeleton, params: Params, x: jax.Array, edge_value: _EdgeFn) -> jax.Array:
    h = ops.stem_conv(_ordered(params["stem"]), x)
    for stage in range(_STAGES):
        if stage:
            h = _reduction(params[f"reduction_{stage}"], h)
        for cell in range(skeleton.cells):
            h = _cell(params[f"cell_{stage}_{cell}"], h, edge_value)
    last = params["last"]
    h = jax.nn.relu(batch_norm(h, last["scale"], last["bias"]))
    head = params["head"]
    return ops.dense((head["kernel"], head["bias"]), ops.global_pool((), h))


def _cell(params: Params, x: jax.Array, edge_value: _EdgeFn) -> jax.Array:
    values: dict[int, jax.Array | None] = {0: x}
    for k in range(1, NODES):
        parts = []
        for j in range(k):
            source = values[j]
            if source is None:
                continue
            part = edge_value((j, k), params[edge_name((j, k))], source)
            if part is not None:
                parts.append(part)
        values[k] = sum(parts[1:], start=parts[0]) if parts else None
    output = values[NODES - 1]
    return jnp.zeros_like(x) if output is None else output


def _op(name: str, params: Params, x: jax.Array) -> jax.Array | None:
    """An operation of the benchmark; None is no connection."""
    if name in KERNEL_SIDES:
        return ops.conv_norm(_ordered(params[name]), x)
    if name == "avg_pool_3x3":
        return ops.avg_pool_3x3((), x)
    return x if name == "skip_connect" else None


def _reduction(params: Params, x: jax.Array) -> jax.Array:
    """The residual block between stages: two convolutions beside a pool and a convolution."""
    hidden = ops.conv_norm(_ordered(params["first"]), x, stride=2)
    hidden = ops.conv_norm(_ordered(params["second"]), hidden)
    pooled = jax.lax.reduce_window(
        x, np.zeros((), x.dtype), jax.lax.add, (1, 2, 2, 1), (1, 2, 2, 1), "VALID"
    )
    return ops.stem_conv((params["shortcut"]["kernel"],), pooled / 4) + hidden


def _norm(channels: int) -> Params:
    return {"scale": jnp.ones(channels), "bias": jnp.zeros(channels)}


def _ordered(params: Params) -> tuple[jax.Array, ...]:
    return params["kernel"], params["scale"], params["bias"]


def edge_name(edge: Edge) -> str:
    """The key of an edge in a cell's parameters."""
    return f"edge_{edge[0]}{edge[1]}"
