"""Batch norm that works with and without running statistics.

Shapes: `B` images, `H, W` pixels, `C` channels.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from ppuda_jax.nets import norms
from ppuda_jax.nets.context import DEFAULT, OpContext

MOMENTUM = 0.9
"""Share of the running statistics that a step keeps."""


class BatchNorm(nn.Module):
    """Batch norm of [B, H, W, C].

    Without the collection `batch_stats` it normalises with the statistics of the batch, as the
    paper evaluates; with it, with the running ones, unless `train`. With `train` and
    `mutable=["batch_stats"]` the running statistics are updated (see `calibration`).

    Attributes:
      context: static choices.
    """

    context: OpContext = DEFAULT

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Normalises `x`; `train` asks for the statistics of the batch."""
        channels = x.shape[-1]
        scale = self.param("scale", nn.initializers.ones, (channels,))
        bias = self.param("bias", nn.initializers.zeros, (channels,))
        if not train and self.has_variable("batch_stats", "mean"):
            running: jax.Array = self.get_variable("batch_stats", "mean")
            gain = jax.lax.rsqrt(self.get_variable("batch_stats", "var") + norms.EPSILON) * scale
            centre, gain, shift = (v.reshape(1, 1, 1, -1) for v in (running, gain, bias))
            return (x - centre) * gain + shift
        if train and self.is_mutable_collection("batch_stats"):
            self._update(x)
        return norms.batch_norm(x, scale, bias, context=self.context)

    def _update(self, x: jax.Array) -> None:
        channels = x.shape[-1]
        known = self.has_variable("batch_stats", "mean")
        mean = self.variable("batch_stats", "mean", jnp.zeros, (channels,))
        var = self.variable("batch_stats", "var", jnp.ones, (channels,))
        if self.is_initializing() and not known:
            return
        x32 = x.astype(jnp.float32)
        mean.value = MOMENTUM * mean.value + (1 - MOMENTUM) * x32.mean((0, 1, 2))
        var.value = MOMENTUM * var.value + (1 - MOMENTUM) * x32.var((0, 1, 2))
