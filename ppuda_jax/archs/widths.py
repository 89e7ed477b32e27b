"""How wide a network is: parameter counts, and widths for training and for evaluation.

Parameter counts include modules that cannot reach the output, as the published counts do. The
training rule keeps large architectures narrow (reference's loader); the evaluation rule takes
the smallest width with at least 2.5 million parameters on CIFAR-10, which reproduces the sizes
of the released evaluation networks (the rule itself is not published).
"""

import dataclasses
from collections.abc import Callable

from ppuda_jax.archs.genotypes import Genotype, NetConfig
from ppuda_jax.archs.op_params import count_rows
from ppuda_jax.archs.splits import Split
from ppuda_jax.primitives import CELL_OP_KERNELS

BASE_CHANNELS = 32
"""Width at which published parameter counts and limits are stated."""

CHANNELS: tuple[int, ...] = tuple(range(32, 129, 16))
"""Widths for training."""

HIDDEN: tuple[int, ...] = tuple(range(64, 513, 64))
"""Widths of the hidden dense layer for training."""

EVALUATION_PARAMS = 2_500_000
"""Evaluation networks have at least this many parameters on CIFAR-10."""

_WIDTH_STEP = 16
_MAX_WIDTH = 4096


def count_params(config: NetConfig, num_classes: int = 10, image_size: int = 32) -> int:
    """Counts the parameters of a network, dead modules included, without making a plan.

    Args:
      config: the network.
      num_classes: size of the classifier.
      image_size: 32 or 224.

    Returns:
      The number of trainable scalars of the reference's module (num_params in its files).
    """
    large, norm, is_vit = image_size == 224, config.norm is not None, config.is_vit
    total, channels = _stem_params(config, large, norm, is_vit)
    before, previous, width = channels, channels, config.C
    strided = config.stem_type == 1 and not is_vit
    reductions = config.reduction_cells
    known: dict[tuple, int] = {}
    for cell in range(config.n_cells):
        reduction = cell in reductions
        width *= config.C_mult if reduction else 1
        key = (before, previous, width, reduction, strided)
        if key not in known:
            known[key] = _cell_params(config, *key, norm, is_vit)
        total += known[key]
        genotype = config.genotype
        states = len(genotype.reduce_concat if reduction else genotype.normal_concat)
        before, previous = previous, width * states
        strided = reduction and not is_vit
    if not config.glob_avg:
        halvings = len(reductions) * (not is_vit) + int(config.stem_type == 1 or config.stem_pool)
        previous *= ((56 if large else 32) >> halvings) ** 2
    for layer in range(max(config.fc_layers, 1)):
        last = layer >= config.fc_layers - 1
        features = num_classes if last else config.fc_dim
        total += count_rows("dense", previous, features, 0, False, 1)
        previous = features
    return total


def _stem_params(config: NetConfig, large: bool, norm: bool, is_vit: bool) -> tuple[int, int]:
    """Parameters of the stem and the channels of its outputs."""
    width = config.C
    if is_vit:
        kernel, tokens = (16, 14) if large else (3, 11)
        patch = count_rows("patch_conv", 3, width, kernel, False, tokens)
        return patch + count_rows("pos_enc", width, width, 0, False, tokens), width
    if config.stem_type == 0:
        width *= 3 if config.preproc and not large else 1
        return count_rows("stem_conv", 3, width, config.ks, norm, 0), width
    return (
        count_rows("stem_conv", 3, width // 2, config.ks, norm, 0)
        + count_rows("stem_conv", width // 2, width, 3, norm, 0)
        + count_rows("stem_conv", width, width, 3, norm, 0)
    ), width


def _cell_params(
    config: NetConfig,
    before: int,
    previous: int,
    width: int,
    reduction: bool,
    strided: bool,
    norm: bool,
    is_vit: bool,
) -> int:
    """Parameters of one cell whose inputs have `before` and `previous` channels."""
    total = 0
    if config.preproc:
        first = "factorized_reduce" if strided else "preprocess"
        total += count_rows(first, before, width, 1, norm, 0)
        total += count_rows("preprocess", previous, width, 1, norm, 0)
    edges = config.genotype.reduce if reduction else config.genotype.normal
    for op, state in edges:
        c_in = previous if state < 2 and not config.preproc else width
        if op != "skip_connect":
            total += count_rows(op, c_in, width, CELL_OP_KERNELS[op], norm, 0)
        elif reduction and state < 2 and not is_vit:
            total += count_rows("factorized_reduce", c_in, width, 1, norm, 0)
    return total


def has_large_conv(genotype: Genotype) -> bool:
    """True if a cell has a dense 5x5 or 7x7 convolution."""
    return any(op in ("conv_5x5", "conv_7x7") for op, _ in genotype.normal + genotype.reduce)


def training_width(config: NetConfig, draw: Callable[[], float], image_size: int = 32) -> NetConfig:
    """Draws the width of a training network (reference's loader; paper, appendix A.2).

    Args:
      config: the network; its widths are ignored.
      draw: returns the next uniform number in [0, 1); called twice or three times.
      image_size: 32 or 224.

    Returns:
      The network with `C` and `fc_dim` drawn from the sizes that its parameter count allows.
    """
    base = dataclasses.replace(config, C=BASE_CHANNELS, fc_dim=256)
    millions = count_params(base, image_size=image_size) / 1e6
    cells = config.n_cells
    hidden = HIDDEN[int(draw() * 4)]
    first = draw()
    if millions > 0.8 or not config.glob_avg or has_large_conv(config.genotype) or cells > 12:
        channels = CHANNELS[0]
    elif millions > 0.4 or cells > 10:
        channels = CHANNELS[int(first * 2)]
    elif millions > 0.2 or cells > 8:
        channels = CHANNELS[int(first * 3)]
    else:
        channels = CHANNELS[int(first * len(CHANNELS))]
        if channels <= 64:
            hidden = HIDDEN[int(draw() * len(HIDDEN))]
    return dataclasses.replace(config, C=channels, fc_dim=hidden)


def evaluation_width(config: NetConfig) -> int:
    """Chooses the width of an evaluation network.

    Args:
      config: the network; its `C` is ignored.

    Returns:
      The smallest multiple of 16 from 32 that gives 2.5 million parameters on CIFAR-10.

    Raises:
      ValueError: if no reasonable width does (the network has no layer that grows).
    """
    for channels in range(BASE_CHANNELS, _MAX_WIDTH + 1, _WIDTH_STEP):
        if count_params(dataclasses.replace(config, C=channels)) >= EVALUATION_PARAMS:
            return channels
    raise ValueError(
        f"an evaluation network must reach {EVALUATION_PARAMS} parameters with at most "
        f"{_MAX_WIDTH} channels, received {config}: set C by hand."
    )


def width_factor(split: Split, image_size: int) -> int:
    """Factor on the recorded width at load time.

    Args:
      split: rules of the split.
      image_size: 32 or 224.

    Returns:
      4 or 2 for the wide split (on small and on large images), else 1.
    """
    return split.width_factor[image_size == 224]
