"""The splits of DeepNets-1M: one row each, with the published ranges and limits.

Paper, section 3.3 and appendix A.2; what the paper leaves open is as in the reference's
generator. Two things differ on purpose, because the reference's generator gives train, test and
wide the same networks: every split has its own seed, and every split owns a part of the space
of architectures (by fingerprint), so that splits are disjoint however many are drawn.
"""

import dataclasses
from types import MappingProxyType
from typing import Literal

FINGERPRINT_PARTS = 16
"""The space of architectures is cut into this many parts by fingerprint."""


@dataclasses.dataclass(frozen=True)
class Split:
    """The rules of one split.

    Attributes:
      name: its name in files and flags.
      seed: first word of the seed of every architecture.
      parts: the parts of the space it owns, [first, last).
      num_nets: its published size.
      cells: smallest and largest number of cells.
      deep_from: a network with more cells than one of these (drawn at random) counts as deep.
      min_steps: smallest number of steps per cell.
      max_steps: largest number of steps in a network that is not deep.
      max_steps_deep: the same in a deep one, and the limit for networks without norm.
      max_params: largest number of parameters at C = 32, at both image sizes.
      norm: 'mixed' (half of the small networks have none), 'always' or 'never'.
      search_rules: the rarer preprocessing of the split for architecture search.
      width: 'training' draws the width, 'evaluation' takes what gives 2.5 M parameters.
      width_factor: factor on the evaluation width at 32 and at 224 pixels.
    """

    name: str
    seed: int
    parts: tuple[int, int]
    num_nets: int
    cells: tuple[int, int] = (4, 18)
    deep_from: tuple[int, ...] = (7, 8, 9, 10)
    min_steps: int = 1
    max_steps: int = 4
    max_steps_deep: int = 2
    max_params: int = 10**7
    norm: Literal["mixed", "always", "never"] = "mixed"
    search_rules: bool = False
    width: Literal["training", "evaluation"] = "evaluation"
    width_factor: tuple[int, int] = (1, 1)


SPLITS = MappingProxyType(
    {
        split.name: split
        for split in (
            Split("train", seed=1001, parts=(0, 8), num_nets=1_000_000, width="training"),
            Split("val", seed=1002, parts=(8, 9), num_nets=500),
            Split("test", seed=1003, parts=(9, 10), num_nets=500),
            Split("wide", seed=1004, parts=(10, 11), num_nets=100, width_factor=(4, 2)),
            Split(
                "deep",
                seed=1005,
                parts=(11, 12),
                num_nets=100,
                cells=(10, 36),
                deep_from=(18,),
                max_params=10**8,
            ),
            Split(
                "dense",
                seed=1006,
                parts=(12, 13),
                num_nets=100,
                min_steps=2,
                max_steps=10,
                max_steps_deep=6,
                max_params=10**8,
            ),
            Split("bnfree", seed=1007, parts=(13, 14), num_nets=100, norm="never"),
            Split(
                "search",
                seed=1008,
                parts=(14, 16),
                num_nets=100_000,
                cells=(6, 20),
                deep_from=(10,),
                max_steps=6,
                max_steps_deep=3,
                norm="always",
                search_rules=True,
            ),
        )
    }
)
"""Every split that can be sampled, by name ('predefined' networks are constants)."""


def get_split(name: str) -> Split:
    """Looks up a split.

    Args:
      name: one of `SPLITS`.

    Returns:
      The rules of the split.

    Raises:
      ValueError: for an unknown name.
    """
    if name not in SPLITS:
        raise ValueError(f"split must be one of {tuple(SPLITS)}, received {name!r}.")
    return SPLITS[name]
