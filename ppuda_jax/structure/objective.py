"""The two-level ("generalising") objective of Bakhteev and Strijov, and its special cases.

The lower level fits the variational parameters theta for given hyperparameters h,

    L = E_q log p(y | X, w, G) - prior_lower * KL(q(w, G) || p(w, G | h)),

the upper level chooses h for the fitted theta,

    Q = likelihood_upper * E_q log p(y | X, w, G) - prior_upper * KL(q(w, G) || p(w, G | h))
        - sum_r struct_upper_r * KL(p(G | h) || reference_r) + log p(h).

The last divergences act on the prior of structures alone: a positive coefficient pulls it to a
reference, a negative one pushes it away. Both levels are maximised.

Legend: `K` functions of an edge, `S` samples.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ppuda_jax.structure.distributions import GumbelSoftmax
from ppuda_jax.structure.family import Edge, Structure, Weights
from ppuda_jax.structure.posterior import FORMS, Form, Posterior, Prior, scaled, weight_divergence

LogLikelihood = Callable[[Weights, Structure], jax.Array]
"""log p(y | X, w, G) of all objects, []."""
References = tuple[Mapping[Edge, GumbelSoftmax], ...]
"""Structures that the upper level is drawn to or kept away from."""


@dataclasses.dataclass(frozen=True)
class Coefficients:
    """The four groups of coefficients, metaparameters that the user sets.

    Attributes:
      prior_lower: of the divergence in the lower level; m / prior_lower is the effective number of
        objects.
      likelihood_upper: of the likelihood in the upper level.
      prior_upper: of the divergence in the upper level.
      struct_upper: of the divergence from each reference distribution of structures.

    Raises:
      ValueError: a negative coefficient of the first three, or nothing to maximise.
    """

    prior_lower: float = 1.0
    likelihood_upper: float = 1.0
    prior_upper: float = 1.0
    struct_upper: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        for name in ("prior_lower", "likelihood_upper", "prior_upper"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, received {getattr(self, name)}")
        if not (self.likelihood_upper or self.prior_upper or any(self.struct_upper)):
            raise ValueError(
                "the upper level has nothing to maximise: give likelihood_upper, prior_upper or "
                "struct_upper a value other than 0"
            )


class Terms(NamedTuple):
    """What both levels are made of, each [].

    Attributes:
      log_likelihood: E_q log p(y | X, w, G).
      structure: KL(q(G) || p(G | h)).
      weights: E_q KL(q(w) || p(w | G, h)).
    """

    log_likelihood: jax.Array
    structure: jax.Array
    weights: jax.Array

    @property
    def divergence(self) -> jax.Array:
        """KL(q(w, G) || p(w, G | h))."""
        return self.structure + self.weights


@dataclasses.dataclass(frozen=True)
class TwoLevel:
    """The objective as two functions of (theta, h, key).

    Attributes:
      log_likelihood: of the objects that the weights are fitted to.
      coefficients: see there.
      temperature: of the prior of structures.
      references: distributions of structures, one per coefficient of `struct_upper`.
      hyperprior: log p(h); 0 by default.
      upper_log_likelihood: of held-out objects, for the upper level; the same by default.
      num_samples: Monte Carlo samples of weights and structures.
      form: of the weights' prior, see `posterior`.
      floor: of the centred form.
      scale: multiplies every weight by its gamma, given a structure.
      tied_temperatures: the posterior's temperature is the prior's, and the divergence of the
        structures exact; else it is estimated from the samples.

    Raises:
      ValueError: temperature or number of samples at or below zero, a number of references other
        than that of coefficients, or a negative floor.
    """

    log_likelihood: LogLikelihood
    coefficients: Coefficients = Coefficients()
    temperature: float = 1.0
    references: References = ()
    hyperprior: Callable[[Prior], jax.Array] | None = None
    upper_log_likelihood: LogLikelihood | None = None
    num_samples: int = 3
    form: Form = "non_centred"
    floor: float = 0.0
    scale: Callable[[Any, Any], Any] = scaled
    tied_temperatures: bool = False

    def __post_init__(self) -> None:
        if self.temperature <= 0:
            raise ValueError(f"temperature must be above zero, received {self.temperature}")
        if self.num_samples < 1:
            raise ValueError(f"num_samples must be at least 1, received {self.num_samples}")
        if self.floor < 0:
            raise ValueError(f"floor must not be negative, received {self.floor}")
        if self.form not in FORMS:
            raise ValueError(f"form must be one of {FORMS}, received {self.form!r}")
        if len(self.references) != len(self.coefficients.struct_upper):
            raise ValueError(
                f"each coefficient of struct_upper belongs to a reference, received "
                f"{len(self.coefficients.struct_upper)} and {len(self.references)}"
            )

    def lower(self, posterior: Posterior, prior: Prior, key: jax.Array) -> jax.Array:
        """L, to be maximised over the posterior, []; consumes `key`."""
        terms = self.terms(posterior, prior, key)
        return terms.log_likelihood - self.coefficients.prior_lower * terms.divergence

    def upper(self, posterior: Posterior, prior: Prior, key: jax.Array) -> jax.Array:
        """Q, to be maximised over the prior, []; consumes `key`."""
        terms = self.terms(posterior, prior, key, self.upper_log_likelihood)
        value = self.coefficients.likelihood_upper * terms.log_likelihood
        value = value - self.coefficients.prior_upper * terms.divergence
        for strength, reference in zip(
            self.coefficients.struct_upper, self.references, strict=True
        ):
            value = value - strength * self._reference_divergence(prior, reference, key)
        return value if self.hyperprior is None else value + self.hyperprior(prior)

    def terms(
        self,
        posterior: Posterior,
        prior: Prior,
        key: jax.Array,
        log_likelihood: LogLikelihood | None = None,
    ) -> Terms:
        """Estimates the terms of both levels from the same samples.

        Args:
          posterior: theta.
          prior: h.
          key: PRNG key (consumed).
          log_likelihood: instead of that of the lower level.
        """
        evaluate = log_likelihood or self.log_likelihood

        def sample(seed: jax.Array) -> Terms:
            weight_key, structure_key = jax.random.split(seed)
            raw = self._sample_raw(posterior, structure_key)
            structure = {edge: jnp.exp(value) for edge, value in raw.items()}
            weights, gammas = posterior.sample_weights(weight_key), None
            if self.form == "non_centred":
                weights = self.scale(weights, structure)
            elif self.form == "centred":
                gammas = self.scale(jax.tree.map(jnp.ones_like, weights), structure)
            return Terms(
                evaluate(weights, structure),
                self._structure_divergence(posterior, prior, raw),
                weight_divergence(posterior, prior, gammas, self.floor),
            )

        terms = jax.vmap(sample)(jax.random.split(key, self.num_samples))
        return jax.tree.map(lambda values: jnp.mean(values, axis=0), terms)

    def prior_structure(self, prior: Prior, edge: Edge) -> GumbelSoftmax:
        """The prior distribution of an edge's structure."""
        return GumbelSoftmax(prior.logits[edge], self.temperature)

    def _posterior_structure(self, posterior: Posterior, edge: Edge) -> GumbelSoftmax:
        if self.tied_temperatures:
            return GumbelSoftmax(posterior.logits[edge], self.temperature)
        return posterior.structure(edge)

    def _sample_raw(self, posterior: Posterior, key: jax.Array) -> dict[Edge, jax.Array]:
        keys = jax.random.split(key, len(posterior.logits))
        return {
            edge: self._posterior_structure(posterior, edge).sample_raw(k)
            for k, edge in zip(keys, sorted(posterior.logits), strict=True)
        }

    def _structure_divergence(
        self, posterior: Posterior, prior: Prior, raw: dict[Edge, jax.Array]
    ) -> jax.Array:
        total = jnp.zeros(())
        for edge, value in raw.items():
            q = self._posterior_structure(posterior, edge)
            p = self.prior_structure(prior, edge)
            if self.tied_temperatures:
                total = total + q.kl_divergence(p)
            else:
                total = total + q.log_prob_of_raw(value) - p.log_prob_of_raw(value)
        return total

    def _reference_divergence(
        self, prior: Prior, reference: Mapping[Edge, GumbelSoftmax], key: jax.Array
    ) -> jax.Array:
        """KL(p(G | h) || reference), exact where the temperatures agree, else estimated."""
        total = jnp.zeros(())
        for number, (edge, target) in enumerate(sorted(reference.items())):
            p = self.prior_structure(prior, edge)
            if isinstance(target.temperature, float) and target.temperature == self.temperature:
                total = total + p.kl_divergence(target)
                continue
            raw = p.sample_raw(jax.random.fold_in(key, number), (self.num_samples,))
            total = total + jnp.mean(p.log_prob_of_raw(raw) - target.log_prob_of_raw(raw))
        return total


def inverse_gamma(shape: float, rate: float) -> Callable[[Prior], jax.Array]:
    """Makes log p(h) of inverse-gamma variances A^-1, without its constant.

    Raises:
      ValueError: a negative shape or rate.
    """
    if shape < 0 or rate < 0:
        raise ValueError(f"shape and rate must not be negative, received {shape} and {rate}")

    def log_density(prior: Prior) -> jax.Array:
        parts = [
            jnp.sum((shape + 1) * a - rate * jnp.exp(a))
            for a in jax.tree.leaves(prior.log_precision)
        ]
        return sum(parts, start=jnp.zeros(()))

    return log_density


def near_vertex(
    choice: Mapping[Edge, int], num_functions: Mapping[Edge, int], temperature: float, odds: float
) -> dict[Edge, GumbelSoftmax]:
    """A reference distribution around one structure.

    Args:
      choice: the function of each edge.
      num_functions: K of each edge.
      temperature: of the distribution.
      odds: of the chosen function against each other one, above 1.

    Raises:
      ValueError: odds at or below 1.
    """
    if odds <= 1:
        raise ValueError(f"odds must be above 1 to prefer a structure, received {odds}")
    return {
        edge: GumbelSoftmax(jnp.log(odds) * jax.nn.one_hot(choice[edge], count), temperature)
        for edge, count in num_functions.items()
    }
