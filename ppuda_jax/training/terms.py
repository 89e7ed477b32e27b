"""Which terms the objective has besides the task, with their weights.

With H(a; theta) the parameters predicted for architecture a, w*(a) those of a trained network, and
U_k k steps of SGD from H:

* `task`: cross-entropy of the predicted network (paper, Eq. 1);
* `distill`: T^2 KL(softmax(f(x; w*) / T) || softmax(f(x; H) / T));
* `regress`: mean over tensors of ||H_p - P w*_p||^2 / ||w*_p||^2, with the channels of w* permuted
  to come close to H;
* `regress_unaligned`: the same without a permutation;
* `reptile`: mean cross-entropy along k steps of SGD from H, with the gradient (H - U_k(H)) / (k
  rate) (Nichol et al. 2018, first order): parameters that training improves quickly;
* `norm`: sum of the Frobenius norms of the tensors (GHN-3 adds it with a weight of 3e-5).

Every one is a gradient in H, or in the logits of H, and they go back to theta in one pullback.
"""

import dataclasses
import math
from collections.abc import Sequence

TERMS = ("task", "distill", "regress", "regress_unaligned", "reptile", "norm")
"""Names of terms."""

_TAUGHT = frozenset({"distill", "regress", "regress_unaligned"})
_OF_ARCHITECTURES = frozenset({"regress", "regress_unaligned"})


@dataclasses.dataclass(frozen=True)
class Terms:
    """Weights of the terms; zero for those that the objective does not have."""

    task: float = 1.0
    distill: float = 0.0
    regress: float = 0.0
    regress_unaligned: float = 0.0
    reptile: float = 0.0
    norm: float = 0.0

    @property
    def names(self) -> tuple[str, ...]:
        """Terms that the objective has, in the order of `TERMS`."""
        return tuple(name for name in TERMS if getattr(self, name))

    @property
    def plain(self) -> bool:
        """Whether the objective is the task alone, as published."""
        return self == Terms()

    @property
    def taught(self) -> tuple[str, ...]:
        """Terms that need trained networks."""
        return tuple(name for name in self.names if name in _TAUGHT)

    @property
    def of_architectures(self) -> tuple[str, ...]:
        """Terms that need trained networks of the same architectures."""
        return tuple(name for name in self.names if name in _OF_ARCHITECTURES)


def parse_terms(texts: Sequence[str]) -> Terms:
    """Reads terms with their weights.

    Args:
      texts: such as ("distill:1", "regress:0.1"); the weight of the task is 1 if it is not given.

    Raises:
      ValueError: an unknown term, one that is given twice, a weight that is no number or negative,
        or an objective without terms.
    """
    weights: dict[str, float] = {}
    for text in texts:
        name, _, number = text.partition(":")
        name = name.strip()
        if name not in TERMS:
            raise ValueError(f"teacher_terms are {', '.join(TERMS)}, received {name!r}")
        if name in weights:
            raise ValueError(f"teacher_terms must name each term once, received {name} twice")
        try:
            weight = float(number)
        except ValueError:
            raise ValueError(
                f"teacher_terms are written name:weight, such as {name}:1, received {text!r}"
            ) from None
        if not (math.isfinite(weight) and weight >= 0):
            raise ValueError(
                f"weights of teacher_terms must be finite and not negative, received {text!r}"
            )
        weights[name] = weight
    terms = Terms(**weights)
    if not terms.names:
        raise ValueError("the objective needs a term with a weight above zero, all are zero")
    return terms
