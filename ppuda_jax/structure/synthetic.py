"""The published selection among three models (Bakhteev and Strijov), and its settings.

Fifty objects with eleven normal features and a constant one, and targets that only the first
feature explains: `y = tanh(x_0) + 0.5 noise`. The family mixes a constant (1 weight), a model of
the first feature (2 weights) and one of all features (12 weights).

Legend: `n` objects, `S` seeds, `R` samples.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ppuda_jax.structure.distributions import GumbelSoftmax
from ppuda_jax.structure.family import Edge, Family, Function
from ppuda_jax.structure.functions import constant
from ppuda_jax.structure.objective import Coefficients, References, TwoLevel
from ppuda_jax.structure.search.problem import Objects, regression
from ppuda_jax.structure.search.variational import VariationalState, WarmUp, variational
from ppuda_jax.structure.supernet import of_family

EDGE: Edge = (0, 1)
"""The one edge of the family: its functions are the three models."""
OBJECTS, FEATURES, NOISE = 50, 11, 0.5
_DATA_SEED = 1000  # apart from the seeds of weights

PRIORS = {
    "strong": Coefficients(prior_lower=100.0, likelihood_upper=0.01, prior_upper=1.0),
    "medium": Coefficients(prior_lower=1.0, likelihood_upper=1.0, prior_upper=1.0),
    "weak": Coefficients(prior_lower=0.01, likelihood_upper=100.0, prior_upper=1.0),
}
"""The published coefficients; the prior of weights and structures is strong to weak."""
TEMPERATURES = (0.2, 1.0, 10.0)
"""Temperatures of the structure's distribution that are compared."""


def family() -> Family:
    """The three models on one edge; inputs are [n, 12], outputs [n]."""
    first = Function(
        "first_feature",
        lambda p, x: jnp.tanh(x[:, 0] * p["kernel"] + p["bias"]),
        lambda key, x: {
            "kernel": jax.random.normal(key, (), x.dtype),
            "bias": jnp.zeros((), x.dtype),
        },
    )
    every = Function(
        "all_features",
        lambda p, x: jnp.tanh(x @ p["kernel"]),
        lambda key, x: {"kernel": x.shape[-1] ** -0.5 * jax.random.normal(key, x.shape[-1:])},
    )
    return Family(2, {EDGE: (constant(), first, every)})


def objects(key: jax.Array, count: int = OBJECTS) -> Objects:
    """Draws objects and targets; consumes `key`."""
    x_key, noise_key = jax.random.split(key)
    x = jax.random.normal(x_key, (count, FEATURES))
    y = jnp.tanh(x[:, 0]) + NOISE * jax.random.normal(noise_key, (count,))
    return Objects(jnp.concatenate([x, jnp.ones((count, 1))], axis=1), y)


@dataclasses.dataclass(frozen=True)
class Setting:
    """One setting of the experiment.

    Attributes:
      name: in tables.
      coefficients: of the two levels.
      temperature: of the structures.
      references: distributions of structures that the prior is pushed from or pulled to.
    """

    name: str
    coefficients: Coefficients
    temperature: float
    references: References = ()


def settings() -> tuple[Setting, ...]:
    """The published settings: priors by temperature, and the one with references."""
    grid = [
        Setting(f"{prior} prior, temperature {tau:g}", coefficients, tau)
        for tau in TEMPERATURES
        for prior, coefficients in PRIORS.items()
    ]
    away = dataclasses.replace(PRIORS["strong"], struct_upper=(-1.0, -1.0))
    return (*grid, Setting("strong prior, away from 0 and 2", away, 1.0, (_near(0), _near(2))))


def _near(model: int) -> Mapping[Edge, GumbelSoftmax]:
    """The published reference near one model: weights 0.99, 0.05 and 0.05 at temperature 0.1."""
    probs = np.where(np.arange(3) == model, 0.99, 0.05)
    return {EDGE: GumbelSoftmax(jnp.asarray(np.log(probs), jnp.float32), 0.1)}


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What one setting chose.

    Attributes:
      setting: its name.
      probabilities: that each model has the largest weight under q, [S, 3].
      mean_weights: mean weights of the models under q, [S, 3].
      samples: structures from q, [S, R, 3].
      error: root of the mean squared error of the mean prediction on new objects, [S].
    """

    setting: str
    probabilities: np.ndarray
    mean_weights: np.ndarray
    samples: np.ndarray
    error: np.ndarray

    @property
    def modes(self) -> list[int]:
        """The most probable model of each seed."""
        return [int(i) for i in np.argmax(self.probabilities, -1)]

    @property
    def places(self) -> list[Literal["vertex", "centre"]]:
        """Whether most structures of each seed are nearer to a vertex or to the centre."""
        centre = np.linalg.norm(self.samples - 1 / 3, axis=-1)
        to_vertices = np.linalg.norm(self.samples[..., None, :] - np.eye(3), axis=-1)
        central = np.mean(centre < to_vertices.min(-1), axis=-1)
        return ["centre" if share > 0.5 else "vertex" for share in central]


def select(
    setting: Setting, seeds: Sequence[int], *, steps: int = 1000, rate: float = 0.01
) -> Outcome:
    """Runs the published procedure on one setting, all seeds at once.

    Adam on both levels, three samples of every random variable; the first half with the simplified
    prior of weights, then the deviations of the prior are set to exp(5) and the centred form is
    used, with a floor of 0.01 without which its expectation is infinite. Each seed has its own
    objects and initial weights.

    Args:
      setting: what is run.
      seeds: of objects and weights.
      steps: of both halves together, at least 2.
      rate: of Adam.

    Raises:
      ValueError: fewer than 2 steps.
    """
    if steps < 2:
        raise ValueError(f"steps must be at least 2, received {steps}")
    supernet = of_family(family(), jax.ShapeDtypeStruct((OBJECTS, FEATURES + 1), jnp.float32))
    objective = TwoLevel(
        _no_likelihood,
        setting.coefficients,
        setting.temperature,
        setting.references,
        form="centred",
        floor=0.01,
        tied_temperatures=True,
    )

    def run(seed: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        data = objects(jax.random.key(_DATA_SEED + seed))
        problem = regression(supernet, data, data)
        method = variational(
            problem,
            objective,
            optax.adam(rate),
            optax.adam(rate),
            warm_up=WarmUp(steps // 2),
        )
        key = jax.random.key(seed)

        def step(state: VariationalState, number: jax.Array) -> tuple[VariationalState, None]:
            return method.step(state, data, data, jax.random.fold_in(key, number), number), None

        state, _ = jax.lax.scan(step, method.init(key), jnp.arange(steps))
        logits = state.posterior.logits[EDGE]
        samples = GumbelSoftmax(logits, setting.temperature).sample(key, (500,))
        weights = state.posterior.mean
        new = objects(jax.random.fold_in(jax.random.key(_DATA_SEED + seed), 1), 1000)
        predict = functools.partial(_predict, supernet, weights, new.x)
        mean = jnp.mean(jax.lax.map(predict, samples[:100]), 0)
        return jax.nn.softmax(logits), samples, jnp.sqrt(jnp.mean(jnp.square(mean - new.y)))

    probabilities, samples, error = jax.jit(jax.vmap(run))(jnp.asarray(seeds, jnp.uint32))
    return Outcome(
        setting.name,
        np.asarray(probabilities),
        np.asarray(jnp.mean(samples, 1)),
        np.asarray(samples),
        np.asarray(error),
    )


def _predict(supernet: Any, weights: Any, x: jax.Array, sample: jax.Array) -> jax.Array:
    return supernet.apply(weights, {EDGE: sample}, x)


def _no_likelihood(weights: Any, structure: Any) -> jax.Array:
    raise ValueError("the search puts the likelihood of its objects in this place")
