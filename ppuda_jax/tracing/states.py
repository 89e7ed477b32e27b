"""The state of data between the operations that make up one pattern, and how it changes.

A norm is seen as several equations (a mean, a difference, a root, a product with a parameter);
the state of a value says how far it has come. A value has exactly one state:

  plain       nothing is pending
  pooled      reduced over space: a pool as soon as it is used as data
  statistic   reduced otherwise: what normalises the data that it was taken from
  normalised  divided by a statistic: waits for a norm's scale and offset
  scaled      just multiplied by a norm's scale: waits for the norm's offset
  taps        slices shifted over space, and sums or maxima of them: a pool or a convolution

`TABLE` is the whole of it. A dash leaves the state as it is.
"""

import dataclasses
import enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ppuda_jax.tracing.values import Act, Pool, Weight

Key = frozenset["int | Pool"]
"""Where data comes from: numbers of nodes, and pools that have none yet."""


@dataclasses.dataclass(frozen=True, slots=True)
class Plain:
    """Nothing is pending."""


@dataclasses.dataclass(frozen=True, slots=True)
class Statistic:
    """A reduction of other data.

    Attributes:
      of: keys of what it is a statistic of, the newest first.
      mixes: features were reduced (layer norm) rather than batch and space only (batch norm).
      root: a square root or reciprocal was taken, as in 1 / sqrt(variance).
      scale: a parameter that was multiplied in.
      bias: a parameter that was added.
    """

    of: tuple[Key, ...]
    mixes: bool
    root: bool = False
    scale: "Weight | None" = None
    bias: "Weight | None" = None


@dataclasses.dataclass(frozen=True, slots=True)
class Pooled(Statistic):
    """A reduction over space: the data comes from a pool that has no node yet."""


@dataclasses.dataclass(frozen=True, slots=True)
class Normalised:
    """Data divided by a statistic.

    Attributes:
      mixes: see `Statistic`.
      of: keys of the data that was normalised.
    """

    mixes: bool
    of: tuple[Key, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class Scaled:
    """The result of a norm's scale.

    Attributes:
      node: the norm's node.
      of: keys of the data that was normalised.
      size: number of scales.
    """

    node: int
    of: tuple[Key, ...]
    size: int


class Joint(enum.Enum):
    """How shifted slices were put together."""

    NOT = "single"
    SUM = "sum"
    MAXIMUM = "maximum"
    COLUMNS = "concatenated, as the columns of a convolution"
    PRODUCTS = "through a dense layer each, and summed: the taps of a convolution"


@dataclasses.dataclass(frozen=True, slots=True)
class Taps:
    """Shifted slices of one value.

    Attributes:
      offsets: the shifts, one tuple each.
      how: how several were put together.
      of: what was sliced.
      nodes: the nodes of the dense layers, if they went through any.
    """

    offsets: frozenset[tuple[int, ...]]
    how: Joint
    of: "Act"
    nodes: tuple[int, ...] = ()

    @property
    def is_pool(self) -> bool:
        """Whether the value is a sum or maximum, and with it a pool."""
        return self.how in (Joint.SUM, Joint.MAXIMUM)


State = Plain | Statistic | Pooled | Normalised | Scaled | Taps
"""How far data has come in a norm or a pool."""

PLAIN = Plain()
"""Data in no norm and no pool."""

STATES: dict[str, type] = {
    "plain": Plain,
    "pooled": Pooled,
    "statistic": Statistic,
    "normalised": Normalised,
    "scaled": Scaled,
    "taps": Taps,
}
"""States by the names of the table's columns."""


class Event(enum.Enum):
    """What can happen to data."""

    RENAME = "reshape, transpose, broadcast, identity"
    CUT = "slice over features, pad, reverse, gather"
    SHIFTED_SLICE = "slice over space"
    SUM_CONSTANT = "plus or minus a constant"
    TIMES_CONSTANT = "times or divided by a constant"
    LIMIT = "maximum or minimum with a constant"
    SQUARE = "square"
    ROOT = "square root, reciprocal, power"
    FUNCTION = "other function of one value, or of a value and a constant"
    STORED = "times or minus a statistic that the model stores"
    OVER_SPACE = "sum or maximum over space alone"
    OVER_BATCH = "reduction over batch and space"
    OVER_FEATURES = "reduction over features"
    PRODUCT = "dense layer, convolution, attention"
    SCALE = "times a parameter"
    SHIFT = "plus a parameter"
    OWN_SUM = "plus or minus a statistic of itself"
    OWN_QUOTIENT = "times the reciprocal root of a statistic of itself"


TABLE = """
event           plain       pooled      statistic   normalised  scaled      taps
RENAME          -           -           -           -           -           -
CUT             -           -           -           -           plain       plain
SHIFTED_SLICE   taps        -           -           -           plain       taps
SUM_CONSTANT    -           -           -           -           plain       -
TIMES_CONSTANT  -           -           -           -           plain       -
LIMIT           -           -           -           plain       plain       plain
SQUARE          -           -           -           -           plain       plain
ROOT            -           -           -           plain       plain       plain
FUNCTION        -           -           -           plain       plain       plain
STORED          normalised  -           -           -           -           plain
OVER_SPACE      pooled      pooled      pooled      pooled      pooled      pooled
OVER_BATCH      statistic   statistic   statistic   statistic   statistic   statistic
OVER_FEATURES   statistic   statistic   statistic   statistic   statistic   statistic
PRODUCT         plain       plain       plain       plain       plain       plain
SCALE           plain       -           -           scaled      plain       plain
SHIFT           plain       -           -           plain       plain       plain
OWN_SUM         -           -           -           -           -           plain
OWN_QUOTIENT    normalised  normalised  -           normalised  normalised  normalised
"""
"""The next state, by event and state; - leaves it as it is."""


def _parse(table: str) -> dict[tuple[type, Event], type]:
    (_, *names), *rows = (line.split() for line in table.strip().splitlines())
    return {
        (STATES[before], Event[event]): STATES[before if after == "-" else after]
        for event, *cells in rows
        for before, after in zip(names, cells, strict=True)
    }


TRANSITIONS = _parse(TABLE)
"""The state after an event, by state and event."""


def after(state: State, event: Event) -> State:
    """The state after an event that creates nothing: unchanged or forgotten."""
    if TRANSITIONS[type(state), event] is Plain:
        return PLAIN
    return state
