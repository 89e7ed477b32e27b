"""Scale of predicted parameters: fan-in scaling and bounded norm parameters.

Section 3.2 and Table 2 of the paper. Everything is a pure function of a shape or of an array,
and is applied by the caller only if `GHNConfig.weight_norm` is set.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp


def kernel_scale(shape: Sequence[int], role: str = "kernel") -> float:
    """Factor that a predicted weight is multiplied by, sqrt(beta / fan_in).

    Fan-in is the product of all axes but the first. Beta is 2 for layers that follow a ReLU; it
    is 1 for depthwise kernels and for the wide half of a factorised convolution (height below
    width), which no ReLU precedes.

    Args:
      shape: (out, in) or (out, in, height, width).
      role: role of the parameter; positional encodings ("pos_enc") are left as they are.

    Raises:
      ValueError: the shape has fewer than two axes.
    """
    if role == "pos_enc":
        return 1.0
    if len(shape) < 2:
        raise ValueError(f"a weight needs at least two axes (out, in, ...), received shape {shape}")
    depthwise = len(shape) > 2 and shape[1] == 1
    wide = len(shape) > 3 and shape[2] < shape[3]
    beta = 1.0 if depthwise or wide else 2.0
    return math.sqrt(beta / math.prod(shape[1:]))


def bound_norm_scale(scale: jax.Array) -> jax.Array:
    """Bounds the scale of a norm layer to (0, 2), any shape."""
    return 2.0 * jax.nn.sigmoid(0.5 * scale)


def bound_bias(bias: jax.Array) -> jax.Array:
    """Bounds a bias (of a norm layer or any other) to (-1, 1), any shape."""
    return jnp.tanh(0.2 * bias)
