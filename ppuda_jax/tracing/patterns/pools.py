"""Reductions of data: statistics, and pools that become nodes once they are used as data."""

import dataclasses

from ppuda_jax.tracing.values import Act, Labels, Pending, Stat, Taps, settle

COLUMNS = "columns"
"""`Taps.how` of slices that were concatenated."""


def reduce(act: Act, axes: tuple[int, ...], name: str) -> Act:
    """Data reduced over axes: a statistic, and a pooling if it is later used as data."""
    act = settle(act)
    gone = [part for i in axes for part in act.labels[i]]
    labels = tuple(axis for i, axis in enumerate(act.labels) if i not in axes)
    if not gone:
        return dataclasses.replace(act.plain(labels), norm=act.norm)
    kinds = {part.kind for part in gone} - {"1"}
    of = (act.key, *(act.stat.of if act.stat is not None else ()))
    mixes = "c" in kinds or ("?" in kinds and "b" not in kinds)
    mixes = mixes or bool(act.stat is not None and act.stat.mixes and not act.pending)
    pending = _pending(act, gone, labels, name) if not act.soft else None
    stat = Stat(of, mixes)
    return Act(
        act.src,
        labels,
        pending=pending,
        stat=stat,
        product=act.product,
        soft=act.soft,
        from_input=act.from_input,
    )


def _pending(act: Act, gone, labels: Labels, name: str) -> Pending | None:
    kinds = {part.kind for part in gone} - {"1"}
    if not kinds or any(kind[0] != "s" for kind in kinds):
        return act.pending if act.pending is not None and not kinds else None
    if name not in ("reduce_sum", "reduce_max"):
        return None
    left = {part.kind for axis in labels for part in axis}
    counts = [part.count for part in gone if part.kind != "1"]
    window = (counts[0], counts[1] if len(counts) > 1 else 1)
    if kinds & left:
        return Pending("avg_pool" if name == "reduce_sum" else "max_pool", act, window)
    source = act
    kind = "glob_avg" if name == "reduce_sum" else "max_pool"
    earlier = act.pending
    if earlier is not None and earlier.node is None and earlier.squeeze and earlier.kind == kind:
        source = earlier.source
    return Pending(kind, source, window, squeeze=True)


def merge_taps(name: str, first: Act, second: Act) -> Taps | None:
    """Joins shifted slices of one value into the sum or maximum that is a pool."""
    a, b = first.taps, second.taps
    how = {"add": "add", "add_any": "add", "max": "max"}.get(name)
    if a is None or b is None or how is None or a.of != b.of or a.offsets & b.offsets:
        return None
    if a.how not in ("", how) or b.how not in ("", how):
        return None
    offsets = a.offsets | b.offsets
    window = (
        len({offset[0] for offset in offsets}),
        len({offset[1] for offset in offsets}) if len(next(iter(offsets))) > 1 else 1,
    )
    source = dataclasses.replace(first, taps=None, norm=None, fresh=None)
    kind = "max_pool" if how == "max" else "avg_pool"
    return Taps(offsets, how, a.of, Pending(kind, source, window))


def side_by_side(members: list[Act]) -> Taps | None:
    """Marks shifted slices that are concatenated: the columns of a convolution."""
    taps = [member.taps for member in members]
    if len(taps) < 2 or any(tap is None or tap.how for tap in taps):
        return None
    offsets = frozenset().union(*(tap.offsets for tap in taps))
    if len(offsets) != len(taps) or len({tap.of for tap in taps}) > 1:
        return None
    return Taps(offsets, COLUMNS, taps[0].of)
