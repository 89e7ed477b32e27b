"""A supernet: all networks of a family at once, as a search sees them.

Legend: `K` functions of an edge, `n` objects.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ppuda_jax.structure.discretise import Choice
from ppuda_jax.structure.family import Edge, Family, Structure
from ppuda_jax.structure.posterior import scaled

Measure = Callable[[Structure], jax.Array]
"""A number of a network, differentiable in its structure and exact at vertices: [] float."""
Numbers = Mapping[Edge, jax.Array]
"""The number of the function of every edge, int []: a choice as data."""


def largest(structure: Structure) -> dict[Edge, jax.Array]:
    """The function of the largest weight on every edge; can be traced."""
    return {edge: jnp.argmax(gamma, -1) for edge, gamma in structure.items()}


def _any(choice: Choice) -> bool:
    return True


@dataclasses.dataclass(frozen=True)
class Supernet:
    """What a search needs to know of the networks that it chooses from.

    Attributes:
      names: of the functions of each edge.
      init: draws the weights that all networks share; consumes the key.
      apply: `(weights, structure, x) -> outputs`, [n, ...] -> [n, ...].
      size: parameters of the network that a structure selects.
      flops: floating-point operations of it for one object.
      scale: `(weights, structure) -> weights`, every weight times its gamma, see `posterior`.
      skips: functions that leave their input as it is.
      apply_vertex: `(weights, numbers, x) -> outputs` of one network, where that costs less than
        the mixture at a vertex; None where it does not.
      discretise: the network that a structure stands for.
      connected: whether the output of a network depends on its input.
      text: a network in words, instead of the names of its functions.
    """

    names: Mapping[Edge, tuple[str, ...]]
    init: Callable[[jax.Array], Any]
    apply: Callable[[Any, Structure, jax.Array], jax.Array]
    size: Measure
    flops: Measure
    scale: Callable[[Any, Structure], Any] = scaled
    skips: tuple[str, ...] = ("skip_connect", "identity")
    apply_vertex: Callable[[Any, Numbers, jax.Array], jax.Array] | None = None
    discretise: Callable[[Structure], dict[Edge, jax.Array]] = largest
    connected: Callable[[Choice], bool] = _any
    text: Callable[[Choice], str] | None = None

    @property
    def num_functions(self) -> dict[Edge, int]:
        """K of every edge."""
        return {edge: len(names) for edge, names in self.names.items()}

    def vertex(self, choice: Choice | Numbers) -> dict[Edge, jax.Array]:
        """The structure that uses one function on every edge; numbers may be traced."""
        return {e: jax.nn.one_hot(choice[e], count) for e, count in self.num_functions.items()}

    def run(self, weights: Any, numbers: Numbers, x: jax.Array) -> jax.Array:
        """The outputs of one network, whose functions are data: [n, ...] -> [n, ...]."""
        if self.apply_vertex is None:
            return self.apply(weights, self.vertex(numbers), x)
        return self.apply_vertex(weights, numbers, x)

    def uniform(self, key: jax.Array) -> dict[Edge, jax.Array]:
        """A network of independent uniform weights of functions; consumes `key`."""
        counts = sorted(self.num_functions.items())
        keys = jax.random.split(key, len(counts))
        drawn = {e: jax.random.uniform(k, (n,)) for k, (e, n) in zip(keys, counts, strict=True)}
        return self.discretise(drawn)

    def describe(self, choice: Choice) -> str:
        """A choice in words, edges in order."""
        if self.text is not None:
            return self.text(choice)
        return " ".join(f"{j}-{k}:{self.names[j, k][choice[j, k]]}" for j, k in sorted(choice))


def of_family(family: Family, x: jax.ShapeDtypeStruct) -> Supernet:
    """A family's supernet for inputs of one shape, [n, ...]; n is taken as 1 for operations.

    Raises:
      FamilyError: functions whose shapes do not agree.
    """
    one = jax.ShapeDtypeStruct((1, *x.shape[1:]), x.dtype)
    weights = jax.eval_shape(lambda key: family.init(key, one), jax.random.key(0))
    sizes, flops = {}, {}
    shapes = _vertex_shapes(family, weights, one)
    for edge, functions in family.edges.items():
        pairs = list(zip(functions, weights[edge], strict=True))
        sizes[edge] = [sum(leaf.size for leaf in jax.tree.leaves(w)) for _, w in pairs]
        flops[edge] = [count_flops(f.apply, w, shapes[edge[0]]) for f, w in pairs]
    return Supernet(
        {edge: tuple(f.name for f in functions) for edge, functions in family.edges.items()},
        lambda key: family.init(key, one),
        family.apply,
        linear_measure(sizes),
        linear_measure(flops),
        apply_vertex=family.apply_vertex,
    )


def _vertex_shapes(family: Family, weights: Any, x: jax.ShapeDtypeStruct) -> dict[int, Any]:
    """The shape at every vertex: that of the family that ends there."""
    shapes: dict[int, Any] = {0: x}
    for vertex in family.order:
        incoming = [edge for edge in sorted(family.edges) if edge[1] == vertex]
        inputs = [
            jax.eval_shape(family.edges[e][0].apply, weights[e][0], shapes[e[0]]) for e in incoming
        ]
        aggregate = family.aggregate.get(vertex)
        shapes[vertex] = inputs[0] if aggregate is None else jax.eval_shape(aggregate, inputs)
    return shapes


def linear_measure(costs: Mapping[Edge, Sequence[float]], fixed: float = 0.0) -> Measure:
    """The sum over edges of the costs of functions, weighted by the structure, and `fixed`."""
    arrays = {edge: np.asarray(cost, np.float32) for edge, cost in costs.items()}

    def measure(structure: Structure) -> jax.Array:
        parts = [jnp.sum(structure[edge] * cost) for edge, cost in arrays.items()]
        return sum(parts, start=jnp.asarray(float(fixed)))

    return measure


def count_flops(function: Callable[..., Any], *args: Any) -> float:
    """Floating-point operations of a function on arguments of given shapes, as XLA counts them."""
    costs = jax.jit(function).lower(*args).cost_analysis()
    return float(costs.get("flops", 0.0)) if costs else 0.0
