"""Children of networks of DeepNets-1M, for evolution: one edge of one cell changes."""

import dataclasses
import functools

import numpy as np

from ppuda_jax.archs.genotypes import Edge, Genotype, NetConfig
from ppuda_jax.archs.sampling import is_allowed
from ppuda_jax.archs.splits import Split, get_split
from ppuda_jax.archs.widths import BASE_CHANNELS, count_params, evaluation_width, width_factor
from ppuda_jax.primitives import CELL_OPS

_ATTEMPTS = 10_000


def mutate(
    config: NetConfig, rng: np.random.Generator, split: str | Split = "search", image_size: int = 32
) -> NetConfig:
    """A network that differs by the operation or the input of one edge.

    It obeys the rules by which the split is sampled, apart from the part of the space that the
    split owns, and gets the width that its parameter count asks for.

    Args:
      config: the parent.
      rng: the generator to draw from.
      split: name or rules of the split.
      image_size: 32 or 224; decides the width.

    Raises:
      ValueError: no child obeys the rules.
    """
    spec = get_split(split) if isinstance(split, str) else split
    for _ in range(_ATTEMPTS):
        genotype = _changed(config.genotype, rng)
        if genotype == config.genotype or not is_allowed(genotype):
            continue
        child = dataclasses.replace(config, genotype=genotype, C=BASE_CHANNELS)
        if child.is_vit and not child.glob_avg:
            continue
        sizes = (count_params(child, 10, size) for size in (32, 224))
        if any(size > spec.max_params for size in sizes) or not child.is_connected:
            continue
        width = width_factor(spec, image_size) * evaluation_width(child)
        return dataclasses.replace(child, C=width)
    raise ValueError(f"none of {_ATTEMPTS} children of {config} obeys the rules of {spec.name!r}")


def _changed(genotype: Genotype, rng: np.random.Generator) -> Genotype:
    name = ("normal", "reduce")[rng.integers(2)]
    edges = list(getattr(genotype, name))
    place = int(rng.integers(len(edges)))
    op, state = edges[place]
    if rng.random() < 0.5:
        op = str(rng.choice(_operations(len(edges) // 2)))
    else:
        state = int(rng.integers(2 + place // 2))
    if state == edges[place ^ 1][1]:  # the two edges of a step come from different states
        state = edges[place][1]
    edges[place] = (op, state)
    changed: tuple[Edge, ...] = tuple(edges)
    if name == "normal":
        return dataclasses.replace(genotype, normal=changed)
    return dataclasses.replace(genotype, reduce=changed)


@functools.cache
def _operations(steps: int) -> tuple[str, ...]:
    """Cells of a single step have no edges to spare."""
    return tuple(op for op in CELL_OPS if op != "none" or steps > 1)
