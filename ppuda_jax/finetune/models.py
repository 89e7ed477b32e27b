"""Any Flax module, or JAX function with variables, as what can be trained.

Legend: `s` image side.
"""

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from ppuda_jax.calibration import calibrate
from ppuda_jax.finetune.network import Params, Trainable, of_apply
from ppuda_jax.tracing.api import trace_graph

_STATISTICS = "batch_stats"
_SWITCHES = {
    "train": True,
    "training": True,
    "is_training": True,
    "deterministic": False,
    "use_running_average": False,
}
"""Arguments by which Flax modules are told that they are trained, and their values then."""


def of_module(module: nn.Module, image_size: int, name: str = "network") -> Trainable:
    """A Flax module.

    It is trained with the argument that switches training on, if it has one (`train`, `training`,
    `is_training`, `deterministic` or `use_running_average`), the rng "dropout", and its other
    collections mutable; it is evaluated with training switched off, so by running statistics if it
    keeps some.

    Args:
      module: `module.apply(variables, images)` gives logits.
      image_size: s.
      name: of the network.
    """
    training = _switches(module)
    evaluating: dict[str, Any] = {switch: not value for switch, value in training.items()}
    image = jnp.zeros((2, image_size, image_size, 3))

    def init(key: jax.Array) -> Any:
        param_key, dropout_key = jax.random.split(key)
        return module.init({"params": param_key, "dropout": dropout_key}, image, **training)

    init = jax.jit(init)
    shapes = jax.eval_shape(init, jax.random.key(0))
    kept = tuple(collection for collection in shapes if collection != "params")
    drawn = init(jax.random.key(0)) if kept else {}
    state = {collection: drawn[collection] for collection in kept}
    apply_fn = functools.partial(module.apply, **evaluating)

    def train(variables: Any, images: jax.Array, key: jax.Array) -> tuple[Any, Any]:
        return module.apply(
            variables, images, rngs={"dropout": key}, mutable=list(kept), **training
        )

    return of_apply(
        apply_fn,
        lambda seed: init(jax.random.key(seed))["params"],
        trace_graph(apply_fn, shapes, image),
        name=name,
        train=train,
        state=state,
    )


def of_variables(
    apply_fn: Callable[..., Any], variables: Any, images: Any, name: str = "network"
) -> Trainable:
    """A function of variables and images, of any library.

    It has no other random parameters than those that are given.

    Args:
      apply_fn: `(variables, images) -> logits`, in training and evaluation alike.
      variables: a pytree of arrays, or a mapping of collections with "params" among them.
      images: an array or description of a batch.
      name: of the network.

    Raises:
      ValueError: variables that are only described: training needs their values.
    """
    described = [x for x in jax.tree.leaves(variables) if isinstance(x, jax.ShapeDtypeStruct)]
    if described:
        raise ValueError(
            f"{name} was given with {len(described)} variables that are only described (such as "
            f"{described[0]}): training needs arrays, so initialise it"
        )
    graph = trace_graph(apply_fn, variables, images)
    if isinstance(variables, Mapping) and "params" in variables:
        state = {collection: v for collection, v in variables.items() if collection != "params"}
        return of_apply(apply_fn, lambda seed: variables["params"], graph, name=name, state=state)
    return of_apply(
        lambda wrapped, batch: apply_fn(wrapped["params"], batch),
        lambda seed: variables,
        graph,
        name=name,
        key=apply_fn,
    )


def with_statistics(
    network: Trainable, module: nn.Module, params: Params, batches: Iterable[jax.Array]
) -> Any:
    """State of a module with the batch statistics that its parameters have on some images.

    Running statistics start at zero and one, which fit no parameters but the random ones; those of
    a prediction are measured before it is evaluated.

    Args:
      network: of `of_module`.
      module: the module.
      params: where training starts.
      batches: float [b, s, s, 3], normalised.

    Returns:
      `network.state` where the module keeps no statistics.
    """
    if _STATISTICS not in network.state:
        return network.state
    variables = {"params": params, **network.state}
    rngs = {"dropout": jax.random.key(0)}
    variables = calibrate(module.apply, variables, batches, rngs=rngs, **_switches(module))
    return {name: variables[name] for name in network.state}


def _switches(module: nn.Module) -> dict[str, Any]:
    """Arguments that tell a module that it is trained."""
    known = inspect.signature(type(module).__call__).parameters
    return {switch: value for switch, value in _SWITCHES.items() if switch in known}
