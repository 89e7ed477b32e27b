"""Reductions of data: statistics, and pools that become nodes once they are used as data."""

import dataclasses
from collections.abc import Sequence

from ppuda_jax.tracing.labels import ANY, SAME, Label, Labels, label_shape, without
from ppuda_jax.tracing.states import Joint, Plain, Pooled, Statistic, Taps
from ppuda_jax.tracing.table import Kind
from ppuda_jax.tracing.values import PLAIN, Act, Event, Pool

_NAMES = {Kind.ADDITIVE: "avg_pool", Kind.MAXIMUM: "max_pool"}
_JOINTS = {Kind.ADDITIVE: Joint.SUM, Kind.MAXIMUM: Joint.MAXIMUM}


def reduce(act: Act, axes: tuple[int, ...], kind: Kind) -> Act:
    """Data reduced over axes: a statistic, and a pooling if it is later used as data."""
    act = act.settled()
    earlier = act.statistic
    gone = [part for i in axes for part in act.labels[i]]
    labels = without(act.labels, axes)
    if not gone:
        return act.after(Event.RENAME, labels).put(act.state if act.taps is None else PLAIN)
    kinds = {part.kind for part in gone} - {SAME}
    of = (act.src, *(earlier.of if earlier is not None else ()))
    mixes = "c" in kinds or (ANY in kinds and "b" not in kinds)
    mixes = mixes or bool(type(earlier) is Statistic and earlier.mixes)
    pool = _pool(act, gone, labels, kind) if not act.soft else None
    still = isinstance(earlier, Pooled) and not kinds and not act.soft
    return dataclasses.replace(
        act,
        src=act.src if pool is None else frozenset((pool,)),
        labels=labels,
        state=Statistic(of, mixes) if pool is None and not still else Pooled(of, mixes),
    )


def _pool(act: Act, gone: Sequence[Label], labels: Labels, kind: Kind) -> Pool | None:
    """The pool that a reduction is, if it is one over space alone."""
    counts = [part.count for part in gone if part.kind != SAME]
    kinds = {part.kind for part in gone} - {SAME}
    if not kinds or any(kind[0] != "s" for kind in kinds) or kind not in _NAMES:
        return None
    window = (counts[0], counts[1] if len(counts) > 1 else 1)
    if kinds & {part.kind for axis in labels for part in axis}:
        return Pool(_NAMES[kind], act, window)
    name = "glob_avg" if kind is Kind.ADDITIVE else "max_pool"
    source = act
    for earlier in act.src if isinstance(act.state, Pooled) else ():
        # First over the height, then over the width: one pool.
        if isinstance(earlier, Pool) and (earlier.node, earlier.kind) == (None, name):
            source = earlier.source if earlier.squeeze else source
    return Pool(name, source, window, squeeze=True)


def merge_taps(kind: Kind, inverse: bool, first: Act, second: Act) -> Act | None:
    """Joins shifted slices of one value into the sum or maximum that is a pool."""
    a, b, how = first.taps, second.taps, _JOINTS.get(kind)
    if a is None or b is None or how is None or inverse:
        return None
    if a.of.src != b.of.src or a.offsets & b.offsets or not {a.how, b.how} <= {Joint.NOT, how}:
        return None
    offsets = a.offsets | b.offsets
    width = len({offset[1] for offset in offsets}) if len(next(iter(offsets))) > 1 else 1
    window = (len({offset[0] for offset in offsets}), width)
    pool = Pool(_NAMES[kind], a.of, window)
    return dataclasses.replace(first, src=frozenset((pool,)), state=Taps(offsets, how, a.of))


def side_by_side(members: Sequence[Act]) -> Taps | None:
    """Marks shifted slices that are concatenated: the columns of a convolution.

    They may be put together in rows first, and the rows then.
    """
    taps = [tap for member in members if (tap := member.taps) is not None]
    if len(members) < 2 or len(taps) < len(members):
        return None
    offsets = frozenset().union(*(tap.offsets for tap in taps))
    if len(offsets) != sum(len(tap.offsets) for tap in taps):
        return None
    if len({tap.of.src for tap in taps}) > 1 or len({tap.how for tap in taps}) > 1:
        return None
    single = taps[0].how in (Joint.NOT, Joint.COLUMNS)
    return Taps(offsets, Joint.COLUMNS, taps[0].of) if single else None


def _space(act: Act) -> list[int]:
    """The axes over which a window can move: in an input, all between the first and the last."""
    ranks = range(1, len(act.labels) - 1) if _is_input(act) else ()
    return [
        i
        for i, axis in enumerate(act.labels)
        if len(axis) == 1 and (axis[0].kind[0] == "s" or i in ranks)
    ]


def _is_input(act: Act) -> bool:
    """Whether data comes straight from an input about whose axes nothing is known."""
    kinds = {part.kind for axis in act.labels for part in axis}
    return kinds <= {"b", ANY} and any(p.origin is not None for axis in act.labels for p in axis)


def shifted(act: Act, labels: Labels, starts: Sequence[int]) -> Act:
    """A slice: one of the taps of a window if it moves over space and keeps everything else."""
    act = act.settled()
    space = _space(act)
    shape = label_shape(labels)
    changed = {i for i, n in enumerate(act.shape) if n != shape[i]}
    if not changed or not changed <= set(space):
        return act.after(Event.CUT, labels)
    moved = act.after(Event.SHIFTED_SLICE, labels)
    if not isinstance(act.state, (Plain, Taps)):
        return moved
    offset = tuple(int(starts[i]) for i in space)
    return moved.put(Taps(frozenset((offset,)), Joint.NOT, act.put(PLAIN)))
