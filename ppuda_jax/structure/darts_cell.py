"""The cell of DARTS (Liu et al. 2019) as a family over the library's own operations.

Vertex 0 gives both inputs, the outputs of the two previous cells, as the halves of its channels;
vertices 1 and 2 are these states, further ones the steps, the last one concatenates the steps. A
structure of the cell becomes a genotype, which the rest of the library knows: a plan, a graph, a
program of the executor, so that a hypernetwork predicts the parameters of every choice.

Legend: `n` images, `s` their side, `C` channels, `K` = 8 operations.
"""

import jax
import jax.numpy as jnp
import numpy as np

from ppuda_jax.archs.genotypes import Genotype
from ppuda_jax.nets import ops
from ppuda_jax.primitives import CELL_OPS
from ppuda_jax.structure.discretise import strongest_edges
from ppuda_jax.structure.family import Edge, Family, Function, Params, Structure, concat

OPS = CELL_OPS[:8]  # those of DARTS come first
_FIRST = 3  # the vertex of the first step
_PER_STEP = 2  # edges that a step of a genotype has


def operation(name: str) -> Function:
    """An operation [n, s, s, C] -> [n, s, s, C] with its parameters; norms use batch statistics.

    Raises:
      ValueError: a name that is not one of `OPS`.
    """
    if name not in OPS:
        raise ValueError(f"an operation must be one of {OPS}, received {name!r}")
    if name == "none":
        return Function(name, lambda params, x: jnp.zeros_like(x))
    if name == "skip_connect":
        return Function(name, lambda params, x: x)
    if name.endswith("pool_3x3"):
        pool = ops.max_pool_3x3 if name == "max_pool_3x3" else ops.avg_pool_3x3
        return Function(name, lambda params, x: pool((), x))
    side = int(name[-1])
    if name.startswith("sep"):
        return Function(
            name,
            lambda params, x: ops.sep_conv((*params[0], *params[1]), x),
            lambda key, x: tuple(_separable(k, side, x.shape[-1]) for k in jax.random.split(key)),
        )
    return Function(
        name,
        lambda params, x: ops.dil_conv(params, x),
        lambda key, x: _separable(key, side, x.shape[-1]),
    )


def cell(steps: int = 4) -> Family:
    """The family of normal cells: every step has an edge from all earlier states.

    Args:
      steps: of the cell; inputs are [n, s, s, 2C], outputs [n, s, s, steps * C].

    Raises:
      ValueError: no steps.
    """
    if steps < 1:
        raise ValueError(f"steps must be at least 1, received {steps}")
    mixed = tuple(operation(name) for name in OPS)
    edges: dict[Edge, tuple[Function, ...]] = {(0, 1): (_half(0),), (0, 2): (_half(1),)}
    last = _FIRST + steps
    for step in range(_FIRST, last):
        edges |= {(state, step): mixed for state in range(1, step)}
        edges[step, last] = (operation("skip_connect"),)
    return Family(last + 1, edges, {last: concat})


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


def _separable(key: jax.Array, side: int, channels: int) -> Params:
    """Parameters of `ops.separable` by He's rule: depthwise and pointwise kernel, norm."""
    first, second = jax.random.split(key)
    depthwise = np.sqrt(2) / side * jax.random.normal(first, (side, side, 1, channels))
    pointwise = (2 / channels) ** 0.5 * jax.random.normal(second, (1, 1, channels, channels))
    return depthwise, pointwise, jnp.ones(channels), jnp.zeros(channels)
