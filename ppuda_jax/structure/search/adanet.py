"""AdaNet (Cortes et al. 2017): an ensemble that grows by the subnetwork that lowers its objective.

    F(w) = loss(sum_j w_j h_j(x), y) + sum_j (adanet_lambda r(h_j) + adanet_beta) |w_j|_1

In every iteration a generator proposes candidates, each is built (trained, or its weights are
predicted), mixture weights of the ensemble with it are learnt, and the candidate of the smallest F
stays, frozen. The search ends when F does not fall.

Legend: `n` objects, `C` outputs, `D` units of the last layer, `M` members.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import optax

from ppuda_jax.structure.search.method import update
from ppuda_jax.structure.search.problem import Measure, Objects

MixtureWeightType = Literal["scalar", "vector", "matrix"]
"""A weight per subnetwork, per class, or a matrix of its last layer."""
MIXTURE_WEIGHT_TYPES: tuple[MixtureWeightType, ...] = ("scalar", "vector", "matrix")
"""All kinds of mixture weights."""


class Subnetwork(NamedTuple):
    """What a subnetwork gives for some objects.

    Attributes:
      last_layer: its last hidden units, [n, D].
      logits: its outputs, [n, C].
      complexity: r, at or above 0.
    """

    last_layer: jax.Array
    logits: jax.Array
    complexity: float


Predict = Callable[[jax.Array], Subnetwork]
"""Inputs -> what a subnetwork makes of them."""


@dataclasses.dataclass(frozen=True)
class Member:
    """A frozen subnetwork of an ensemble.

    Attributes:
      name: of its builder.
      predict: [n, ...] -> `Subnetwork`.
      parameters: how many it has.
    """

    name: str
    predict: Predict
    parameters: int


class Builder(Protocol):
    """A candidate before it is built."""

    @property
    def name(self) -> str:
        """What reports call it."""
        ...

    def build(self, key: jax.Array, train: Objects) -> Member:
        """Trains the candidate, or predicts its weights; consumes `key`."""
        ...


class Generator(Protocol):
    """Proposes candidates."""

    def generate_candidates(
        self, previous_ensemble: Sequence[Member], iteration: int
    ) -> Sequence[Builder]:
        """The candidates of an iteration, given the members so far."""
        ...


Mixture = tuple[jax.Array, ...]
"""Mixture weights of the members: [], [C] or [D, C] each."""


class Fit(NamedTuple):
    """Mixture weights and their objective F."""

    mixture: Mixture
    objective: float


@dataclasses.dataclass(frozen=True)
class ComplexityRegularizedEnsembler:
    """Learns mixture weights with a penalty on the complexity of members.

    Attributes:
      adanet_lambda: of the complexities.
      adanet_beta: of all weights alike.
      mixture_weight_type: one weight of a member, one per output, or a matrix on its last layer.
      warm_start_mixture_weights: begins with the weights of the ensemble so far.
      steps: of Adam, whose rate falls to zero.
      rate: at its start.

    Raises:
      ValueError: a negative coefficient, an unknown type, or no steps.
    """

    adanet_lambda: float = 0.0
    adanet_beta: float = 0.0
    mixture_weight_type: MixtureWeightType = "scalar"
    warm_start_mixture_weights: bool = False
    steps: int = 300
    rate: float = 0.05

    def __post_init__(self) -> None:
        for name in ("adanet_lambda", "adanet_beta"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, received {getattr(self, name)}")
        if self.mixture_weight_type not in MIXTURE_WEIGHT_TYPES:
            raise ValueError(
                f"mixture_weight_type must be one of {MIXTURE_WEIGHT_TYPES}, received "
                f"{self.mixture_weight_type!r}"
            )
        if self.steps < 1:
            raise ValueError(f"steps must be at least 1, received {self.steps}")

    def combine(self, mixture: Mixture, subnetworks: Sequence[Subnetwork]) -> jax.Array:
        """The outputs of an ensemble, [n, C]."""
        parts = [self._part(w, h) for w, h in zip(mixture, subnetworks, strict=True)]
        return sum(parts[1:], start=parts[0])

    def penalty(self, mixture: Mixture, subnetworks: Sequence[Subnetwork]) -> jax.Array:
        """The complexity's part of F, []."""
        parts = [
            (self.adanet_lambda * h.complexity + self.adanet_beta) * jnp.sum(jnp.abs(w))
            for w, h in zip(mixture, subnetworks, strict=True)
        ]
        return sum(parts, start=jnp.zeros(()))

    def fit(
        self,
        subnetworks: Sequence[Subnetwork],
        targets: jax.Array,
        loss: Measure,
        previous: Mixture = (),
    ) -> Fit:
        """Minimises F over the mixture weights.

        Args:
          subnetworks: of the ensemble, those of `previous` first.
          targets: [n].
          loss: mean over objects.
          previous: weights to begin with under `warm_start_mixture_weights`.

        Raises:
          ValueError: no subnetworks.
        """
        if not subnetworks:
            raise ValueError("an ensemble needs at least one subnetwork")
        kept = previous if self.warm_start_mixture_weights else ()
        start = tuple(
            kept[i] if i < len(kept) else self._start(h, len(subnetworks))
            for i, h in enumerate(subnetworks)
        )
        mixture, value = _descend(self, loss, start, tuple(subnetworks), targets)
        return Fit(mixture, float(value))

    def _start(self, subnetwork: Subnetwork, members: int) -> jax.Array:
        outputs, units = subnetwork.logits.shape[-1], subnetwork.last_layer.shape[-1]
        if self.mixture_weight_type == "matrix":
            return jnp.zeros((units, outputs))
        return jnp.full((outputs,) if self.mixture_weight_type == "vector" else (), 1 / members)

    def _part(self, weight: jax.Array, subnetwork: Subnetwork) -> jax.Array:
        if self.mixture_weight_type == "matrix":
            return subnetwork.last_layer @ weight
        return subnetwork.logits * jnp.broadcast_to(weight, subnetwork.logits.shape)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _descend(
    ensembler: ComplexityRegularizedEnsembler,
    loss: Measure,
    start: Mixture,
    subnetworks: tuple[Subnetwork, ...],
    targets: jax.Array,
) -> tuple[Mixture, jax.Array]:
    """Adam on F; ensembles of as many members share the program."""

    def objective(mixture: Mixture) -> jax.Array:
        outputs = ensembler.combine(mixture, subnetworks)
        return loss(outputs, targets) + ensembler.penalty(mixture, subnetworks)

    optimizer = optax.adam(optax.cosine_decay_schedule(ensembler.rate, ensembler.steps))

    def step(carry: tuple, _: None) -> tuple[tuple, None]:
        mixture, state = carry
        return update(optimizer, jax.grad(objective)(mixture), state, mixture), None

    (mixture, _), _ = jax.lax.scan(step, (start, optimizer.init(start)), length=ensembler.steps)
    return mixture, objective(mixture)


@dataclasses.dataclass(frozen=True)
class Iteration:
    """What an iteration tried.

    Attributes:
      objectives: F with each candidate, by its name.
      chosen: the candidate that stays; None if F did not fall.
    """

    objectives: dict[str, float]
    chosen: str | None


@dataclasses.dataclass(frozen=True)
class AdaNetResult:
    """A grown ensemble.

    Attributes:
      members: frozen subnetworks, in the order of their iterations.
      mixture: their weights.
      objective: F.
      iterations: what was tried.
      ensembler: combines them.
    """

    members: tuple[Member, ...]
    mixture: Mixture
    objective: float
    iterations: tuple[Iteration, ...]
    ensembler: ComplexityRegularizedEnsembler

    def predict(self, x: jax.Array) -> jax.Array:
        """Outputs of the ensemble, [n, ...] -> [n, C]."""
        return self.ensembler.combine(self.mixture, [member.predict(x) for member in self.members])

    @property
    def parameters(self) -> int:
        """Parameters of all members and mixture weights."""
        return sum(m.parameters for m in self.members) + sum(w.size for w in self.mixture)


def adanet(
    generator: Generator,
    ensembler: ComplexityRegularizedEnsembler,
    train: Objects,
    loss: Measure,
    key: jax.Array,
    *,
    iterations: int,
    min_decrease: float = 1e-3,
) -> AdaNetResult:
    """Grows an ensemble.

    Args:
      generator: of candidates.
      ensembler: learns mixture weights.
      train: objects.
      loss: mean over objects.
      key: PRNG key (consumed).
      iterations: at most.
      min_decrease: by which F must fall, relative to itself, for a candidate to stay: the mixture
        weights are fitted by descent, not exactly.

    Raises:
      ValueError: no iterations, or an iteration without candidates.
    """
    if iterations < 1:
        raise ValueError(f"iterations must be at least 1, received {iterations}")
    members: tuple[Member, ...] = ()
    fit = Fit((), float("inf"))
    tried = []
    outputs: list[Subnetwork] = []  # of the members
    for iteration in range(iterations):
        builders = generator.generate_candidates(members, iteration)
        if not builders:
            raise ValueError(f"the generator gave no candidates in iteration {iteration}")
        found = []
        for builder in builders:
            key, own = jax.random.split(key)
            member = builder.build(own, train)
            own_output = member.predict(train.x)
            candidate = ensembler.fit([*outputs, own_output], train.y, loss, fit.mixture)
            found.append((member, own_output, candidate))
        best, best_output, best_fit = min(found, key=lambda each: each[-1].objective)
        better = best_fit.objective < fit.objective * (1 - min_decrease)
        objectives = {member.name: candidate.objective for member, _, candidate in found}
        tried.append(Iteration(objectives, best.name if better else None))
        if not better:
            break
        members, fit = (*members, best), best_fit
        outputs.append(best_output)
    return AdaNetResult(members, fit.mixture, fit.objective, tuple(tried), ensembler)
