"""The proxies by name, and which of them one program gives together."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import jax

from ppuda_jax.proxies import gradients, internals, jacobian
from ppuda_jax.proxies.base import ApplyFn, Batch, Roles

Scores = Callable[[ApplyFn, Any, Batch, Roles | None], Mapping[str, jax.Array]]
"""(network, parameters, batch, roles of the parameters) -> proxies, [] each."""


@dataclasses.dataclass(frozen=True)
class Program:
    """Proxies that are computed together.

    Attributes:
      names: of the proxies.
      scores: computes them.
      batches: images that it sees, in batches of the others.
    """

    names: tuple[str, ...]
    scores: Scores
    batches: int = 1


def _alone(name: str, function: Callable[..., jax.Array], batches: int = 1) -> Program:
    def scores(apply_fn: ApplyFn, params: Any, batch: Batch, roles: Roles | None) -> Any:
        return {name: function(apply_fn, params, batch, roles=roles)}

    return Program((name,), scores, batches)


def _gradient(apply_fn: ApplyFn, params: Any, batch: Batch, roles: Roles | None) -> Any:
    return gradients.gradient_scores(apply_fn, params, batch, roles=roles)


PROGRAMS: Mapping[str, Program] = MappingProxyType(
    {
        "gradient": Program(("grad_norm", "plain", "snip"), _gradient),
        "grasp": _alone("grasp", gradients.grasp),
        "fisher": _alone("fisher", internals.fisher),
        "synflow": _alone("synflow", internals.synflow),
        "jacob_cov": _alone("jacob_cov", jacobian.jacob_cov),
        "naswot": _alone("naswot", internals.naswot, batches=2),  # published: 128 images, not 64
        "l2_norm": _alone("l2_norm", gradients.l2_norm),
    }
)
"""Proxies at random parameters; they differ from seed to seed."""

RANDOM = tuple(name for program in PROGRAMS.values() for name in program.names)
"""Proxies that look at a network with random parameters."""
STATIC = ("params", "flops")
"""Numbers that a network has without any parameters: the baselines."""
PREDICTED = ("predicted_accuracy", "predicted_margin", "predicted_loss")
"""What a network is worth with predicted parameters."""
TRAINED = ("tuned_accuracy", "tuned_margin", "tuned_loss")
"""The same after some steps of training from the prediction."""
PROXIES = (*RANDOM, *STATIC, *PREDICTED, *TRAINED)
"""All proxies."""


def check_names(names: Sequence[str], known: Sequence[str] = PROXIES) -> None:
    """Raises ValueError for no proxies, or for proxies that do not exist."""
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        raise ValueError(
            f"proxies must be of {', '.join(known)}, received {', '.join(unknown or names) or None}"
        )


def programs_of(names: Sequence[str]) -> dict[str, Program]:
    """The programs that give proxies at random parameters, by name."""
    return {key: p for key, p in PROGRAMS.items() if set(p.names) & set(names)}
