"""Hand-made Flax networks at 32 and 224 pixels: ResNets, Wide-ResNets, ViTs, DARTS."""

from ppuda_jax.nets.zoo.registry import MODELS, build_model

__all__ = ("MODELS", "build_model")
