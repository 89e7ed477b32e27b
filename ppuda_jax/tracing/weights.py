"""Arithmetic among parameters before they meet data."""

import dataclasses
from collections.abc import Sequence

from ppuda_jax.tracing.table import Kind
from ppuda_jax.tracing.values import Event, Joined, Merged, Refused, Weight, refused

_EVENTS = {
    Kind.ADDITIVE: Event.SHIFT,
    Kind.MULTIPLICATIVE: Event.SCALE,
    Kind.ROOT: Event.ROOT,
}


def flatten(value: Weight | Joined | Refused, reason: str) -> Weight | Refused:
    """A concatenation is refused where its parts cannot be told apart; others stay."""
    if isinstance(value, Joined):
        return refused(value.shape, (value,), reason)
    return value


def merge(name: str, kind: Kind, weights: Sequence[Weight]) -> Weight:
    """Arithmetic among parameters: the leaf that shows most elements is the main one.

    Args:
      name: the operation.
      kind: what it does.
      weights: its arguments.

    Returns:
      The main value, which carries the other leaves, each once.
    """
    main = max(weights, key=lambda w: (w.view.coverage, not w.function))
    others, curve = list(main.others), main.curve
    relative = any(weight.relative for weight in weights)
    for weight in weights:
        if weight is main:
            continue
        if weight.view.leaf != main.view.leaf:
            how = weight.function if weight.root else weight.curve or name
            event = Event.ROOT if weight.root else _EVENTS.get(kind)
            if weight.curve:  # neither a gain nor a bias is predicted as its logarithm
                event = None
            others.append(Merged(weight.view, how, event))
        else:
            curve = curve or weight.curve
            reduced = weight.view.coverage < main.view.coverage
            relative = relative or (reduced and name in ("div", "sub"))
        others += [other for other in weight.others if other.view.leaf != main.view.leaf]
    rooted = any(w.rooted for w in weights)
    others = list(dict.fromkeys(others))
    return dataclasses.replace(
        main, others=tuple(others), rooted=rooted, curve=curve, relative=relative
    )
