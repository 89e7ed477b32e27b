"""AdaNet's candidates from the family of perceptrons: as deep as the last member, or deeper."""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from ppuda_jax.structure.search.adanet import Builder, Member, Subnetwork
from ppuda_jax.structure.search.problem import Objects
from ppuda_jax.structure.search.training import Trainer
from ppuda_jax.structure.supernet import Supernet


@dataclasses.dataclass(frozen=True)
class Perceptron:
    """A candidate: so many layers of one width.

    Attributes:
      supernet: of `mlp`.
      depth: layers that are not the identity.
      number: of the function that they use.
      train: trains it on the search's objects.
    """

    supernet: Supernet
    depth: int
    number: int
    train: Trainer

    @property
    def name(self) -> str:
        """Depth and function."""
        return f"{self.depth}x{self.supernet.names[0, 1][self.number]}"

    def build(self, key: jax.Array, train: Objects) -> Member:
        """Trains the candidate; its trainer knows the objects."""
        del train
        supernet = self.supernet
        choice = {edge: self.number if edge[0] < self.depth else 0 for edge in supernet.names}
        seed = int(jax.random.randint(key, (), 0, 2**31 - 1))
        stacked = self.train((seed,), {edge: jnp.asarray([n]) for edge, n in choice.items()})
        weights = jax.tree.map(lambda leaf: leaf[0], stacked)
        structure = supernet.vertex(choice)

        def predict(x: jax.Array) -> Subnetwork:
            logits = supernet.apply(weights, structure, x)
            # The mixture weighs logits; the tutorial's complexity is the root of the depth.
            return Subnetwork(logits, logits, self.depth**0.5)

        return Member(self.name, predict, int(supernet.size(structure)))


@dataclasses.dataclass(frozen=True)
class SameOrDeeper:
    """The tutorial's generator of dense networks.

    Attributes:
      supernet: of `mlp`.
      number: of the function of all layers.
      train: trains candidates.
    """

    supernet: Supernet
    number: int
    train: Trainer

    def generate_candidates(
        self, previous_ensemble: Sequence[Member], iteration: int
    ) -> Sequence[Builder]:
        """As deep as the last member and one deeper, as far as the family goes."""
        del iteration
        depths = range(1, len(self.supernet.names) + 1)
        every = [Perceptron(self.supernet, d, self.number, self.train) for d in depths]
        names = [candidate.name for candidate in every]
        first = names.index(previous_ensemble[-1].name) if previous_ensemble else 0
        return every[first : first + 2]
