"""Products of two pieces of data: attention."""

import dataclasses
from collections.abc import Sequence

from ppuda_jax.tracing.builder import GraphBuilder
from ppuda_jax.tracing.labels import ANY, SAME, Labels, label_shape, unknown_labels
from ppuda_jax.tracing.patterns.sources import sources
from ppuda_jax.tracing.values import Act

Side = tuple[tuple[int, ...], tuple[int, ...]]
"""(contracted axes, batch axes) of one argument of a product."""


def free_axes(rank: int, side: Side) -> tuple[int, ...]:
    """The axes of an argument that are neither contracted nor shared."""
    return tuple(i for i in range(rank) if i not in side[0] and i not in side[1])


def product(graph: GraphBuilder, first: Act, second: Act, sides: tuple[Side, Side]) -> Act:
    """Two products in a row, or one with a softmax, are an msa node; others are contracted."""
    first, second = first.settled(), second.settled()
    for act, other, side in ((first, second, sides[1]), (second, first, sides[0])):
        if is_made_kernel(graph, act, other, side[0]):
            labels = unknown_labels(label_shape(_labels(first.labels, second.labels, sides)))
            src = sources(graph, act) | (sources(graph, other) if other.from_input else frozenset())
            return dataclasses.replace(act.on(src, labels), product=act.product)
    src = sources(graph, first) | sources(graph, second)
    result = Act(
        src,
        _labels(first.labels, second.labels, sides),
        from_input=first.from_input or second.from_input,
    )
    if not src:
        return result
    multiplied, soft = first.product or second.product, first.soft or second.soft
    if not sides[0][0]:
        return Act(src, result.labels, result.state, multiplied, soft, result.from_input)
    over_space = any(
        part.kind[0] == "s"
        for act, (contracted, _) in ((first, sides[0]), (second, sides[1]))
        for i in contracted
        for part in act.labels[i]
    )
    if multiplied or (soft and over_space):
        return result.on(frozenset((graph.add("msa", src),)))
    return Act(src, result.labels, product=True, from_input=result.from_input)


def is_made_kernel(graph: GraphBuilder, act: Act, made: Act, contracted: Sequence[int]) -> bool:
    """Whether data meets a kernel that looks like data; its parameters are then refused.

    It is made of parameters and met by its rows (by its features it would be a learnt query or
    key), or a whole matrix that was looked up.
    """
    if graph.is_looked_up(made.src) and not act.product and not act.soft:
        graph.unbind_all(made.src, "a kernel that is looked up by data")
        return True
    if not made.is_made or act.soft or act.product or not act.from_input:
        return False
    kinds = {part.kind[0] for i in contracted for part in made.labels[i]}
    if not kinds or "c" in kinds:
        return False
    graph.refuse_behind(sources(graph, made), "multiplied with other parameters into one kernel")
    return True


def _labels(first: Labels, second: Labels, sides: tuple[Side, Side]) -> Labels:
    batch = [
        first[i] if first[i] and first[i][0].kind not in (ANY, SAME) else second[j]
        for i, j in zip(sides[0][1], sides[1][1], strict=True)
    ]
    free = [first[i] for i in free_axes(len(first), sides[0])]
    return tuple(batch + free + [second[i] for i in free_axes(len(second), sides[1])])
