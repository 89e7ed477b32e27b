"""The one table that says what a primitive is; `@rule` beside each function fills it.

A rule is called as rule(tracer, eqn, ins), where at least one argument is no constant and, unless
the primitive carries a jaxpr, none is a refusal; it describes the results.
"""

import dataclasses
import enum
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from ppuda_jax.tracing.values import Value

if TYPE_CHECKING:
    from ppuda_jax.tracing.interpreter import Interpreter

Result = Value | list[Value]
"""What a rule returns: a value, or one for each output of the primitive."""


class Kind(enum.Enum):
    """What a primitive does, as far as the vocabulary tells it apart."""

    CONSTANT = "makes a constant"
    ENTERED = "carries a jaxpr that is walked"
    IDENTITY = "gives its argument"
    LINEAR = "linear function of one value"
    SQUARE = "square"
    ROOT = "root or power"
    EXPONENTIAL = "exponential function"
    CURVE = "another smooth function of one value"
    FUNCTION = "another elementwise function"
    ADDITIVE = "sum or difference"
    MULTIPLICATIVE = "product or quotient"
    MAXIMUM = "maximum"
    MINIMUM = "minimum"
    CHOICE = "one of several values"
    MOVEMENT = "moves elements"
    LOOKUP = "reads or writes at an index"
    LINEAR_MAP = "product with contraction"
    RANDOM = "random numbers and keys: they carry no data"
    OUTSIDE = "outside the vocabulary"


@dataclasses.dataclass(frozen=True, slots=True)
class Equation:
    """One equation of a jaxpr.

    Attributes:
      name: its primitive.
      params: parameters of the primitive.
      outs: abstract values of the results.
      live: which results are used.
      rule: the entry of the table.
    """

    name: str
    params: Mapping[str, Any]
    outs: Sequence[Any]
    live: Sequence[bool]
    rule: "Rule"

    @property
    def kind(self) -> Kind:
        """What the primitive does."""
        return self.rule.kind

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the first result."""
        return shape_of(self.outs[0])

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """Shape of every result."""
        return tuple(map(shape_of, self.outs))


def shape_of(aval: Any) -> tuple[int, ...]:
    """Shape of an abstract value; () for tokens and other values without one."""
    return tuple(getattr(aval, "shape", ()))


class RuleFunction(Protocol):
    """Signature of a rule."""

    def __call__(self, tracer: "Interpreter", eqn: Equation, ins: list[Value], /) -> Result:
        """Describes the results of an equation."""
        ...


Fold = Callable[..., np.ndarray]
"""Computes the result from (eqn, *arrays) where all arguments are known whole numbers."""


@dataclasses.dataclass(frozen=True, slots=True)
class Rule:
    """An entry of the table.

    Attributes:
      apply: the rule.
      kind: what the primitive does.
      inverse: the second argument is subtracted or divided by.
      fold: how indices are computed with it, if they are.
    """

    apply: RuleFunction
    kind: Kind
    inverse: bool = False
    fold: Fold | None = None


TABLE: dict[str, Rule] = {}
"""Rule by name of the primitive."""

OUTSIDE = ""
"""Name of the rule for primitives that are not in the table."""


def rule(
    *names: str, kind: Kind, inverse: bool = False, fold: Fold | None = None
) -> Callable[[RuleFunction], Any]:
    """Registers the decorated function for primitives.

    Args:
      *names: the primitives.
      kind: see `Rule`.
      inverse: see `Rule`.
      fold: see `Rule`.

    Returns:
      A decorator that leaves the function as it is.

    Raises:
      ValueError: if a primitive has a rule already.
    """

    def register(function: RuleFunction) -> RuleFunction:
        for name in names:
            if name in TABLE:
                raise ValueError(f"{name} must have one rule, received a second: drop one.")
            TABLE[name] = Rule(function, kind, inverse, fold)
        return function

    return register


def elementwise(function: Callable[..., Any]) -> Fold:
    """A fold by a NumPy function of the arguments alone."""
    return lambda eqn, *arrays: np.asarray(function(*arrays))
