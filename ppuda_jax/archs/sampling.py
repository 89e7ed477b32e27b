"""Sampling architectures of DeepNets-1M by the published rules (paper, appendix A.2).

Architecture `index` of a split depends on the split and the index alone (`arch_at`), so that
sampling can start anywhere, resume exactly, and run in parallel. Splits are disjoint by
construction: an architecture's fingerprint decides which split may hold it (`splits.py`).

Nothing here touches global random state; a *draw* is a function that returns the next uniform
number in [0, 1).
"""

import dataclasses
import hashlib
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from ppuda_jax.archs.genotypes import Edge, Genotype, NetConfig
from ppuda_jax.archs.splits import FINGERPRINT_PARTS, Split, get_split
from ppuda_jax.archs.widths import (
    BASE_CHANNELS,
    count_params,
    evaluation_width,
    training_width,
    width_factor,
)
from ppuda_jax.primitives import CELL_OPS

Draw = Callable[[], float]
"""Draws a uniform number from [0, 1)."""

_OP_IDS = {op: index for index, op in enumerate(CELL_OPS)}
_NONE = _OP_IDS["none"]
_MSA = _OP_IDS["msa"]
_CSE = _OP_IDS["cse"]
_POOLING_OPS = 4  # none, two poolings and skip_connect come first in CELL_OPS
_LARGE = (_OP_IDS["conv_5x5"], _OP_IDS["conv_7x7"])
_CONVS = frozenset(index for op, index in _OP_IDS.items() if "conv" in op)
_IdEdges = list[tuple[int, int]]


def sample_genotype(
    rng: np.random.Generator,
    steps: int = 1,
    only_pool: bool = False,
    allow_none: bool = True,
    drop_concat: bool = True,
) -> Genotype:
    """Samples the two cells of a network.

    Each step takes two different earlier states, and each edge an operation, all uniformly
    (the reference takes the largest of independent Gaussian scores, which is the same).

    Args:
      rng: the generator to draw from.
      steps: steps per cell.
      only_pool: the reduction cell has only pooling, skip connections and `none`.
      allow_none: whether `none` may be drawn.
      drop_concat: leave each state but the last out of the cell's output with probability 1/2.

    Returns:
      The genotype.
    """
    draw = _draws(rng)
    normal, reduce, concat = _draw_cells(draw, steps, only_pool, allow_none, drop_concat)
    return _genotype(normal, reduce, concat)


def sample_arch(
    rng: np.random.Generator, split: str | Split = "train", image_size: int = 32
) -> NetConfig:
    """Samples one network of a split.

    Args:
      rng: the generator to draw from.
      split: name or rules of the split.
      image_size: 32 or 224; decides the width, not the architecture.

    Returns:
      The network with its width for training or evaluation.
    """
    spec = get_split(split) if isinstance(split, str) else split
    draw = _draws(rng)
    config = _draw_base(draw, spec)
    if spec.width == "training":
        return training_width(config, draw, image_size)
    factor = width_factor(spec, image_size)
    return dataclasses.replace(config, C=factor * evaluation_width(config))


def sample_base(rng: np.random.Generator, split: str | Split = "train") -> NetConfig:
    """Samples one network of a split at the base width, as files hold it (C = 32, fc_dim 256).

    Args:
      rng: generator; its state advances.
      split: name or rules of the split.

    Returns:
      The network.
    """
    return _draw_base(_draws(rng), get_split(split) if isinstance(split, str) else split)


def arch_at(split: str | Split, index: int, image_size: int = 32, seed: int = 0) -> NetConfig:
    """Returns architecture `index` of a split, which depends on nothing else.

    Args:
      split: name or rules of the split.
      index: any non-negative integer; the sequence has no end.
      image_size: 32 or 224; decides the width, not the architecture.
      seed: another sequence of the same split for each seed.

    Returns:
      The network with its width for training or evaluation.
    """
    spec = get_split(split) if isinstance(split, str) else split
    return sample_arch(arch_rng(spec, index, seed), spec, image_size)


def arch_rng(split: Split, index: int, seed: int = 0) -> np.random.Generator:
    """Returns the generator of one architecture of a split.

    Args:
      split: rules of the split.
      index: number of the architecture.
      seed: see `arch_at`.

    Returns:
      A generator that depends on nothing else, so that any architecture is found at once.
    """
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence((split.seed, seed, index))))


def split_archs(
    split: str, num: int | None = None, image_size: int = 32, start: int = 0, seed: int = 0
) -> Iterator[tuple[int, NetConfig]]:
    """Iterates over the architectures of a split without repeats.

    Args:
      split: name of the split.
      num: how many to yield; the split's published size if None.
      image_size: 32 or 224.
      start: index to start from; earlier ones are not checked for repeats.
      seed: see `arch_at`.

    Yields:
      (index, network): later repeats of an architecture are left out, so indices may skip.
    """
    num = get_split(split).num_nets if num is None else num
    seen: set[int] = set()
    index = start
    while len(seen) < num:
        config = arch_at(split, index, image_size, seed)
        key = fingerprint(config)
        if key not in seen:
            seen.add(key)
            yield index, config
        index += 1


def fingerprint(config: NetConfig) -> int:
    """Hashes what makes an architecture, the same on every machine.

    Widths (C, fc_dim), the order of a step's two edges, and what a transformer ignores of the
    stem do not count.

    Args:
      config: the network.

    Returns:
      An integer of 64 bits.
    """
    genotype = config.genotype
    return _fingerprint(
        _ids(genotype.normal),
        _ids(genotype.reduce),
        genotype.normal_concat,
        genotype.reduce_concat,
        config.is_vit,
        (config.n_cells, config.C_mult, config.preproc, config.glob_avg, config.fc_layers),
        config.norm is not None,
        (config.ks, config.stem_type, config.stem_pool),
    )


def is_allowed(genotype: Genotype) -> bool:
    """Tells whether sampling takes such cells: see the rules of `_is_rejected`."""
    return not _is_rejected(_ids(genotype.normal), _ids(genotype.reduce))


def _ids(edges: Sequence[Edge]) -> _IdEdges:
    return [(_OP_IDS[op], state) for op, state in edges]


def _draw_base(draw: Draw, spec: Split) -> NetConfig:
    """Draws until a network of the split at the base width obeys all its rules."""
    first_part, last_part = spec.parts
    while True:
        candidate = _draw_candidate(draw, spec)
        if candidate is None:
            continue
        key, build = candidate
        if not first_part <= key % FINGERPRINT_PARTS < last_part:
            continue
        config = build()
        if any(count_params(config, 10, size) > spec.max_params for size in (32, 224)):
            continue
        if config.is_connected:
            return config


def _draw_candidate(draw: Draw, spec: Split) -> tuple[int, Callable[[], NetConfig]] | None:
    """One attempt: (fingerprint, function that builds the network), None if rejected."""
    cells = _between(draw, *spec.cells)
    threshold = spec.deep_from[int(draw() * len(spec.deep_from))]
    is_deep = cells > threshold
    steps = _between(draw, spec.min_steps, spec.max_steps_deep if is_deep else spec.max_steps)
    only_pool, drop_concat = draw() < 0.5, draw() < 0.5 and steps > 1
    normal, reduce, concat = _draw_cells(draw, steps, only_pool, steps > 1, drop_concat)
    if _is_rejected(normal, reduce):
        return None
    is_vit = any(op == _MSA for op, _ in normal + reduce)
    kernel = (3, 5, 7)[int(draw() * 3)]
    multiplier = _between(draw, 1, 2)
    preproc = steps > 1 or multiplier > 1
    if not preproc:
        rate = 0.2 if is_vit else (0.8 if spec.search_rules else 1.0)
        preproc = draw() < rate
    glob_avg = is_vit or is_deep or draw() < 0.9
    may_lack_norm = cells <= spec.cells[0] + 1 and steps <= spec.max_steps_deep
    has_norm = spec.norm == "always" or (
        spec.norm == "mixed" and not (may_lack_norm and draw() < 0.5)
    )
    stem_type = _between(draw, 0, 1)
    stem_pool = stem_type == 0 and draw() < 0.5
    layers = _between(draw, 1, 2)
    key = _fingerprint(
        normal,
        reduce,
        concat,
        concat,
        is_vit,
        (cells, multiplier, preproc, glob_avg, layers),
        has_norm,
        (kernel, stem_type, stem_pool),
    )

    def build() -> NetConfig:
        return NetConfig(
            genotype=_genotype(normal, reduce, concat),
            n_cells=cells,
            C=BASE_CHANNELS,
            C_mult=multiplier,
            ks=kernel,
            stem_type=stem_type,
            stem_pool=stem_pool,
            norm="bnorm" if has_norm else None,
            preproc=preproc,
            glob_avg=glob_avg,
            fc_layers=layers,
            fc_dim=256,
        )

    return key, build


def _is_rejected(normal: _IdEdges, reduce: _IdEdges) -> bool:
    """Rules on the operations: what trains badly, takes too much memory, or has no weights."""
    for edges in (normal, reduce):
        ops = [op for op, _ in edges]
        if ops.count(_CSE) > 1 or ops.count(_LARGE[0]) + ops.count(_LARGE[1]) > 1:
            return True
    used = {op for op, _ in normal + reduce}
    if not _CONVS.isdisjoint(used):
        return False
    return _CSE in used or _MSA not in used


def _draw_cells(
    draw: Draw, steps: int, only_pool: bool, allow_none: bool, drop_concat: bool
) -> tuple[_IdEdges, _IdEdges, tuple[int, ...]]:
    lowest = 0 if allow_none else 1
    normal = _draw_edges(draw, steps, lowest, len(CELL_OPS))
    reduce = _draw_edges(draw, steps, lowest, _POOLING_OPS if only_pool else len(CELL_OPS))
    last = steps + 1
    concat = tuple(
        state for state in range(2, last + 1) if state == last or not drop_concat or draw() < 0.5
    )
    return normal, reduce, concat


def _draw_edges(draw: Draw, steps: int, lowest: int, highest: int) -> _IdEdges:
    edges = []
    for states in range(2, steps + 2):
        first = int(draw() * states)
        second = int(draw() * (states - 1))
        second += second >= first
        edges += [(lowest + int(draw() * (highest - lowest)), state) for state in (first, second)]
    return edges


def _genotype(normal: _IdEdges, reduce: _IdEdges, concat: tuple[int, ...]) -> Genotype:
    def named(edges: _IdEdges) -> tuple[Edge, ...]:
        return tuple((CELL_OPS[op], state) for op, state in edges)

    return Genotype(named(normal), concat, named(reduce), concat)


def _fingerprint(
    normal, reduce, normal_concat, reduce_concat, is_vit, numbers, has_norm, stem
) -> int:
    words: list[int] = [len(normal), len(reduce), *numbers, has_norm, is_vit]
    words.extend((0, 0, 0) if is_vit else stem)
    for edges in (normal, reduce):
        for position in range(0, len(edges), 2):
            pair = [
                (op, 0 if op == _NONE else state) for op, state in edges[position : position + 2]
            ]
            (op_a, state_a), (op_b, state_b) = sorted(pair)
            words.extend((op_a, state_a, op_b, state_b))
    words.extend((*normal_concat, 255, *reduce_concat))
    return int.from_bytes(hashlib.blake2b(bytes(words), digest_size=8).digest(), "little")


def _between(draw: Draw, first: int, last: int) -> int:
    return first + int(draw() * (last - first + 1))


def _draws(rng: np.random.Generator) -> Draw:
    """Uniform numbers of a generator, fetched in blocks (one by one is 10 times slower)."""

    def blocks() -> Iterator[float]:
        while True:
            yield from rng.random(128).tolist()

    return blocks().__next__
