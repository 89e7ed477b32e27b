"""Visual transformer with a class token (ViT-B/16 and its relatives).

The paper's predefined ViT is a DeepNets-1M network without class token: see `registry`.

Shapes: `B` images, `S` pixels per side, `T` tokens, `C` channels, `K` classes.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp


class EncoderBlock(nn.Module):
    """Pre-norm self-attention and MLP on [B, T, C].

    Attributes:
      heads: attention heads.
      hidden: channels inside the MLP.
    """

    heads: int
    hidden: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Applies the block."""
        channels = x.shape[-1]
        y = nn.LayerNorm(epsilon=1e-6, name="ln1")(x)
        qkv = nn.DenseGeneral((3, self.heads, channels // self.heads), name="qkv")(y)
        query, key, value = (qkv[:, :, i] for i in range(3))
        y = jax.nn.dot_product_attention(query, key, value).reshape(x.shape)
        x = x + nn.Dense(channels, name="out")(y)
        y = nn.LayerNorm(epsilon=1e-6, name="ln2")(x)
        y = nn.gelu(nn.Dense(self.hidden, name="ff1")(y), approximate=False)
        return x + nn.Dense(channels, name="ff2")(y)


class VisionTransformer(nn.Module):
    """ViT.

    Attributes:
      num_classes: K.
      patch: pixels per side of a patch.
      depth: number of blocks.
      channels: C.
      heads: attention heads.
    """

    num_classes: int = 1000
    patch: int = 16
    depth: int = 12
    channels: int = 768
    heads: int = 12

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Logits [B, K] of images [B, S, S, 3]; `train` changes nothing."""
        del train
        size = (self.patch, self.patch)
        x = nn.Conv(self.channels, size, size, "VALID", name="patch_embed")(images)
        x = x.reshape(x.shape[0], -1, self.channels)
        normal = nn.initializers.normal(0.02)
        token = self.param("class_token", normal, (1, 1, self.channels))
        x = jnp.concatenate([jnp.broadcast_to(token, (x.shape[0], 1, self.channels)), x], axis=1)
        x = x + self.param("pos_embed", normal, (1, x.shape[1], self.channels))
        for i in range(self.depth):
            x = EncoderBlock(self.heads, 4 * self.channels, name=f"block_{i}")(x)
        x = nn.LayerNorm(epsilon=1e-6, name="ln")(x)
        return nn.Dense(self.num_classes, name="fc")(x[:, 0])
