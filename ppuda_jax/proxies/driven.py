"""Proxies of networks of DeepNets-1M that are driven from the host: no network is compiled.

SynFlow, the Jacobian covariance and NASWOT from the functions of steps that all networks share
(`hostloop`), so that after a few networks nothing is left to compile. Definitions are those of
`internals` and `jacobian`. Fisher needs the outputs of convolutions inside of steps, GraSP a second
derivative through all of them: both need a network as one function.

Legend: `B` images of a batch.
"""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp

from ppuda_jax.archs.plan import Plan
from ppuda_jax.hostloop.functions import Batch as StepBatch
from ppuda_jax.hostloop.functions import StepFunctions
from ppuda_jax.hostloop.gradient import leaves_gradient, request_gradient, seeing_images
from ppuda_jax.hostloop.run import calls_of_leaves
from ppuda_jax.hostloop.steps import Step, steps_of
from ppuda_jax.nets.ops import dense
from ppuda_jax.proxies.base import Batch, UnsupportedError
from ppuda_jax.proxies.internals import alike, log_determinant
from ppuda_jax.proxies.jacobian import spread_of
from ppuda_jax.runtime.processors import processors

_RELUS = ("separable", "factorized_reduce")  # steps that begin with a ReLU, whatever their key says

Proxy = Callable[[Plan, Sequence[Any], Batch], jax.Array]
"""(network, parameters in the order of `plan.params`, images) -> float32 []."""


def synflow(plan: Plan, leaves: Sequence[Any], batch: Batch) -> jax.Array:
    """See `internals.synflow`; of the batch only the shape of an image counts."""
    with jax.enable_x64(True):
        steps, functions = steps_of(plan), _functions(1, "float64", False)
        request_gradient(functions, "leaves", steps)
        sizes = [jnp.abs(jnp.asarray(leaf, jnp.float64)) for leaf in leaves]
        ones = jnp.ones((1, *batch.images.shape[1:]), jnp.float64)
        _, slopes, _ = leaves_gradient(functions, steps, sizes, ones, None, _sum)
        weights = [n for n, spec in enumerate(plan.params) if spec.role == "kernel"]
        total = sum(float(jnp.sum(sizes[number] * slopes[number])) for number in weights)
        return jnp.log(jnp.asarray(total, jnp.float64)).astype(jnp.float32)


def jacob_cov(plan: Plan, leaves: Sequence[Any], batch: Batch) -> jax.Array:
    """See `jacobian.jacob_cov`."""
    steps = seeing_images(steps_of(plan))
    functions = _functions(len(batch.images), "float32", True)
    request_gradient(functions, "leaves", steps)
    leaves = [jnp.asarray(leaf) for leaf in leaves]
    _, _, slope = leaves_gradient(functions, steps, leaves, batch.images, None, _sum)
    return spread_of(slope if slope is not None else jnp.zeros_like(batch.images))


def naswot(plan: Plan, leaves: Sequence[Any], batch: Batch) -> jax.Array:
    """See `internals.naswot`.

    Raises:
      UnsupportedError: a network without ReLUs.
    """
    functions, steps = _functions(len(batch.images), "float32", True), steps_of(plan)
    if not any(_has_relu(step) or step.key.kind == "cse" for step in steps):
        raise UnsupportedError("naswot compares the codes of ReLUs, and the network has none")
    calls = calls_of_leaves(functions, steps, [jnp.asarray(leaf) for leaf in leaves])
    values, total = {0: batch.images}, jnp.zeros((len(batch.images),) * 2)
    for call in calls:
        maps = tuple(values[value] for value in call.step.inputs)
        for codes in _switched(call.step, maps, call.params[0]):
            total = _add_alike(total, codes)
        total = total + _absent(call.step)
        values[call.step.output] = call.function(*call.params, maps, None)
        for value in call.freed:
            del values[value]
    return log_determinant(total)


DRIVEN: Mapping[str, Proxy] = MappingProxyType(
    {"synflow": synflow, "jacob_cov": jacob_cov, "naswot": naswot}
)
"""The proxies of this module by name."""


@functools.lru_cache(maxsize=8)
def _functions(images: int, dtype: str, norms: bool) -> StepFunctions:
    """The functions of all networks; called where 64 bits are allowed if `dtype` has them."""
    return StepFunctions(StepBatch(images, dtype, dtype, norms=norms), processors())


def _sum(logits: jax.Array) -> tuple[jax.Array, jax.Array]:
    return logits, jnp.ones_like(logits)


def _has_relu(step: Step) -> bool:
    return step.key.relu or step.key.kind in _RELUS


def _switched(
    step: Step, maps: tuple[jax.Array, ...], leaves: Sequence[jax.Array]
) -> tuple[jax.Array, ...]:
    """What the ReLUs of a step get; a concatenation in parts, whose counts add up."""
    if _has_relu(step):
        return maps
    if step.key.kind == "cse":
        return (_squeezed(maps[0], *leaves[:2]),)
    return ()


def _absent(step: Step) -> float:
    """ReLUs of a step that get the zeros of absent states: all images switch them alike."""
    if not _has_relu(step):
        return 0.0
    pixels = math.prod(step.key.maps[0][:-1])
    return float(pixels * sum(-width for slots in step.key.slots for width in slots if width < 0))


@jax.jit
def _squeezed(x: jax.Array, kernel: jax.Array, bias: jax.Array) -> jax.Array:
    """What the ReLU of a squeeze-and-excitation gets."""
    return dense((kernel, bias), jnp.mean(x, axis=(1, 2)))


@jax.jit
def _add_alike(total: jax.Array, values: jax.Array) -> jax.Array:
    return total + alike(values)
