"""Searches that train shared weights and, most of them, logits of the functions by gradients.

- `darts` (Liu et al. 2019): softmax of the logits; the logits descend on validation objects,
  first order or second.
- `snas` (Xie et al. 2019): a Gumbel-Softmax sample; weights and logits descend together on training
  objects, with an expected number of parameters as an option.
- `gdas` (Dong and Yang 2019): a hard sample forwards, its relaxation backwards; the logits descend
  on validation objects.
- `random_sharing` (Li and Talwalkar 2019): a uniform network each step, no logits; the choice is
  the best of several on validation objects.

Legend: `K` functions of an edge.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from ppuda_jax.structure import hypergradients
from ppuda_jax.structure.distributions import GumbelSoftmax, straight_through
from ppuda_jax.structure.family import Structure
from ppuda_jax.structure.search.method import Logits, Method, State, update
from ppuda_jax.structure.search.problem import Objects, Problem
from ppuda_jax.structure.supernet import Numbers

GDAS_TEMPERATURE = (10.0, 0.1)
"""First and last temperature, linear over the search, as published."""
SNAS_TEMPERATURE = (1.0, 0.2)
"""First and last temperature."""


class OneShotState(NamedTuple):
    """Shared weights, logits and the states of their optimisers."""

    weights: Any
    logits: Logits
    weight_state: optax.OptState
    logit_state: optax.OptState


_Relax = Callable[[Logits, jax.Array, jax.Array], Structure]
"""(logits, key, step) -> the structure that the weights are trained in."""
_Loss = Callable[[Any, Logits, Objects, jax.Array, jax.Array], jax.Array]
"""(weights, logits, training batch, key, step) -> what the weights descend on."""
_Gradient = Callable[[OneShotState, Objects, Objects, jax.Array, jax.Array], Logits]
"""(state, training batch, validation batch, key, step) -> gradient of the logits."""


def darts(
    problem: Problem,
    weight_optimizer: optax.GradientTransformation,
    structure_optimizer: optax.GradientTransformation,
    *,
    rate: float = 0.0,
    derivative: hypergradients.Method = "exact",
    resource: float = 0.0,
) -> Method:
    """DARTS.

    Args:
      problem: what is searched for.
      weight_optimizer: of the shared weights.
      structure_optimizer: of the logits.
      rate: of the virtual step of second order; 0 is first order.
      derivative: of second order; operations with a backward pass of their own, such as the
        library's convolutions and pools, need "finite_difference".
      resource: coefficient of the expected parameters, in millions, in the structure's loss.

    Raises:
      ValueError: a negative rate or coefficient.
    """
    _check_resource(resource)
    if rate < 0:
        raise ValueError(f"rate must not be negative, received {rate}")

    def gradient(
        state: OneShotState, train: Objects, valid: Objects, key: jax.Array, step: jax.Array
    ) -> Logits:
        del key, step

        def upper(weights: Any, logits: Logits) -> jax.Array:
            structure = _softmax(logits)
            loss = problem.loss_of(weights, structure, valid)
            return loss + _expected(problem, structure, resource)

        def lower(weights: Any, logits: Logits) -> jax.Array:
            return problem.loss_of(weights, _softmax(logits), train)

        return hypergradients.darts(upper, lower, state.weights, state.logits, rate, derivative)

    def relax(logits: Logits, key: jax.Array, step: jax.Array) -> Structure:
        del key, step
        return _softmax(logits)

    name = "darts" if rate == 0 else "darts_second_order"
    loss = _relaxed_loss(problem, relax)
    return _one_shot(name, problem, weight_optimizer, structure_optimizer, loss, gradient)


def gdas(
    problem: Problem,
    weight_optimizer: optax.GradientTransformation,
    structure_optimizer: optax.GradientTransformation,
    temperature: optax.Schedule,
    *,
    resource: float = 0.0,
) -> Method:
    """GDAS; the arguments are those of `darts`, and the relaxation's temperature by step."""
    _check_resource(resource)

    def relax(logits: Logits, key: jax.Array, step: jax.Array) -> Structure:
        relaxed = _sampled(logits, key, temperature(step))
        return {edge: straight_through(gamma) for edge, gamma in relaxed.items()}

    gradient = _by_sample(problem, relax, resource, validate=True)
    loss = _relaxed_loss(problem, relax)
    return _one_shot(
        "gdas", problem, weight_optimizer, structure_optimizer, loss, gradient, temperature
    )


def snas(
    problem: Problem,
    weight_optimizer: optax.GradientTransformation,
    structure_optimizer: optax.GradientTransformation,
    temperature: optax.Schedule,
    *,
    resource: float = 0.0,
) -> Method:
    """SNAS; the arguments are those of `gdas`."""
    _check_resource(resource)

    def relax(logits: Logits, key: jax.Array, step: jax.Array) -> Structure:
        return _sampled(logits, key, temperature(step))

    gradient = _by_sample(problem, relax, resource, validate=False)
    loss = _relaxed_loss(problem, relax)
    return _one_shot(
        "snas", problem, weight_optimizer, structure_optimizer, loss, gradient, temperature
    )


def _relaxed_loss(problem: Problem, relax: _Relax) -> _Loss:
    def loss(
        weights: Any, logits: Logits, train: Objects, key: jax.Array, step: jax.Array
    ) -> jax.Array:
        return problem.loss_of(weights, relax(logits, key, step), train)

    return loss


def _by_sample(problem: Problem, relax: _Relax, resource: float, validate: bool) -> _Gradient:
    """Gradients of the logits through one sampled structure, on validation or training objects."""

    def gradient(
        state: OneShotState, train: Objects, valid: Objects, key: jax.Array, step: jax.Array
    ) -> Logits:
        def loss(logits: Logits) -> jax.Array:
            structure = relax(logits, key, step)
            value = problem.loss_of(state.weights, structure, valid if validate else train)
            return value + _expected(problem, structure, resource)

        return jax.grad(loss)(state.logits)

    return gradient


def random_sharing(
    problem: Problem, weight_optimizer: optax.GradientTransformation, *, candidates: int = 32
) -> Method:
    """Random search with weight sharing.

    Args:
      problem: what is searched for.
      weight_optimizer: of the shared weights.
      candidates: networks that are drawn and scored on validation objects for a choice.

    Raises:
      ValueError: no candidates.
    """
    if candidates < 1:
        raise ValueError(f"candidates must be at least 1, received {candidates}")
    supernet = problem.supernet

    def loss(
        weights: Any, logits: Logits, train: Objects, key: jax.Array, step: jax.Array
    ) -> jax.Array:
        del logits, step
        return problem.loss_at(weights, supernet.uniform(key), train)

    def choose(state: State, key: jax.Array, score: Callable) -> dict:
        del state
        drawn = jax.vmap(supernet.uniform)(jax.random.split(key, candidates))
        best = jnp.argmax(jax.lax.map(score, drawn))
        return {edge: numbers[best] for edge, numbers in drawn.items()}

    method = _one_shot("random", problem, weight_optimizer, optax.set_to_zero(), loss, None)
    return dataclasses.replace(method, choose=choose)


def fixed(
    problem: Problem, weight_optimizer: optax.GradientTransformation, numbers: Numbers
) -> Method:
    """No search: the weights of one network are trained."""

    def loss(
        weights: Any, logits: Logits, train: Objects, key: jax.Array, step: jax.Array
    ) -> jax.Array:
        del logits, key, step
        return problem.loss_at(weights, numbers, train)

    return _one_shot("fixed", problem, weight_optimizer, optax.set_to_zero(), loss, None)


def _one_shot(
    name: str,
    problem: Problem,
    weight_optimizer: optax.GradientTransformation,
    structure_optimizer: optax.GradientTransformation,
    loss: _Loss,
    gradient: _Gradient | None,
    temperature: optax.Schedule | None = None,
) -> Method:
    """The step that all share: logits by `gradient`, then weights on training objects."""

    def init(key: jax.Array) -> OneShotState:
        weight_key, logit_key = jax.random.split(key)
        weights = problem.supernet.init(weight_key)
        counts = sorted(problem.supernet.num_functions.items())
        keys = jax.random.split(logit_key, len(counts))
        # Published: small random logits, so that ties are broken.
        logits = {
            edge: 1e-3 * jax.random.normal(k, (count,))
            for k, (edge, count) in zip(keys, counts, strict=True)
        }
        return OneShotState(
            weights, logits, weight_optimizer.init(weights), structure_optimizer.init(logits)
        )

    def step(
        state: OneShotState, train: Objects, valid: Objects, key: jax.Array, number: jax.Array
    ) -> OneShotState:
        structure_key, weight_key = jax.random.split(key)
        logits, logit_state = state.logits, state.logit_state
        if gradient is not None:
            slope = gradient(state, train, valid, structure_key, number)
            logits, logit_state = update(structure_optimizer, slope, logit_state, logits)
        slope = jax.grad(loss)(state.weights, logits, train, weight_key, number)
        weights, weight_state = update(weight_optimizer, slope, state.weight_state, state.weights)
        return OneShotState(weights, logits, weight_state, logit_state)

    return Method(
        name,
        init,
        step,
        logits=lambda state: state.logits,
        weights=lambda state: state.weights,
        temperature=temperature,
    )


def _softmax(logits: Logits) -> dict:
    return {edge: jax.nn.softmax(values) for edge, values in logits.items()}


def _sampled(logits: Logits, key: jax.Array, temperature: Any) -> dict:
    keys = jax.random.split(key, len(logits))
    return {
        edge: GumbelSoftmax(logits[edge], temperature).sample(k)
        for k, edge in zip(keys, sorted(logits), strict=True)
    }


def _expected(problem: Problem, structure: Structure, resource: float) -> jax.Array:
    return resource * 1e-6 * problem.supernet.size(structure)


def _check_resource(resource: float) -> None:
    if resource < 0:
        raise ValueError(f"resource must not be negative, received {resource}")
