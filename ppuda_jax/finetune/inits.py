"""Where training starts: random, orthogonal, predicted, predicted and transformed, or warmed up."""

from collections.abc import Callable, Mapping
from typing import Any

import jax

from ppuda_jax.data.batches import TrainingImages
from ppuda_jax.evaluation.images import EvalImages
from ppuda_jax.finetune import postprocess as rule
from ppuda_jax.finetune.fit import fit
from ppuda_jax.finetune.network import Params, Trainable, with_classifier
from ppuda_jax.finetune.recipe import Recipe
from ppuda_jax.ghn.loaded import LoadedGHN
from ppuda_jax.graphs.arch_graph import ArchGraph
from ppuda_jax.prediction.predict import predict_params
from ppuda_jax.prediction.random import he_leaves
from ppuda_jax.tracing.params import param_tree

Init = Callable[[Trainable, int], Params]
"""(network, seed) -> parameters in the form in which the network is trained."""


def random() -> Init:
    """The network's own random parameters."""
    return lambda network, seed: network.pack(network.initial(seed))


def he() -> Init:
    """He's normal kernels, unit norms and zero biases; other leaves are the network's own."""

    def draw(network: Trainable, seed: int) -> Params:
        tree, given = param_tree(network.initial(seed))
        drawn = he_leaves(_graph_of(network), seed)
        leaves = zip(tree.paths, given, strict=True)
        return network.pack(tree.unflatten({path: drawn.get(path, leaf) for path, leaf in leaves}))

    return draw


def orthogonal() -> Init:
    """Random parameters whose kernels are orthogonal, the classifier's apart."""

    def draw(network: Trainable, seed: int) -> Params:
        params = network.initial(seed)
        return network.pack(_transformed(network, params, seed, beta=0.0, orthogonal=True))

    return draw


def predicted(ghn: LoadedGHN, classifier: bool = True) -> Init:
    """What a hypernetwork predicts.

    Args:
      ghn: the hypernetwork.
      classifier: predict the last layer too; otherwise it is random, as published for images that
        the hypernetwork was not trained on (paper, section 5.3).
    """
    if classifier:
        return lambda network, seed: network.predict(ghn)
    return lambda network, seed: network.predict(ghn, network.initial(seed))


def postprocessed(ghn: LoadedGHN, classifier: bool = True, **options: Any) -> Init:
    """What a hypernetwork predicts, with noise and orthogonal layers.

    Args:
      ghn: the hypernetwork.
      classifier: see `predicted`.
      **options: of `postprocess.postprocess`.
    """

    def predict(network: Trainable, seed: int) -> Params:
        graph, own = _graph_of(network), network.initial(seed)
        params = predict_params(None, graph, ghn, "init", initial=own)
        params = params if classifier else with_classifier(params, own, graph)
        return network.pack(_transformed(network, params, seed, **options))

    return predict


def given(variables: Any, where: str = "the parameters") -> Init:
    """Parameters that exist already.

    Args:
      variables: the network's pytree, in the containers of any library, or a mapping with it as
        "params".
      where: named in errors.
    """
    wrapped = isinstance(variables, Mapping) and "params" in variables
    tree, leaves = param_tree(variables["params"] if wrapped else variables)
    found = dict(zip(tree.paths, leaves, strict=True))

    def take(network: Trainable, seed: int) -> Params:
        own, _ = param_tree(network.initial(seed))
        wrong = [
            f"{'/'.join(path)} {shape}, "
            + (f"there {tuple(found[path].shape)}" if path in found else "missing there")
            for path, shape in zip(own.paths, own.shapes, strict=True)
            if path not in found or tuple(found[path].shape) != tuple(shape)
        ]
        wrong += [f"{'/'.join(path)}, not of the network" for path in set(found) - set(own.paths)]
        if wrong:
            raise ValueError(
                f"{where} are not those of {network.name}; {len(wrong)} leaves differ: "
                f"{'; '.join(sorted(wrong))}"
            )
        return network.pack(own.unflatten(found))

    return take


def warm(
    steps: int,
    images: TrainingImages,
    held_out: EvalImages,
    recipe: Recipe,
    init: Init | None = None,
) -> Init:
    """Parameters after some steps of training: the control at the cost of a prediction.

    Args:
      steps: updates.
      images: training images.
      held_out: images of the curve that is thrown away.
      recipe: how it is trained.
      init: where it starts, `random()` by default.
    """
    start = init or random()

    def train(network: Trainable, seed: int) -> Params:
        curve = fit(network, start(network, seed), images, held_out, recipe, steps=steps, seed=seed)
        return curve.params

    return train


def _transformed(network: Trainable, params: Any, seed: int, **options: Any) -> Any:
    return rule.postprocess(params, _graph_of(network), jax.random.key(seed), **options)


def _graph_of(network: Trainable) -> ArchGraph:
    if network.graph is None:
        raise ValueError(f"{network.name} was given without a graph, by which layers are found")
    return network.graph
