"""Searches of the loop by their names, each with settings that suit all families."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import optax

from ppuda_jax.structure import hypergradients
from ppuda_jax.structure.criteria import elbo, one_level
from ppuda_jax.structure.objective import TwoLevel
from ppuda_jax.structure.search import one_shot
from ppuda_jax.structure.search.method import Method
from ppuda_jax.structure.search.problem import Problem
from ppuda_jax.structure.search.variational import WarmUp, variational

_PRIOR_TEMPERATURE = 0.2
_INITIAL_STD = 0.01


@dataclasses.dataclass(frozen=True)
class Optimizers:
    """How weights and structures of a family descend.

    Attributes:
      weights: of weights, in searches and where a network is trained by itself.
      logits: of structures.
      virtual_rate: of the step of second order.
      derivative: of second order; see `one_shot.darts`.
      centred_prior: coefficient of the prior of the centred variational method: networks have many
        weights for every object.
    """

    weights: optax.GradientTransformation
    logits: optax.GradientTransformation
    virtual_rate: float = 0.025
    derivative: hypergradients.Method = "exact"
    centred_prior: float = 0.1


def _variational(
    problem: Problem, optimizers: Optimizers, objective: TwoLevel, warm_up: WarmUp | None = None
) -> Method:
    both = optax.partition(
        {"weights": optimizers.weights, "logits": optimizers.logits},
        lambda params: dataclasses.replace(
            jax.tree.map(lambda _: "weights", params),
            logits=jax.tree.map(lambda _: "logits", params.logits),
        ),
    )
    return variational(problem, objective, both, both, std=_INITIAL_STD, warm_up=warm_up)


def _non_centred(problem: Problem, optimizers: Optimizers, steps: int) -> Method:
    del steps
    objective = TwoLevel(_no_likelihood, elbo(), _PRIOR_TEMPERATURE, tied_temperatures=True)
    return _variational(problem, optimizers, objective)


def _centred(problem: Problem, optimizers: Optimizers, steps: int) -> Method:
    """What a structure leaves out has a narrow prior, so that a smaller network costs less."""
    objective = TwoLevel(
        _no_likelihood,
        one_level(optimizers.centred_prior),
        _PRIOR_TEMPERATURE,
        form="centred",
        floor=0.01,
        tied_temperatures=True,
    )
    warm_up = WarmUp(max(1, steps // 2), log_precision=0.0)
    return _variational(problem, optimizers, objective, warm_up)


def _no_likelihood(weights: Any, structure: Any) -> jax.Array:
    raise ValueError("the search puts the likelihood of its objects in this place")


def _cooling(ends: tuple[float, float], steps: int) -> optax.Schedule:
    return optax.linear_schedule(*ends, steps)


def _darts(problem: Problem, optimizers: Optimizers, steps: int) -> Method:
    del steps
    return one_shot.darts(problem, optimizers.weights, optimizers.logits)


def _darts_second_order(problem: Problem, optimizers: Optimizers, steps: int) -> Method:
    del steps
    return one_shot.darts(
        problem,
        optimizers.weights,
        optimizers.logits,
        rate=optimizers.virtual_rate,
        derivative=optimizers.derivative,
    )


def _gdas(problem: Problem, optimizers: Optimizers, steps: int) -> Method:
    temperature = _cooling(one_shot.GDAS_TEMPERATURE, steps)
    return one_shot.gdas(problem, optimizers.weights, optimizers.logits, temperature)


def _snas(problem: Problem, optimizers: Optimizers, steps: int) -> Method:
    temperature = _cooling(one_shot.SNAS_TEMPERATURE, steps)
    return one_shot.snas(problem, optimizers.weights, optimizers.logits, temperature)


def _random(problem: Problem, optimizers: Optimizers, steps: int) -> Method:
    del steps
    return one_shot.random_sharing(problem, optimizers.weights)


METHODS: dict[str, Callable[[Problem, Optimizers, int], Method]] = {
    "darts": _darts,
    "darts_second_order": _darts_second_order,
    "gdas": _gdas,
    "snas": _snas,
    "random": _random,
    "variational": _non_centred,
    "variational_centred": _centred,
}
"""(problem, optimisers, steps of the search) -> method."""
