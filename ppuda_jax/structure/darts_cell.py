"""The cell of DARTS (Liu et al. 2019) as a family over the library's own operations.

Vertex 0 gives both inputs, the outputs of the two previous cells, as the halves of its channels;
vertices 1 and 2 are these states, further ones the steps, the last one concatenates the steps. A
structure of the cell becomes a genotype, which the rest of the library knows: a plan, a graph, a
program of the executor, so that a hypernetwork predicts the parameters of every choice.

Legend: `n` images, `s` their side, `C` channels, `K` = 8 operations.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from ppuda_jax.archs.genotypes import Genotype
from ppuda_jax.archs.op_params import param_rows
from ppuda_jax.nets import ops
from ppuda_jax.primitives import CELL_OP_KERNELS, CELL_OPS
from ppuda_jax.structure.discretise import strongest_edges
from ppuda_jax.structure.family import Edge, Family, Function, Params, Structure, concat

OPS = CELL_OPS[:8]
"""Operations of an edge: those of DARTS, which come first in `CELL_OPS`."""
_FIRST = 3  # the vertex of the first step
_PER_STEP = 2  # edges that a step of a genotype has


def operation(name: str, stride: int = 1) -> Function:
    """An operation [n, s, s, C] -> [n, s / stride, s / stride, C] with its parameters.

    Norms use batch statistics. A strided skip connection is a factorised reduction, as in the plan
    of a genotype.

    Args:
      name: one of `OPS`.
      stride: 1, or 2 at the inputs of a reduction cell.

    Raises:
      ValueError: a name that is not one of `OPS`.
    """
    if name not in OPS:
        raise ValueError(f"an operation must be one of {OPS}, received {name!r}")
    if name == "none":
        return Function(name, lambda params, x: jnp.zeros_like(x[:, ::stride, ::stride]))
    if name != "skip_connect":
        run = functools.partial(ops.CELL_OPS[name], stride=stride)
        return _with_parameters(name, name, CELL_OP_KERNELS[name], run)
    if stride == 1:
        return Function(name, lambda params, x: x)
    return _with_parameters(name, "factorized_reduce", 1, ops.factorized_reduce)


def _with_parameters(
    name: str, kind: str, kernel: int, run: Callable[[Params, jax.Array], jax.Array]
) -> Function:
    def init(key: jax.Array, x: jax.ShapeDtypeStruct) -> Params:
        return draw(key, kind, x.shape[-1], x.shape[-1], kernel)

    return Function(name, run, init)


def draw(key: jax.Array, kind: str, c_in: int, c_out: int, kernel: int) -> tuple[jax.Array, ...]:
    """Draws the parameters of an operation in the order of `archs.op_params`, by He's rule.

    Args:
      key: PRNG key (consumed).
      kind: of the operation, as in a plan.
      c_in: its input channels.
      c_out: its output channels.
      kernel: its kernel size.
    """
    rows = param_rows(kind, c_in, c_out, kernel, True, 1)
    leaves = []
    for own, (_, _, shape, role) in zip(jax.random.split(key, len(rows) + 1), rows, strict=False):
        if role == "kernel":
            std = (2 / np.prod(shape[:-1])) ** 0.5
            leaves.append(std * jax.random.normal(own, shape))
        else:
            leaves.append(jnp.ones(shape) if role == "norm_scale" else jnp.zeros(shape))
    return tuple(leaves)


def on_part(function: Function, stride: int, partial: int) -> Function:
    """A function on the first channels of its input; the others pass (PC-DARTS, Xu et al. 2020).

    In a mixture, whose weights sum to one, the others pass once. Then channels are shuffled, so
    that the next edge takes others.

    Args:
      function: an operation.
      stride: of it; channels that pass are max-pooled by 2.
      partial: one of so many channels goes through the function.
    """

    def init(key: jax.Array, x: jax.ShapeDtypeStruct) -> Params:
        own = jax.ShapeDtypeStruct((*x.shape[:-1], x.shape[-1] // partial), x.dtype)
        return function.init(key, own)

    def apply(params: Params, x: jax.Array) -> jax.Array:
        part = x.shape[-1] // partial
        y, rest = function.apply(params, x[..., :part]), x[..., part:]
        if stride == 2:
            n, height, width, channels = rest.shape
            blocks = rest.reshape(n, height // 2, 2, width // 2, 2, channels)
            rest = jnp.max(blocks, (2, 4))
        joined = jnp.concatenate([y, rest], -1)
        groups = joined.reshape(*joined.shape[:-1], partial, part)
        return jnp.swapaxes(groups, -1, -2).reshape(joined.shape)

    return Function(function.name, apply, init)


def cell(steps: int = 4, reduction: bool = False, partial: int = 1) -> Family:
    """The family of one kind of cells: every step has an edge from all earlier states.

    Args:
      steps: of the cell; inputs are [n, s, s, 2C], outputs [n, s, s, steps * C].
      reduction: edges from the inputs halve the side s.
      partial: one of so many channels goes through the operations, see `on_part`.

    Raises:
      ValueError: no steps.
    """
    if steps < 1:
        raise ValueError(f"steps must be at least 1, received {steps}")
    edges: dict[Edge, tuple[Function, ...]] = {(0, 1): (_half(0),), (0, 2): (_half(1),)}
    last = _FIRST + steps
    for state, step in mixed_edges(steps):
        stride = 2 if reduction and state < _FIRST else 1
        mixed = tuple(operation(name, stride) for name in OPS)
        if partial > 1:
            mixed = tuple(on_part(function, stride, partial) for function in mixed)
        edges[state, step] = mixed
    edges |= {(step, last): (operation("skip_connect"),) for step in range(_FIRST, last)}
    return Family(last + 1, edges, {last: concat})


def mixed_edges(steps: int) -> tuple[Edge, ...]:
    """Edges of a cell that have all operations, by their steps."""
    return tuple((j, k) for k in range(_FIRST, _FIRST + steps) for j in range(1, k))


def step_edge(position: int, state: int) -> Edge:
    """The edge of a cell that an edge of a genotype is, by its position and input state."""
    return state + 1, _FIRST + position // _PER_STEP


def genotype(normal: Structure, reduce: Structure) -> Genotype:
    """The genotype that DARTS reads from structures of both cells: two strongest edges a step.

    Args:
      normal: a structure of `cell`.
      reduce: likewise.

    Raises:
      ValueError: structures that are not of one `cell`.
    """
    if set(normal) != set(reduce):
        raise ValueError(
            f"both cells must have the same edges, received {sorted(normal)} and {sorted(reduce)}"
        )
    steps = sum(j == 0 for j, _ in normal) and max(k for _, k in normal) - _FIRST
    if steps < 1 or set(normal) != set(cell(steps).edges):
        raise ValueError(f"the edges are not those of a cell: {sorted(normal)}")
    concatenated = tuple(range(2, 2 + steps))
    return Genotype(_edges(normal, steps), concatenated, _edges(reduce, steps), concatenated)


def _edges(structure: Structure, steps: int) -> tuple[tuple[str, int], ...]:
    """Edges of a genotype, whose states begin with 0 where vertices begin with 1."""
    mixed = {e: w for e, w in structure.items() if e[0] > 0 and e[1] < _FIRST + steps}
    choice = strongest_edges(mixed, dict.fromkeys(mixed, OPS), per_vertex=_PER_STEP)
    ordered = sorted(choice, key=lambda edge: (edge[1], edge[0]))
    return tuple((OPS[choice[edge]], edge[0] - 1) for edge in ordered)


def _half(number: int) -> Function:
    def half(params: Params, x: jax.Array) -> jax.Array:
        del params
        return jnp.split(x, 2, axis=-1)[number]

    return Function(f"state_{number}", half)
