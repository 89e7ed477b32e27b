"""Where training starts: random, orthogonal, predicted, predicted and transformed, or warmed up."""

from collections.abc import Callable
from typing import Any

import jax

from ppuda_jax.data.batches import TrainingImages
from ppuda_jax.evaluation.images import EvalImages
from ppuda_jax.finetune import postprocess as rule
from ppuda_jax.finetune.fit import fit
from ppuda_jax.finetune.network import Params, Trainable, with_classifier
from ppuda_jax.finetune.recipe import Recipe
from ppuda_jax.ghn.loaded import LoadedGHN
from ppuda_jax.prediction.predict import predict_params

Init = Callable[[Trainable, int], Params]
"""(network, seed) -> parameters in the form in which the network is trained."""


def he() -> Init:
    """The network's own random parameters: He's, for networks of DeepNets-1M."""
    return lambda network, seed: network.pack(network.initial(seed))


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
        if network.graph is None:
            raise ValueError(f"{network.name} was given without a graph: nothing can be predicted")
        own = network.initial(seed)
        params = predict_params(None, network.graph, ghn, "init", initial=own)
        params = params if classifier else with_classifier(params, own, network.graph)
        return network.pack(_transformed(network, params, seed, **options))

    return predict


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
      init: where it starts, `he()` by default.
    """
    start = init or he()

    def train(network: Trainable, seed: int) -> Params:
        curve = fit(network, start(network, seed), images, held_out, recipe, steps=steps, seed=seed)
        return curve.params

    return train


def _transformed(network: Trainable, params: Any, seed: int, **options: Any) -> Any:
    if network.graph is None:
        raise ValueError(f"{network.name} was given without a graph, by which layers are found")
    return rule.postprocess(params, network.graph, jax.random.key(seed), **options)
