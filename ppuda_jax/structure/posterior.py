"""Prior and variational posterior of weights and structure (Bakhteev and Strijov).

The posterior of the weights is normal with independent entries whatever the structure; every edge's
structure is Gumbel-Softmax. There are three forms of the weights' prior:

- *centred*, as printed: `w ~ N(0, gamma^2 A^-1)`. The expected divergence from it is infinite at
  posterior temperatures up to 2, because `E gamma^-2` is; a floor makes it finite, with
  `N(0, (gamma^2 + floor^2) A^-1)`.
- *non-centred*: `w = gamma u`, `u ~ N(0, A^-1)`. The divergence of u does not depend on gamma and
  is finite at every temperature.
- *unscaled*: `w ~ N(0, A^-1)` whatever the structure, with which the published experiments begin.

Legend: `K` functions of an edge, `S` samples.
"""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp

from ppuda_jax.structure.distributions import GumbelSoftmax
from ppuda_jax.structure.family import Edge, Structure, Weights

Form = Literal["non_centred", "centred", "unscaled"]
"""How the divergence of weights depends on the structure."""
FORMS: tuple[Form, ...] = ("non_centred", "centred", "unscaled")
"""All forms."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Posterior:
    """The variational parameters theta of the lower level.

    Attributes:
      mean: means of the weights.
      log_std: logarithms of their standard deviations, of the same shapes.
      logits: structure logits s_q of each edge, [K].
      log_temperature: logarithm of the one temperature of all edges, [].
    """

    mean: Weights
    log_std: Weights
    logits: dict[Edge, jax.Array]
    log_temperature: jax.Array

    def structure(self, edge: Edge) -> GumbelSoftmax:
        """The distribution of an edge's structure."""
        return GumbelSoftmax(self.logits[edge], jnp.exp(self.log_temperature))

    def sample_weights(self, seed: jax.Array) -> Weights:
        """Draws weights (of u in the non-centred form); consumes `seed`."""
        leaves, treedef = jax.tree.flatten(self.mean)
        keys = jax.random.split(seed, len(leaves))
        noise = [jax.random.normal(k, x.shape, x.dtype) for k, x in zip(keys, leaves, strict=True)]
        return jax.tree.map(
            lambda mean, log_std, eps: mean + jnp.exp(log_std) * eps,
            self.mean,
            self.log_std,
            jax.tree.unflatten(treedef, noise),
        )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Prior:
    """The hyperparameters h of the upper level.

    Attributes:
      log_precision: logarithm of the diagonal of A, of the weights' shapes.
      logits: structure logits s of each edge, [K].
    """

    log_precision: Weights
    logits: dict[Edge, jax.Array]


def init_posterior(
    weights: Weights,
    logits: dict[Edge, jax.Array],
    *,
    std: float = 0.1,
    temperature: float = 1.0,
) -> Posterior:
    """A posterior around given weights.

    Args:
      weights: means, from `Family.init` or predicted by a hypernetwork.
      logits: structure logits of each edge, [K].
      std: standard deviation of every weight.
      temperature: of all edges.

    Raises:
      ValueError: a standard deviation or temperature at or below zero.
    """
    for name, value in (("std", std), ("temperature", temperature)):
        if value <= 0:
            raise ValueError(f"{name} must be above zero, received {value}")
    log_std = jax.tree.map(lambda w: jnp.full_like(w, jnp.log(std)), weights)
    return Posterior(weights, log_std, logits, jnp.log(jnp.asarray(temperature)))


def init_prior(
    weights: Weights, logits: dict[Edge, jax.Array], *, log_precision: float = 0.0
) -> Prior:
    """A prior with one precision for all weights.

    Args:
      weights: anything of the weights' shapes.
      logits: structure logits of each edge, [K].
      log_precision: logarithm of the diagonal of A.
    """
    return Prior(jax.tree.map(lambda w: jnp.full_like(w, log_precision), weights), logits)


def scaled(weights: Weights, structure: Structure) -> Weights:
    """The weights `w = gamma u` of the non-centred form."""
    return {
        edge: tuple(
            jax.tree.map(lambda u, i=i, edge=edge: structure[edge][i] * u, params)
            for i, params in enumerate(functions)
        )
        for edge, functions in weights.items()
    }


def weight_divergence(
    posterior: Posterior, prior: Prior, gammas: Weights | None = None, floor: float = 0.0
) -> jax.Array:
    """KL(q(w) || p(w | structure, h)) of all weights, [].

    Args:
      posterior: theta.
      prior: h.
      gammas: the structure's weight for every weight of the model, of shapes that broadcast to the
        weights': the centred form, prior variance `(gamma^2 + floor^2) / A`. None is `1 / A`.
      floor: see there.
    """
    spread = jax.tree.map(lambda a: -a, prior.log_precision)
    if gammas is not None:
        logs = jax.tree.map(lambda gamma: jnp.log(jnp.square(gamma) + floor**2), gammas)
        spread = jax.tree.map(jnp.add, spread, logs)
    parts = jax.tree.map(_normal_divergence, posterior.mean, posterior.log_std, spread)
    return sum(jax.tree.leaves(parts), start=jnp.zeros(()))


def _normal_divergence(mean: jax.Array, log_std: jax.Array, log_variance: jax.Array) -> jax.Array:
    """KL(N(mean, std^2) || N(0, exp(log_variance))), summed."""
    log_ratio = 2 * log_std - log_variance
    quadratic = jnp.square(mean) * jnp.exp(-log_variance)
    return 0.5 * jnp.sum(jnp.exp(log_ratio) + quadratic - 1 - log_ratio)


def relative_density(posterior: Posterior) -> Weights:
    """Density of each weight at 0 relative to its mode (Graves 2011); those near 1 are prunable."""
    return jax.tree.map(
        lambda mean, log_std: jnp.exp(-0.5 * jnp.square(mean) * jnp.exp(-2 * log_std)),
        posterior.mean,
        posterior.log_std,
    )


def count_kept(posterior: Posterior, threshold: float) -> int:
    """Weights whose relative density at 0 lies below a threshold: those that pruning keeps.

    Raises:
      ValueError: a threshold that is not in (0, 1].
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold must lie in (0, 1], received {threshold}")
    density = relative_density(posterior)
    return sum(int(jnp.sum(rho < threshold)) for rho in jax.tree.leaves(density))
