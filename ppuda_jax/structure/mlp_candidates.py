"""AdaNet's candidates from the family of perceptrons: as deep as the last member, or deeper."""

import dataclasses
from collections.abc import Sequence

import jax

from ppuda_jax.structure.search.adanet import Builder, Member, Subnetwork
from ppuda_jax.structure.search.problem import Objects
from ppuda_jax.structure.supernet import Supernet
from ppuda_jax.structure.weights import Source, as_numbers


@dataclasses.dataclass(frozen=True)
class Perceptron:
    """A candidate: so many layers of one width.

    Attributes:
      supernet: of `mlp`.
      depth: layers that are not the identity.
      number: of the function that they use.
      source: of its weights.
    """

    supernet: Supernet
    depth: int
    number: int
    source: Source

    @property
    def name(self) -> str:
        """Depth and function."""
        return f"{self.depth}x{self.supernet.names[0, 1][self.number]}"

    def build(self, key: jax.Array, train: Objects) -> Member:
        """Gives the candidate weights from its source, which knows the objects."""
        del train
        supernet = self.supernet
        choice = {edge: self.number if edge[0] < self.depth else 0 for edge in supernet.names}
        seed = int(jax.random.randint(key, (), 0, 2**31 - 1))
        weights = self.source.of(choice, seed)
        numbers = as_numbers(choice)

        def predict(x: jax.Array) -> Subnetwork:
            logits = supernet.run(weights, numbers, x)
            # The mixture weighs logits; the tutorial's complexity is the root of the depth.
            return Subnetwork(logits, logits, self.depth**0.5)

        return Member(self.name, predict, int(supernet.size(supernet.vertex(choice))))


@dataclasses.dataclass(frozen=True)
class SameOrDeeper:
    """The tutorial's generator of dense networks.

    Attributes:
      supernet: of `mlp`.
      number: of the function of all layers.
      source: of the weights of candidates.
    """

    supernet: Supernet
    number: int
    source: Source

    def generate_candidates(
        self, previous_ensemble: Sequence[Member], iteration: int
    ) -> Sequence[Builder]:
        """As deep as the last member and one deeper, as far as the family goes."""
        del iteration
        depths = range(1, len(self.supernet.names) + 1)
        every = [Perceptron(self.supernet, d, self.number, self.source) for d in depths]
        names = [candidate.name for candidate in every]
        first = names.index(previous_ensemble[-1].name) if previous_ensemble else 0
        return every[first : first + 2]
