"""What can be trained: a network as its objective, its score, and the arrays that tell it apart.

Networks of DeepNets-1M are data of the executor, so that all of a variant share one compiled step;
any other model is compiled by itself.

Legend: `B` images of a batch, `K` classes.
"""

import dataclasses
import functools
from collections.abc import Callable, Hashable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from ppuda_jax.evaluation.executor_runner import why_not_executor
from ppuda_jax.evaluation.networks import EvalNet
from ppuda_jax.evaluation.parameters import he_params
from ppuda_jax.evaluation.runners import UnfitError, count_hits
from ppuda_jax.executor import run
from ppuda_jax.executor.program import make_program
from ppuda_jax.executor.tables import CapacityError, pack_params
from ppuda_jax.ghn.loaded import LoadedGHN
from ppuda_jax.graphs.arch_graph import ArchGraph
from ppuda_jax.graphs.from_plan import graph_from_plan
from ppuda_jax.nets.network import Network
from ppuda_jax.prediction.block_classes import capacity_of
from ppuda_jax.prediction.meta_batch import build_meta_batch
from ppuda_jax.prediction.predict import predict_params
from ppuda_jax.prediction.tables import predict_tables
from ppuda_jax.programs import CachedFunction

Params = Any
"""Parameters in the form in which a network is trained: a pytree of arrays."""

Loss = Callable[..., tuple[jax.Array, tuple[jax.Array, Any]]]
"""(params, state, constants, images, labels, key, smoothing) -> loss [], (accuracy [], state)."""

Score = Callable[..., jax.Array]
"""(params, state, constants, images, labels, weights) -> sums, see `runners.count_hits`."""


@dataclasses.dataclass(frozen=True, eq=False)
class Trainable:
    """A network that can be trained.

    Attributes:
      name: of the network.
      key: networks with equal keys share compiled steps.
      loss: the objective; pure.
      score: hits and loss on a batch; pure.
      graph: its graph, for predictions; None if it has none.
      initial: random parameters by seed, as the network's own pytree.
      pack: the network's own pytree -> `Params`.
      predict: `Params` that a hypernetwork predicts.
      constants: arrays that tell it from other networks of the key.
      state: what it keeps besides its parameters at the start.
    """

    name: str
    key: Hashable
    loss: Loss
    score: Score
    graph: ArchGraph | None
    initial: Callable[[int], Any]
    pack: Callable[[Any], Params]
    predict: Callable[[LoadedGHN], Params]
    constants: Any = ()
    state: Any = ()


def in_executor(net: EvalNet, batch_size: int, memory_limit_gib: float = 4.0) -> Trainable:
    """A network of DeepNets-1M as data of the executor.

    Args:
      net: the network.
      batch_size: images of a step.
      memory_limit_gib: what training it may take.

    Raises:
      UnfitError: the executor cannot train it.
    """
    reason = why_not_executor(net, batch_size, memory_limit_gib * 2**30, training=True)
    if reason is not None or net.plan is None or net.variant is None:
        raise UnfitError(f"{net.name} cannot be trained in the executor: {reason}")
    plan, variant = net.plan, net.variant
    try:
        arrays = jax.tree.map(jnp.asarray, build_meta_batch([plan], variant))
    except CapacityError as error:
        raise UnfitError(f"{net.name} has no room in the executor: {error}") from error
    program = make_program(plan, variant)

    def loss(tables, state, programs, images, labels, key, smoothing):
        value, scores = run.mean_loss(variant, tables, programs, images, labels, key, smoothing)
        return value, (scores["accuracy"][0], state)

    def score(tables, state, programs, images, labels, weights):
        del state
        return count_hits(run.logits(variant, tables, programs, images)[0], labels, weights)

    def pack(params):
        tables = pack_params([program], [params], capacity_of(variant, 1))
        return jax.tree.map(jnp.asarray, tables)

    def predict(ghn: LoadedGHN):
        function = functools.partial(predict_tables, ghn.config, variant)
        tables = CachedFunction(function, (ghn.config, variant), "predictors of tables")
        norm = ghn.config.weight_norm
        return tables(ghn.theta, arrays if norm else build_meta_batch([plan], variant, norm))

    return Trainable(
        net.name,
        ("executor", variant),
        loss,
        score,
        graph_from_plan(plan),
        functools.partial(he_params, plan),
        pack,
        predict,
        arrays.programs,
    )


def by_itself(net: EvalNet, drop_path: float = 0.0, auxiliary: float = 0.0) -> Trainable:
    """A network of DeepNets-1M as its own Flax module.

    Args:
      net: the network.
      drop_path: probability to drop an edge of a cell.
      auxiliary: weight of the auxiliary classifier's loss.

    Raises:
      UnfitError: a hand-made model.
    """
    if net.plan is None:
        raise UnfitError(f"{net.name} is no network of DeepNets-1M: use `of_apply`")
    plan, module = net.plan, Network(net.plan, drop_path, auxiliary > 0)
    image = jnp.zeros((2, net.image_size, net.image_size, 3))

    def initial(seed: int) -> Any:
        params = he_params(plan, seed)
        if auxiliary:
            drawn = jax.jit(functools.partial(module.init, train=True))(
                {"params": jax.random.key(seed), "dropout": jax.random.key(0)}, image
            )
            params["auxiliary_head"] = drawn["params"]["auxiliary_head"]
        return params

    def train(variables, images, key):
        output = module.apply(variables, images, train=True, rngs={"dropout": key})
        return output, {}

    return of_apply(
        module.apply,
        initial,
        graph_from_plan(plan),
        name=net.name,
        key=(net.fingerprint, drop_path, auxiliary),
        train=train,
        auxiliary=auxiliary,
    )


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
      key: what decides the network; itself by default.
      train: `(variables, images, key) -> (logits, new state)` as it is trained; `apply_fn`, which
        changes no state, by default. With `auxiliary`, logits are a pair.
      state: collections of its variables besides "params", such as running statistics.
      auxiliary: weight of the second logits' loss.
    """

    def variables(params, state):
        return {"params": params, **dict(state)}

    def loss(params, state, constants, images, labels, key, smoothing):
        del constants
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
        hits = jnp.argmax(outputs[0], axis=-1) == labels
        return value, (jnp.mean(hits.astype(jnp.float32)), {**dict(state), **changed})

    def score(params, state, constants, images, labels, weights):
        del constants
        return count_hits(apply_fn(variables(params, state), images), labels, weights)

    def predict(ghn: LoadedGHN):
        if graph is None:
            raise ValueError(f"{name} was given without a graph, so nothing can be predicted")
        return predict_params(None, graph, ghn, "init", initial=initial(0))

    return Trainable(
        name,
        ("apply", apply_fn if key is None else key),
        loss,
        score,
        graph,
        initial,
        lambda params: jax.tree.map(jnp.asarray, params),
        predict,
        (),
        dict(state or {}),
    )
