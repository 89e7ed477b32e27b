"""The models by name."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import flax.linen as nn

from ppuda_jax.archs.genotypes import DARTS, PDARTS, VIT_CONFIG, Genotype, NetConfig
from ppuda_jax.archs.plan import make_plan
from ppuda_jax.nets.context import DEFAULT, OpContext
from ppuda_jax.nets.network import Network
from ppuda_jax.nets.zoo.resnet import SMALL_IMAGES, ResNet, WideResNet
from ppuda_jax.nets.zoo.vit import VisionTransformer

Factory = Callable[[int, int, OpContext], nn.Module]
"""(number of classes, side of the images, context) -> Flax module."""


def _resnet(*stages: int, bottleneck: bool, width_factor: int = 1) -> Factory:
    def build(num_classes: int, image_size: int, context: OpContext) -> nn.Module:
        return ResNet(stages, bottleneck, num_classes, image_size, width_factor, context)

    return build


def _wide_resnet(num_classes: int, image_size: int, context: OpContext) -> nn.Module:
    del image_size
    return WideResNet(28, 10, num_classes, context)


def _vit(num_classes: int, image_size: int, context: OpContext) -> nn.Module:
    """The paper's predefined visual transformer (appendix A.2)."""
    return Network(make_plan(VIT_CONFIG, num_classes, image_size), context=context)


def _vit_b16(num_classes: int, image_size: int, context: OpContext) -> nn.Module:
    del context  # it has neither batch norm nor operations of `ops`
    return VisionTransformer(num_classes, patch=16 if image_size > SMALL_IMAGES else 4)


def _cells(genotype: Genotype) -> Factory:
    """20 cells of 36 channels for small images, 14 of 48 for large ones (DARTS)."""

    def build(num_classes: int, image_size: int, context: OpContext) -> nn.Module:
        small = image_size <= SMALL_IMAGES
        config = NetConfig(
            genotype=genotype,
            n_cells=20 if small else 14,
            C=36 if small else 48,
            C_mult=2,
        )
        return Network(make_plan(config, num_classes, image_size), context=context)

    return build


MODELS: Mapping[str, Factory] = MappingProxyType(
    {
        "resnet18": _resnet(2, 2, 2, 2, bottleneck=False),
        "resnet34": _resnet(3, 4, 6, 3, bottleneck=False),
        "resnet50": _resnet(3, 4, 6, 3, bottleneck=True),
        "resnet101": _resnet(3, 4, 23, 3, bottleneck=True),
        "wide_resnet50_2": _resnet(3, 4, 6, 3, bottleneck=True, width_factor=2),
        "wide_resnet28_10": _wide_resnet,
        "vit": _vit,
        "vit_b16": _vit_b16,
        "darts": _cells(DARTS),
        "pdarts": _cells(PDARTS),
    }
)
"""Name -> factory of (num_classes, image_size, context)."""


def build_model(
    name: str, num_classes: int = 10, image_size: int = 32, context: OpContext = DEFAULT
) -> nn.Module:
    """Builds a model by name.

    Args:
      name: one of `MODELS`.
      num_classes: K.
      image_size: pixels per side.
      context: static choices of its norms, and of the operations of DeepNets-1M networks.

    Returns:
      A Flax module: `apply({"params": params}, images)` gives logits [B, K].

    Raises:
      ValueError: if there is no such model.
    """
    if name not in MODELS:
        raise ValueError(f"model must be one of {sorted(MODELS)}, received {name!r}.")
    return MODELS[name](num_classes, image_size, context)
