"""What a network consists of, read off its jaxpr: layers, ReLUs, norms.

A *layer* is a convolution or a matrix product of data with parameters; its output includes a bias
that is added to it. A *ReLU* is a maximum of data with zero. A *norm* is found by its deviation, a
square root of statistics of the data: the statistics over the same axes of the same maps are its
own, whatever library computes them and by whichever formula.

Legend: `B` images of the batch.
"""

import collections
import dataclasses
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, Literal, Var

from ppuda_jax.proxies.base import ApplyFn, Images, Path, UnsupportedError
from ppuda_jax.proxies.jaxprs import CUSTOM, Place, arguments, bodies, loops
from ppuda_jax.tracing.params import param_tree

_ROOTS = ("rsqrt", "sqrt")
_MOVED = frozenset(
    {
        *("reshape", "transpose", "squeeze", "expand_dims", "broadcast_in_dim", "rev", "slice"),
        *("convert_element_type", "copy", "stop_gradient", "reduce_precision"),
    }
)
_ELEMENTWISE = _MOVED | frozenset(
    {
        *("add", "sub", "mul", "div", "max", "min", "neg", "abs", "square", "integer_pow", "pow"),
        *("rsqrt", "sqrt", "select_n", "add_any", "exp", "log", "tanh", "logistic", "clamp"),
    }
)


class Reduction(NamedTuple):
    """A number per channel (or image) that data went through, or a clamp of one.

    Attributes:
      place: of the equation.
      shape: of what was reduced.
      axes: over which; None for a maximum with zero.
    """

    place: Place
    shape: tuple[int, ...]
    axes: tuple[int, ...] | None


@dataclasses.dataclass(frozen=True)
class Layer:
    """A convolution or linear layer.

    Attributes:
      place: the equation whose result is its output.
      shape: of the output.
      images: axis of the images; None where the output has none of its own.
      channels: axes of the channels.
      leaves: numbers of the parameters that its weights are made of.
    """

    place: Place
    shape: tuple[int, ...]
    images: int | None
    channels: tuple[int, ...]
    leaves: frozenset[int]

    @property
    def gain_shape(self) -> tuple[int, ...]:
        """Shape of one number per image and channel, which multiplies the output."""
        kept = (self.images, *self.channels)
        return tuple(n if axis in kept else 1 for axis, n in enumerate(self.shape))


@dataclasses.dataclass(frozen=True)
class Value:
    """What is known of an array.

    Attributes:
      shape: its shape.
      data: whether it depends on the images.
      leaves: numbers of the parameters that it is made of, if it is no data.
      zero: whether it is the constant 0.
      layer: place of the layer whose output it is, as it is or moved.
      passed: reductions on its way from the last layer.
      nearest: those with no other reduction behind them.
    """

    shape: tuple[int, ...]
    data: bool = False
    leaves: frozenset[int] = frozenset()
    zero: bool = False
    layer: Place | None = None
    passed: frozenset[Reduction] = frozenset()
    nearest: frozenset[Reduction] = frozenset()


class Anatomy:
    """What was found.

    Attributes:
      layers: in order, by the place of the operation.
      relus: places.
      statistics: places of the means and variances of norms.
      deviations: places of their square roots.
      looped: kinds of what is inside of loops, where it has no place.
    """

    def __init__(self, num_images: int) -> None:
        self._num_images = num_images
        self.layers: dict[Place, Layer] = {}
        self.relus: dict[Place, None] = {}
        self.statistics: set[Place] = set()
        self.deviations: set[Place] = set()
        self.looped: set[str] = set()

    def require(self, kind: str, proxy: str) -> None:
        """Raises UnsupportedError if layers, ReLUs or norms are inside of loops."""
        if kind in self.looped:
            raise UnsupportedError(
                f"{proxy} needs every one of the {kind} by itself, and some are inside of a loop "
                "(lax.scan, lax.map): build the network without it"
            )

    def walk(self, closed: ClosedJaxpr, args: Sequence[Value], inside: Place = ()) -> list[Value]:
        """Finds what is in a jaxpr; returns what is known of its results."""
        jaxpr = closed.jaxpr
        env: dict[Var, Value] = {v: Value(tuple(v.aval.shape)) for v in jaxpr.constvars}
        env.update(zip(jaxpr.invars, args, strict=True))

        def read(atom: Any) -> Value:
            if isinstance(atom, Literal):
                shape = tuple(np.shape(atom.val))
                return Value(shape, zero=not shape and float(np.real(atom.val)) == 0)
            return env[atom]

        uses = collections.Counter(
            atom
            for atoms in (*(eqn.invars for eqn in jaxpr.eqns), jaxpr.outvars)
            for atom in atoms
            if isinstance(atom, Var)
        )
        for number, eqn in enumerate(jaxpr.eqns):
            ins = [read(atom) for atom in eqn.invars]
            alone = [isinstance(atom, Literal) or uses[atom] == 1 for atom in eqn.invars]
            outs = self._results(eqn, (*inside, number), ins, alone)
            env.update(zip(eqn.outvars, outs, strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    def _results(self, eqn: Any, place: Place, ins: list[Value], alone: list[bool]) -> list[Value]:
        shapes = [tuple(var.aval.shape) for var in eqn.outvars]
        if bodies(eqn):
            return self._entered(eqn, place, ins)
        if loops(eqn):
            self._loop(eqn, ins)
        name = eqn.primitive.name
        data, leaves = any(v.data for v in ins), frozenset().union(*(v.leaves for v in ins))
        if not data:
            zero = name in _MOVED and all(v.zero for v in ins)
            return [Value(shape, leaves=leaves, zero=zero) for shape in shapes]
        if name in ("conv_general_dilated", "dot_general") and leaves:
            return [self._layer(eqn, place, ins)]
        if name not in _ELEMENTWISE and not name.startswith("reduce_"):
            return [Value(shape, data=True) for shape in shapes]
        passed = frozenset().union(*(v.passed for v in ins))
        nearest = frozenset().union(*(v.nearest for v in ins))
        if name.startswith("reduce_") and "axes" in eqn.params:
            new = frozenset({Reduction(place, ins[0].shape, tuple(eqn.params["axes"]))})
            return [Value(shapes[0], True, passed=passed | new, nearest=new)]
        if name == "max" and any(v.zero for v in ins):
            if shapes[0][:1] == (self._num_images,):
                self.relus[place] = None
            passed |= {Reduction(place, shapes[0], None)}
        if name in _ROOTS or (name == "pow" and _is_half(eqn.invars[1])):
            self._root(place, shapes[0], passed, nearest)
        layer = self._moved(name, place, shapes[0], ins, alone)
        return [Value(shapes[0], True, layer=layer, passed=passed, nearest=nearest)]

    def _entered(self, eqn: Any, place: Place, ins: list[Value]) -> list[Value]:
        found = [
            self.walk(body, arguments(eqn, body, ins), (*place, number))
            for number, body in enumerate(bodies(eqn))
        ]
        if len(found) > 1:
            return [_either(values) for values in zip(*found, strict=True)]
        (outs,) = found
        if eqn.primitive.name in CUSTOM and len(outs) == 1 and outs[0].layer is not None:
            # The output of the call is the layer's, so its own derivative can stay.
            layer = self.layers[outs[0].layer]
            if layer.place[: len(place)] == place:
                self.layers[outs[0].layer] = dataclasses.replace(layer, place=place)
        return outs

    def _loop(self, eqn: Any, ins: list[Value]) -> None:
        data, leaves = any(v.data for v in ins), frozenset().union(*(v.leaves for v in ins))
        for body in loops(eqn):
            inner = Anatomy(self._num_images)
            shapes = [tuple(var.aval.shape) for var in body.jaxpr.invars]
            inner.walk(body, [Value(shape, data, leaves) for shape in shapes])
            found = {"layers": inner.layers, "ReLUs": inner.relus, "norms": inner.deviations}
            self.looped |= inner.looped | {kind for kind, places in found.items() if places}

    def _layer(self, eqn: Any, place: Place, ins: list[Value]) -> Value:
        shape = tuple(eqn.outvars[0].aval.shape)
        leaves = ins[0].leaves | ins[1].leaves
        if eqn.primitive.name == "conv_general_dilated":
            spec = eqn.params["dimension_numbers"].out_spec
            layer = Layer(place, shape, spec[0], (spec[1],), leaves)
        else:
            layer = self._linear(eqn, place, ins, shape, leaves)
        self.layers[place] = layer
        return Value(shape, True, layer=place)

    def _linear(
        self, eqn: Any, place: Place, ins: list[Value], shape: tuple[int, ...], leaves: frozenset
    ) -> Layer:
        contracted, batched = eqn.params["dimension_numbers"]
        free = [
            len(v.shape) - len(contracted[side]) - len(batched[side]) for side, v in enumerate(ins)
        ]
        first = len(batched[0])
        sides = [tuple(range(first, first + free[0])), tuple(range(first + free[0], len(shape)))]
        rows, columns = sides if ins[0].data else sides[::-1]
        of_images = [axis for axis in rows[:1] if shape[axis] == self._num_images]
        return Layer(place, shape, of_images[0] if of_images else None, columns, leaves)

    def _moved(
        self, name: str, place: Place, shape: tuple[int, ...], ins: list[Value], alone: list[bool]
    ) -> Place | None:
        """Follows the output of a layer to where it has images and a bias."""
        sources = [(v, only) for v, only in zip(ins, alone, strict=True) if v.layer is not None]
        if len(sources) != 1 or not sources[0][1]:
            return None
        value, _ = sources[0]
        origin = value.layer
        if origin is None:
            return None
        layer = self.layers[origin]
        if name in ("convert_element_type", "copy") and shape == value.shape:
            return origin
        biased = name == "add" and any(v.leaves and not v.data for v in ins)
        if biased and shape == layer.shape:
            self.layers[origin] = dataclasses.replace(layer, place=place)
            return origin
        width = math.prod(layer.shape[axis] for axis in layer.channels)
        waits = layer.images is None and value.shape == layer.shape
        if name == "reshape" and waits and (shape[0], shape[-1]) == (self._num_images, width):
            channels = (len(shape) - 1,)
            self.layers[origin] = Layer(place, shape, 0, channels, layer.leaves)
            return origin
        return None

    def _root(
        self,
        place: Place,
        shape: tuple[int, ...],
        passed: frozenset[Reduction],
        nearest: frozenset[Reduction],
    ) -> None:
        maps = {(r.shape, r.axes) for r in nearest if r.axes is not None}
        if not maps:
            return
        self.deviations.add(place)
        for reduction in passed:
            if (reduction.shape, reduction.axes) in maps:
                self.statistics.add(reduction.place)
            elif reduction.axes is None and reduction.shape == shape:
                self.relus.pop(reduction.place, None)  # keeps a variance from being negative


def _either(values: Sequence[Value]) -> Value:
    """What is known of an array that is one of several."""
    return Value(
        values[0].shape,
        any(v.data for v in values),
        frozenset().union(*(v.leaves for v in values)),
        passed=frozenset().union(*(v.passed for v in values)),
        nearest=frozenset().union(*(v.nearest for v in values)),
    )


def _is_half(atom: Any) -> bool:
    return isinstance(atom, Literal) and abs(float(np.real(atom.val))) == 0.5


@dataclasses.dataclass(frozen=True)
class Opened:
    """A network as a jaxpr, with what is in it.

    Attributes:
      closed: of (leaves of the parameters, images).
      paths: of the leaves.
      leaves: of the parameters.
      anatomy: what was found.
    """

    closed: ClosedJaxpr
    paths: tuple[Path, ...]
    leaves: list[jax.Array]
    anatomy: Anatomy


def open_network(apply_fn: ApplyFn, params: Any, images: Images) -> Opened:
    """Traces a network to its jaxpr, and finds what is in it."""
    tree, leaves = param_tree(params)

    def run(leaves: list[jax.Array], images: jax.Array) -> jax.Array:
        own = tree.unflatten(dict(zip(tree.paths, leaves, strict=True)))
        return apply_fn({"params": own}, images)

    closed = jax.make_jaxpr(run)(leaves, images)
    values = [Value(leaf.shape, leaves=frozenset({n})) for n, leaf in enumerate(leaves)]
    anatomy = Anatomy(images.shape[0])
    anatomy.walk(closed, [*values, Value(images.shape, data=True)])
    return Opened(closed, tree.paths, leaves, anatomy)
