"""The graph hypernetwork: from batches of graphs to node embeddings and decoded parameters.

Figure 1 of the paper. The module knows no target network: it embeds the nodes of padded graphs
and decodes rows and vectors that callers ask for; placing them is the task of `prediction`, for a
single network and for a meta-batch.

Legend: `B` meta-batch, `N` nodes, `D` node embedding, `V` nodes that are decoded, `T` rows.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict

from ppuda_jax.ghn.config import GHNConfig
from ppuda_jax.ghn.decoders import DECODER_CLASSES, ChannelOrder, Index, VectorDecoder
from ppuda_jax.ghn.dense import MLP
from ppuda_jax.ghn.embeddings import NodeEmbedding
from ppuda_jax.ghn.gated_gnn import GatedGNN
from ppuda_jax.ghn.orders import Order, by_steps, one_by_one
from ppuda_jax.graphs.batching import PaddedGraphs


class GHN(nn.Module):
    """GHN-1, GHN-2 or the MLP baseline, as the configuration says."""

    config: GHNConfig

    def setup(self) -> None:
        """Makes the submodules."""
        config = self.config
        self.embedding = NodeEmbedding(config)
        self.gnn: MLP | GatedGNN  # one name for both: theta is laid out like the reference's
        if config.hypernet == "mlp":
            self.gnn = MLP(config.hid, config.hid, config.hid)
        else:
            self.gnn = GatedGNN(config)
        if config.layernorm:
            self.layer_norm = nn.LayerNorm(epsilon=1e-5)
        self.kernel_decoder = DECODER_CLASSES[config.decoder](config)
        self.vector_decoder = VectorDecoder(config)

    def __call__(self, graphs: PaddedGraphs) -> jax.Array:
        """Node embeddings after message passing (and LayerNorm), [B, N, D]; zeros on padding."""
        h = self.embedding(graphs.primitive, graphs.shape)
        h = self.gnn(h, _order(graphs)) if isinstance(self.gnn, GatedGNN) else self.gnn(h)
        if self.config.layernorm:
            h = self.layer_norm(h)
        real = (
            jnp.arange(h.shape[1], dtype=jnp.int32)[None, :, None] < graphs.num_nodes[:, None, None]
        )
        return jnp.where(real, h, 0.0)

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
        """Kernels at one spatial tap each, before tiling and normalisation.

        The first layer is computed once per node for all taps of `kernel_size`, the rest per row
        and only for the channels asked for.

        Args:
          h: embeddings of the nodes to decode, [V, D].
          y: row of each tap, int32 [T], below `kernel_size`.
          x: column of each tap, likewise.
          out_index: static output channels to compute, all if None.
          in_index: static input channels, likewise; [0] gives the depthwise kernels, [T, O, 1].
          node: position in `h` of each row's node, int32 [T]; None if row t is of node t.
          kernel_size: static (height, width) bound on the taps; the largest kernel if None.
          order: of the two channel axes of the result.

        Returns:
          [T, O, I] or [T, I, O].
        """
        return self.kernel_decoder.decode_taps(
            h, y, x, out_index, in_index, node=node, kernel_size=kernel_size, order=order
        )

    def tap_features(self, h: jax.Array, kernel_size: tuple[int, int]) -> jax.Array:
        """First layer of the conv decoder, for all taps.

        Args:
          h: embeddings of the nodes to decode, [V, D].
          kernel_size: static (height, width).

        Returns:
          [V, height * width, 4D], taps row by row.
        """
        return self.kernel_decoder.tap_features(h, kernel_size)

    def row_layer(self) -> tuple[jax.Array, jax.Array]:
        """Second layer of the conv decoder: kernel [4D, 8D] and bias [8D]; a ReLU follows."""
        return self.kernel_decoder.row_layer()

    def output_layer(self, out_index: Index, in_index: Index) -> tuple[jax.Array, jax.Array]:
        """Last layer of the conv decoder for static channels.

        Args:
          out_index: output channels, all if None.
          in_index: input channels, all if None.

        Returns:
          Kernel [8D, I * O] and bias [I * O]; output channels vary fastest.
        """
        return self.kernel_decoder.output_layer(out_index, in_index)

    def decode_class_kernel(self, h: jax.Array, in_index: Index = None) -> jax.Array:
        """Kernels of classifiers, before tiling and normalisation.

        Args:
          h: embeddings of the classifiers' nodes, [V, D].
          in_index: static input channels to compute, all if None.

        Returns:
          [V, classes, I].
        """
        return self.kernel_decoder.decode_class_kernel(h, in_index)

    def decode_class_bias(self, h: jax.Array) -> jax.Array:
        """Biases of classifiers, before normalisation: [V, D] -> [V, classes]."""
        return self.vector_decoder.decode_class_bias(h)

    def decode_vectors(self, h: jax.Array) -> jax.Array:
        """Scales (row 0) and biases (row 1), before tiling and normalisation: [V, 2, O]."""
        return self.vector_decoder(h)

    def touch(self) -> jax.Array:
        """Uses every part once on made-up inputs, so that `init` creates all parameters."""
        h = self.embedding(jnp.zeros((1,), jnp.int32), jnp.zeros((1, 4), jnp.int32))
        if isinstance(self.gnn, MLP):
            h = self.gnn(h)
        else:  # its parameters alone: compiling the sweeps would take longer than all the rest
            h = self.gnn.gru_hidden(h)[:, : h.shape[1]] + self.gnn.node_function().gru_bias[0]
        if self.config.layernorm:
            h = self.layer_norm(h)
        zero = jnp.zeros((1,), jnp.int32)
        blocks = self.decode_taps(h, zero, zero, [0], [0], kernel_size=(1, 1))
        vectors = self.decode_vectors(h).sum() + self.decode_class_bias(h).sum()
        return blocks.sum() + vectors + self.decode_class_kernel(h, [0]).sum()


def init_theta(config: GHNConfig, key: jax.Array) -> dict[str, Any]:
    """Fresh parameters of a graph hypernetwork, distributed as the reference's.

    The distributions are those of `GHN.init`; all leaves are cut from two draws, because
    compiling a draw per leaf takes seconds.

    Args:
      config: the hypernetwork.
      key: random key; consumed.

    Returns:
      theta, to be used as `GHN(config).apply({"params": theta}, ...)`; float32, also where JAX
      computes in float64 by default.

    Examples:
      >>> import jax
      >>> import ppuda_jax as pj
      >>> theta = pj.init_theta(pj.GHNConfig(hid=8), jax.random.key(0))
      >>> sum(leaf.size for leaf in jax.tree.leaves(theta))
      308318
    """
    return _initialiser(config)(key)


def _order(graphs: PaddedGraphs) -> Order:
    if graphs.levels is None:
        return one_by_one(graphs.distance, graphs.num_nodes)
    return by_steps(graphs.distance, graphs.levels)


@functools.lru_cache(maxsize=16)
def _initialiser(config: GHNConfig) -> Callable[[jax.Array], dict[str, Any]]:
    """Compiled `init_theta` of one configuration."""
    init = functools.partial(GHN(config).init, method=GHN.touch)
    flat = flatten_dict(jax.eval_shape(init, jax.random.key(0))["params"])
    size = sum(leaf.size for leaf in flat.values())

    def draw(key: jax.Array) -> dict[str, Any]:
        normal_key, uniform_key = jax.random.split(key)
        tables = sum(leaf.size for path, leaf in flat.items() if path[0] == "embedding")
        normal = jax.random.normal(normal_key, (tables,), jnp.float32)
        uniform = jax.random.uniform(uniform_key, (size - tables,), jnp.float32, -1.0, 1.0)
        theta, taken = {}, {"normal": 0, "uniform": 0}
        for path, leaf in flat.items():
            if path[0] == "layer_norm":
                theta[path] = jnp.full(leaf.shape, path[-1] == "scale", jnp.float32)
                continue
            name = "normal" if path[0] == "embedding" else "uniform"
            source = normal if name == "normal" else uniform
            values = source[taken[name] : taken[name] + leaf.size].reshape(leaf.shape)
            taken[name] += leaf.size
            if name == "uniform":  # bounded by the fan-in of the layer, bias included
                values /= math.sqrt(flat[(*path[:-1], "kernel")].shape[0])
            theta[path] = values
        return unflatten_dict(theta)

    return jax.jit(draw)
