"""What is searched for: a supernet, objects, a loss and a score.

Legend: `n` objects, `C` classes.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from ppuda_jax.structure.family import Structure
from ppuda_jax.structure.supernet import Numbers, Supernet

Measure = Callable[[jax.Array, jax.Array], jax.Array]
"""(outputs [n, ...], targets [n]) -> mean over the objects, []."""


class Objects(NamedTuple):
    """Objects with their targets.

    Attributes:
      x: [n, ...].
      y: [n].
    """

    x: jax.Array
    y: jax.Array

    def take(self, indices: jax.Array) -> "Objects":
        """The objects at `indices`."""
        return Objects(self.x[indices], self.y[indices])


class Worth(NamedTuple):
    """What a network is worth on validation objects.

    Attributes:
      loss: mean, [].
      score: [].
    """

    loss: Any
    score: Any


@dataclasses.dataclass(frozen=True)
class Problem:
    """A search problem.

    Attributes:
      supernet: the networks.
      train: objects for weights.
      valid: objects for structures.
      loss: to be minimised: minus the mean log likelihood.
      score: to be maximised.
      batch_size: of validation objects where one network is evaluated: norms use the statistics of
        the batch. Objects that fill no batch are left out; None takes all at once.

    Raises:
      ValueError: no objects, another number of targets, or a batch of none.
    """

    supernet: Supernet
    train: Objects
    valid: Objects
    loss: Measure
    score: Measure
    batch_size: int | None = None

    def __post_init__(self) -> None:
        if self.batch_size is not None and self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, received {self.batch_size}")
        for name in ("train", "valid"):
            x, y = getattr(self, name)
            if len(x) < 1 or len(x) != len(y):
                raise ValueError(
                    f"{name} must be objects with one target each, received {len(x)} and {len(y)}"
                )

    def loss_of(self, weights: Any, structure: Structure, objects: Objects) -> jax.Array:
        """The loss of the mixture that a structure gives on objects, []."""
        return self.loss(self.supernet.apply(weights, structure, objects.x), objects.y)

    def loss_at(self, weights: Any, numbers: Numbers, objects: Objects) -> jax.Array:
        """The loss of the network of one function an edge, []."""
        return self.loss(self.supernet.run(weights, numbers, objects.x), objects.y)

    def evaluate(self, weights: Any, numbers: Numbers) -> Worth:
        """What the network of one function an edge is worth on validation objects."""
        count = len(self.valid.x)
        size = count if self.batch_size is None else min(self.batch_size, count)
        batches = jax.tree.map(
            lambda a: a[: count // size * size].reshape(-1, size, *a.shape[1:]), self.valid
        )

        def one(objects: Objects) -> Worth:
            outputs = self.supernet.run(weights, numbers, objects.x)
            return Worth(self.loss(outputs, objects.y), self.score(outputs, objects.y))

        return jax.tree.map(jnp.mean, jax.lax.map(one, batches))


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Mean cross-entropy of logits [n, C] and labels [n]."""
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, labels))


def accuracy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """The share of labels [n] that logits [n, C] get right."""
    return jnp.mean((jnp.argmax(logits, -1) == labels).astype(jnp.float32))


def classification(
    supernet: Supernet, train: Objects, valid: Objects, batch_size: int | None = None
) -> Problem:
    """A problem with cross-entropy and accuracy."""
    return Problem(supernet, train, valid, cross_entropy, accuracy, batch_size)


def regression(
    supernet: Supernet, train: Objects, valid: Objects, noise_std: float = 1.0
) -> Problem:
    """A problem with normal targets [n]; the score is minus the root of the mean squared error.

    Raises:
      ValueError: a deviation at or below zero.
    """
    if noise_std <= 0:
        raise ValueError(f"noise_std must be above zero, received {noise_std}")

    def loss(outputs: jax.Array, y: jax.Array) -> jax.Array:
        return 0.5 * jnp.mean(jnp.square(outputs - y)) / noise_std**2

    def score(outputs: jax.Array, y: jax.Array) -> jax.Array:
        return -jnp.sqrt(jnp.mean(jnp.square(outputs - y)))

    return Problem(supernet, train, valid, loss, score)
