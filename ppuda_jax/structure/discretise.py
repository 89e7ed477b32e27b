"""From weights of functions to one network.

A *choice* names the function of every edge that stays; edges without one are removed.
"""

from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from ppuda_jax.structure.family import Edge, Family, FamilyError, Structure, Weights

Choice = dict[Edge, int]
"""The number of the function that each edge keeps."""


def argmax(structure: Structure) -> Choice:
    """The function of the largest weight on every edge, the first of several."""
    return {edge: int(np.argmax(np.asarray(gamma))) for edge, gamma in structure.items()}


def strongest_edges(
    structure: Structure,
    names: Mapping[Edge, Sequence[str]],
    *,
    per_vertex: int = 2,
    none: str | None = "none",
) -> Choice:
    """The strongest edges of every vertex, on each its best function (DARTS, section 2.4).

    The strength of an edge is its largest weight of a function other than `none`.

    Args:
      structure: weights of the functions, [K] for each edge.
      names: of the functions of each edge.
      per_vertex: edges that a vertex keeps; one with fewer keeps all.
      none: the function that stands for no connection, which is never chosen; None if there is
        none.

    Raises:
      ValueError: no edges to keep, an edge without names, or one with no function but `none`.
    """
    if per_vertex < 1:
        raise ValueError(f"per_vertex must be at least 1, received {per_vertex}")
    best: dict[Edge, tuple[float, int]] = {}
    for edge, gamma in structure.items():
        if len(names.get(edge, ())) != len(gamma):
            raise ValueError(
                f"edge {edge} has {len(gamma)} functions, received the names {names.get(edge)}"
            )
        usable = [i for i, name in enumerate(names[edge]) if name != none]
        if not usable:
            raise ValueError(f"edge {edge} has no function but {none!r}: remove the edge")
        weights = np.asarray(gamma)
        chosen = max(usable, key=lambda i: weights[i])
        best[edge] = (float(weights[chosen]), chosen)
    choice: Choice = {}
    for vertex in sorted({target for _, target in structure}):
        edges = [edge for edge in sorted(structure) if edge[1] == vertex]
        edges.sort(key=lambda edge: -best[edge][0])
        choice |= {edge: best[edge][1] for edge in sorted(edges[:per_vertex])}
    return choice


def perturbation(
    score: Callable[[dict[Edge, jax.Array]], float],
    structure: Structure,
    *,
    order: Sequence[Edge] | None = None,
    tune: Callable[[dict[Edge, jax.Array]], None] | None = None,
) -> Choice:
    """The function of every edge whose removal lowers the score most (Wang et al. 2021, DARTS-PT).

    Edges are decided one after the other; those that are decided keep one function.

    Args:
      score: of a structure, the larger the better: validation accuracy of the supernet.
      structure: weights of the functions, [K] for each edge.
      order: in which edges are decided; sorted if None.
      tune: trains the supernet between two decisions, given the structure so far.

    Raises:
      ValueError: an order that is not one of the edges.
    """
    edges = sorted(structure) if order is None else list(order)
    if sorted(edges) != sorted(structure):
        raise ValueError(f"order must name each of {sorted(structure)} once, received {edges}")
    current = dict(structure)
    choice: Choice = {}
    for edge in edges:
        gamma = current[edge]
        left = [
            score({**current, edge: _without(gamma, i)}) if len(gamma) > 1 else 0.0
            for i in range(len(gamma))
        ]
        choice[edge] = int(np.argmin(left))
        current[edge] = jax.nn.one_hot(choice[edge], len(gamma))
        if tune is not None:
            tune(current)
    return choice


def _without(gamma: jax.Array, function: int) -> jax.Array:
    """Weights without one function, of the same sum."""
    masked = gamma.at[function].set(0)
    return masked * (jnp.sum(gamma) / jnp.maximum(jnp.sum(masked), 1e-12))


def restrict(family: Family, choice: Choice, weights: Weights) -> tuple[Family, Weights]:
    """The network of a choice as a family of one function an edge, with its part of the weights.

    Args:
      family: that the choice is from.
      choice: the function of every edge that stays.
      weights: of the family.

    Raises:
      ValueError: an edge or function that the family does not have.
      FamilyError: what stays does not lead from the input to the output.
    """
    for edge, function in choice.items():
        count = family.num_functions.get(edge, 0)
        if not 0 <= function < count:
            raise ValueError(f"edge {edge} has {count} functions, received number {function}")
    if not choice:
        raise FamilyError("a network needs edges, received a choice of none")
    edges = {edge: (family.edges[edge][i],) for edge, i in choice.items()}
    smaller = Family(family.num_vertices, edges, family.aggregate)
    return smaller, {edge: (weights[edge][i],) for edge, i in choice.items()}


def skip_count(
    choice: Choice, names: Mapping[Edge, Sequence[str]], skips: Sequence[str] = ("skip_connect",)
) -> int:
    """How many edges of a choice are skips: searches that collapse choose little else."""
    return sum(names[edge][function] in skips for edge, function in choice.items())
