"""Classical criteria of model selection as settings of the two-level objective.

Each function gives the coefficients with which the objective becomes the criterion; the last three
score fitted models, and are what exhaustive search compares.
"""

import math

from ppuda_jax.structure.objective import Coefficients
from ppuda_jax.structure.posterior import Posterior, count_kept


def elbo() -> Coefficients:
    """Evidence lower bound at both levels: the hyperparameters' maximum a posteriori."""
    return Coefficients()


def one_level(prior: float, likelihood: float = 1.0) -> Coefficients:
    """Both levels maximise the same function: they may be maximised together."""
    return Coefficients(prior, likelihood, prior * likelihood)


def map_estimate() -> Coefficients:
    """Maximum a posteriori, for a posterior whose deviations are small and frozen.

    The divergence is then -log p(w | G, h) up to a constant: freeze `log_std` with an optax mask.
    """
    return Coefficients()


def ml() -> Coefficients:
    """Maximum likelihood: the upper level has no effect on the weights."""
    return Coefficients(prior_lower=0.0, prior_upper=0.0)


def evidence_ml() -> Coefficients:
    """Parameters by the evidence lower bound, hyperparameters by the likelihood alone."""
    return Coefficients(prior_upper=0.0)


def min_complexity(prior_upper: float = 1.0) -> Coefficients:
    """Minimal parametric complexity: the upper level only fits the prior to the posterior."""
    return Coefficients(likelihood_upper=0.0, prior_upper=prior_upper)


def hold_out() -> Coefficients:
    """Maximum likelihood on one part of the objects, selection by the likelihood of another.

    The objective's `upper_log_likelihood` is that of the held-out part.
    """
    return ml()


def exhaustive(strength: float) -> Coefficients:
    """One problem of a search over all structures: its reference is `near_vertex` of one.

    Args:
      strength: above 0 pulls the prior to the structure, below 0 pushes it away from one that was
        visited already.

    Raises:
      ValueError: a strength of 0.
    """
    if strength == 0:
        raise ValueError("a strength of 0 visits no structure: give one above or below 0")
    return Coefficients(struct_upper=(strength,))


def aic(log_likelihood: float, posterior: Posterior, threshold: float = 0.5) -> float:
    """Akaike's criterion of a fitted model, the larger the better.

    The number of parameters is that of the weights that pruning at `threshold` keeps.
    """
    return log_likelihood - count_kept(posterior, threshold)


def bic(
    log_likelihood: float, posterior: Posterior, num_objects: int, threshold: float = 0.5
) -> float:
    """Schwarz's criterion of a fitted model, likewise.

    Raises:
      ValueError: no objects.
    """
    if num_objects < 1:
        raise ValueError(f"num_objects must be at least 1, received {num_objects}")
    return log_likelihood - 0.5 * math.log(num_objects) * count_kept(posterior, threshold)
