"""The nodes that data comes from: what was put off until its use becomes a node here.

A mean is a statistic or a pool, and a parameter that multiplies it a norm's scale or a gain;
only the use tells. Used as data they are a pool and a gain.
"""

from ppuda_jax.tracing.builder import GraphBuilder
from ppuda_jax.tracing.values import Act, Pool, Weight
from ppuda_jax.types import Role


def sources(graph: GraphBuilder, act: Act) -> frozenset[int]:
    """The nodes that data comes from, after creating those that were put off."""
    src: set[int] = set()
    for item in act.src:
        src.add(_pool_node(graph, item) if isinstance(item, Pool) else item)
    found = frozenset(src)
    if act.statistic is not None:
        if act.statistic.scale is not None:
            found = _put_off(graph, found, act.statistic.scale, "ln", "norm_scale")
        if act.statistic.bias is not None:
            found = _put_off(graph, found, act.statistic.bias, "bias", "bias")
    return found


def _pool_node(graph: GraphBuilder, pool: Pool) -> int:
    if pool.node is None:
        window = None if pool.kind == "glob_avg" else pool.window
        pool.node = graph.add(pool.kind, sources(graph, pool.source), window)
        if pool.squeeze:
            graph.squeezes.add(pool.node)
    return pool.node


def _put_off(
    graph: GraphBuilder, src: frozenset[int], weight: Weight, kind: str, role: Role
) -> frozenset[int]:
    """The node of a parameter that a statistic carries; created at the first use."""
    key = (src, weight.view, role)
    if key not in graph.put_off:
        if graph.shared(weight.view) is not None:
            return src
        graph.put_off[key] = graph.add(kind, src)
        graph.bind(graph.put_off[key], role, weight.view, (weight.view.leaf_digits,))
    return frozenset((graph.put_off[key],))
