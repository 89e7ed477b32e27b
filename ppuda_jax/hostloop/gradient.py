"""The meta-training objective and its gradient, network by network, side by side in threads.

Each network of a meta-batch is predicted, run forwards with its maps kept, and walked backwards:
every step has a pullback that recomputes inside the step alone. Gradients are added in the order of
the networks, whichever is done first, so that a step gives the same numbers every time.

Legend: `M` networks of a meta-batch, `B` images, `S` pixels of an image, `K` classes.
"""

import concurrent.futures
import functools
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

import jax
import jax.numpy as jnp
import optax

from ppuda_jax.hostloop.functions import Name, Source, StepFunctions
from ppuda_jax.hostloop.network import Network
from ppuda_jax.hostloop.pages import blocks_of
from ppuda_jax.hostloop.predictor import Pages, Predictor, Theta
from ppuda_jax.hostloop.run import Call, calls_of_leaves, calls_of_pages
from ppuda_jax.hostloop.steps import Step, StepKey

T = TypeVar("T")

Maps = tuple[jax.Array, ...]
Pull = Callable[[int, Maps, jax.Array], Maps]
"""(number of a step, its maps, cotangent of its output) -> cotangents of its maps."""


Score = Callable[[jax.Array], tuple[T, jax.Array]]
"""Logits [B, K] -> what is made of them, cotangent of the logits."""

Labelled = tuple[jax.Array, jax.Array]
"""Images [B, S, S, 3], normalised, in the dtype of the functions, and labels int32 [B]."""


class Scores(NamedTuple):
    """How one network does on a batch: float32 [] each."""

    loss: jax.Array
    accuracy: jax.Array


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
        return scores, self._predictor.pullback(theta, network, features, gradient)


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


def pages_gradient(
    functions: StepFunctions,
    network: Network,
    pages: Pages,
    images: jax.Array,
    key: jax.Array | None,
    score: Score[T],
) -> tuple[T, Pages]:
    """What is made of a network's logits, and the gradient of its pages.

    Args:
      functions: those of the network's steps.
      network: the network.
      pages: its parameters.
      images: [B, S, S, 3] normalised, in the dtype of the functions.
      key: PRNG key of dropout in two-layer heads (consumed); None for none.
      score: what is made of the logits, with their cotangent.
    """
    calls = calls_of_pages(functions, network.steps, network.places, pages)
    gradient = {block: [jnp.zeros_like(page) for page in group] for block, group in pages.items()}

    def pull(number: int, maps: Maps, g: jax.Array) -> Maps:
        call = calls[number]
        owners = list(zip(blocks_of(call.step.key), network.places[number].pages, strict=True))
        written, g_maps = functions.get("pullback", call.step.key)(
            tuple(gradient[block][page] for block, page in owners),
            *call.params,
            maps,
            _key_of(call.step, key),
            g,
        )
        for (block, page), rows in zip(owners, written, strict=True):
            gradient[block][page] = rows
        return g_maps

    scores = walk(calls, images, key, score, pull)
    return scores, {block: tuple(group) for block, group in gradient.items()}


def request_gradient(functions: StepFunctions, source: Source, steps: Sequence[Step]) -> None:
    """Starts to compile what a network's gradient needs and is not compiled yet."""
    keys = [step.key for step in steps]
    functions.request(source, keys)
    pullback: Name = "pullback" if source == "pages" else "leaf_pullback"
    functions.request(pullback, [key for key in reversed(keys) if not _is_plain_sum(key)])


def leaf_gradient(
    functions: StepFunctions,
    steps: Sequence[Step],
    leaves: Sequence[jax.Array],
    images: jax.Array,
    labels: jax.Array,
    key: jax.Array | None,
    smoothing: jax.Array | float = 0.0,
) -> tuple[Scores, list[jax.Array]]:
    """Scores of a network, and the gradient of its loss in its parameters.

    Args:
      functions: those of the network's steps.
      steps: the network.
      leaves: its parameters, in the order of `plan.params`.
      images: [B, S, S, 3] normalised, in the dtype of the functions.
      labels: int32 [B].
      key: PRNG key of dropout in two-layer heads (consumed); None for none.
      smoothing: label smoothing.
    """
    calls = calls_of_leaves(functions, steps, leaves)
    gradient: dict[int, jax.Array] = {}

    def pull(number: int, maps: Maps, g: jax.Array) -> Maps:
        call = calls[number]
        pullback = functions.get("leaf_pullback", call.step.key)
        g_leaves, g_maps = pullback(*call.params, maps, _key_of(call.step, key), g)
        gradient.update(zip(call.step.params, g_leaves, strict=True))
        return g_maps

    scores = walk(calls, images, key, score_labels(labels, smoothing, 1.0), pull)
    return scores, [gradient[number] for number in range(len(leaves))]


def score_labels(
    labels: jax.Array, smoothing: jax.Array | float, share: jax.Array | float
) -> Score[Scores]:
    """Scores logits by labels; the cotangent is that of `share` times the cross-entropy."""
    return lambda logits: _score(logits, labels, smoothing, share)


def walk(
    calls: Sequence[Call],
    images: jax.Array,
    key: jax.Array | None,
    score: Score[T],
    pull: Pull,
) -> T:
    """Runs a network forwards with its maps kept, and backwards through `pull`."""
    values: dict[int, jax.Array] = {0: images}
    for call in calls:
        maps = tuple(values[value] for value in call.step.inputs)
        values[call.step.output] = call.function(*call.params, maps, _key_of(call.step, key))
    output = calls[-1].step.output
    scores, g_logits = score(values[output])
    cotangents = {output: g_logits}
    for number in reversed(range(len(calls))):
        step = calls[number].step
        g = cotangents.pop(step.output)
        del values[step.output]
        if _is_plain_sum(step.key):
            g_maps: Maps = (g,) * len(step.inputs)
        else:
            g_maps = pull(number, tuple(values[value] for value in step.inputs), g)
        if not step.key.from_image:
            for value, g_map in zip(step.inputs, g_maps, strict=True):
                known = cotangents.get(value)
                cotangents[value] = g_map if known is None else _add(known, g_map)
    return scores


def _is_plain_sum(key: StepKey) -> bool:
    """Whether a step passes its cotangent on as it is."""
    return key.kind == "sum" and all(len(slots) == 1 for slots in key.slots)


def _key_of(step: Step, key: jax.Array | None) -> jax.Array | None:
    return key if step.key.kind == "dense" and step.key.relu else None


@jax.jit
def _score(
    logits: jax.Array, labels: jax.Array, smoothing: jax.Array, share: jax.Array
) -> tuple[Scores, jax.Array]:
    def mean_loss(logits: jax.Array) -> jax.Array:
        targets = optax.smooth_labels(jax.nn.one_hot(labels, logits.shape[-1]), smoothing)
        return jnp.mean(optax.softmax_cross_entropy(logits, targets))

    loss, pull = jax.vjp(mean_loss, logits)
    accuracy = jnp.mean((jnp.argmax(logits, axis=-1) == labels).astype(jnp.float32))
    return Scores(loss, accuracy), pull(share.astype(loss.dtype))[0]


_add = jax.jit(jnp.add)
_add_trees = jax.jit(functools.partial(jax.tree.map, jnp.add), donate_argnums=0)
