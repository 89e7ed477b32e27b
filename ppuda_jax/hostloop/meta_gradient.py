"""The meta-training objective and its gradient, network by network, side by side in threads.

Each network of a meta-batch is predicted and has its own objective, whose gradient in the predicted
parameters goes back to theta. Gradients are added in the order of the networks, whichever
is done first, so that a step gives the same numbers every time.

Legend: `M` networks of a meta-batch, `B` images, `S` pixels of an image.
"""

import concurrent.futures
import functools
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from ppuda_jax.hostloop.functions import StepFunctions
from ppuda_jax.hostloop.gradient import Labelled, pages_gradient, request_gradient, score_labels
from ppuda_jax.hostloop.network import Network
from ppuda_jax.hostloop.predictor import Pages, Predictor, Theta
from ppuda_jax.runtime.memory import return_freed_memory

_MOST_FREED = 1 << 30  # bytes kept between networks; the maps of one take up to about as many


class PagesObjective(Protocol):
    """An objective of one network, as a function of its parameters in pages."""

    def request(self, networks: Sequence[Network]) -> None:
        """Starts to compile what these networks need and is not compiled yet."""

    def close(self) -> None:
        """Compiles nothing more."""

    def __call__(
        self,
        network: Network,
        pages: Pages,
        images: jax.Array,
        labels: jax.Array,
        key: jax.Array | None,
        smoothing: jax.Array,
        share: jax.Array,
        further: Sequence[Labelled],
    ) -> tuple[Mapping[str, jax.Array], Pages]:
        """Scores float32 [], `loss` and `accuracy` among them, and the gradient of the pages.

        Args:
          network: the network.
          pages: its parameters.
          images: [B, S, S, 3] normalised.
          labels: int32 [B].
          key: of the dropout, or None for none.
          smoothing: of the labels.
          share: the gradient is that of the loss times this number.
          further: other batches, for objectives that look further.
        """


class MetaGradient:
    """Losses and gradients of meta-batches, for any networks."""

    def __init__(
        self,
        predictor: Predictor,
        functions: StepFunctions,
        networks_at_once: int,
        objective: PagesObjective | None = None,
    ) -> None:
        """Prepares; compiles nothing.

        Args:
          predictor: the hypernetwork's functions.
          functions: those of the networks' steps.
          networks_at_once: networks that run side by side; each keeps its maps in memory.
          objective: of each network, cross-entropy by default (paper, Eq. 1).
        """
        self._predictor, self._functions = predictor, functions
        self._objective = CrossEntropy(functions) if objective is None else objective
        self._pool = concurrent.futures.ThreadPoolExecutor(networks_at_once, "network")
        self._rehearsals = concurrent.futures.ThreadPoolExecutor(1, "rehearse")
        self._rehearsed: dict[Hashable, concurrent.futures.Future[None]] = {}

    def request(self, theta: Theta, networks: Sequence[Network]) -> None:
        """Starts to compile what these networks need and is not compiled yet.

        Args:
          theta: arrays like those of the hypernetwork's parameters.
          networks: any number.
        """
        for network in networks:
            self._rehearse(theta, network)
        for network in networks:
            request_gradient(self._functions, "pages", network.steps)
        self._objective.request(networks)

    def _rehearse(self, theta: Theta, network: Network) -> "concurrent.futures.Future[None]":
        """Compiles the hypernetwork's own functions for networks of this size, in the background.

        They take the longest, so that they come first.
        """
        size = network.size
        if size not in self._rehearsed:
            self._rehearsed[size] = self._rehearsals.submit(
                self._predictor.rehearse, theta, network, bool(jax.config.read("jax_enable_x64"))
            )
        return self._rehearsed[size]

    def wait(self, show: Callable[[int, int], None]) -> None:
        """Returns when everything that was requested is compiled; see `StepFunctions.wait`."""
        self._functions.wait(show, tuple(self._rehearsed.values()))

    def close(self) -> None:
        """Ends the threads; runs and compiles nothing more."""
        for pool in (self._pool, self._rehearsals):
            pool.shutdown(wait=False, cancel_futures=True)
        self._functions.close()
        self._objective.close()

    def __call__(
        self,
        theta: Theta,
        networks: Sequence[Network],
        images: jax.Array,
        labels: jax.Array,
        key: jax.Array | None,
        label_smoothing: float = 0.0,
        further: Sequence[Labelled] = (),
    ) -> tuple[jax.Array, dict[str, jax.Array], dict[str, Any]]:
        """Mean loss of predicted networks (paper, Eq. 1) and its gradient.

        Args:
          theta: parameters of the hypernetwork.
          networks: M networks.
          images: [B, S, S, 3] normalised, in the dtype of the functions.
          labels: int32 [B].
          key: PRNG key of dropout in two-layer heads (consumed); None for none.
          label_smoothing: as in `executor.run.mean_loss`.
          further: other batches, for objectives that look further.

        Returns:
          The loss float32 [], the objective's scores per network [M] (`loss` and `accuracy` at
          least), and the gradient of theta.
        """
        self.request(theta, networks)
        smoothing = jnp.float32(label_smoothing)
        share = jnp.float32(1 / len(networks))
        jobs = [
            self._pool.submit(
                self._one,
                theta,
                network,
                images,
                labels,
                None if key is None else jax.random.fold_in(key, number),
                smoothing,
                share,
                further,
            )
            for number, network in enumerate(networks)
        ]
        score, total = jobs[0].result()
        scores = [score]
        for job in jobs[1:]:
            score, gradient = job.result()
            scores.append(score)
            total = _add_trees(total, gradient)
        stacked = {name: jnp.stack([each[name] for each in scores]) for name in scores[0]}
        return jnp.mean(stacked["loss"]), stacked, total

    def _one(
        self,
        theta: Theta,
        network: Network,
        images: jax.Array,
        labels: jax.Array,
        key: jax.Array | None,
        smoothing: jax.Array,
        share: jax.Array,
        further: Sequence[Labelled],
    ) -> tuple[Mapping[str, jax.Array], dict[str, Any]]:
        """Scores of one network, and the gradient of `share` times its loss."""
        self._rehearse(theta, network).result()
        features = self._predictor.features(theta, network)
        pages = self._predictor.decode(theta, network, features)
        scores, gradient = self._objective(
            network, pages, images, labels, key, smoothing, share, further
        )
        pulled = self._predictor.pullback(theta, network, features, gradient)
        del pages, gradient
        return_freed_memory(above=_MOST_FREED)
        return scores, pulled


class CrossEntropy:
    """The published objective; satisfies `PagesObjective`."""

    def __init__(self, functions: StepFunctions) -> None:
        """Of networks with these functions."""
        self._functions = functions

    def request(self, networks: Sequence[Network]) -> None:
        """See `PagesObjective`; whoever runs networks compiles their gradients."""

    def close(self) -> None:
        """See `PagesObjective`."""

    def __call__(
        self,
        network: Network,
        pages: Pages,
        images: jax.Array,
        labels: jax.Array,
        key: jax.Array | None,
        smoothing: jax.Array,
        share: jax.Array,
        further: Sequence[Labelled],
    ) -> tuple[Mapping[str, jax.Array], Pages]:
        """See `PagesObjective`."""
        del further
        score = score_labels(labels, smoothing, share)
        scores, gradient = pages_gradient(self._functions, network, pages, images, key, score)
        return scores._asdict(), gradient


_add_trees = jax.jit(functools.partial(jax.tree.map, jnp.add), donate_argnums=0)
