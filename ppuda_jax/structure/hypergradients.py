"""Gradients of a two-level problem with respect to its hyperparameters.

    minimise upper(theta*(h), h) over h, where theta*(h) minimises lower(theta, h).

Each function returns the total derivative of `upper`. They differ in what stands for theta*(h):

- `greedy`: one step of gradient descent from theta (Luketina et al. 2016; DARTS of second order has
  the same form).
- `darts`: first order takes theta as it is; second order is one step, with the mixed derivative by
  the published finite difference or exactly, by a Jacobian-vector product.
- `hoag`: the implicit function theorem at theta, the inverse Hessian by conjugate gradients
  (Pedregosa 2016).
- `drmad`: the unrolled descent on the straight line between its ends (Fu et al. 2016).

Everything is pure and may be compiled; theta and h are any pytrees of floating arrays.
"""

from collections.abc import Callable
from typing import Literal, TypeVar

import jax
import jax.numpy as jnp
from jax.scipy.sparse.linalg import cg

Theta = TypeVar("Theta")
Hyper = TypeVar("Hyper")
Level = Callable[[Theta, Hyper], jax.Array]
"""(theta, h) -> [], to be minimised."""
Method = Literal["exact", "finite_difference"]
"""How a product with second derivatives is computed."""


def greedy(upper: Level, lower: Level, theta: Theta, hyper: Hyper, rate: float) -> Hyper:
    """The derivative through one step of gradient descent.

    Args:
      upper: loss of the upper level.
      lower: loss of the lower level.
      theta: where the step starts.
      hyper: h.
      rate: of the step.

    Raises:
      ValueError: a rate at or below zero.
    """
    _check_positive("rate", rate)

    def after_step(h: Hyper) -> jax.Array:
        return upper(_descend(theta, jax.grad(lower)(theta, h), rate), h)

    return jax.grad(after_step)(hyper)


def darts(
    upper: Level,
    lower: Level,
    theta: Theta,
    hyper: Hyper,
    rate: float = 0.0,
    method: Method = "exact",
) -> Hyper:
    """The derivative as DARTS takes it (Liu et al. 2019, section 2.3).

    Args:
      upper: loss on validation objects.
      lower: loss on training objects.
      theta: weights.
      hyper: structure.
      rate: of the virtual step; 0 is first order.
      method: of the mixed derivative of second order: a Jacobian-vector product, or the published
        difference of two gradients with the radius 0.01 over the norm of the direction.

    Raises:
      ValueError: a negative rate or an unknown method.
    """
    if rate < 0:
        raise ValueError(f"rate must not be negative, received {rate}")
    if method not in ("exact", "finite_difference"):
        raise ValueError(f"method must be exact or finite_difference, received {method!r}")
    if rate == 0:
        return jax.grad(upper, argnums=1)(theta, hyper)
    stepped = _descend(theta, jax.grad(lower)(theta, hyper), rate)
    direction, direct = jax.grad(upper, argnums=(0, 1))(stepped, hyper)
    mixed = _mixed_exact if method == "exact" else _mixed_difference
    product = mixed(lower, theta, hyper, direction)
    return jax.tree.map(lambda d, m: d - rate * m, direct, product)


def hoag(
    upper: Level,
    lower: Level,
    theta: Theta,
    hyper: Hyper,
    *,
    steps: int = 20,
    tolerance: float = 1e-6,
    damping: float = 0.0,
) -> Hyper:
    """The derivative by the implicit function theorem, where theta minimises the lower level.

    Args:
      upper: loss of the upper level.
      lower: loss of the lower level, convex around theta.
      theta: its minimiser for `hyper`.
      hyper: h.
      steps: most steps of conjugate gradients.
      tolerance: at which they stop, relative to the right side.
      damping: added to the Hessian's diagonal.

    Raises:
      ValueError: no steps, or a negative damping.
    """
    if steps < 1:
        raise ValueError(f"steps must be at least 1, received {steps}")
    if damping < 0:
        raise ValueError(f"damping must not be negative, received {damping}")

    def hessian_product(vector: Theta) -> Theta:
        slope = jax.jvp(lambda t: jax.grad(lower)(t, hyper), (theta,), (vector,))[1]
        return jax.tree.map(lambda s, v: s + damping * v, slope, vector)

    right, direct = jax.grad(upper, argnums=(0, 1))(theta, hyper)
    solution, _ = cg(hessian_product, right, tol=tolerance, maxiter=steps)
    product = _mixed_exact(lower, theta, hyper, solution)
    return jax.tree.map(lambda d, m: d - m, direct, product)


def drmad(
    upper: Level, lower: Level, start: Theta, end: Theta, hyper: Hyper, *, rate: float, steps: int
) -> Hyper:
    """The derivative through a whole descent, without keeping its path.

    Reverse-mode differentiation of `steps` steps needs every theta on the way; their place is taken
    by the points of the straight line from `start` to `end`.

    Args:
      upper: loss of the upper level.
      lower: loss of the lower level.
      start: theta before the descent.
      end: theta after it.
      hyper: h.
      rate: of the descent.
      steps: its length.

    Raises:
      ValueError: a rate or number of steps at or below zero.
    """
    _check_positive("rate", rate)
    _check_positive("steps", steps)
    adjoint, total = jax.grad(upper, argnums=(0, 1))(end, hyper)

    def back(carry: tuple[Theta, Hyper], index: jax.Array) -> tuple[tuple[Theta, Hyper], None]:
        adjoint, total = carry
        share = index.astype(float) / steps
        point = jax.tree.map(lambda a, b: a + share.astype(a.dtype) * (b - a), start, end)
        _, pull = jax.vjp(lambda t, h: _descend(t, jax.grad(lower)(t, h), rate), point, hyper)
        before, direct = pull(adjoint)
        return (before, jax.tree.map(jnp.add, total, direct)), None

    (_, total), _ = jax.lax.scan(back, (adjoint, total), jnp.arange(steps), reverse=True)
    return total


def hessian_eigenvalue(
    loss: Callable[[Hyper], jax.Array], hyper: Hyper, key: jax.Array, steps: int = 20
) -> jax.Array:
    """The largest eigenvalue of a Hessian by magnitude, by power iteration (Zela et al. 2020).

    Args:
      loss: validation loss of the structure.
      hyper: structure.
      key: PRNG key (consumed) of the first direction.
      steps: of the iteration.

    Returns:
      [], with its sign.
    """
    leaves, treedef = jax.tree.flatten(hyper)
    keys = jax.random.split(key, len(leaves))
    first = jax.tree.unflatten(
        treedef,
        [jax.random.normal(k, x.shape, x.dtype) for k, x in zip(keys, leaves, strict=True)],
    )

    def product(vector: Hyper) -> Hyper:
        # Reverse over reverse: operations with a backward pass of their own have no forward mode.
        return jax.grad(lambda h: _dot(jax.grad(loss)(h), vector))(hyper)

    def step(vector: Hyper, _: None) -> tuple[Hyper, None]:
        return _normalised(product(vector)), None

    vector, _ = jax.lax.scan(step, _normalised(first), length=steps)
    return _dot(vector, product(vector))


def _descend(theta: Theta, slope: Theta, rate: float) -> Theta:
    return jax.tree.map(lambda t, g: t - rate * g, theta, slope)


def _mixed_exact(lower: Level, theta: Theta, hyper: Hyper, vector: Theta) -> Hyper:
    """The product of d^2 lower / dh dtheta with a direction of theta: forward over reverse."""
    return jax.jvp(lambda t: jax.grad(lower, argnums=1)(t, hyper), (theta,), (vector,))[1]


def _mixed_difference(lower: Level, theta: Theta, hyper: Hyper, vector: Theta) -> Hyper:
    """The same by a central difference."""
    radius = 0.01 / jnp.sqrt(_dot(vector, vector))
    slope = jax.grad(lower, argnums=1)
    plus = slope(jax.tree.map(lambda t, v: t + radius * v, theta, vector), hyper)
    minus = slope(jax.tree.map(lambda t, v: t - radius * v, theta, vector), hyper)
    return jax.tree.map(lambda a, b: (a - b) / (2 * radius), plus, minus)


def _dot(first: Theta, second: Theta) -> jax.Array:
    products = jax.tree.map(lambda a, b: jnp.sum(a * b), first, second)
    return sum(jax.tree.leaves(products), start=jnp.zeros(()))


def _normalised(vector: Theta) -> Theta:
    norm = jnp.sqrt(_dot(vector, vector))
    return jax.tree.map(lambda v: v / norm, vector)


def _check_positive(name: str, value: float) -> None:
    if value <= 0:
        raise ValueError(f"{name} must be above zero, received {value}")
