"""ResNets and Wide-ResNets.

Up to 64 pixels the first convolution is 3x3 without stride and there is no pooling after it, as
the paper adjusts ImageNet networks to CIFAR-10 (section 5.1).

Shapes: `B` images, `S` pixels per side, `K` classes.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from ppuda_jax.nets.context import DEFAULT, OpContext
from ppuda_jax.nets.zoo.norm import BatchNorm

SMALL_IMAGES = 64
"""Up to this side the stem does not halve the image."""


def _conv(features: int, kernel: int, stride: int = 1, name: str | None = None) -> nn.Conv:
    pad = kernel // 2
    return nn.Conv(
        features, (kernel, kernel), (stride, stride), [(pad, pad)] * 2, use_bias=False, name=name
    )


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions, or a 1x1, 3x3, 1x1 bottleneck, with a shortcut.

    Attributes:
      width: channels of the inner convolutions.
      features: channels of the result.
      stride: of the (first) 3x3 convolution.
      bottleneck: the three-convolution form.
      context: static choices of the norms.
    """

    width: int
    features: int
    stride: int = 1
    bottleneck: bool = False
    context: OpContext = DEFAULT

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Applies the block to [B, H, W, C]."""
        plan: tuple[tuple[int, int, int], ...]
        if self.bottleneck:
            plan = ((self.width, 1, 1), (self.width, 3, self.stride), (self.features, 1, 1))
        else:
            plan = ((self.width, 3, self.stride), (self.features, 3, 1))
        y = x
        for i, (width, kernel, stride) in enumerate(plan, start=1):
            y = _conv(width, kernel, stride, name=f"conv{i}")(y)
            y = BatchNorm(self.context, name=f"bn{i}")(y, train)
            y = nn.relu(y) if i < len(plan) else y
        if self.stride != 1 or x.shape[-1] != self.features:
            x = _conv(self.features, 1, self.stride, name="downsample_conv")(x)
            x = BatchNorm(self.context, name="downsample_bn")(x, train)
        return nn.relu(y + x)


class ResNet(nn.Module):
    """ResNet of four stages.

    Attributes:
      stages: blocks of each stage.
      bottleneck: form of the blocks.
      num_classes: K.
      image_size: S; decides the stem.
      width_factor: multiplies the inner width of the blocks.
      context: static choices of the norms.
    """

    stages: tuple[int, ...]
    bottleneck: bool
    num_classes: int = 10
    image_size: int = 32
    width_factor: int = 1
    context: OpContext = DEFAULT

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Logits [B, K] of images [B, S, S, 3]."""
        small = self.image_size <= SMALL_IMAGES
        x = _conv(64, 3 if small else 7, 1 if small else 2, name="conv1")(images)
        x = nn.relu(BatchNorm(self.context, name="bn1")(x, train))
        if not small:
            x = nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))
        for stage, blocks in enumerate(self.stages):
            width = 64 * 2**stage
            for block in range(blocks):
                x = ResidualBlock(
                    width * self.width_factor,
                    width * (4 if self.bottleneck else 1),
                    2 if stage and not block else 1,
                    self.bottleneck,
                    self.context,
                    name=f"layer{stage + 1}_{block}",
                )(x, train)
        return nn.Dense(self.num_classes, name="fc")(jnp.mean(x, axis=(1, 2)))


class PreActivationBlock(nn.Module):
    """Norm, ReLU, 3x3 convolution, twice, with a shortcut (Wide-ResNet).

    Attributes:
      features: channels.
      stride: of the first convolution.
      context: static choices of the norms.
    """

    features: int
    stride: int = 1
    context: OpContext = DEFAULT

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Applies the block to [B, H, W, C]."""
        y = nn.relu(BatchNorm(self.context, name="bn1")(x, train))
        if x.shape[-1] != self.features:
            x = _conv(self.features, 1, self.stride, name="shortcut")(y)
        y = _conv(self.features, 3, self.stride, name="conv1")(y)
        y = nn.relu(BatchNorm(self.context, name="bn2")(y, train))
        return x + _conv(self.features, 3, name="conv2")(y)


class WideResNet(nn.Module):
    """Wide-ResNet for small images.

    Attributes:
      depth: number of layers, 6 n + 4.
      width: widening factor.
      num_classes: K.
      context: static choices of the norms.
    """

    depth: int = 28
    width: int = 10
    num_classes: int = 10
    context: OpContext = DEFAULT

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Logits [B, K] of images [B, S, S, 3]."""
        x = _conv(16, 3, name="conv1")(images)
        for stage in range(3):
            for block in range((self.depth - 4) // 6):
                stride = 2 if stage and not block else 1
                x = PreActivationBlock(
                    16 * 2**stage * self.width,
                    stride,
                    self.context,
                    name=f"layer{stage + 1}_{block}",
                )(x, train)
        x = nn.relu(BatchNorm(self.context, name="bn")(x, train))
        return nn.Dense(self.num_classes, name="fc")(jnp.mean(x, axis=(1, 2)))
