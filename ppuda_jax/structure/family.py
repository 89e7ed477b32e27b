"""A parametric family of models: a DAG whose edges carry vectors of base functions.

Bakhteev and Strijov's definition: `f_0(x) = x`, and at every other vertex `f_v` aggregates
`<gamma^{jv}, g^{jv}>(f_j)` over its incoming edges; the inner product is the sum of the edge's
functions weighted by the structure gamma of the edge. The model is the value at the last vertex.
DARTS is the case of one gamma per kind of edge, softmax weights and sums.

Legend: `K` functions of an edge.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

Edge = tuple[int, int]
"""(vertex it comes from, vertex it goes to)."""
Params = Any
"""A pytree of arrays: the parameters of one function."""
Weights = dict[Edge, tuple[Params, ...]]
"""The parameters of a family's functions."""
Structure = Mapping[Edge, jax.Array]
"""A weight per function of every edge, each [K]."""
Aggregate = Callable[[Sequence[jax.Array]], jax.Array]
"""What a vertex makes of the values of its edges: [...] each -> [...]."""


@dataclasses.dataclass(frozen=True)
class Function:
    """A base function g with parameters.

    Attributes:
      name: what reports call it.
      apply: `(params, x) -> y`, pure.
      init: `(key, x) -> params`, where x may be a `jax.ShapeDtypeStruct`; consumes the key.
    """

    name: str
    apply: Callable[[Params, jax.Array], jax.Array]
    init: Callable[[jax.Array, jax.ShapeDtypeStruct], Params] = lambda key, x: ()


class FamilyError(ValueError):
    """A graph or functions that make no family of models."""


def total(values: Sequence[jax.Array]) -> jax.Array:
    """The sum of a vertex's inputs, the default aggregation."""
    return sum(values[1:], start=values[0])


def concat(values: Sequence[jax.Array]) -> jax.Array:
    """The concatenation of a vertex's inputs along their last axis."""
    return jnp.concatenate(values, axis=-1)


@dataclasses.dataclass(frozen=True)
class Family:
    """Models that differ by the weights of functions on the edges of one graph.

    Attributes:
      num_vertices: vertex 0 is the input, the last one the output.
      edges: functions of each edge (source, target).
      aggregate: by vertex; those that are missing sum.

    Raises:
      FamilyError: an edge names no vertex, carries no function or closes a cycle, or a vertex is
        not between the input and the output.
    """

    num_vertices: int
    edges: Mapping[Edge, Sequence[Function]]
    aggregate: Mapping[int, Aggregate] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        known = range(self.num_vertices)
        for edge, functions in self.edges.items():
            if not all(vertex in known for vertex in edge):
                raise FamilyError(
                    f"an edge must join two of the vertices 0 to {self.num_vertices - 1}, received "
                    f"{edge}"
                )
            if not functions:
                raise FamilyError(f"every edge needs at least one function, {edge} has none")
        self._check_order()
        for vertex in known:
            if vertex not in self._reached(0, forwards=True):
                raise FamilyError(f"vertex {vertex} cannot be reached from the input, vertex 0")
            if vertex not in self._reached(self.num_vertices - 1, forwards=False):
                raise FamilyError(f"nothing leads from vertex {vertex} to the output")

    def _check_order(self) -> None:
        left = set(range(self.num_vertices))
        while left:
            free = {v for v in left if not any(j in left for j, k in self.edges if k == v)}
            if not free:
                raise FamilyError(f"the edges close a cycle through the vertices {sorted(left)}")
            left -= free

    def _reached(self, start: int, forwards: bool) -> set[int]:
        found, queue = {start}, [start]
        while queue:
            vertex = queue.pop()
            for j, k in self.edges:
                source, target = (j, k) if forwards else (k, j)
                if source == vertex and target not in found:
                    found.add(target)
                    queue.append(target)
        return found

    @property
    def order(self) -> tuple[int, ...]:
        """The vertices behind the input, each after all that lead to it."""
        done, order = {0}, []
        while len(done) < self.num_vertices:
            for vertex in range(1, self.num_vertices):
                sources = [j for j, k in self.edges if k == vertex]
                if vertex not in done and all(j in done for j in sources):
                    done.add(vertex)
                    order.append(vertex)
        return tuple(order)

    @property
    def num_functions(self) -> dict[Edge, int]:
        """K of every edge."""
        return {edge: len(functions) for edge, functions in self.edges.items()}

    def init(self, key: jax.Array, x: jax.Array | jax.ShapeDtypeStruct) -> Weights:
        """Draws the parameters of all functions, each by its own rule.

        Args:
          key: PRNG key (consumed).
          x: an input or its shape.

        Raises:
          FamilyError: functions of an edge, or inputs of a vertex, whose shapes do not agree.
        """
        shapes = {0: jax.ShapeDtypeStruct(x.shape, x.dtype)}
        weights: Weights = {}
        for vertex in self.order:
            inputs = []
            for edge in self._incoming(vertex):
                key, own = jax.random.split(key)
                keys = jax.random.split(own, len(self.edges[edge]))
                functions = self.edges[edge]
                weights[edge] = tuple(
                    f.init(k, shapes[edge[0]]) for f, k in zip(functions, keys, strict=True)
                )
                inputs.append(self._edge_shape(edge, weights[edge], shapes[edge[0]]))
            shapes[vertex] = self._vertex_shape(vertex, inputs)
        return weights

    def apply(self, weights: Weights, structure: Structure, x: jax.Array) -> jax.Array:
        """The output of the model that a structure selects.

        Args:
          weights: from `init`.
          structure: weights of the functions, [K] for each edge.
          x: input of vertex 0.

        Returns:
          The value at the last vertex.

        Raises:
          ValueError: the structure lacks an edge, or has another number of functions.
        """
        self.check_structure(structure)

        def mixed(edge: Edge, source: jax.Array) -> jax.Array:
            outputs = [
                f.apply(params, source)
                for f, params in zip(self.edges[edge], weights[edge], strict=True)
            ]
            return total([structure[edge][i] * y for i, y in enumerate(outputs)])

        return self._propagate(mixed, x)

    def apply_vertex(
        self, weights: Weights, numbers: Mapping[Edge, jax.Array], x: jax.Array
    ) -> jax.Array:
        """The output of the model that uses one function on every edge; no other is computed.

        Args:
          weights: from `init`.
          numbers: of the function of every edge, int [], which may be traced.
          x: input of vertex 0.

        Returns:
          The value at the last vertex.
        """

        def chosen(edge: Edge, source: jax.Array) -> jax.Array:
            functions = self.edges[edge]
            if len(functions) == 1:
                return functions[0].apply(weights[edge][0], source)
            branches = [
                functools.partial(f.apply, params)
                for f, params in zip(functions, weights[edge], strict=True)
            ]
            return jax.lax.switch(numbers[edge], branches, source)

        return self._propagate(chosen, x)

    def _propagate(
        self, edge_value: Callable[[Edge, jax.Array], jax.Array], x: jax.Array
    ) -> jax.Array:
        """The value at the last vertex, given that of an edge by its source's."""
        values = {0: x}
        for vertex in self.order:
            inputs = [edge_value(edge, values[edge[0]]) for edge in self._incoming(vertex)]
            values[vertex] = self.aggregate.get(vertex, total)(inputs)
        return values[self.num_vertices - 1]

    def check_structure(self, structure: Structure) -> None:
        """Refuses structures of another family.

        Raises:
          ValueError: an edge that is missing, unknown or of another number of functions.
        """
        given = {edge: tuple(gamma.shape) for edge, gamma in structure.items()}
        expected = {edge: (count,) for edge, count in self.num_functions.items()}
        if given != expected:
            raise ValueError(f"a structure must have the shapes {expected}, received {given}")

    def select(self, choice: Mapping[Edge, int]) -> dict[Edge, jax.Array]:
        """The vertex of the simplices that uses one function on every edge.

        Raises:
          ValueError: an edge without a choice, or a function that it does not have.
        """
        for edge, count in self.num_functions.items():
            if not 0 <= choice.get(edge, -1) < count:
                raise ValueError(
                    f"edge {edge} has the functions 0 to {count - 1}, received {choice.get(edge)}"
                )
        return {e: jax.nn.one_hot(choice[e], count) for e, count in self.num_functions.items()}

    def _incoming(self, vertex: int) -> list[Edge]:
        return sorted(edge for edge in self.edges if edge[1] == vertex)

    def _edge_shape(
        self, edge: Edge, weights: tuple[Params, ...], x: jax.ShapeDtypeStruct
    ) -> jax.ShapeDtypeStruct:
        outputs = {}
        for f, params in zip(self.edges[edge], weights, strict=True):
            try:
                outputs[f.name] = jax.eval_shape(f.apply, params, x)
            except TypeError as error:
                raise FamilyError(
                    f"function {f.name} of edge {edge} does not take inputs of shape {x.shape}: "
                    f"{error}"
                ) from error
        shapes = {name: out.shape for name, out in outputs.items()}
        if len(set(shapes.values())) > 1:
            raise FamilyError(
                f"the functions of edge {edge} must agree in shape, received {shapes}"
            )
        return next(iter(outputs.values()))

    def _vertex_shape(
        self, vertex: int, inputs: list[jax.ShapeDtypeStruct]
    ) -> jax.ShapeDtypeStruct:
        try:
            return jax.eval_shape(self.aggregate.get(vertex, total), inputs)
        except (TypeError, ValueError) as error:
            raise FamilyError(
                f"the inputs of vertex {vertex} do not agree: {[x.shape for x in inputs]} ({error})"
            ) from error
