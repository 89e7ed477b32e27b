"""Automatic relevance determination (MacKay 1992, Tipping 2001).

Every weight has a normal prior of its own precision; the precisions maximise the evidence, and
those of weights that the data do not need grow without limit. For linear models the posterior and
the evidence have closed forms; for any other model, `best_prior` takes the step of the fixed point
from a variational posterior.

Legend: `N` objects, `D` features.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from ppuda_jax.structure.posterior import Posterior, Prior

_MAX_LOG_PRECISION = 20.0  # where a weight is zero to rounding; float32 solves break down beyond


class LinearPosterior(NamedTuple):
    """The normal posterior of a linear model's weights.

    Attributes:
      mean: [D].
      covariance: [D, D].
    """

    mean: jax.Array
    covariance: jax.Array


class Relevance(NamedTuple):
    """What determination found.

    Attributes:
      log_precision: of the prior of each weight, [D].
      posterior: of the weights under that prior.
      log_evidence: log p(y | X, precisions), [].
    """

    log_precision: jax.Array
    posterior: LinearPosterior
    log_evidence: jax.Array

    def used(self, threshold: float = 0.5) -> jax.Array:
        """Whether the density of a weight at 0, relative to its mode, is below `threshold`, [D]."""
        variance = jnp.diagonal(self.posterior.covariance)
        return jnp.exp(-0.5 * jnp.square(self.posterior.mean) / variance) < threshold


def linear_posterior(
    x: jax.Array, y: jax.Array, log_precision: jax.Array, noise_precision: float
) -> LinearPosterior:
    """The exact posterior of `y = x w + noise`, `w ~ N(0, diag(exp(log_precision))^-1)`.

    Args:
      x: features, [N, D].
      y: targets, [N].
      log_precision: [D].
      noise_precision: of the noise, above zero.

    Raises:
      ValueError: shapes that do not agree, or a noise precision at or below zero.
    """
    _check(x, y, log_precision, noise_precision)
    # Scaled by the prior's deviations the matrix to invert is at least the identity.
    scale = jnp.exp(-0.5 * log_precision)
    scaled = x * scale[None]
    matrix = jnp.eye(x.shape[1], dtype=x.dtype) + noise_precision * scaled.T @ scaled
    covariance = scale[:, None] * jnp.linalg.inv(matrix) * scale[None]
    return LinearPosterior(noise_precision * covariance @ (x.T @ y), covariance)


def log_evidence(
    x: jax.Array, y: jax.Array, log_precision: jax.Array, noise_precision: float
) -> jax.Array:
    """The log evidence log N(y; 0, x diag(exp(log_precision))^-1 x' + I / noise_precision), [].

    Args:
      x: features, [N, D].
      y: targets, [N].
      log_precision: [D].
      noise_precision: of the noise, above zero.

    Raises:
      ValueError: see `linear_posterior`.
    """
    _check(x, y, log_precision, noise_precision)
    scaled = x * jnp.exp(-0.5 * log_precision)[None]
    covariance = scaled @ scaled.T + jnp.eye(len(y), dtype=x.dtype) / noise_precision
    density = jax.scipy.stats.multivariate_normal.logpdf(y, jnp.zeros_like(y), covariance)
    return jnp.asarray(density)


def fixed_point(
    x: jax.Array, y: jax.Array, noise_precision: float, *, steps: int = 100
) -> Relevance:
    """Maximises the evidence by `precision = 1 / (mean^2 + variance)`, expectation-maximisation.

    Args:
      x: features, [N, D].
      y: targets, [N].
      noise_precision: of the noise, above zero.
      steps: of the iteration; the evidence falls in none.

    Raises:
      ValueError: no steps, or see `linear_posterior`.
    """
    _check_steps(steps)

    def step(log_precision: jax.Array, _: None) -> tuple[jax.Array, None]:
        found = linear_posterior(x, y, log_precision, noise_precision)
        second = jnp.square(found.mean) + jnp.diagonal(found.covariance)
        return jnp.minimum(-jnp.log(second), _MAX_LOG_PRECISION), None

    log_precision, _ = jax.lax.scan(step, jnp.zeros(x.shape[1], x.dtype), length=steps)
    return _relevance(x, y, log_precision, noise_precision)


def by_gradient(
    x: jax.Array,
    y: jax.Array,
    noise_precision: float,
    *,
    steps: int = 500,
    optimizer: optax.GradientTransformation | None = None,
) -> Relevance:
    """Maximises the evidence by its gradient in the logarithms of the precisions.

    Args:
      x: features, [N, D].
      y: targets, [N].
      noise_precision: of the noise, above zero.
      steps: of the optimiser.
      optimizer: Adam with rate 0.05 if None.

    Raises:
      ValueError: no steps, or see `linear_posterior`.
    """
    _check_steps(steps)
    optimizer = optimizer or optax.adam(0.05)

    def step(carry: tuple[jax.Array, optax.OptState], _: None):
        log_precision, state = carry
        slope = jax.grad(lambda a: -log_evidence(x, y, a, noise_precision))(log_precision)
        with jax.numpy_dtype_promotion("standard"):
            updates, state = optimizer.update(slope, state, log_precision)
        updated = jnp.minimum(optax.apply_updates(log_precision, updates), _MAX_LOG_PRECISION)
        return (updated, state), None

    start = jnp.zeros(x.shape[1], x.dtype)
    (log_precision, _), _ = jax.lax.scan(step, (start, optimizer.init(start)), length=steps)
    return _relevance(x, y, log_precision, noise_precision)


def best_prior(posterior: Posterior, prior: Prior) -> Prior:
    """The prior whose divergence from a posterior is smallest: `A^-1 = mean^2 + variance`.

    This is the fixed point's step for any model; the structure's prior stays.
    """
    log_precision = jax.tree.map(
        lambda mean, log_std: -jnp.log(jnp.square(mean) + jnp.exp(2 * log_std)),
        posterior.mean,
        posterior.log_std,
    )
    return Prior(log_precision, prior.logits)


def _relevance(
    x: jax.Array, y: jax.Array, log_precision: jax.Array, noise_precision: float
) -> Relevance:
    return Relevance(
        log_precision,
        linear_posterior(x, y, log_precision, noise_precision),
        log_evidence(x, y, log_precision, noise_precision),
    )


def _check(x: jax.Array, y: jax.Array, log_precision: jax.Array, noise_precision: float) -> None:
    if x.ndim != 2 or y.shape != x.shape[:1] or log_precision.shape != x.shape[1:]:
        raise ValueError(
            "x must be [N, D], y [N] and log_precision [D], received "
            f"{x.shape}, {y.shape} and {log_precision.shape}"
        )
    if noise_precision <= 0:
        raise ValueError(f"noise_precision must be above zero, received {noise_precision}")


def _check_steps(steps: int) -> None:
    if steps < 1:
        raise ValueError(f"steps must be at least 1, received {steps}")
