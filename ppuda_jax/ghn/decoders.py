"""From node embeddings to parameters: kernels tap by tap, vectors, and the classifier.

Section 3.1 and appendix B.1 of the paper. A kernel is decoded one spatial tap at a time, because
the convolutional decoder treats its taps independently: a dense layer makes 4D features for each
tap of the largest kernel, and two 1x1 convolutions turn the features of one tap into an
(out, in) matrix. So only the taps and channels that a target uses are ever computed.

Legend: `V` nodes, `T` rows (one tap of one node each), `D` node embedding, `O` and `I` out and in
channels that are asked for, of at most `max_shape[:2]`.
"""

from collections.abc import Sequence
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ppuda_jax.ghn.config import GHNConfig
from ppuda_jax.ghn.dense import MLP, Dense, affine

ChannelOrder = Literal["oi", "io"]
"""Order of a block's channels: output first, or input first."""
Index = Sequence[int] | np.ndarray | None
"""Positions along an axis; None takes all."""


def take_static(array: jax.Array, index: Index, axis: int) -> jax.Array:
    """Selects positions known at trace time, by slices of consecutive runs.

    Unlike a gather, its gradient is a pad and not a scatter.

    Args:
      array: any shape.
      index: positions along `axis`, in any order; None for all of them.
      axis: the axis.

    Returns:
      The array with the chosen positions along `axis`.

    Raises:
      ValueError: there is no position, or one lies outside the array.
    """
    if index is None:
        return array
    positions = np.asarray(index)
    if positions.size == 0 or positions.min() < 0 or positions.max() >= array.shape[axis]:
        raise ValueError(
            f"an index must name positions in 0..{array.shape[axis] - 1}, received {positions}"
        )
    breaks = np.flatnonzero(np.diff(positions) != 1) + 1
    runs = np.split(positions, breaks)
    if len(runs) == 1 and len(positions) == array.shape[axis]:
        return array
    slices = [jax.lax.slice_in_dim(array, int(r[0]), int(r[-1]) + 1, axis=axis) for r in runs]
    return slices[0] if len(slices) == 1 else jnp.concatenate(slices, axis=axis)


def _rows_of(
    features: jax.Array, node: jax.Array | None, y: jax.Array, x: jax.Array, width: int
) -> jax.Array:
    """Features [V, taps, ...] at (node, y, x) of each row, [T, ...]; by row if node is None."""
    nodes, taps = features.shape[:2]
    if taps == 1 and node is None:
        return features[:, 0]
    if node is None:
        node = jnp.arange(nodes, dtype=jnp.int32)
    flat = features.reshape(nodes * taps, *features.shape[2:])
    return jnp.take(flat, (node * taps + y * width + x), axis=0, mode="clip")


class ConvDecoder(nn.Module):
    """The decoder of GHN-1 and GHN-2."""

    config: GHNConfig

    def setup(self) -> None:
        """Makes the submodules."""
        config = self.config
        out_size, in_size, height, width = config.max_shape
        self.taps = Dense(config.hid, (height, width, 4 * config.hid))
        self.conv_0 = Dense(4 * config.hid, (8 * config.hid,))
        self.conv_1 = Dense(8 * config.hid, (in_size, out_size))
        self.classes = Dense(out_size, (config.num_classes,))

    def decode_taps(
        self,
        h: jax.Array,
        y: jax.Array,
        x: jax.Array,
        out_index: Index = None,
        in_index: Index = None,
        *,
        node: jax.Array | None = None,
        kernel_size: tuple[int, int] | None = None,
        order: ChannelOrder = "oi",
    ) -> jax.Array:
        """See `GHN.decode_taps`."""
        kernel_size = kernel_size or self.config.max_shape[2:]
        features = self.tap_features(h, kernel_size)
        rows = nn.relu(self.conv_0(_rows_of(features, node, y, x, kernel_size[1])))  # [T, 8D]
        return self._matrices(rows, out_index, in_index, order)

    def tap_features(self, h: jax.Array, kernel_size: tuple[int, int]) -> jax.Array:
        """See `GHN.tap_features`."""
        height, width = kernel_size
        kernel = self.taps.kernel[:, :height, :width].reshape(h.shape[-1], -1)
        features = nn.relu(affine(h, kernel, self.taps.bias[:height, :width].reshape(-1)))
        return features.reshape(h.shape[0], height * width, -1)

    def row_layer(self) -> tuple[jax.Array, jax.Array]:
        """See `GHN.row_layer`."""
        return self.conv_0.kernel, self.conv_0.bias

    def output_layer(self, out_index: Index, in_index: Index) -> tuple[jax.Array, jax.Array]:
        """See `GHN.output_layer`."""
        kernel = take_static(take_static(self.conv_1.kernel, in_index, 1), out_index, 2)
        bias = take_static(take_static(self.conv_1.bias, in_index, 0), out_index, 1)
        return kernel.reshape(kernel.shape[0], -1), bias.reshape(-1)

    def decode_class_kernel(self, h: jax.Array, in_index: Index = None) -> jax.Array:
        """See `GHN.decode_class_kernel`."""
        features = nn.relu(affine(h, self.taps.kernel[:, 0, 0], self.taps.bias[0, 0]))
        rows = nn.relu(self.conv_0(features))
        block = nn.relu(self._matrices(rows, None, in_index, "io"))  # [V, I, O]
        return self.classes(block).swapaxes(-1, -2)

    def _matrices(
        self, rows: jax.Array, out_index: Index, in_index: Index, order: ChannelOrder
    ) -> jax.Array:
        """Last layer: rows [T, 8D] to [T, O, I] or [T, I, O], for the chosen channels."""
        kernel = take_static(take_static(self.conv_1.kernel, in_index, 1), out_index, 2)
        bias = take_static(take_static(self.conv_1.bias, in_index, 0), out_index, 1)
        if order == "oi":
            kernel, bias = kernel.swapaxes(1, 2), bias.swapaxes(0, 1)
        flat = affine(rows, kernel.reshape(rows.shape[-1], -1), bias.reshape(-1))
        return flat.reshape(-1, *bias.shape)


class MLPDecoder(nn.Module):
    """The ablation of Table 8: one dense layer makes the whole largest block."""

    config: GHNConfig

    def setup(self) -> None:
        """Makes the submodules."""
        config = self.config
        out_size, in_size, height, width = config.max_shape
        self.dense_0 = Dense(config.hid, (2 * config.hid,))
        self.dense_1 = Dense(2 * config.hid, (height, width, in_size, out_size))
        self.classes = Dense(2 * config.hid, (config.num_classes, in_size))

    def decode_taps(
        self,
        h: jax.Array,
        y: jax.Array,
        x: jax.Array,
        out_index: Index = None,
        in_index: Index = None,
        *,
        node: jax.Array | None = None,
        kernel_size: tuple[int, int] | None = None,
        order: ChannelOrder = "oi",
    ) -> jax.Array:
        """See `GHN.decode_taps`."""
        height, width = kernel_size or self.config.max_shape[2:]
        kernel = self.dense_1.kernel[:, :height, :width]
        kernel = take_static(take_static(kernel, in_index, 3), out_index, 4)
        bias = self.dense_1.bias[:height, :width]
        bias = take_static(take_static(bias, in_index, 2), out_index, 3)
        if order == "oi":
            kernel, bias = kernel.swapaxes(3, 4), bias.swapaxes(2, 3)
        hidden = nn.relu(self.dense_0(h))
        flat = affine(hidden, kernel.reshape(hidden.shape[-1], -1), bias.reshape(-1))
        blocks = flat.reshape(h.shape[0], height * width, *bias.shape[2:])
        return _rows_of(blocks, node, y, x, width)

    def decode_class_kernel(self, h: jax.Array, in_index: Index = None) -> jax.Array:
        """See `GHN.decode_class_kernel`."""
        hidden = nn.relu(self.dense_0(h))
        shape = (h.shape[0], *self.classes.features)
        return take_static(self.classes(hidden).reshape(shape), in_index, 2)


class VectorDecoder(nn.Module):
    """Norm scales, biases and the classifier's bias."""

    config: GHNConfig

    def setup(self) -> None:
        """Makes the submodules."""
        size = self.config.max_shape[0]
        self.mlp = MLP(self.config.hid, 2 * self.config.hid, 2 * size, last_relu=False)
        self.classes = Dense(size, (self.config.num_classes,))

    def __call__(self, h: jax.Array) -> jax.Array:
        """See `GHN.decode_vectors`."""
        return self.mlp(h).reshape(*h.shape[:-1], 2, -1)

    def decode_class_bias(self, h: jax.Array) -> jax.Array:
        """See `GHN.decode_class_bias`."""
        return self.classes(nn.relu(self(h)[..., 1, :]))


DECODER_CLASSES = {"conv": ConvDecoder, "mlp": MLPDecoder}
"""Decoders by the name in the configuration."""
