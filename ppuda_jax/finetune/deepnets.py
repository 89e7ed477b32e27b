"""The networks of splits as what can be trained.

Those of DeepNets-1M are driven from the host, or data of the executor (`in_executor`), so that
nothing is compiled for one of them.
"""

import functools
from typing import Any, Literal

import jax
import jax.numpy as jnp

from ppuda_jax.evaluation.networks import EvalNet
from ppuda_jax.evaluation.parameters import he_params, initial_params
from ppuda_jax.evaluation.runners import UnfitError, count_hits
from ppuda_jax.finetune.in_executor import Rooms, in_executor
from ppuda_jax.finetune.network import Trainable, classifier_paths, of_apply
from ppuda_jax.finetune.recipe import Recipe
from ppuda_jax.ghn.loaded import LoadedGHN
from ppuda_jax.graphs.from_plan import graph_from_plan
from ppuda_jax.hostloop.functions import Batch, StepFunctions
from ppuda_jax.hostloop.gradient import leaf_gradient, request_gradient
from ppuda_jax.hostloop.leaves import leaves_of_pages
from ppuda_jax.hostloop.network import make_network
from ppuda_jax.hostloop.predictor import predictor_of
from ppuda_jax.hostloop.run import calls_of_leaves
from ppuda_jax.hostloop.run import run as host_run
from ppuda_jax.hostloop.steps import steps_of
from ppuda_jax.nets.network import Network
from ppuda_jax.nets.zoo import build_model
from ppuda_jax.runtime.processors import processors
from ppuda_jax.tracing.api import trace_graph


def on_host(net: EvalNet, batch_size: int) -> Trainable:
    """A network of DeepNets-1M that is driven from the host; for one CPU device.

    Its parameters are a list in the order of `plan.params`.

    Args:
      net: the network.
      batch_size: images of a step.

    Raises:
      UnfitError: a hand-made model.
    """
    if net.plan is None:
        raise UnfitError(f"{net.name} is no network of DeepNets-1M")
    plan, steps, graph = net.plan, steps_of(net.plan), graph_from_plan(net.plan)
    functions = _host_functions(batch_size, dropout=True)
    request_gradient(functions, "leaves", steps)

    def gradient(leaves, state, images, labels, key, smoothing):
        scores, gradient = leaf_gradient(functions, steps, leaves, images, labels, key, smoothing)
        return scores.loss, gradient, state

    def logits(leaves, state, images):
        del state
        calls = calls_of_leaves(_host_functions(len(images), dropout=False), steps, leaves)
        return host_run(calls, images)

    def score(leaves, state, images, labels, weights):
        return _count_hits(logits(leaves, state, images), labels, weights)

    def pack(params):
        return [jnp.asarray(leaf) for leaf in plan.in_order(params)]

    def predict(ghn: LoadedGHN, own: Any = None):
        network = make_network(plan, ghn.config)
        pages = predictor_of(ghn.config).predict(ghn.theta, network)
        leaves = [jnp.asarray(leaf) for leaf in leaves_of_pages(network, pages)]
        if own is None:
            return leaves
        classifier = set(classifier_paths(graph))
        triples = zip(plan.params, pack(own), leaves, strict=True)
        return [mine if spec.path in classifier else leaf for spec, mine, leaf in triples]

    return Trainable(
        net.name,
        gradient,
        score,
        logits,
        graph,
        functools.partial(he_params, plan),
        pack,
        plan.as_tree,
        predict,
    )


@functools.lru_cache(maxsize=4)
def _host_functions(batch_size: int, dropout: bool) -> StepFunctions:
    """The functions of all networks that see batches of one size."""
    return StepFunctions(Batch(batch_size, dropout=dropout), processors())


_count_hits = jax.jit(count_hits)


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


def best_way(
    net: EvalNet,
    recipe: Recipe,
    driver: Literal["auto", "host", "executor"] = "auto",
    memory_limit_gib: float = 4.0,
    rooms: Rooms | None = None,
) -> Trainable:
    """A network for a recipe, on the devices that there are.

    By itself if it is a hand-made model, or where the recipe drops edges or has an auxiliary
    classifier. Otherwise as data of the executor or driven from the host, and by itself what the
    executor has no room for.

    Args:
      net: the network.
      recipe: how it is trained.
      driver: "auto" drives it from the host on one CPU device, where compiling executors takes
        longest, and takes the executor elsewhere.
      memory_limit_gib: what training in the executor may take.
      rooms: of the networks that are going to share programs there, see `in_executor.rooms_of`.
    """
    if net.plan is None:
        return hand_made(net)
    if recipe.drop_path or recipe.auxiliary:
        return by_itself(net, recipe.drop_path, recipe.auxiliary)
    devices = jax.devices()
    one_cpu = len(devices) == 1 and devices[0].platform == "cpu"
    if driver == "host" or (driver == "auto" and one_cpu):
        return on_host(net, recipe.batch_size)
    try:
        return in_executor(net, recipe.batch_size, memory_limit_gib, rooms)
    except UnfitError:
        return by_itself(net)


def hand_made(net: EvalNet) -> Trainable:
    """A model of the zoo that a split names, normalised by the statistics of each batch.

    Raises:
      UnfitError: a network of DeepNets-1M.
    """
    if net.model is None:
        raise UnfitError(f"{net.name} is a network of DeepNets-1M: use `best_way`")
    module = build_model(net.model, net.num_classes, net.image_size)
    image = jax.ShapeDtypeStruct((2, net.image_size, net.image_size, 3), jnp.float32)
    shapes = jax.eval_shape(module.init, jax.random.key(0), image)["params"]
    graph = trace_graph(module.apply, {"params": shapes}, image)
    initial = functools.partial(initial_params, net)
    return of_apply(module.apply, initial, graph, name=net.name, key=net.fingerprint)
