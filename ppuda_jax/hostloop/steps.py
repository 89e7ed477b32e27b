"""From a plan to steps, each of which is one small function that all networks share.

A step is a piece of an operation of the plan: a norm is a step of its own, a separable convolution
is two of them, a concatenation is none (whoever reads it gets its parts). So there are few
functions to compile, and the backward pass, which recomputes inside a step, runs no convolution
twice.

Legend: `H, W` pixels, `C` channels of a map, `F` entries of a vector.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from ppuda_jax.archs.op_params import op_params
from ppuda_jax.archs.plan import Op, Plan
from ppuda_jax.types import ParamSpec, Role

Shape = tuple[int, ...]
"""Shape of a map without the batch: (H, W, C), or (F,) for a vector."""


class Leaf(NamedTuple):
    """What of a parameter decides the compiled function.

    Attributes:
      shape: in Flax layout, see `ParamSpec`.
      role: what it does.
      last: whether it belongs to the classifier, which has a decoder of its own.
    """

    shape: Shape
    role: Role
    last: bool = False


class StepKey(NamedTuple):
    """All that decides the function of a step, apart from the batch.

    Attributes:
      kind: see `kinds.run_step`.
      maps: shapes of the maps that it reads, those of all inputs behind each other.
      slots: of each input, the channels of the maps that it is the concatenation of, negative
        where they are zeros.
      leaves: its parameters, in the order in which the maths uses them.
      stride: along height and width.
      dilation: of a separable convolution.
      relu: whether a ReLU comes first.
      from_image: whether it reads the image, which needs no gradient.
    """

    kind: str
    maps: tuple[Shape, ...]
    slots: tuple[Shape, ...]
    leaves: tuple[Leaf, ...]
    stride: tuple[int, int]
    dilation: int
    relu: bool
    from_image: bool


class Step(NamedTuple):
    """One step of a network.

    Attributes:
      key: its function.
      inputs: ids of the maps that it reads; 0 is the image.
      output: id of the map that it writes.
      params: numbers of its parameters in `plan.params`.
    """

    key: StepKey
    inputs: tuple[int, ...]
    output: int
    params: tuple[int, ...]


class _Part(NamedTuple):
    """One map of a concatenation; zeros if `value` is None."""

    value: int | None
    shape: Shape


_Parts = tuple[_Part, ...]


class _Params(NamedTuple):
    """Parameters of a step with their numbers; slices like a sequence."""

    specs: tuple[ParamSpec, ...]
    numbers: tuple[int, ...]

    def part(self, start: int, stop: int | None) -> "_Params":
        """Parameters start ... stop - 1."""
        return _Params(self.specs[start:stop], self.numbers[start:stop])


_VECTORS = ("global_pool", "flatten", "dense")
"""Kinds that write a vector per image."""


def steps_of(plan: Plan) -> tuple[Step, ...]:
    """The steps of a network in the order of execution; the last one writes the logits."""
    builder = _Builder(plan)
    for op in plan.ops:
        builder.add_op(op)
    return tuple(builder.steps)


class _Builder:
    """Walks a plan; values that are concatenations are replaced by their parts."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.steps: list[Step] = []
        self.parts: dict[int, _Parts] = {0: (_Part(0, (plan.image_size, plan.image_size, 3)),)}
        self.next_value = len(plan.value_channels)
        self.first_param = 0

    def add_op(self, op: Op) -> None:
        """Adds the steps of one operation."""
        specs = op_params(op)
        params = tuple(range(self.first_param, self.first_param + len(specs)))
        self.first_param += len(specs)
        if op.kind == "concat":
            self.parts[op.output] = self.concat(op)
            return
        emit = _EMIT.get(op.kind, _emit_plain)
        shape = (op.c_out,) if op.kind in _VECTORS else (op.h_out, op.h_out, op.c_out)
        self.parts[op.output] = emit(self, op, _Params(specs, params), _Part(op.output, shape))

    def concat(self, op: Op) -> _Parts:
        """The parts of a concatenation; absent states are zeros."""
        zeros = (op.h_out, op.h_out, op.c_out // len(op.concat_slots))
        slots = [(_Part(None, zeros),) if s is None else self.parts[s] for s in op.concat_slots]
        return tuple(part for slot in slots for part in slot)

    def new_map(self, shape: Shape) -> _Part:
        """A map that is no value of the plan."""
        self.next_value += 1
        return _Part(self.next_value - 1, shape)

    def emit(
        self,
        kind: str,
        inputs: tuple[_Parts, ...],
        output: _Part,
        params: _Params,
        *,
        stride: tuple[int, int] = (1, 1),
        dilation: int = 1,
        relu: bool = False,
    ) -> _Parts:
        """Adds a step and returns its output as an input of others."""
        present = [part for parts in inputs for part in parts if part.value is not None]
        slots = tuple(
            tuple(p.shape[-1] * (-1 if p.value is None else 1) for p in parts) for parts in inputs
        )
        last = params.numbers[-1:] == (len(self.plan.params) - 1,)
        key = StepKey(
            kind,
            tuple(part.shape for part in present),
            slots,
            tuple(Leaf(spec.shape, spec.role, last) for spec in params.specs),
            stride,
            dilation,
            relu,
            any(part.value == 0 for part in present),
        )
        values = tuple(part.value for part in present if part.value is not None)
        self.steps.append(Step(key, values, output.value or 0, params.numbers))
        return (output,)

    def emit_normed(
        self, kind: str, op: Op, inputs: _Parts, output: _Part, params: _Params, **static: Any
    ) -> _Parts:
        """Adds a step and, where the operation has one, the norm of the last two parameters."""
        if not op.norm:
            return self.emit(kind, (inputs,), output, params, **static)
        before = self.emit(
            kind, (inputs,), self.new_map(output.shape), params.part(0, -2), **static
        )
        return self.emit("norm", (before,), output, params.part(-2, None))


def _emit_plain(b: _Builder, op: Op, params: _Params, output: _Part) -> _Parts:
    inputs = tuple(b.parts[value] for value in op.inputs)
    return b.emit(op.kind, inputs, output, params, stride=(op.stride, op.stride))


def _emit_conv(b: _Builder, op: Op, params: _Params, output: _Part) -> _Parts:
    relu = op.relu or op.kind != "stem_conv"
    parts, stride = b.parts[op.inputs[0]], (op.stride, op.stride)
    return b.emit_normed("conv", op, parts, output, params, stride=stride, relu=relu)


def _emit_factorized_conv(b: _Builder, op: Op, params: _Params, output: _Part) -> _Parts:
    """A 1 x 7 and a 7 x 1 convolution, each strided along its long side."""
    parts, stride = b.parts[op.inputs[0]], op.stride
    between = b.new_map((op.h_in, op.h_out, op.c_in))
    wide = b.emit("conv", (parts,), between, params.part(0, 1), stride=(1, stride), relu=True)
    return b.emit_normed("conv", op, wide, output, params.part(1, None), stride=(stride, 1))


def _emit_separable(b: _Builder, op: Op, params: _Params, output: _Part) -> _Parts:
    """One or two separable convolutions; the first has the stride."""
    twice = op.kind.startswith("sep_conv")
    parts, stride = b.parts[op.inputs[0]], op.stride
    if twice:
        half = len(params.specs) // 2
        between = b.new_map((op.h_out, op.h_out, op.c_in))
        parts = b.emit_normed(
            "separable", op, parts, between, params.part(0, half), stride=(stride, stride)
        )
        params, stride = params.part(half, None), 1
    return b.emit_normed(
        "separable",
        op,
        parts,
        output,
        params,
        stride=(stride, stride),
        dilation=1 if twice else 2,
    )


def _emit_factorized_reduce(b: _Builder, op: Op, params: _Params, output: _Part) -> _Parts:
    return b.emit_normed("factorized_reduce", op, b.parts[op.inputs[0]], output, params)


def _emit_dense(b: _Builder, op: Op, params: _Params, output: _Part) -> _Parts:
    return b.emit("dense", (b.parts[op.inputs[0]],), output, params, relu=op.relu)


_EMIT: dict[str, Callable[[_Builder, Op, _Params, _Part], _Parts]] = {
    "stem_conv": _emit_conv,
    "preprocess": _emit_conv,
    **{f"conv_{k}x{k}": _emit_conv for k in (1, 3, 5, 7)},
    "conv_7x1_1x7": _emit_factorized_conv,
    **{f"{kind}_conv_{k}x{k}": _emit_separable for kind in ("sep", "dil") for k in (3, 5)},
    "factorized_reduce": _emit_factorized_reduce,
    "dense": _emit_dense,
}
