"""Which networks are evaluated: of a split, of a file of DeepNets-1M, or the predefined two.

Legend: `K` classes.
"""

import collections
import dataclasses
import functools
import os
from collections.abc import Iterator, Sequence

from ppuda_jax.archs.fingerprint import fingerprint
from ppuda_jax.archs.genotypes import VIT_CONFIG, NetConfig
from ppuda_jax.archs.hdf5 import load_split, meta_path_of
from ppuda_jax.archs.meta_json import MetaFile
from ppuda_jax.archs.plan import Plan, make_plan
from ppuda_jax.archs.sampling import arch_at, split_archs
from ppuda_jax.archs.splits import SPLITS
from ppuda_jax.executor.layout import Variant
from ppuda_jax.executor.variants import find_variant

PREDEFINED = "predefined"
"""Name of the split of the zoo's ResNet-50 and ViT."""
SPLIT_NAMES: tuple[str, ...] = (*SPLITS, PREDEFINED)
"""What `choose_networks` takes beside a file."""

_PREDEFINED_MODELS = ("resnet50", "vit")
_SURVEYED, _SURVEYED_PER_NETWORK = 100, 8  # candidates at least, and per network


@dataclasses.dataclass(frozen=True)
class EvalNet:
    """A network to evaluate.

    Attributes:
      split: name of its split.
      index: its number there.
      config: its record; None for a hand-made model.
      model: name of a hand-made model of `nets.zoo`; None for a record.
      num_classes: K.
      image_size: pixels per side.
    """

    split: str
    index: int
    config: NetConfig | None
    model: str | None = None
    num_classes: int = 10
    image_size: int = 32

    @property
    def key(self) -> tuple[str, int, str]:
        """That of its result, see `results.NetResult`."""
        return self.split, self.index, self.fingerprint

    @property
    def name(self) -> str:
        """Name in tables and files."""
        predefined = self.split == PREDEFINED
        return _PREDEFINED_MODELS[self.index] if predefined else f"{self.split}-{self.index}"

    @functools.cached_property
    def fingerprint(self) -> str:
        """Differs for different networks, also where they have the same name."""
        record = self.model if self.config is None else self.config
        return fingerprint(record, self.num_classes, self.image_size)

    @functools.cached_property
    def plan(self) -> Plan | None:
        """Its plan; None for a hand-made model."""
        if self.config is None:
            return None
        return make_plan(self.config, self.num_classes, self.image_size)

    @functools.cached_property
    def variant(self) -> Variant | None:
        """The executor variant that runs it; None if there is none."""
        return None if self.plan is None else find_variant(self.plan)


def choose_networks(
    split: str,
    num: int | None = None,
    *,
    indices: Sequence[int] | None = None,
    num_classes: int = 10,
    image_size: int = 32,
    channels: int | None = None,
    max_variants: int | None = None,
) -> tuple[EvalNet, ...]:
    """Chooses networks of a split, without repeats.

    Args:
      split: one of `SPLIT_NAMES`, or a DeepNets-1M file `path.hdf5`, `path.hdf5:split`.
      num: how many; the whole split if None.
      indices: which ones, instead of `num`.
      num_classes: K.
      image_size: 32 or 224.
      channels: width of all networks; their own if None.
      max_variants: take only networks of so many executor variants, those that the split has
        most of; so a quick evaluation compiles little.

    Returns:
      The networks in order of their indices.

    Raises:
      ValueError: an unknown split, an index that it does not have, more networks than it has (of
        so few variants), or a width for hand-made models.
      FileNotFoundError: no such file.
    """
    if num is not None and indices is not None:
        raise ValueError("give num or indices, not both")
    if num is not None and num < 1:
        raise ValueError(f"num must be at least 1, received {num}")
    if max_variants is not None and max_variants < 1:
        raise ValueError(f"max_variants must be at least 1, received {max_variants}")
    size, wanted = _size_of(split), None if indices is None else tuple(indices)
    bad = [i for i in wanted or () if not 0 <= i < size]
    if bad:
        raise ValueError(f"split {split!r} has networks 0..{size - 1}, received {bad}")
    if num is not None and num > size:
        raise ValueError(f"split {split!r} has {size} networks, received num={num}")
    take = size if num is None else num
    make = functools.partial(EvalNet, num_classes=num_classes, image_size=image_size)
    if max_variants is None:
        found = _configs(split, wanted, take, image_size)
    else:
        surveyed = max(_SURVEYED, _SURVEYED_PER_NETWORK * take)
        found = _configs(split, wanted, min(size, surveyed), image_size)
    nets = tuple(make(*entry) for entry in found)
    if channels is not None:
        nets = tuple(_widened(net, channels) for net in nets)
    return nets if max_variants is None else _of_few_variants(nets, max_variants, num)


def _widened(net: EvalNet, channels: int) -> EvalNet:
    """The network with another width."""
    if net.config is None:
        raise ValueError(
            f"{net.name} is a hand-made model: its width cannot be chosen, leave channels at none"
        )
    return dataclasses.replace(net, config=dataclasses.replace(net.config, C=channels))


def _of_few_variants(nets: tuple[EvalNet, ...], limit: int, num: int | None) -> tuple[EvalNet, ...]:
    """The networks of the `limit` most frequent variants, the first `num` of them."""
    counts = collections.Counter(net.variant for net in nets if net.variant is not None)
    kept = {variant for variant, _ in counts.most_common(limit)}
    found = tuple(net for net in nets if net.variant in kept)
    if num is not None and len(found) < num:
        raise ValueError(
            f"of the first {len(nets)} networks of the split {nets[0].split!r}, {len(found)} have "
            f"one of its {limit} most frequent variants, received num={num}: ask for fewer, or "
            "allow more variants (max_variants)"
        )
    return found[:num]


def _size_of(split: str) -> int:
    if split == PREDEFINED:
        return len(_PREDEFINED_MODELS)
    if split in SPLITS:
        return SPLITS[split].num_nets
    return len(load_split(*_file_and_split(split)))


def _configs(
    split: str, indices: tuple[int, ...] | None, take: int, image_size: int
) -> Iterator[tuple[str, int, NetConfig | None, str | None]]:
    """Yields the first fields of `EvalNet`."""
    chosen = range(take) if indices is None else indices
    if split == PREDEFINED:
        for i in chosen:
            model = _PREDEFINED_MODELS[i]
            yield (split, i, VIT_CONFIG, None) if model == "vit" else (split, i, None, model)
    elif split in SPLITS and indices is None:
        for i, config in split_archs(split, take, image_size):
            yield split, i, config, None
    elif split in SPLITS:
        for i in chosen:
            yield split, i, arch_at(split, i, image_size), None
    else:
        path, name = _file_and_split(split)
        records = load_split(path, name, image_size)
        for i in chosen:
            yield name, i, records[i].config, None


def _file_and_split(text: str) -> tuple[str, str]:
    """Reads `path.hdf5` or `path.hdf5:split`."""
    path, _, name = text.partition(".hdf5")
    if path == text:
        raise ValueError(
            f"split must be one of {', '.join(SPLIT_NAMES)}, or a file path.hdf5[:split], "
            f"received {text!r}"
        )
    path, name = f"{path}.hdf5", name.lstrip(":")
    if not os.path.exists(meta_path_of(path)):
        raise FileNotFoundError(f"{path} must lie beside {meta_path_of(path)}, which is missing")
    known = tuple(MetaFile(meta_path_of(path)).splits)
    if not name and len(known) == 1:
        name = known[0]
    if name not in known:
        raise ValueError(
            f"{path} has the splits {', '.join(known)}, received {name or 'none'!r}: write "
            f"{path}:{known[0]}"
        )
    return path, name
