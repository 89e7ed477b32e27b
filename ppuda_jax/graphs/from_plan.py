"""From a plan to its computational graph, without tracing.

Each operation of a plan becomes the nodes that the reference finds when it traces the network
(paper, appendix A.1): one per weight, one per bias that belongs to no norm, and the operations
without parameters; ReLU, subsampling, flattening and sums or concatenations of a single value
are no nodes. Nodes are in the order of execution, which is topological.

Legend: N nodes, E edges, P parameter leaves.
"""

import functools
from typing import NamedTuple

import numpy as np

from ppuda_jax.archs.op_params import op_params, param_rows
from ppuda_jax.archs.plan import Plan
from ppuda_jax.graphs.arch_graph import ArchGraph, Binding, LazyTuple
from ppuda_jax.primitives import PRIMITIVE_IDS
from ppuda_jax.types import ParamSpec, Role

_INPUT = -1
_NO_SHAPE = (0, 0, 0, 0)
_MERGES = ("sum", "concat")
_PASSED_THROUGH = ("subsample", "flatten")


class OpTemplate(NamedTuple):
    """The nodes of one operation; local node numbers, -1 is the operation's input.

    Attributes:
      primitives: kind of each node.
      shapes: four numbers a node, flattened.
      edges: pairs (from, to).
      param_nodes: node of each parameter of `op_params`.
      labels: name of each node without parameters, None for those with.
    """

    primitives: tuple[int, ...]
    shapes: tuple[int, ...]
    edges: tuple[tuple[int, int], ...]
    param_nodes: tuple[int, ...]
    labels: tuple[str | None, ...]


def graph_from_plan(plan: Plan) -> ArchGraph:
    """Builds the computational graph of a plan.

    Args:
      plan: the network.

    Returns:
      The graph with N nodes; names and bindings are computed when first looked at, bindings in
      the order of `plan.params`.
    """
    primitives: list[int] = [PRIMITIVE_IDS["input"]]
    shapes: list[int] = list(_NO_SHAPE)
    sources: list[int] = []
    targets: list[int] = []
    node_of = [0] * len(plan.value_channels)
    for op in plan.ops:
        kind = op.kind
        if kind in _MERGES:
            inputs = tuple(dict.fromkeys([node_of[value] for value in op.inputs]))
            if len(inputs) == 1:
                node_of[op.output] = inputs[0]
                continue
            node = len(primitives)
            primitives.append(PRIMITIVE_IDS[kind])
            shapes.extend(_NO_SHAPE)
            sources.extend(inputs)
            targets.extend([node] * len(inputs))
            node_of[op.output] = node
            continue
        source = node_of[op.inputs[0]]
        if kind in _PASSED_THROUGH:
            node_of[op.output] = source
            continue
        template = op_template(kind, op.c_in, op.c_out, op.kernel, op.norm, op.h_out)
        base = len(primitives)
        primitives.extend(template.primitives)
        shapes.extend(template.shapes)
        for start, end in template.edges:
            sources.append(source if start < 0 else base + start)
            targets.append(base + end)
        node_of[op.output] = len(primitives) - 1
    return ArchGraph(
        primitive=np.array(primitives, np.int32),
        edges=np.array([sources, targets], np.int32).T,
        shapes=np.array(shapes, np.int32).reshape(-1, 4),
        names=LazyTuple(functools.partial(_names, plan)),
        bindings=LazyTuple(functools.partial(_bindings, plan)),
        num_classes=plan.num_classes,
    )


def param_nodes(plan: Plan) -> np.ndarray:
    """Tells which node predicts each parameter.

    Args:
      plan: the network.

    Returns:
      [P] int32, one node of `graph_from_plan(plan)` per parameter of `plan.params`.
    """
    return np.array([node for nodes in op_nodes(plan) for node in nodes], np.int32)


def op_nodes(plan: Plan) -> list[tuple[int, ...]]:
    """Tells which nodes predict the parameters of each operation.

    Args:
      plan: the network.

    Returns:
      For each operation of `plan.ops`, the node of each parameter in the order of `op_params`.
    """
    return [
        tuple(base + node for node in template.param_nodes) for base, template in op_templates(plan)
    ]


def op_templates(plan: Plan) -> list[tuple[int, OpTemplate]]:
    """First node and nodes of each operation (an empty template where there is no node)."""
    found = []
    base = 1
    node_of = [0] * len(plan.value_channels)
    for op in plan.ops:
        inputs = tuple(dict.fromkeys([node_of[value] for value in op.inputs]))
        if op.kind in _PASSED_THROUGH or (op.kind in _MERGES and len(inputs) == 1):
            template = _EMPTY
        else:
            template = op_template(op.kind, op.c_in, op.c_out, op.kernel, op.norm, op.h_out)
        found.append((base, template))
        base += len(template.primitives)
        node_of[op.output] = base - 1 if template.primitives else inputs[0]
    return found


def _names(plan: Plan) -> tuple[str, ...]:
    names = ["input"]
    for op, (base, template) in zip(plan.ops, op_templates(plan), strict=True):
        names.extend(op.name if not label else f"{op.name}.{label}" for label in template.labels)
        for spec, node in zip(op_params(op), template.param_nodes, strict=True):
            if spec.role != "norm_bias":
                names[base + node] = spec.torch_name
    return tuple(names)


def _bindings(plan: Plan) -> tuple[Binding, ...]:
    last = plan.ops[-1]
    return tuple(
        _binding(spec, base + node, op is last)
        for op, (base, template) in zip(plan.ops, op_templates(plan), strict=True)
        for spec, node in zip(op_params(op), template.param_nodes, strict=True)
    )


def _binding(spec: ParamSpec, node: int, is_classifier: bool) -> Binding:
    shape = spec.canonical_shape
    perm = {1: (0,), 2: (1, 0), 4: (2, 3, 1, 0)}[len(shape)]
    if spec.role == "pos_enc":
        perm = (0, 2, 3, 1)
    return Binding(
        spec.path, node, spec.role, shape, shape, perm, spec.shape, spec.shape, None, is_classifier
    )


@functools.lru_cache(maxsize=65536)
def op_template(
    kind: str, c_in: int, c_out: int, kernel: int, norm: bool, h_out: int
) -> OpTemplate:
    """Returns the nodes of an operation given by the arguments of `archs.op_params.param_rows`."""
    if kind in _MERGES:
        return OpTemplate((PRIMITIVE_IDS[kind],), _NO_SHAPE, (), (), ("",))
    rows = param_rows(kind, c_in, c_out, kernel, norm, h_out)
    nodes: list[tuple[str, tuple[int, ...], str | None]] = []
    param_node = []
    for module, _, shape, role in rows:
        if role != "norm_bias":
            nodes.append((_primitive(kind, module, role), _embedded_shape(shape, role), None))
        param_node.append(len(nodes) - 1)
    if not rows:
        primitive = "glob_avg" if kind == "global_pool" else kind[:8]
        primitive = "max_pool" if kind == "stem_pool" else primitive
        shape = _NO_SHAPE if primitive == "glob_avg" else (1, 1, kernel, kernel)
        nodes.append((primitive, shape, ""))
    inserts, edges = _WIRING.get(kind, ((), None))
    for position, primitive, label in inserts:
        nodes.insert(position, (primitive, _NO_SHAPE, label))
        param_node = [node + (node >= position) for node in param_node]
    if edges is None:
        edges = tuple((node - 1, node) for node in range(len(nodes)))
    return OpTemplate(
        tuple(PRIMITIVE_IDS[primitive] for primitive, _, _ in nodes),
        tuple(dim for _, shape, _ in nodes for dim in shape),
        tuple(edge for edge in edges if edge[1] < len(nodes)),
        tuple(param_node),
        tuple(label for _, _, label in nodes),
    )


# Operations that are no chain of their parameters: nodes to insert at a local number, in this
# order, as (number, kind, label), and all edges (those to a norm that is absent are dropped).
_WIRING = {
    "pos_enc": (((1, "sum", "sum"),), ((_INPUT, 1), (0, 1))),
    "factorized_reduce": (
        ((2, "concat", "concat"),),
        ((_INPUT, 0), (_INPUT, 1), (0, 2), (1, 2), (2, 3)),
    ),
    "cse": (
        ((4, "cse", "cse"),),
        ((_INPUT, 0), (0, 1), (1, 2), (2, 3), (_INPUT, 4), (3, 4)),
    ),
    "msa": (
        ((2, "msa", "msa"), (5, "sum", "sum_1"), (11, "sum", "sum_2")),
        (
            *((_INPUT, 0), (0, 1), (1, 2), (2, 3), (3, 4), (_INPUT, 5), (4, 5)),
            *((5, 6), (6, 7), (7, 8), (8, 9), (9, 10), (5, 11), (10, 11)),
        ),
    ),
}

_EMPTY = OpTemplate((), (), (), (), ())


def _primitive(kind: str, module: str, role: str) -> str:
    if role == "kernel":
        return kind[:8] if module.startswith("depthwise") else "conv"
    if role == "norm_scale":
        return "ln" if kind == "msa" else "bn"
    return role


def _embedded_shape(shape: tuple[int, ...], role: Role) -> tuple[int, ...]:
    canonical = ParamSpec((), "", shape, role).canonical_shape
    return canonical + (1,) * (4 - len(canonical))
