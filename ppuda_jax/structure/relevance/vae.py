"""Variational autoencoders that tell how many latent dimensions the data need.

`ard_bound` scales every latent dimension by a relevance with its own normal prior, whose precision
maximises the bound (Karaletsos and Raetsch 2015): relevances of dimensions that the data do not
need go to zero. `buffet_bound` multiplies every dimension by a binary feature whose probability
comes from the stick-breaking of an Indian buffet process (Singh et al. 2017).

Encoder and decoder are any functions; `Linear` is the pair whose best model is known: it spans the
principal components.

Legend: `n` objects of a batch, `D` observed dimensions, `K` latent dimensions.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Self

import jax
import jax.numpy as jnp

from ppuda_jax.structure.distributions import BinConcrete, Kumaraswamy
from ppuda_jax.structure.distributions.stick_breaking import feature_log_probs


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Relevances:
    """The variational parameters of the relevances of an ARD-VAE.

    Attributes:
      mean: [K].
      log_std: [K].
    """

    mean: jax.Array
    log_std: jax.Array

    def sample(self, key: jax.Array) -> jax.Array:
        """Draws the relevance of every dimension, [K]; consumes `key`."""
        noise = jax.random.normal(key, self.mean.shape, self.mean.dtype)
        return self.mean + jnp.exp(self.log_std) * noise

    def divergence(self) -> jax.Array:
        """KL from the normal prior of the best precision `1 / (mean^2 + variance)`, []."""
        return 0.5 * jnp.sum(jnp.log1p(jnp.square(self.mean) * jnp.exp(-2 * self.log_std)))

    def used(self, threshold: float = 0.5) -> jax.Array:
        """Dimensions whose density at 0, relative to the mode, is below `threshold`, [K]."""
        return jnp.exp(-0.5 * jnp.square(self.mean) * jnp.exp(-2 * self.log_std)) < threshold


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Linear:
    """Parameters of an affine encoder and a linear decoder of unit prior.

    Attributes:
      encoder: kernel [D, codes].
      encoder_bias: [codes].
      decoder: kernel [K, D].
    """

    encoder: jax.Array
    encoder_bias: jax.Array
    decoder: jax.Array

    @classmethod
    def init(cls, key: jax.Array, inputs: int, latent: int, codes: int) -> Self:
        """Draws small kernels for `codes` outputs of the encoder; consumes `key`."""
        first, second = jax.random.split(key)
        return cls(
            0.1 * jax.random.normal(first, (inputs, codes)),
            jnp.zeros(codes),
            0.5 * jax.random.normal(second, (latent, inputs)),
        )

    def encode(self, x: jax.Array) -> jax.Array:
        """[n, D] -> [n, codes]."""
        return x @ self.encoder + self.encoder_bias[None]

    def decode(self, z: jax.Array) -> jax.Array:
        """[n, K] -> [n, D]."""
        return z @ self.decoder


def ard_bound(
    encode: Callable[[jax.Array], jax.Array],
    decode: Callable[[jax.Array], jax.Array],
    relevances: Relevances,
    log_noise: jax.Array,
    x: jax.Array,
    num_objects: int,
    key: jax.Array,
) -> jax.Array:
    """The evidence lower bound per object of `p(x | z * relevance)`.

    Args:
      encode: [n, D] -> [n, 2K], means and logarithms of deviations of z.
      decode: [n, K] -> [n, D], means of the objects.
      relevances: of the latent dimensions.
      log_noise: logarithm of the deviation of the objects around their means, [].
      x: a batch, [n, D].
      num_objects: of the whole set; all of them share the relevances.
      key: PRNG key (consumed).

    Returns:
      [], to be maximised.

    Raises:
      ValueError: an encoder of another size, or no objects.
    """
    mean, log_std = _codes(encode(x), 2, relevances.mean.shape[0], num_objects)
    key, noise_key = jax.random.split(key)
    z = mean + jnp.exp(log_std) * jax.random.normal(noise_key, mean.shape, mean.dtype)
    reconstruction = decode(z * relevances.sample(key)[None])
    local = _log_normal(x, reconstruction, log_noise) - _standard_divergence(mean, log_std)
    return jnp.mean(local) - relevances.divergence() / num_objects


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Sticks:
    """The variational parameters of the sticks of an Indian buffet.

    Attributes:
      log_a: logarithm of Kumaraswamy's a, [K].
      log_b: logarithm of Kumaraswamy's b, [K].
    """

    log_a: jax.Array
    log_b: jax.Array

    @property
    def distribution(self) -> Kumaraswamy:
        """The distribution of the sticks."""
        return Kumaraswamy(jnp.exp(self.log_a), jnp.exp(self.log_b))


def buffet_bound(
    encode: Callable[[jax.Array], jax.Array],
    decode: Callable[[jax.Array], jax.Array],
    sticks: Sticks,
    log_noise: jax.Array,
    x: jax.Array,
    num_objects: int,
    key: jax.Array,
    *,
    alpha: float,
    temperature: float,
) -> jax.Array:
    """The evidence lower bound per object of `p(x | feature * z)`.

    Args:
      encode: [n, D] -> [n, 3K], logits of the features, means and logarithms of deviations of z.
      decode: [n, K] -> [n, D], means of the objects.
      sticks: of the buffet.
      log_noise: logarithm of the deviation of the objects around their means, [].
      x: a batch, [n, D].
      num_objects: of the whole set; all of them share the sticks.
      key: PRNG key (consumed).
      alpha: the buffet's concentration: expected features of one object.
      temperature: of the relaxed features, of the prior too.

    Returns:
      [], to be maximised.

    Raises:
      ValueError: a concentration or temperature at or below zero, an encoder of another size, or no
        objects.
    """
    for name, value in (("alpha", alpha), ("temperature", temperature)):
        if value <= 0:
            raise ValueError(f"{name} must be above zero, received {value}")
    size = sticks.log_a.shape[0]
    logits, mean, log_std = _codes(encode(x), 3, size, num_objects)
    stick_key, feature_key, noise_key = jax.random.split(key, 3)
    log_probs = feature_log_probs(sticks.distribution.sample_log(stick_key))
    log_probs = jnp.minimum(log_probs, -1e-6)  # a logit of infinity has no gradient
    prior = BinConcrete((log_probs - jnp.log(-jnp.expm1(log_probs)))[None], temperature)
    posterior = BinConcrete(logits, temperature)
    features = posterior.sample(feature_key)
    z = mean + jnp.exp(log_std) * jax.random.normal(noise_key, mean.shape, mean.dtype)
    local = _log_normal(x, decode(features * z), log_noise)
    local = local - _standard_divergence(mean, log_std) - posterior.kl_divergence(prior)
    shared = jnp.sum(sticks.distribution.kl_to_beta(alpha))
    return jnp.mean(local) - shared / num_objects


def informative(mean: jax.Array, log_std: jax.Array, threshold: float = 0.05) -> jax.Array:
    """Latent dimensions whose codes tell more than `threshold` nats of an object on average, [K].

    Args:
      mean: of the codes, [n, K].
      log_std: logarithms of their deviations, [n, K].
      threshold: in nats; a dimension without use has codes N(0, 1) whatever the object.
    """
    divergence = 0.5 * (jnp.square(mean) + jnp.exp(2 * log_std) - 1 - 2 * log_std)
    return jnp.mean(divergence, 0) > threshold


def _codes(codes: jax.Array, parts: int, latent: int, num_objects: int) -> list[jax.Array]:
    if codes.ndim != 2 or codes.shape[1] != parts * latent:
        raise ValueError(
            f"the encoder must give [n, {parts * latent}] for {latent} latent dimensions, received "
            f"{codes.shape}"
        )
    if num_objects < 1:
        raise ValueError(f"num_objects must be at least 1, received {num_objects}")
    return jnp.split(codes, parts, axis=1)


def _log_normal(x: jax.Array, mean: jax.Array, log_std: jax.Array) -> jax.Array:
    """Log density of objects, [n]."""
    square = jnp.sum(jnp.square(x - mean), 1) * jnp.exp(-2 * log_std)
    return -0.5 * square - x.shape[1] * (log_std + 0.5 * math.log(2 * math.pi))


def _standard_divergence(mean: jax.Array, log_std: jax.Array) -> jax.Array:
    """KL(N(mean, std^2) || N(0, 1)) of each object, [n]."""
    return 0.5 * jnp.sum(jnp.square(mean) + jnp.exp(2 * log_std) - 1 - 2 * log_std, 1)
