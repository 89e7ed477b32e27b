"""Several terms of the objective for networks that are driven from the host.

Terms of the logits share the one pass of the predicted network with the task; those of the
parameters are NumPy. All become one cotangent of the predicted parameters, which the hypernetwork
pulls back.

Legend: `k` steps of Reptile.
"""

import dataclasses
import functools
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ppuda_jax.archs.fingerprint import fingerprint
from ppuda_jax.archs.plan import Plan
from ppuda_jax.ghn.config import GHNConfig
from ppuda_jax.hostloop.functions import StepFunctions
from ppuda_jax.hostloop.gradient import Labelled, leaf_gradient, pages_gradient, request_gradient
from ppuda_jax.hostloop.leaves import leaves_of_pages, pages_of_cotangents
from ppuda_jax.hostloop.network import Network, make_network
from ppuda_jax.hostloop.predictor import Pages
from ppuda_jax.hostloop.run import Call, calls_of_leaves, run
from ppuda_jax.hostloop.steps import steps_of
from ppuda_jax.runtime.processors import processors
from ppuda_jax.teachers.alignment import aligned
from ppuda_jax.teachers.distances import kernels_before_norms, norm_penalty, regression
from ppuda_jax.teachers.distillation import distillation
from ppuda_jax.teachers.groups import ChannelGroup, channel_groups
from ppuda_jax.teachers.store import Teacher, TeacherStore
from ppuda_jax.training.config import TrainConfig
from ppuda_jax.training.terms import Terms

Value = tuple[float, list[np.ndarray]]
"""A term and its cotangent of the parameters, in the order of `plan.params`."""

T = TypeVar("T")
_CACHED = 64  # architectures whose groups, and teachers whose parameters, are kept


@dataclasses.dataclass(frozen=True)
class PlannedNetwork(Network):
    """A network that knows its plan.

    Attributes:
      plan: what it was made from.
    """

    plan: Plan

    @property
    def fingerprint(self) -> str:
        """Of its architecture."""
        plan = self.plan
        return fingerprint(plan.config, plan.num_classes, plan.image_size)


def build_planned(ghn: GHNConfig, plans: Sequence[Plan], variant: object) -> np.ndarray:
    """The networks of a meta-batch with their plans, objects [M]; see `build_networks`."""
    del variant
    networks = np.empty(len(plans), object)
    networks[:] = [PlannedNetwork(**vars(make_network(plan, ghn)), plan=plan) for plan in plans]
    return networks


class HostTerms:
    """The objective of a run; satisfies `hostloop.meta_gradient.PagesObjective`."""

    def __init__(
        self,
        settings: TrainConfig,
        functions: StepFunctions,
        teachers: TeacherStore | None,
        shared: Teacher | None = None,
    ) -> None:
        """Prepares; compiles nothing.

        Args:
          settings: the run.
          functions: those of the networks' steps.
          teachers: trained networks of the architectures that will come.
          shared: one that teaches all architectures instead.
        """
        self._settings, self._terms = settings, settings.terms
        self._functions, self._teachers, self._shared = functions, teachers, shared
        batch = dataclasses.replace(functions.batch, dropout=False)
        self._taught = StepFunctions(batch, processors())
        self._groups = _Kept(lambda network: channel_groups(network.plan))
        self._filters = _Kept(lambda network: kernels_before_norms(network.plan))
        self._calls = _Kept(self._calls_of)

    def request(self, networks: Sequence[Network]) -> None:
        """See `PagesObjective`."""
        for network in networks:
            if self._terms.reptile:
                request_gradient(self._functions, "leaves", network.steps)
            if self._terms.distill:
                steps = self._shared_steps or network.steps
                self._taught.request("leaves", [step.key for step in steps])

    def close(self) -> None:
        """See `PagesObjective`."""
        self._taught.close()

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
        if not isinstance(network, PlannedNetwork):
            raise ValueError("terms need networks that know their plan: build_planned")
        weights = self._terms
        logits = self._teacher_logits(network, images) if weights.distill else None
        score = _score_logits(labels, smoothing, share, weights, logits, self._settings.temperature)
        scores, gradient = pages_gradient(self._functions, network, pages, images, key, score)
        found = {name: float(value) for name, value in scores.items()}
        accuracy = found.pop("accuracy")
        of_leaves = self._of_leaves()
        if of_leaves:
            leaves = leaves_of_pages(network, pages)
            batches = ((images, labels), *further)[: self._settings.reptile_steps]
            total = [np.zeros_like(leaf) for leaf in leaves]
            for name, term in of_leaves.items():
                found[name], cotangent = term(network, leaves, batches, key, smoothing)
                scale = np.float64(getattr(weights, name)) * np.float64(share)
                for sum_of, each in zip(total, cotangent, strict=True):
                    sum_of += (scale * each).astype(sum_of.dtype)
            more = pages_of_cotangents(network, total, pages)
            gradient = {
                block: tuple(map(_add, group, more[block])) for block, group in gradient.items()
            }
        loss = sum(getattr(weights, name) * found[name] for name in weights.names)
        values = {"loss": loss, "accuracy": accuracy}
        values |= {name: found[name] for name in score_names(weights)[2:]}
        return {name: jnp.float32(value) for name, value in values.items()}, gradient

    # ---- terms of the logits ---------------------------------------------------------------

    def _teacher_of(self, network: PlannedNetwork) -> Teacher:
        if self._teachers is None:
            raise ValueError("terms that need trained networks need a TeacherStore")
        return self._teachers.of(network.fingerprint)

    @functools.cached_property
    def _shared_steps(self) -> Any:
        return None if self._shared is None else steps_of(self._shared.record.plan)

    def _calls_of(self, network: PlannedNetwork) -> tuple[Call, ...]:
        teacher = self._shared or self._teacher_of(network)
        steps = self._shared_steps or network.steps
        dtype = self._taught.batch.param_dtype
        leaves = [jnp.asarray(leaf, dtype) for leaf in teacher.leaves]
        return calls_of_leaves(self._taught, steps, leaves)

    def _teacher_logits(self, network: PlannedNetwork, images: jax.Array) -> jax.Array:
        """Logits of the teacher, by the statistics of the same images and without dropout."""
        key = "shared" if self._shared else network.fingerprint
        return run(self._calls.get(key, network), images)

    # ---- terms of the parameters -----------------------------------------------------------

    def _of_leaves(self) -> dict[str, Callable[..., Value]]:
        known: dict[str, Callable[..., Value]] = {
            "regress": functools.partial(self._regress, True),
            "regress_unaligned": functools.partial(self._regress, False),
            "reptile": self._reptile,
            "norm": lambda network, leaves, *_: norm_penalty(leaves),
        }
        return {name: known[name] for name in self._terms.names if name in known}

    def _regress(
        self, align: bool, network: PlannedNetwork, leaves: list[np.ndarray], *_: Any
    ) -> Value:
        targets = self._teacher_of(network).leaves
        if not all(np.isfinite(leaf).all() for leaf in leaves):
            return float("nan"), [np.zeros_like(leaf) for leaf in leaves]  # the step is skipped
        key = network.fingerprint
        if align:
            groups: Sequence[ChannelGroup] = self._groups.get(key, network)
            targets = aligned(groups, leaves, targets)
        filters = self._filters.get(key, network) if self._settings.scale_free else ()
        return regression(leaves, targets, filters)

    def _reptile(
        self,
        network: PlannedNetwork,
        leaves: list[np.ndarray],
        batches: Sequence[Labelled],
        key: jax.Array | None,
        smoothing: jax.Array,
    ) -> Value:
        """(H - U_k(H)) / (k rate) is the mean of the gradients along the way."""
        now, rate = leaves, self._settings.reptile_rate
        losses, total = [], [np.zeros_like(leaf) for leaf in leaves]
        for number, (images, labels) in enumerate(batches):
            own = key if key is None or number == 0 else jax.random.fold_in(key, number)
            arrays = [jnp.asarray(leaf) for leaf in now]
            scores, gradient = leaf_gradient(
                self._functions, network.steps, arrays, images, labels, own, smoothing
            )
            slopes = [np.asarray(g) for g in gradient]
            losses.append(float(scores.loss))
            total = [sum_of + g for sum_of, g in zip(total, slopes, strict=True)]
            now = [leaf - leaf.dtype.type(rate) * g for leaf, g in zip(now, slopes, strict=True)]
        return float(np.mean(losses)), [sum_of / len(batches) for sum_of in total]


def score_names(terms: Terms) -> tuple[str, ...]:
    """Names of what is measured of each network: loss, accuracy, and every term."""
    return ("loss", "accuracy", *(dict.fromkeys(("task", *terms.names))))


class _Kept(dict[str, Any]):
    """The newest results of a function of networks, for several threads."""

    def __init__(self, function: Callable[[PlannedNetwork], Any]) -> None:
        super().__init__()
        self._function, self._lock = function, threading.Lock()

    def get(self, key: str, network: PlannedNetwork) -> Any:  # type: ignore[override]
        """The result for a network, by what tells it from others."""
        with self._lock:
            if key not in self:
                if len(self) >= _CACHED:
                    del self[next(iter(self))]
                self[key] = self._function(network)
            return self[key]


def _score_logits(
    labels: jax.Array,
    smoothing: jax.Array,
    share: jax.Array,
    terms: Terms,
    teacher: jax.Array | None,
    temperature: float,
) -> Callable[[jax.Array], tuple[dict[str, jax.Array], jax.Array]]:
    """Scores logits; the cotangent is that of `share` times the weighted terms."""
    weights = {name: np.float32(getattr(terms, name)) for name in ("task", "distill")}

    def score(logits: jax.Array) -> tuple[dict[str, jax.Array], jax.Array]:
        return _score(logits, labels, smoothing, share, teacher, weights, np.float32(temperature))

    return score


@jax.jit
def _score(
    logits: jax.Array,
    labels: jax.Array,
    smoothing: jax.Array,
    share: jax.Array,
    teacher: jax.Array | None,
    weights: Mapping[str, jax.Array],
    temperature: jax.Array,
) -> tuple[dict[str, jax.Array], jax.Array]:
    def objective(logits: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        hot = jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype)
        targets = optax.smooth_labels(hot, smoothing.astype(logits.dtype))
        values = {"task": jnp.mean(optax.softmax_cross_entropy(logits, targets))}
        if teacher is not None:
            values["distill"] = distillation(logits, teacher, temperature)
        total = sum(weights[name].astype(logits.dtype) * value for name, value in values.items())
        return jnp.asarray(total), values

    total, pull, values = jax.vjp(objective, logits, has_aux=True)
    accuracy = jnp.mean((jnp.argmax(logits, axis=-1) == labels).astype(jnp.float32))
    return {**values, "accuracy": accuracy}, pull(share.astype(total.dtype))[0]


_add = jax.jit(jnp.add)
