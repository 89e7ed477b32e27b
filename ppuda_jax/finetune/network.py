"""What can be trained: a network as the gradient of its objective, and its score.

Any JAX model is one (`of_apply`); for those of splits see `deepnets`.

Legend: `B` images of a batch, `K` classes.
"""

import dataclasses
from collections.abc import Callable, Hashable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from ppuda_jax.evaluation.runners import count_hits
from ppuda_jax.ghn.loaded import LoadedGHN
from ppuda_jax.graphs.arch_graph import ArchGraph
from ppuda_jax.prediction.predict import predict_params
from ppuda_jax.programs import CachedFunction
from ppuda_jax.tracing.params import param_tree

Params = Any
"""Parameters in the form in which a network is trained: a pytree of arrays."""

Gradient = Callable[..., tuple[jax.Array, Params, Any]]
"""(params, state, images, labels, key, smoothing) -> loss [], its gradient, new state."""

Score = Callable[..., jax.Array]
"""(params, state, images, labels, weights) -> sums, see `runners.count_hits`."""


@dataclasses.dataclass(frozen=True, eq=False)
class Traced:
    """A gradient that JAX can trace, so that a whole step of training is one program.

    Attributes:
      gradient: `(data, params, state, images, labels, key, smoothing)`, as `Gradient`.
      data: arrays by which networks that share its programs differ; pytree.
      key: what decides the function.
    """

    gradient: Callable[..., tuple[jax.Array, Params, Any]]
    data: Any
    key: Hashable

    def compiled(self) -> Gradient:
        """The gradient alone, as a program of its own."""
        cached = CachedFunction(self.gradient, self.key, "gradients of networks")
        return lambda *batch: cached(self.data, *batch)


@dataclasses.dataclass(frozen=True, eq=False)
class Trainable:
    """A network that can be trained.

    Attributes:
      name: of the network.
      gradient: loss and gradient on a batch.
      score: hits and loss on a batch.
      logits: `(params, state, images) -> [B, K]`, as it is evaluated.
      graph: its graph, for predictions; None if it has none.
      initial: random parameters by seed, as the network's own pytree.
      pack: the network's own pytree -> `Params`.
      unpack: its inverse.
      predict: `Params` that a hypernetwork predicts; with the network's own pytree as a second
        argument, the classifier is taken from there (paper, section 5.3).
      state: what it keeps besides its parameters at the start.
      traced: the gradient once more, if JAX can trace it; None if the host drives the network.
    """

    name: str
    gradient: Gradient
    score: Score
    logits: Callable[..., jax.Array]
    graph: ArchGraph | None
    initial: Callable[[int], Any]
    pack: Callable[[Any], Params]
    unpack: Callable[[Params], Any]
    predict: Callable[..., Params]
    state: Any = ()
    traced: Traced | None = None


def of_apply(
    apply_fn: Callable[..., Any],
    initial: Callable[[int], Any],
    graph: ArchGraph | None = None,
    *,
    name: str = "network",
    key: Hashable = None,
    train: Callable[..., tuple[Any, Any]] | None = None,
    state: Mapping[str, Any] | None = None,
    auxiliary: float = 0.0,
) -> Trainable:
    """Any JAX model.

    Args:
      apply_fn: `(variables, images) -> logits [B, K]`, as the network is evaluated.
      initial: random parameters by seed.
      graph: its graph, without which nothing can be predicted.
      name: of the network.
      key: what decides the network and its training; `apply_fn`, `train` and `auxiliary` by
        default.
      train: `(variables, images, key) -> (logits, new state)` as it is trained; `apply_fn`, which
        changes no state, by default. With `auxiliary`, logits are a pair.
      state: collections of its variables besides "params", such as running statistics.
      auxiliary: weight of the second logits' loss.
    """

    def variables(params, state):
        return {"params": params, **dict(state)}

    def loss(params, state, images, labels, key, smoothing):
        changed: Mapping[str, Any] = {}
        if train is None:
            logits = apply_fn(variables(params, state), images)
        else:
            logits, changed = train(variables(params, state), images, key)
        outputs = logits if isinstance(logits, tuple) else (logits,)
        targets = jax.nn.one_hot(labels, outputs[0].shape[-1])
        targets = optax.smooth_labels(targets, smoothing)
        losses = [jnp.mean(optax.softmax_cross_entropy(out, targets)) for out in outputs]
        value = losses[0] + auxiliary * losses[1] if auxiliary else losses[0]
        return value, {**dict(state), **changed}

    def logits(params, state, images):
        return apply_fn(variables(params, state), images)

    def score(params, state, images, labels, weights):
        return count_hits(logits(params, state, images), labels, weights)

    key = (apply_fn, train, auxiliary) if key is None else key

    def gradient(data, *batch):
        del data
        (value, state), slope = jax.value_and_grad(loss, has_aux=True)(*batch)
        return value, slope, state

    traced = Traced(gradient, (), key)

    def predict(ghn: LoadedGHN, own: Any = None):
        if graph is None:
            raise ValueError(f"{name} was given without a graph, so nothing can be predicted")
        params = predict_params(None, graph, ghn, "init", initial=initial(0))
        return params if own is None else with_classifier(params, own, graph)

    return Trainable(
        name,
        traced.compiled(),
        CachedFunction(score, key, "scores of networks"),
        CachedFunction(logits, key, "logits of networks"),
        graph,
        initial,
        lambda params: jax.tree.map(jnp.asarray, params),
        lambda params: params,
        predict,
        dict(state or {}),
        traced,
    )


def classifier_paths(graph: ArchGraph) -> tuple[tuple[str, ...], ...]:
    """Paths of the leaves that the classifier is made of."""
    return tuple(binding.path for binding in graph.bindings if binding.is_classifier)


def with_classifier(params: Any, own: Any, graph: ArchGraph) -> Any:
    """Parameters with the classifier of others of the same network."""
    tree, leaves = param_tree(params)
    _, others = param_tree(own)
    classifier = set(classifier_paths(graph))
    return tree.unflatten(
        {
            path: other if path in classifier else leaf
            for path, leaf, other in zip(tree.paths, leaves, others, strict=True)
        }
    )
