"""Dense layers whose arrays are open to callers, with the reference's initial distribution."""

import math
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp


def uniform_fan_in(fan_in: int) -> nn.initializers.Initializer:
    """Initialiser drawing from U(-1/sqrt(fan_in), 1/sqrt(fan_in)), as PyTorch's layers do."""
    bound = 1.0 / math.sqrt(fan_in)

    def init(key: jax.Array, shape: Sequence[int], dtype: jnp.dtype = jnp.float32) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


def affine(x: jax.Array, kernel: jax.Array, bias: jax.Array) -> jax.Array:
    """An affine map of the last axis, without implicit rank promotion.

    Args:
      x: [..., I].
      kernel: [I, O].
      bias: [O].

    Returns:
      [..., O].
    """
    y = jnp.einsum("...i,io->...o", x, kernel)
    return y + jnp.broadcast_to(bias, y.shape)


class Dense(nn.Module):
    """Dense layer with attributes `kernel` [fan_in, *features] and `bias` [*features]."""

    fan_in: int
    features: tuple[int, ...]

    def setup(self) -> None:
        """Makes the submodules."""
        init = uniform_fan_in(self.fan_in)
        self.kernel = self.param("kernel", init, (self.fan_in, *self.features))
        self.bias = self.param("bias", init, self.features)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps x [..., fan_in] to [..., prod(features)]."""
        return affine(x, self.kernel.reshape(self.fan_in, -1), self.bias.reshape(-1))


class MLP(nn.Module):
    """Two dense layers with a ReLU between them, and after them if `last_relu`."""

    fan_in: int
    hidden: int
    features: int
    last_relu: bool = True

    def setup(self) -> None:
        """Makes the submodules."""
        self.dense_0 = Dense(self.fan_in, (self.hidden,))
        self.dense_1 = Dense(self.hidden, (self.features,))

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps x [..., fan_in] to [..., features]."""
        y = self.dense_1(nn.relu(self.dense_0(x)))
        return nn.relu(y) if self.last_relu else y
