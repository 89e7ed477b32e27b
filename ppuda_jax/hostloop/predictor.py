"""The hypernetwork's parameters of one network as pages, and the gradient back through them.

Nothing here is compiled per network: node embeddings come from graphs padded to a few sizes, and
pages are decoded one by one by a function per kind of block.

Legend: `N` padded nodes, `V` nodes with kernels of several taps, `S` taps per side of the largest
kernel, `F` features of a row, `R` rows of a page, `I` and `O` channels of a block, `K` classes.
"""

import functools
from collections.abc import Callable, Hashable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ppuda_jax.ghn.config import GHNConfig
from ppuda_jax.hostloop.compilation import jit_small
from ppuda_jax.hostloop.network import Inputs, Network
from ppuda_jax.hostloop.pages import Block
from ppuda_jax.prediction.blocks import MAX_BLOCK, BlockDecoder
from ppuda_jax.prediction.rows import RowDecoder, Rows, decode_rows
from ppuda_jax.programs import CachedFunction

Theta = Mapping[str, Any]
"""The hypernetwork's parameters."""

Pages = dict[Block, tuple[jax.Array, ...]]
"""Of each kind of block, pages [R, I * O]."""


class Features(NamedTuple):
    """What all pages of a network are decoded from.

    Attributes:
      taps: float32 [N + V * S * S, F]: of every node's first tap, then of every tap of V nodes.
      vectors: float32 [2 * N, 64]: norm scale and bias of every node.
      class_kernel: float32 [1, 64 * K].
      class_bias: float32 [1, K].
    """

    taps: jax.Array
    vectors: jax.Array
    class_kernel: jax.Array
    class_bias: jax.Array


def predict_features(config: GHNConfig, theta: Theta, inputs: Inputs) -> Features:
    """Runs the hypernetwork up to the last layers of its decoders.

    Args:
      config: the hypernetwork (static).
      theta: its parameters.
      inputs: the network.
    """
    decoder = BlockDecoder(config, theta)
    h = decoder.embed(inputs.graphs)[0]
    single = decoder.tap_features(h, 1)
    several = decoder.tap_features(jnp.take(h, inputs.kernel_nodes, axis=0), config.max_shape[2])
    kernel = decoder.class_kernels(h[inputs.class_nodes[0]][None]).swapaxes(1, 2).reshape(1, -1)
    return Features(
        taps=jnp.concatenate([single, several]),
        vectors=decoder.vectors(h).reshape(-1, MAX_BLOCK),
        class_kernel=kernel * inputs.class_scale.astype(kernel.dtype),
        class_bias=decoder.class_biases(h[inputs.class_nodes[1]][None]),
    )


def decode_page(
    config: GHNConfig, block: Block, decoder: Theta, taps: jax.Array, rows: Rows
) -> jax.Array:
    """Decodes one page of kernels [R, I * O].

    Args:
      config: the hypernetwork (static).
      block: what its rows are (static).
      decoder: the part of theta that `decoder_of` gives.
      taps: see `Features`.
      rows: which of them.
    """
    last = BlockDecoder(config, {"kernel_decoder": decoder})
    hidden, hidden_bias = last.row_layer()
    kernel, bias = last.output_layer(range(block.outputs), range(block.inputs))
    weights = RowDecoder(
        hidden=hidden, hidden_bias=hidden_bias, output=kernel[None], output_bias=bias[None]
    )
    return decode_rows(weights, taps, rows)


def decoder_of(theta: Theta) -> dict[str, Any]:
    """The last two layers of the kernel decoder."""
    return {name: theta["kernel_decoder"][name] for name in ("conv_0", "conv_1")}


def vector_page(vectors: jax.Array, rows: Rows) -> jax.Array:
    """One page of vectors [R, 64] from those of the nodes, see `Features`."""
    page = jnp.take(vectors, rows.source.reshape(-1), axis=0, mode="clip")
    return page * rows.scale.reshape(-1, 1).astype(page.dtype)


@functools.lru_cache(maxsize=4)
def predictor_of(config: GHNConfig) -> "Predictor":
    """The one predictor of a configuration, so that nothing is compiled twice."""
    return Predictor(config)


class Predictor:
    """Compiled functions from networks to pages, for any hypernetwork of one configuration."""

    def __init__(self, config: GHNConfig) -> None:
        """Prepares; compiles nothing."""
        self.config = config
        self._features = _function(functools.partial(predict_features, config), config)
        self._decode = functools.cache(self._decode_of)
        self._pull_page = functools.cache(self._pull_page_of)
        self._pull_features = _function(self._features_pullback, config, donated=2)

    def _decode_of(self, block: Block) -> CachedFunction:
        return _function(functools.partial(decode_page, self.config, block), (self.config, block))

    def _pull_page_of(self, block: Block) -> CachedFunction:
        pull = functools.partial(self._page_pullback, block)
        return _function(pull, (self.config, block), donated=(0, 1))

    def predict(self, theta: Theta, network: Network) -> Pages:
        """All parameters of a network."""
        return self.decode(theta, network, self.features(theta, network))

    def rehearse(self, theta: Theta, network: Network, x64: bool) -> None:
        """Compiles all that networks of this size need, by predicting one and pulling it back.

        Args:
          theta: arrays like the parameters.
          network: one of the size.
          x64: JAX's setting, which threads have of their own.
        """
        with jax.enable_x64(x64):
            features = self.features(theta, network)
            pages = self.decode(theta, network, features)
            jax.block_until_ready(self.pullback(theta, network, features, pages))

    def features(self, theta: Theta, network: Network) -> Features:
        """What the pages of a network are decoded from."""
        return self._features(theta, network.inputs)

    def decode(self, theta: Theta, network: Network, features: Features) -> Pages:
        """The pages of a network."""
        decoder, pages = decoder_of(theta), self._class_pages(features)
        for block, group in network.rows.items():
            if block.decoder == "vector":
                pages[block] = tuple(_vector_page(features.vectors, rows) for rows in group)
            else:
                pages[block] = tuple(
                    self._decode(block)(decoder, features.taps, rows) for rows in group
                )
        return pages

    def _class_pages(self, features: Features) -> Pages:
        classes = self.config.num_classes
        return {
            Block("class_kernel", MAX_BLOCK, classes): (features.class_kernel,),
            Block("class_bias", 1, classes): (features.class_bias,),
        }

    def pullback(
        self, theta: Theta, network: Network, features: Features, gradient: Pages
    ) -> dict[str, Any]:
        """The gradient of theta from that of a network's pages."""
        decoder, classes = decoder_of(theta), self.config.num_classes
        g_decoder, g_taps, g_vectors = _zeros((decoder, features.taps, features.vectors))
        for block, group in network.rows.items():
            for rows, g in zip(group, gradient[block], strict=True):
                if block.decoder == "vector":
                    g_vectors = _pull_vector_page(g_vectors, rows, g)
                else:
                    g_decoder, g_taps = self._pull_page(block)(
                        g_decoder, g_taps, decoder, features.taps, rows, g
                    )
        (g_kernel,) = gradient[Block("class_kernel", MAX_BLOCK, classes)]
        (g_bias,) = gradient[Block("class_bias", 1, classes)]
        g_features = Features(g_taps, g_vectors, g_kernel, g_bias)
        return self._pull_features(theta, network.inputs, g_decoder, g_features)

    def _page_pullback(
        self,
        block: Block,
        g_decoder: Theta,
        g_taps: jax.Array,
        decoder: Theta,
        taps: jax.Array,
        rows: Rows,
        g: jax.Array,
    ) -> tuple[Theta, jax.Array]:
        """Adds what one page gives to the gradients of decoder and taps."""
        decode = functools.partial(decode_page, self.config, block, rows=rows)
        _, pull = jax.vjp(decode, decoder, taps)
        return jax.tree.map(jnp.add, (g_decoder, g_taps), pull(g))

    def _features_pullback(
        self, theta: Theta, inputs: Inputs, g_decoder: Theta, g: Features
    ) -> dict[str, Any]:
        features = functools.partial(predict_features, self.config, inputs=inputs)
        (g_theta,) = jax.vjp(features, theta)[1](g)
        kernels = g_theta["kernel_decoder"]
        added = jax.tree.map(jnp.add, decoder_of(g_theta), g_decoder)
        return {**g_theta, "kernel_decoder": {**kernels, **added}}


def _vector_pullback(g_vectors: jax.Array, rows: Rows, g: jax.Array) -> jax.Array:
    scaled = g * rows.scale.reshape(-1, 1).astype(g.dtype)
    return g_vectors.at[rows.source.reshape(-1)].add(scaled)


def _function(
    function: Callable[..., Any], key: Hashable, donated: int | tuple[int, ...] = ()
) -> CachedFunction:
    """Everything lies on the default device, whatever JAX knows of that."""
    name = getattr(function, "func", function).__name__
    jit = functools.partial(jit_small, donated=donated)
    return CachedFunction(function, (name, key), "hypernetworks", jit=jit, placed=False)


_vector_page = _function(vector_page, None)
_pull_vector_page = _function(_vector_pullback, None, donated=0)
_zeros = _function(functools.partial(jax.tree.map, jnp.zeros_like), None)
