"""Spike and slab: a weight is zero, or drawn from a normal slab (Mitchell and Beauchamp 1988).

The posterior of a weight is used with probability `sigmoid(logit)` and then N(mean, std^2); a
weight that is not used has the slab as its posterior (Titsias and Lazaro-Gredilla 2011). So the
divergence is `KL(Bernoulli) + probability * KL(normal)`. For a linear model the whole bound has a
closed form, which is tight where the features are orthogonal; elsewhere weights are sampled with
relaxed gates.

Legend: `N` objects, `D` weights, `S` samples.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp

from ppuda_jax.structure.distributions import BinConcrete


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SpikeSlab:
    """The variational parameters.

    Attributes:
      logits: of the probability of use, [D].
      mean: of a weight that is used, [D].
      log_std: logarithm of its standard deviation, [D].
    """

    logits: jax.Array
    mean: jax.Array
    log_std: jax.Array

    @property
    def probability(self) -> jax.Array:
        """Probability of use, [D]; the sum is the expected number of used weights."""
        return jax.nn.sigmoid(self.logits)

    def sample(
        self, seed: jax.Array, temperature: float, sample_shape: tuple[int, ...] = ()
    ) -> jax.Array:
        """Draws weights with relaxed gates, [S, D], differentiable; consumes `seed`.

        Raises:
          ValueError: a temperature at or below zero.
        """
        gate_key, key = jax.random.split(seed)
        gates = BinConcrete(self.logits, temperature).sample(gate_key, sample_shape)
        shape = (*sample_shape, *self.mean.shape)
        noise = jax.random.normal(key, shape, self.mean.dtype)
        mean, std = (jnp.broadcast_to(v, shape) for v in (self.mean, jnp.exp(self.log_std)))
        return gates * (mean + std * noise)

    def divergence(self, prior_probability: float, slab_std: float) -> jax.Array:
        """KL to the spike and slab prior, [].

        Args:
          prior_probability: of use, between 0 and 1.
          slab_std: standard deviation of the slab.

        Raises:
          ValueError: a probability that is not between 0 and 1, or a deviation at or below zero.
        """
        _check(prior_probability, slab_std)
        rho = self.probability
        on = jax.nn.log_sigmoid(self.logits) - math.log(prior_probability)
        off = jax.nn.log_sigmoid(-self.logits) - math.log1p(-prior_probability)
        ratio = self.log_std - math.log(slab_std)
        square = jnp.square(self.mean / slab_std)
        normal = 0.5 * (jnp.exp(2 * ratio) + square - 1 - 2 * ratio)
        return jnp.sum(rho * (on + normal) + (1 - rho) * off)


def linear_bound(
    q: SpikeSlab,
    x: jax.Array,
    y: jax.Array,
    *,
    noise_std: float,
    prior_probability: float,
    slab_std: float,
) -> jax.Array:
    """The evidence lower bound of a linear model, exactly, [].

    Args:
      q: the posterior.
      x: features, [N, D].
      y: targets, [N].
      noise_std: standard deviation of the targets' noise.
      prior_probability: of use.
      slab_std: standard deviation of the slab.

    Raises:
      ValueError: shapes that do not agree, or see `SpikeSlab.divergence`.
    """
    if x.ndim != 2 or y.shape != x.shape[:1] or q.mean.shape != x.shape[1:]:
        raise ValueError(
            f"x must be [N, D], y [N] and the posterior's entries [D], received {x.shape}, "
            f"{y.shape} and {q.mean.shape}"
        )
    if noise_std <= 0:
        raise ValueError(f"noise_std must be above zero, received {noise_std}")
    rho = q.probability
    mean = rho * q.mean
    variance = rho * (jnp.square(q.mean) + jnp.exp(2 * q.log_std)) - jnp.square(mean)
    residual = jnp.sum(jnp.square(y - x @ mean)) + jnp.sum(jnp.square(x) @ variance)
    constant = len(y) * (0.5 * math.log(2 * math.pi) + math.log(noise_std))
    expected = -0.5 * residual / noise_std**2 - constant
    return expected - q.divergence(prior_probability, slab_std)


def coordinate_ascent(
    x: jax.Array,
    y: jax.Array,
    *,
    noise_std: float,
    prior_probability: float,
    slab_std: float,
    sweeps: int = 50,
) -> SpikeSlab:
    """Maximises `linear_bound` one weight at a time, each in closed form.

    Args:
      x: features, [N, D].
      y: targets, [N].
      noise_std: standard deviation of the targets' noise.
      prior_probability: of use.
      slab_std: standard deviation of the slab.
      sweeps: over all weights.

    Raises:
      ValueError: no sweeps, or see `linear_bound`.
    """
    if sweeps < 1:
        raise ValueError(f"sweeps must be at least 1, received {sweeps}")
    _check(prior_probability, slab_std)
    precision = jnp.sum(jnp.square(x), 0) / noise_std**2 + slab_std**-2
    log_std = -0.5 * jnp.log(precision)
    prior_logit = math.log(prior_probability) - math.log1p(-prior_probability)

    def update(q: SpikeSlab, d: jax.Array) -> tuple[SpikeSlab, None]:
        weights = (q.probability * q.mean).at[d].set(0)
        mean = x[:, d] @ (y - x @ weights) / noise_std**2 / precision[d]
        gain = 0.5 * jnp.square(mean) * precision[d] + log_std[d] - math.log(slab_std)
        return SpikeSlab(
            q.logits.at[d].set(prior_logit + gain), q.mean.at[d].set(mean), q.log_std
        ), None

    start = SpikeSlab(jnp.full_like(log_std, prior_logit), jnp.zeros_like(log_std), log_std)
    order = jnp.tile(jnp.arange(x.shape[1]), sweeps)
    found, _ = jax.lax.scan(update, start, order)
    return found


def _check(prior_probability: float, slab_std: float) -> None:
    if not 0 < prior_probability < 1:
        raise ValueError(
            f"prior_probability must lie between 0 and 1, received {prior_probability}"
        )
    if slab_std <= 0:
        raise ValueError(f"slab_std must be above zero, received {slab_std}")
