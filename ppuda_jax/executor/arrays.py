"""The arrays of a meta-batch: its parameters as rows, its programs as numbers.

Legend: `M` networks of a meta-batch, `C` channels, `K` classes, `I, O` inputs and outputs of
matrices, `T` and `V` rows of matrices and vectors.
"""

import dataclasses
from collections.abc import Mapping

import jax

from ppuda_jax.executor.columns import Array, HeadCode, StemCode


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Tables:
    """Parameters of a meta-batch of programs, as rows.

    Attributes:
      mats: table -> float32 [T, I, O].
      vecs: table -> float32 [V, O].
      stem: float32 [M, k, k, 3, S]: first convolution; k = 7 (smaller kernels fill the top left
        corner), or the patch size of a ViT; S = slots of the stem times C (C for a ViT).
      positions: float32 [M, H, H, C]: positional encoding of a ViT, [M, 0] without.
      hidden: float32 [M, F, D] and hidden_bias [M, D]: first dense layer of two, F features.
      classifier: float32 [M, max(F, D), K] and classifier_bias [M, K].
    """

    mats: Mapping[str, Array]
    vecs: Mapping[str, Array]
    stem: Array
    positions: Array
    hidden: Array
    hidden_bias: Array
    classifier: Array
    classifier_bias: Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Programs:
    """A meta-batch of programs with absolute row numbers, padded to the groups' caps.

    Attributes:
      forward: group -> int32 [M, cap, 7], the columns of `Instruction` side by side.
      forward_count: group -> int32 [M].
      backward: group -> int32 [M, cap', 7].
      backward_count: group -> int32 [M].
      stem: int32 [M] each.
      head: int32 [M] each.
      norm: float32 [M], 1 where a network has norms.
      registers: file -> int32 [M], registers in use.
    """

    forward: Mapping[str, Array]
    forward_count: Mapping[str, Array]
    backward: Mapping[str, Array]
    backward_count: Mapping[str, Array]
    stem: StemCode
    head: HeadCode
    norm: Array
    registers: Mapping[str, Array]
