"""Proxies of networks of DeepNets-1M, and of the hand-made models of its splits.

Most go through what drives networks without compiling one of them (`finetune.deepnets`,
`driven`). Fisher and GraSP, and the proxies of hand-made models, need the network as a function of
its own; they are computed only where that is asked for.

Legend: `B` images of a batch.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ppuda_jax.archs.plan import Plan
from ppuda_jax.data.batches import TrainingImages
from ppuda_jax.evaluation.images import EvalImages
from ppuda_jax.evaluation.networks import EvalNet
from ppuda_jax.finetune.deepnets import best_way
from ppuda_jax.finetune.fit import fit
from ppuda_jax.finetune.network import Trainable
from ppuda_jax.finetune.recipe import Recipe
from ppuda_jax.ghn.loaded import LoadedGHN
from ppuda_jax.nets.context import OpContext
from ppuda_jax.nets.network import Network
from ppuda_jax.nets.zoo import build_model
from ppuda_jax.programs import CachedFunction
from ppuda_jax.proxies import costs, gradients, predicted, registry
from ppuda_jax.proxies.base import ApplyFn, Batch, Path, UnsupportedError
from ppuda_jax.proxies.driven import DRIVEN
from ppuda_jax.proxies.results import Scored, Scorings
from ppuda_jax.proxies.weights import Kernels, roles_of
from ppuda_jax.types import Role

SHARED = ("grad_norm", "plain", "snip", "l2_norm", *DRIVEN, *registry.STATIC)
"""Proxies for which nothing is compiled per network, besides those of predicted parameters."""
_GRADIENT = registry.PROGRAMS["gradient"].names


@dataclasses.dataclass(frozen=True)
class Tuning:
    """Steps of training from the prediction.

    Attributes:
      images: training images, in batches of the recipe's size.
      recipe: how.
      steps: updates.
    """

    images: TrainingImages
    recipe: Recipe
    steps: int


@dataclasses.dataclass(frozen=True)
class Predictions:
    """Where predicted parameters come from.

    Attributes:
      ghn: the hypernetwork, for as many classes as the images have.
      classifier: whether it predicts the last layer too; otherwise that is random.
      tuning: for the proxies after some steps; None for none.
    """

    ghn: LoadedGHN
    classifier: bool = True
    tuning: Tuning | None = None


class NetScorer:
    """Scores networks by proxies."""

    def __init__(
        self,
        images: EvalImages,
        proxies: Sequence[str],
        predictions: Predictions | None = None,
        *,
        compile_each: bool = False,
    ) -> None:
        """Prepares; compiles nothing.

        Args:
          images: two batches or more: the first is the proxies', NASWOT looks at the first two,
            and what predicted parameters are worth is measured on all of them.
          proxies: of `registry.PROXIES`.
          predictions: for the proxies that need them.
          compile_each: compile networks one by one for the proxies that need it.

        Raises:
          ValueError: proxies that do not exist, or that need predictions, steps of training or more
            images than are given.
        """
        registry.check_names(proxies)
        if len(images.batches) < 2:
            raise ValueError(
                f"proxies look at two batches of {images.batch_size} images, received "
                f"{images.num_images} images: take more images, or smaller batches"
            )
        needing = [n for n in proxies if n in (*registry.PREDICTED, *registry.TRAINED)]
        if needing and predictions is None:
            raise ValueError(f"{', '.join(needing)} need a hypernetwork: give one")
        tuned = [name for name in proxies if name in registry.TRAINED]
        if tuned and (predictions is None or predictions.tuning is None):
            raise ValueError(f"{', '.join(tuned)} need steps of training: give their number")
        self._images, self._proxies = images, tuple(proxies)
        self._predictions, self._compile_each = predictions, compile_each
        batches = [Batch(batch.images, batch.labels) for batch in images.batches[:2]]
        self._batch = batches[0]
        self._two = Batch(*map(jnp.concatenate, zip(*batches, strict=True)))
        self._recipe = Recipe(batch_size=images.batch_size)

    def name(self, net: EvalNet) -> str:
        """Its name, with what tells it from others of that name."""
        return f"{net.name}-{net.fingerprint}"

    def score(self, net: EvalNet, seed: int) -> Scored:
        """The proxies of a network at parameters that a seed draws."""
        scorings = Scorings(self.name(net), seed)
        network = best_way(net, self._recipe)
        params = network.initial(seed)
        scorings.add(registry.STATIC, lambda: self._static(net, params))
        if self._wants(("l2_norm",)):
            scorings.add(("l2_norm",), lambda: {"l2_norm": gradients.l2_of(_weights(net, params))})
        if self._wants(_GRADIENT):
            self._gradient(network, network.pack(params))  # compiles
            scorings.add(_GRADIENT, lambda: self._gradient_scores(net, network, params))
        for key, program in registry.programs_of(self._proxies).items():
            if net.plan is not None and key in DRIVEN:
                run = functools.partial(self._driven, net.plan, params, key, program.batches)
                _tried(run)  # compiles
                scorings.add(program.names, run)
                continue
            if set(program.names) <= {*_GRADIENT, "l2_norm"}:
                continue
            if not self._compile_each:
                scorings.fail(program.names, f"{key} compiles each network by itself: ask for that")
                continue
            self._by_itself(scorings, net, params, key, program)
        if self._predictions is not None and self._wants(registry.PREDICTED):
            run = functools.partial(self._predicted, network, seed, self._predictions)
            run()  # compiles
            scorings.add(registry.PREDICTED, run)
        if self._predictions is not None and self._wants(registry.TRAINED):
            run = functools.partial(self._tuned, network, seed, self._predictions)
            scorings.add(registry.TRAINED, run)
        return scorings.result(self._proxies)

    def _wants(self, names: Sequence[str]) -> bool:
        return bool(set(names) & set(self._proxies))

    def _static(self, net: EvalNet, params: Any) -> dict[str, float]:
        count = costs.params(_apply_of(net), params, self._batch)
        if net.plan is not None:
            return {"params": count, "flops": costs.plan_flops(net.plan)}
        return {"params": count, "flops": costs.flops(_apply_of(net), params, self._batch)}

    def _gradient(self, network: Trainable, packed: Any) -> Any:
        batch = (self._batch.images, self._batch.labels, jax.random.key(0), jnp.float32(0))
        return jax.block_until_ready(network.gradient(packed, network.state, *batch)[1])

    def _gradient_scores(self, net: EvalNet, network: Trainable, params: Any) -> Any:
        gradient = network.unpack(self._gradient(network, network.pack(params)))
        return gradients.scores_of(_weights(net, params), _weights(net, gradient))

    def _driven(self, plan: Plan, params: Any, name: str, batches: int) -> Mapping[str, Any]:
        batch = self._two if batches == 2 else self._batch
        return {name: DRIVEN[name](plan, plan.in_order(params), batch)}

    def _by_itself(
        self, scorings: Scorings, net: EvalNet, params: Any, key: str, program: registry.Program
    ) -> None:
        apply_fn, batch = _apply_of(net), self._two if program.batches == 2 else self._batch
        roles = _roles(net, params)

        def scores(params: Any, batch: Batch) -> Mapping[str, jax.Array]:
            return program.scores(apply_fn, params, batch, roles)

        params = jax.tree.map(jnp.asarray, params)
        try:
            function = CachedFunction(scores, (net.fingerprint, key), "proxies of networks").load(
                params, batch
            )
        except UnsupportedError as error:
            scorings.fail(program.names, str(error))
            return
        scorings.add(program.names, functools.partial(function, params, batch))

    def _predicted(self, network: Trainable, seed: int, source: Predictions) -> Any:
        params = _predict(network, seed, source)
        return self._worth("predicted", network, params, network.state)

    def _tuned(self, network: Trainable, seed: int, source: Predictions) -> Any:
        tuning = source.tuning
        if tuning is None:
            raise UnsupportedError("the number of steps of training is not given")
        start = _predict(network, seed, source)
        curve = fit(
            network,
            start,
            tuning.images,
            self._images,
            tuning.recipe,
            steps=tuning.steps,
            seed=seed,
        )
        if curve.diverged_at is not None:
            raise UnsupportedError(f"training diverged at step {curve.diverged_at}")
        return self._worth("tuned", network, curve.params, curve.state)

    def _worth(self, prefix: str, network: Trainable, params: Any, state: Any) -> dict[str, Any]:
        logits = [network.logits(params, state, batch.images) for batch in self._images.batches]
        labels = [batch.labels for batch in self._images.batches]
        real = np.flatnonzero(np.concatenate([b.weights for b in self._images.batches]))
        found = _worth(jnp.concatenate(logits)[real], jnp.concatenate(labels)[real])
        return {f"{prefix}_{name}": value for name, value in found.items()}


_worth = jax.jit(predicted.worth)


def _tried(function: Callable[[], Any]) -> None:
    """Runs what is run again in a moment, and then says itself what it does not support."""
    with contextlib.suppress(UnsupportedError):
        function()


def _predict(network: Trainable, seed: int, source: Predictions) -> Any:
    if source.classifier:
        return network.predict(source.ghn)
    return network.predict(source.ghn, network.initial(seed))


def _apply_of(net: EvalNet) -> ApplyFn:
    """The network as a function; convolutions are the library's, so that each is one operation."""
    context = OpContext(form="library")
    if net.plan is not None:
        return Network(net.plan, context=context).apply
    return build_model(net.model or "", net.num_classes, net.image_size, context).apply


def _roles(net: EvalNet, params: Any) -> Mapping[Path, Role]:
    if net.plan is not None:
        return {spec.path: spec.role for spec in net.plan.params}
    shape = (2, net.image_size, net.image_size, 3)
    return roles_of(_apply_of(net), params, jax.ShapeDtypeStruct(shape, jnp.float32))


def _weights(net: EvalNet, params: Any) -> list[np.ndarray]:
    return [np.asarray(w) for w in Kernels(params, _roles(net, params)).values]
