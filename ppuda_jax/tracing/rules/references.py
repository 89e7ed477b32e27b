"""Rules for mutable arrays: what is written is what is read later.

Equations run in order, so that a cell holds at any time what the array holds.
"""

from ppuda_jax.tracing.interpreter import Interpreter, opened
from ppuda_jax.tracing.labels import Labels, resized_all, unknown_labels
from ppuda_jax.tracing.table import TABLE, Equation, Kind, Result, rule, shape_of
from ppuda_jax.tracing.values import Act, Cell, Const, Joined, Refused, Value, Weight, refused

_PART = "written into or read from a part of a mutable array"


@rule("new_ref", "ref", kind=Kind.ENTERED)
def new(tracer: Interpreter, eqn: Equation, ins: list[Value]) -> Result:
    """A new mutable array."""
    return Cell(ins[0], ins[0].shape)


@rule("freeze", "ref_freeze", kind=Kind.ENTERED)
def freeze(tracer: Interpreter, eqn: Equation, ins: list[Value]) -> Result:
    """What the array holds at the end."""
    (cell,) = ins
    return cell.value if isinstance(cell, Cell) else cell


@rule("get", kind=Kind.ENTERED)
def get(tracer: Interpreter, eqn: Equation, ins: list[Value]) -> Result:
    """Reads the array or a part of it."""
    return _read(ins[0], eqn.shape)


@rule("swap", kind=Kind.ENTERED)
def swap(tracer: Interpreter, eqn: Equation, ins: list[Value]) -> Result:
    """Writes, and gives what was there."""
    cell, value = ins[0], ins[1]
    before = _read(cell, eqn.shape)
    if isinstance(cell, Cell):
        cell.value = value if value.shape == cell.shape else _beside(tracer, cell, value)
    return before


@rule("addupdate", kind=Kind.ENTERED)
def add(tracer: Interpreter, eqn: Equation, ins: list[Value]) -> Result:
    """Adds to the array or to a part of it."""
    cell, value = ins[0], ins[1]
    if isinstance(cell, Cell) and value.shape == cell.shape:
        ruled = TABLE["add"]
        sums = Equation("add", {}, [cell], [True], ruled)
        cell.value = tracer.apply(sums, [cell.value, value])[0]
    elif isinstance(cell, Cell):
        cell.value = _beside(tracer, cell, value)
    return []


@rule("run_state", kind=Kind.ENTERED)
def run_state(tracer: Interpreter, eqn: Equation, ins: list[Value]) -> Result:
    """Runs a function on mutable arrays and gives what they hold afterwards."""
    jaxpr, consts = opened(eqn.params["jaxpr"])
    started = eqn.params.get("is_initialized") or [True] * len(jaxpr.invars)
    given = iter(ins)
    cells: list[Value] = []
    for var, known in zip(jaxpr.invars, started, strict=True):
        shape = shape_of(var.aval)
        value = next(given) if known else Const(shape)
        cells.append(value if isinstance(value, Cell) else Cell(value, shape))
    tracer.run(jaxpr, consts, cells)
    return [cell.value for cell in cells if isinstance(cell, Cell)]


def _read(cell: Value, shape: tuple[int, ...]) -> Value:
    value = cell.value if isinstance(cell, Cell) else cell
    if value.shape == shape:
        return value
    if isinstance(value, Act):
        return value.moved(_like(value.labels, shape))
    if isinstance(value, (Weight, Joined, Refused)):
        return refused(shape, (value,), _PART)
    return Const(shape)


def _like(labels: Labels, shape: tuple[int, ...]) -> Labels:
    return resized_all(labels, shape) if len(labels) == len(shape) else unknown_labels(shape)


def _beside(tracer: Interpreter, cell: Cell, value: Value) -> Value:
    """What the array holds after a part of it was written."""
    old = cell.value
    if not isinstance(old, Act) and not isinstance(value, Act):
        parameters = not (isinstance(old, Const) and isinstance(value, Const))
        return refused(cell.shape, (old, value), _PART) if parameters else Const(cell.shape)
    if isinstance(value, Act):
        value = value.moved(_like(value.labels, cell.shape))
    seen = [_met(tracer, part) for part in (old, value)]
    return tracer.join(*seen)


def _met(tracer: Interpreter, value: Value) -> Value:
    """Parameters beside data in a mutable array are listed."""
    if isinstance(value, (Weight, Joined)):
        return tracer.met(refused(value.shape, (value,), _PART))
    return tracer.met(value)
