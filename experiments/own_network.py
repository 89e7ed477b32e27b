"""A network of your own: edit it, and let a GHN predict its parameters.

python -m experiments.predict --checkpoint=DIR --model=experiments.own_network:build --evaluate
"""

import jax
from flax import linen as nn

from ppuda_jax.nets.zoo.norm import BatchNorm


class OwnNetwork(nn.Module):
    """A small convolutional network.

    Attributes:
      num_classes: K.
    """

    num_classes: int

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """Logits [b, K] of images [b, s, s, 3]; norms use the statistics of the batch."""
        x = images
        for channels, stride in ((32, 1), (64, 2), (64, 1), (128, 2)):
            x = nn.Conv(channels, (3, 3), strides=stride, use_bias=False)(x)
            x = nn.relu(BatchNorm()(x))
        return nn.Dense(self.num_classes)(x.mean(axis=(1, 2)))


def build(num_classes: int) -> nn.Module:
    """What `--model` names."""
    return OwnNetwork(num_classes)
