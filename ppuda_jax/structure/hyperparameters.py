"""The published comparison of ways to choose one prior precision per weight (Bakhteev 2020).

Forty objects `y = x + noise` and a regression on twelve features: the powers 0 to 9 of x, its sine
and its cosine. The criterion of both levels is the evidence lower bound of a posterior with
independent weights; the hyperparameters are the logarithms of the prior's precisions.

Legend: `m` objects, `D` = 12 features, `S` seeds, `L` outer steps.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ppuda_jax.structure import hypergradients
from ppuda_jax.structure.search.method import update
from ppuda_jax.structure.search.problem import Objects

OBJECTS, POWERS = 40, 10
START = (-2.0, 10.0)
"""Hyperparameters are drawn from this interval, as published."""
RANGE = (-2.5, 10.5)
"""Hyperparameters are kept in this interval."""
HEADER = ("method", "bound", "better than random", "steps to 99 %", "error")
"""Columns of the comparison."""
_TEST_OBJECTS = 1000
_INNER_RATE, _OUTER_RATE = 0.02, 0.3  # of Adam
_UNROLLED_RATE = 5e-5  # of plain descent, stable at the largest precision
_DAMPING = 1e-2


class Theta(NamedTuple):
    """A normal posterior of the weights, independent entries: both [D]."""

    mean: jax.Array
    log_std: jax.Array


@dataclasses.dataclass(frozen=True)
class Budget:
    """What every method may use.

    Attributes:
      outer: L, steps on hyperparameters, or draws of them; 50 as published.
      inner: steps on the posterior for each.

    Raises:
      ValueError: a number below 1.
    """

    outer: int = 50
    inner: int = 100

    def __post_init__(self) -> None:
        for name in ("outer", "inner"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, received {getattr(self, name)}")


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a method reached.

    Attributes:
      method: its name.
      bounds: best evidence lower bound (without constants) after every outer step, [S, L].
      errors: root of the mean squared error of the mean weights on new objects, [S].
    """

    method: str
    bounds: np.ndarray
    errors: np.ndarray

    @property
    def steps(self) -> np.ndarray:
        """Outer steps until 99 % of the whole gain, [S]."""
        first, last = self.bounds[:, :1], self.bounds[:, -1:]
        share = (self.bounds - first) / np.maximum(last - first, 1e-12)
        return np.argmax(share >= 0.99, axis=1) + 1

    def row(self, random: "Outcome | None" = None) -> tuple[object, ...]:
        """The cells of `HEADER`; the seeds with a better bound than in `random` are counted."""
        better = None
        if random is not None:
            count = int(np.sum(self.bounds[:, -1] > random.bounds[:, -1]))
            better = f"{count} of {len(self.bounds)}"
        return (
            self.method,
            f"{self.bounds[:, -1].mean():.1f} ± {self.bounds[:, -1].std():.1f}",
            better,
            f"{self.steps.mean():.1f}",
            f"{self.errors.mean():.3f} ± {self.errors.std():.3f}",
        )


def features(x: jax.Array) -> jax.Array:
    """[m] -> [m, D]."""
    powers = [x**power for power in range(POWERS)]
    return jnp.stack([*powers, jnp.sin(x), jnp.cos(x)], axis=1)


def objects(key: jax.Array, count: int = OBJECTS) -> Objects:
    """Draws objects [count, D] and targets; consumes `key`."""
    x_key, noise_key = jax.random.split(key)
    x = jax.random.normal(x_key, (count,))
    return Objects(features(x), x + jax.random.normal(noise_key, (count,)))


def negative_bound(data: Objects, theta: Theta, h: jax.Array) -> jax.Array:
    """Minus the evidence lower bound, exactly, without the constants of both normals' 2 pi.

    Args:
      data: objects.
      theta: posterior.
      h: logarithms of the precisions of the prior, [D].
    """
    variance = jnp.exp(2 * theta.log_std)
    square = jnp.sum(jnp.square(data.y - data.x @ theta.mean))
    expected = -0.5 * (square + jnp.sum(jnp.square(data.x) @ variance))
    ratio = 2 * theta.log_std + h
    divergence = 0.5 * jnp.sum(jnp.exp(ratio) + jnp.square(theta.mean) * jnp.exp(h) - 1 - ratio)
    return divergence - expected


def run(method: str, seeds: Sequence[int], budget: Budget = Budget()) -> Outcome:
    """Runs a method on data of every seed.

    The features are divided by the roots of their mean squares: their scales differ by four orders
    of magnitude.

    Args:
      method: one of `METHODS`, or `random`.
      seeds: of data, initial posterior and hyperparameters.
      budget: see there.

    Raises:
      ValueError: a method that does not exist.
    """
    known = ("random", *METHODS)
    if method not in known:
        raise ValueError(f"method must be one of {known}, received {method!r}")

    def one(seed: jax.Array) -> tuple[jax.Array, jax.Array]:
        keys = jax.random.split(jax.random.key(seed), 3)
        data, new = objects(keys[0]), objects(keys[1], _TEST_OBJECTS)
        scale = jnp.sqrt(jnp.mean(jnp.square(data.x), 0))[None]
        data, new = (Objects(part.x / scale, part.y) for part in (data, new))
        if method == "random":
            theta, bounds = _random(data, keys[2], budget)
        else:
            theta, bounds = _descend(METHODS[method], data, keys[2], budget)
        error = jnp.sqrt(jnp.mean(jnp.square(new.x @ theta.mean - new.y)))
        return jax.lax.cummax(bounds), error

    bounds, errors = jax.jit(jax.vmap(one))(jnp.asarray(seeds, jnp.uint32))
    return Outcome(method, np.asarray(bounds), np.asarray(errors))


class _Context(NamedTuple):
    """What a hypergradient may use: the posterior before and after the inner steps."""

    loss: Callable[[Theta, jax.Array], jax.Array]
    start: Theta
    end: Theta
    h: jax.Array
    inner: int


def _hoag(c: _Context) -> jax.Array:
    return hypergradients.hoag(c.loss, c.loss, c.end, c.h, steps=24, damping=_DAMPING)


def _drmad(c: _Context) -> jax.Array:
    return hypergradients.drmad(
        c.loss, c.loss, c.start, c.end, c.h, rate=_UNROLLED_RATE, steps=c.inner
    )


def _greedy(c: _Context) -> jax.Array:
    return hypergradients.greedy(c.loss, c.loss, c.end, c.h, _UNROLLED_RATE)


METHODS: dict[str, Callable[[_Context], jax.Array]] = {
    "greedy": _greedy,
    "drmad": _drmad,
    "hoag": _hoag,
}
"""Hypergradients; greedy takes its step after every inner step, the others after all of them."""


def _start(key: jax.Array, size: int) -> Theta:
    return Theta(0.1 * jax.random.normal(key, (size,)), jnp.full(size, -2.0))


def _fit(data: Objects, theta: Theta, h: jax.Array, steps: int) -> Theta:
    """Adam on the posterior, hyperparameters fixed."""
    optimizer = optax.adam(_INNER_RATE)

    def step(carry: tuple, _: None) -> tuple[tuple, None]:
        theta, state = carry
        slope = jax.grad(lambda t: negative_bound(data, t, h))(theta)
        return update(optimizer, slope, state, theta), None

    (theta, _), _ = jax.lax.scan(step, (theta, optimizer.init(theta)), length=steps)
    return theta


def _random(data: Objects, key: jax.Array, budget: Budget) -> tuple[Theta, jax.Array]:
    """The best of as many draws, each fitted from the start."""
    size = data.x.shape[1]

    def draw(key: jax.Array) -> tuple[Theta, jax.Array]:
        h_key, theta_key = jax.random.split(key)
        h = jax.random.uniform(h_key, (size,), minval=START[0], maxval=START[1])
        theta = _fit(data, _start(theta_key, size), h, budget.inner)
        return theta, -negative_bound(data, theta, h)

    thetas, bounds = jax.lax.map(draw, jax.random.split(key, budget.outer))
    best = jnp.argmax(bounds)
    return jax.tree.map(lambda leaf: leaf[best], thetas), bounds


def _descend(
    gradient: Callable[[_Context], jax.Array], data: Objects, key: jax.Array, budget: Budget
) -> tuple[Theta, jax.Array]:
    """Steps on hyperparameters by a hypergradient, the posterior going on from where it was."""
    size = data.x.shape[1]
    h_key, theta_key = jax.random.split(key)
    h = jax.random.uniform(h_key, (size,), minval=START[0], maxval=START[1])
    joint = gradient is _greedy
    inner = 1 if joint else budget.inner
    # As far in an outer step as the other methods.
    rate = _OUTER_RATE / budget.inner if joint else _OUTER_RATE
    optimizer = optax.adam(rate)

    def loss(theta: Theta, h: jax.Array) -> jax.Array:
        return negative_bound(data, theta, h)

    theta_optimizer = optax.adam(_INNER_RATE)

    def fit(theta: Theta, state: optax.OptState, h: jax.Array) -> tuple[Theta, optax.OptState]:
        def step(carry: tuple, _: None) -> tuple[tuple, None]:
            theta, state = carry
            return update(theta_optimizer, jax.grad(loss)(theta, h), state, theta), None

        return jax.lax.scan(step, (theta, state), length=inner)[0]

    def step(carry: tuple, _: None) -> tuple[tuple, jax.Array]:
        theta, theta_state, h, state = carry
        end, theta_state = fit(theta, theta_state, h)
        slope = gradient(_Context(loss, theta, end, h, inner))
        h, state = update(optimizer, slope, state, h)
        return (end, theta_state, jnp.clip(h, *RANGE), state), -loss(end, h)

    theta = _start(theta_key, size)
    carry = (theta, theta_optimizer.init(theta), h, optimizer.init(h))
    length = budget.outer * (budget.inner if joint else 1)
    (theta, _, _, _), bounds = jax.lax.scan(step, carry, length=length)
    return theta, bounds.reshape(budget.outer, -1)[:, -1]
