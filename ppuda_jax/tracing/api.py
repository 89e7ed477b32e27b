"""`trace`: any JAX function to a graph, from its jaxpr alone.

The function is traced on abstract values (nothing is computed or allocated), its jaxpr is
walked (`tracing.interpreter`) with one rule per primitive (`tracing.rules`), and the nodes that
are found are closed into an `ArchGraph` (`tracing.builder`). Names of modules and parameters
play no role. What counts as a node: paper, section 2.1 and appendix A.1.
"""

import dataclasses
import types
import weakref
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jraph
import numpy as np
from jax.extend.core import ClosedJaxpr
from jax.interpreters.partial_eval import dce_jaxpr

from ppuda_jax.graphs.arch_graph import ArchGraph
from ppuda_jax.tracing import rules as rules
from ppuda_jax.tracing.builder import INPUT, GraphBuilder
from ppuda_jax.tracing.constants import constant, kind_of
from ppuda_jax.tracing.finish import finish
from ppuda_jax.tracing.identity import same_function
from ppuda_jax.tracing.interpreter import Interpreter
from ppuda_jax.tracing.labels import ANY, Label, Origin, count
from ppuda_jax.tracing.params import ParamTree, is_array, is_floating, param_tree
from ppuda_jax.tracing.patterns.sources import sources
from ppuda_jax.tracing.values import Act, Const, Value, Weight
from ppuda_jax.tracing.views import View

_DATA_DEPENDENT = (
    jax.errors.ConcretizationTypeError,
    jax.errors.NonConcreteBooleanIndexError,
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerIntegerConversionError,
)


@dataclasses.dataclass(frozen=True, eq=False)
class TraceSource:
    """What a graph was traced from.

    Attributes:
      tree: the parameter pytree.
      apply_fn: the traced function.
      variables: abstract variables.
      inputs: abstract inputs.
      image_size: height and width of the images, as the axes over which the first kernels move
        tell; None where none does.
    """

    tree: ParamTree
    apply_fn: Callable[..., Any]
    variables: Any
    inputs: Any
    image_size: tuple[int, ...] | None = None

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, TraceSource)
            and self.tree == other.tree
            and (self.apply_fn == other.apply_fn)
        )

    def __hash__(self) -> int:
        return hash(self.tree)


_Reference = Callable[[], Callable[..., Any] | None]

_ACCEPTED: weakref.WeakKeyDictionary[TraceSource, list[_Reference]] = weakref.WeakKeyDictionary()
"""Other functions that were found to give the same graph as the traced one, by weak reference."""


def trace(apply_fn: Callable[..., Any], variables: Any, inputs: Any) -> jraph.GraphsTuple:
    """Builds the graph of a network.

    Args:
      apply_fn: the network as a pure function, called as `apply_fn(variables, inputs)`, or as
        `apply_fn(variables, *inputs)` for a tuple of inputs; returns one array.
      variables: `{"params": params, ...}`, where further collections (batch statistics) are
        constants, or any other pytree, which then holds the parameters. Arrays or
        `jax.ShapeDtypeStruct`; other leaves (functions, numbers) are kept as they are.
      inputs: one array or `jax.ShapeDtypeStruct`, or a pytree of them.

    Returns:
      GraphsTuple as described in `graphs.graphs_tuple`; bindings of every parameter, or the
      reason why it has none, travel with it.

    Raises:
      ValueError: for functions, variables or inputs from which no graph can be made.

    Examples:
      >>> import jax
      >>> from flax import linen as nn
      >>> import ppuda_jax as pj
      >>> pool = lambda x: x.mean((1, 2))
      >>> model = nn.Sequential([nn.Conv(8, (3, 3)), nn.relu, pool, nn.Dense(10)])
      >>> images = jax.ShapeDtypeStruct((1, 32, 32, 3), "float32")
      >>> variables = jax.eval_shape(model.init, jax.random.key(0), images)
      >>> graph = pj.trace(model.apply, variables, images)
      >>> graph.n_node.tolist()
      [6]
    """
    return trace_graph(apply_fn, variables, inputs).to_graphs_tuple()


def trace_graph(apply_fn: Callable[..., Any], variables: Any, inputs: Any) -> ArchGraph:
    """As `trace`, without virtual edges.

    Args:
      apply_fn: see `trace`.
      variables: see `trace`.
      inputs: see `trace`.

    Returns:
      The graph.

    Raises:
      ValueError: see `trace`.
    """
    if not callable(apply_fn):
        raise ValueError(
            f"apply_fn must be a function of (variables, inputs), received {type(apply_fn)}: "
            "pass net.apply or a lambda around the model."
        )
    params, rebuild, others = _separate(variables)
    tree, leaves = param_tree(params)
    _check_leaves(tree)
    arrays, static_inputs = _arrays(inputs)
    if not arrays:
        raise ValueError(
            f"inputs must hold at least one array or ShapeDtypeStruct, received {type(inputs)}."
        )
    state, rebuild_state = _arrays(others)

    def flat(leaves, state, arrays):
        full = rebuild(
            tree.unflatten(dict(zip(tree.paths, leaves, strict=True))), rebuild_state(state)
        )
        given = static_inputs(arrays)
        return apply_fn(full, *given) if type(given) is tuple else apply_fn(full, given)

    closed, result = _make_jaxpr(
        flat,
        [_abstract(x) for x in leaves],
        [_abstract(x) for x in state],
        [_abstract(x) for x in arrays],
    )
    outputs = [leaf for leaf in jax.tree_util.tree_leaves(result) if is_array(leaf)]
    if len(outputs) != 1:
        raise ValueError(
            f"apply_fn must return one array, received {len(outputs)}: wrap it so that it "
            "returns the logits only, e.g. lambda v, x: net.apply(v, x)[0]."
        )
    source = TraceSource(tree, apply_fn, _skeleton(variables), _skeleton(inputs))
    return _interpret(closed, tree, len(state), source)


def _interpret(
    closed: ClosedJaxpr, tree: ParamTree, num_state: int, source: TraceSource
) -> ArchGraph:
    graph = GraphBuilder(tree)
    args: list[Value] = []
    for leaf, leaf_shape in enumerate(tree.shapes):
        dtype = tree.dtypes[leaf]
        if is_floating(dtype):
            args.append(Weight(View.of_leaf(leaf, leaf_shape)))
            continue
        graph.refuse(leaf, f"its dtype is {dtype}: only real floating point is predicted")
        args.append(Const(leaf_shape))
    invars = closed.jaxpr.invars
    first, end = len(args), len(args) + num_state
    args += [
        Const(tuple(v.aval.shape), stored=bool(v.aval.shape), state=True) for v in invars[first:end]
    ]
    args += [_input(number, v.aval) for number, v in enumerate(invars[end:])]
    consts = [constant(value) for value in closed.consts]
    tracer = Interpreter(graph)
    (output,) = tracer.run(closed.jaxpr, consts, args)
    # No rule may lose a leaf without a reason: what is left has none but this one.
    _, live = dce_jaxpr(closed.jaxpr, [True])
    for leaf, used in enumerate(live[:first]):
        if used:
            graph.refuse(leaf, "used in a way that is not followed")
    if not isinstance(output, Act) or not output.from_input:
        raise ValueError(
            "the result of apply_fn does not depend on the inputs: check that the function "
            "uses its second argument."
        )
    if graph.image_axes is not None:
        source = dataclasses.replace(source, image_size=graph.image_axes)
    return finish(graph, sources(graph, output), _values_per_image(output), source)


def _values_per_image(output: Act) -> int | None:
    """How many logits the output has for each image; None if it has more axes than that."""
    if len(output.labels) > 2:
        return None
    last = output.labels[-1] if output.labels else ()
    return 1 if {part.kind for part in last} <= {"b"} else count(last)


def _input(number: int, aval: Any) -> Value:
    """One of the inputs: data, or a random key, which carries none."""
    shape, kind = tuple(aval.shape), kind_of(aval.dtype)
    if kind == "V":
        return Const(shape)
    if kind in "iub" and len(shape) <= 2:
        kinds = ["b", "s0"] if len(shape) == 2 else ["s0"] * len(shape)
    else:
        kinds = ["b" if i == 0 and len(shape) > 1 else ANY for i in range(len(shape))]
    labels = tuple(
        (Label(kind, n, Origin(number, axis, n)),) if n > 1 else ()
        for axis, (kind, n) in enumerate(zip(kinds, shape, strict=True))
    )
    return Act(frozenset((INPUT,)), labels)


def _separate(variables: Any):
    """Splits variables into parameters and the rest, with a function that joins them."""
    if isinstance(variables, Mapping) and "params" in variables:
        others = {key: value for key, value in variables.items() if key != "params"}
        kind: Callable[[dict[str, Any]], Any] = type(variables)

        def rebuild(params: Any, rest: Mapping[str, Any]) -> Any:
            return kind({key: params if key == "params" else rest[key] for key in variables})

        return variables["params"], rebuild, others
    return variables, lambda params, rest: params, {}


def _arrays(tree: Any):
    """The array leaves of a pytree, and a function that puts others in their place."""
    leaves, treedef = jax.tree_util.tree_flatten(tree)

    def rebuild(arrays):
        rest = iter(arrays)
        return jax.tree_util.tree_unflatten(
            treedef, [next(rest) if is_array(leaf) else leaf for leaf in leaves]
        )

    return [leaf for leaf in leaves if is_array(leaf)], rebuild


def _abstract(leaf: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)


def _skeleton(tree: Any) -> Any:
    return jax.tree_util.tree_map(lambda x: _abstract(x) if is_array(x) else x, tree)


def _check_leaves(tree: ParamTree) -> None:
    if not tree.paths:
        raise ValueError(
            "the model has no parameters: variables must be {'params': ...} or a pytree with "
            "at least one floating-point array."
        )
    if not any(map(is_floating, tree.dtypes)):
        found = sorted(set(tree.dtypes))
        raise ValueError(
            f"parameters must be real and floating point, received only {found}: pass the leaves "
            "that are learnt, complex ones as a real and an imaginary part."
        )


def _make_jaxpr(function, leaves, state, arrays):
    try:
        return jax.make_jaxpr(function, return_shape=True)(leaves, state, arrays)
    except _DATA_DEPENDENT as error:
        raise ValueError(
            "apply_fn cannot be traced because shapes or control flow depend on the data "
            f"({type(error).__name__}): use jnp.where, lax.cond or fixed sizes instead. {error}"
        ) from error
    except Exception as error:
        shapes = [tuple(a.shape) for a in arrays]
        raise ValueError(
            f"apply_fn failed on inputs of shape {shapes}: {type(error).__name__}: {error} (check "
            "that it is a function of variables and inputs, for a module its apply method, that "
            "these are all its variables, and the rank and layout of the inputs)"
        ) from error


def check_apply_fn(source: TraceSource, apply_fn: Callable[..., Any]) -> None:
    """Checks that a graph belongs to a function.

    The same function passes at once; another one is traced and must give the same jaxpr
    graph.

    Args:
      source: what the graph was traced from.
      apply_fn: the function at hand.

    Raises:
      ValueError: if the function gives another graph.
    """
    if same_function(apply_fn, source.apply_fn):
        return
    known = [function for ref in _ACCEPTED.get(source, ()) if (function := ref()) is not None]
    if any(same_function(apply_fn, function) for function in known):
        return
    repair = "trace the function that is passed, or pass the one that was traced."
    try:
        graph = trace_graph(apply_fn, source.variables, source.inputs)
        original = trace_graph(source.apply_fn, source.variables, source.inputs)
    except ValueError as error:
        raise ValueError(
            f"the graph was traced from another apply_fn: {repair} ({error})"
        ) from error
    same = (
        np.array_equal(graph.primitive, original.primitive)
        and np.array_equal(graph.edges, original.edges)
        and tuple(graph.bindings) == tuple(original.bindings)
    )
    if not same:
        raise ValueError(f"the graph was traced from another apply_fn: {repair}")
    # A bound method is made anew each time it is written: its object is what lives on.
    make = weakref.WeakMethod if isinstance(apply_fn, types.MethodType) else weakref.ref
    alive = [ref for ref in _ACCEPTED.get(source, ()) if ref() is not None]
    _ACCEPTED[source] = [*alive, make(apply_fn)]
