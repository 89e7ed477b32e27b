"""The lecture's method: the two-level objective by alternating steps on both levels.

The posterior of weights and structures ascends L on training objects, the prior ascends Q; both see
minibatches whose log likelihood is scaled to all objects.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from ppuda_jax.structure.objective import TwoLevel
from ppuda_jax.structure.posterior import Posterior, Prior, init_posterior, init_prior
from ppuda_jax.structure.search.method import Logits, Method, update
from ppuda_jax.structure.search.problem import Objects, Problem


class VariationalState(NamedTuple):
    """Both levels and the states of their optimisers."""

    posterior: Posterior
    prior: Prior
    posterior_state: optax.OptState
    prior_state: optax.OptState


@dataclasses.dataclass(frozen=True)
class WarmUp:
    """A first phase with the simplified prior `w ~ N(0, A^-1)`, as published.

    Attributes:
      steps: of the phase.
      log_precision: what the logarithm of A is set to at its end.
    """

    steps: int
    log_precision: float = -10.0

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"a warm-up must have at least 1 step, received {self.steps}")


def variational(
    problem: Problem,
    objective: TwoLevel,
    posterior_optimizer: optax.GradientTransformation,
    prior_optimizer: optax.GradientTransformation,
    *,
    std: float = 0.1,
    warm_up: WarmUp | None = None,
) -> Method:
    """The method as a search.

    Args:
      problem: what is searched for; its loss is minus the mean log likelihood.
      objective: coefficients, temperature, references and form; its likelihood is not used.
      posterior_optimizer: of theta.
      prior_optimizer: of h.
      std: initial deviation of all weights.
      warm_up: the first phase; None for none.
    """
    supernet = problem.supernet

    def likelihood(objects: Objects, total: int):
        def log_likelihood(weights: Any, structure: Any) -> jax.Array:
            return -total * problem.loss_of(weights, structure, objects)

        return log_likelihood

    def init(key: jax.Array) -> VariationalState:
        weights = supernet.init(key)
        logits: Logits = {
            edge: jnp.zeros(count) for edge, count in sorted(supernet.num_functions.items())
        }
        posterior = init_posterior(weights, logits, std=std, temperature=objective.temperature)
        prior = init_prior(weights, logits)
        return VariationalState(
            posterior, prior, posterior_optimizer.init(posterior), prior_optimizer.init(prior)
        )

    def ascend(state: VariationalState, level: TwoLevel, key: jax.Array) -> VariationalState:
        lower_key, upper_key = jax.random.split(key)
        slope = jax.grad(lambda q: -level.lower(q, state.prior, lower_key))(state.posterior)
        posterior, posterior_state = update(
            posterior_optimizer, slope, state.posterior_state, state.posterior
        )
        slope = jax.grad(lambda p: -level.upper(posterior, p, upper_key))(state.prior)
        prior, prior_state = update(prior_optimizer, slope, state.prior_state, state.prior)
        return VariationalState(posterior, prior, posterior_state, prior_state)

    def step(
        state: VariationalState, train: Objects, valid: Objects, key: jax.Array, number: jax.Array
    ) -> VariationalState:
        del valid
        level = dataclasses.replace(
            objective,
            log_likelihood=likelihood(train, len(problem.train.x)),
            scale=supernet.scale,
        )
        if warm_up is None:
            return ascend(state, level, key)
        state = jax.lax.cond(
            number == warm_up.steps,
            lambda s: _restart(s, warm_up.log_precision),
            lambda s: s,
            state,
        )
        simple = dataclasses.replace(level, form="unscaled")
        return jax.lax.cond(
            number < warm_up.steps,
            lambda s: ascend(s, simple, key),
            lambda s: ascend(s, level, key),
            state,
        )

    def _restart(state: VariationalState, log_precision: float) -> VariationalState:
        precision = jax.tree.map(
            lambda a: jnp.full_like(a, log_precision), state.prior.log_precision
        )
        prior = Prior(precision, state.prior.logits)
        return VariationalState(
            state.posterior,
            prior,
            posterior_optimizer.init(state.posterior),
            prior_optimizer.init(prior),
        )

    def weights(state: VariationalState) -> Any:
        return state.posterior.mean

    return Method("variational", init, step, lambda state: state.posterior.logits, weights)
