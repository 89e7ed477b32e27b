"""Steps whose networks are driven from the host; nothing is compiled per network or variant.

The functions of the next meta-batches are compiled in the background while one runs.

Legend: `K` steps of a dispatch, `M` networks of a meta-batch.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ppuda_jax.archs.plan import Plan
from ppuda_jax.data.batches import LoadFn, TrainingImages
from ppuda_jax.data.stream import ArchitectureStream, MetaBatches
from ppuda_jax.ghn.config import GHNConfig
from ppuda_jax.hostloop.functions import Batch, StepFunctions
from ppuda_jax.hostloop.gradient import Labelled
from ppuda_jax.hostloop.meta_gradient import MetaGradient
from ppuda_jax.hostloop.network import make_network
from ppuda_jax.hostloop.predictor import predictor_of
from ppuda_jax.programs import CachedFunction
from ppuda_jax.runtime.processors import processors
from ppuda_jax.teachers.store import Teacher, TeacherStore
from ppuda_jax.training.config import TrainConfig
from ppuda_jax.training.driver import Placed, Show, choose_variants, restricts, unseen
from ppuda_jax.training.host_terms import HostTerms, score_names
from ppuda_jax.training.state import TrainState
from ppuda_jax.training.step import Images, Metrics, make_images, make_update

_NETWORKS_AT_ONCE = 2  # one keeps less than two processors busy, and each has its maps in memory


def build_networks(ghn: GHNConfig, plans: Sequence[Plan], variant: object) -> np.ndarray:
    """The networks of a meta-batch, objects [M]; their variant does not matter."""
    del variant
    networks = np.empty(len(plans), object)
    networks[:] = [make_network(plan, ghn) for plan in plans]
    return networks


class HostDriver:
    """Satisfies `driver.Driver`, for one device."""

    mixed = True
    ahead = 1

    def __init__(
        self,
        ghn: GHNConfig,
        images: TrainingImages,
        config: TrainConfig,
        teachers: TeacherStore | None = None,
        shared: Teacher | None = None,
    ) -> None:
        """Prepares to compile.

        Args:
            ghn: the hypernetwork.
            images: those of the run.
            config: the run.
            teachers: trained networks of its architectures, if its terms need them.
            shared: one that teaches all architectures instead.
        """
        self._config, self._terms, self._batch = config, config.terms, images.batch
        batch = Batch(config.batch_size, config.compute_dtype, dropout=True)
        self._functions = StepFunctions(batch, config.compile_threads or processors())
        networks_at_once = min(_NETWORKS_AT_ONCE, processors())
        objective = None
        if not self._terms.plain:
            objective = HostTerms(config, self._functions, teachers, shared)
        predictor = predictor_of(ghn)
        self._gradient = MetaGradient(predictor, self._functions, networks_at_once, objective)
        self._like: Any = None
        self._images = _function(_nth_images(images.load, config.compute_dtype))
        self._further = _function(_further_images(images.load, config.compute_dtype))
        self._update = _function(_nth_update(config), donated=0)

    @property
    def count(self) -> int:
        """See `Driver`."""
        return self._functions.count

    def prepare(self, stream: ArchitectureStream, placed: Placed, show: Show = unseen) -> None:
        """See `Driver`."""
        del show  # nothing is waited for
        theta = placed[0].theta
        self._like = jax.tree.map(jnp.copy, theta)  # each step donates its own
        # Compiled while the first networks are chosen and built.
        self._functions.start(lambda: self._load_ends(*placed))
        if restricts(self._config):
            choose_variants(stream, self._config)

    def _load_ends(self, state: TrainState, resident: Any, batches: Any, rates: Any) -> None:
        """Compiles what comes before and after the networks of a step."""
        k, number = np.int32(0), jax.ShapeDtypeStruct((), jnp.float32)
        self._images.load(state, resident, batches, k)
        each = jax.ShapeDtypeStruct((self._config.meta_batch_size,), jnp.float32)
        names = ("loss", "accuracy") if self._terms.plain else score_names(self._terms)
        scores = dict.fromkeys(names, each)
        self._update.load(state, number, scores, state.theta, rates, k)

    def request(self, group: MetaBatches) -> None:
        """See `Driver`."""
        if self._like is not None:
            self._gradient.request(self._like, group.arrays.reshape(-1))

    def finish(self, show: Show = unseen) -> str:
        """See `Driver`."""
        self._gradient.wait(show)
        return f"{self.count} functions of steps"

    def run(self, group: MetaBatches, placed: Placed) -> tuple[TrainState, Metrics]:
        """See `Driver`."""
        state, resident, batches, rates = placed
        rows = []
        for number, networks in enumerate(group.arrays[:, 0]):
            k = np.int32(number)
            images, labels, key = self._images(state, resident, batches, k)
            loss, scores, gradient = self._gradient(
                state.theta,
                networks,
                images,
                labels,
                key,
                self._config.label_smoothing,
                self._batches_ahead(state, resident),
            )
            state, metrics = self._update(state, loss, scores, gradient, rates, k)
            rows.append(metrics)
        return state, _stacked(rows)

    def _batches_ahead(self, state: TrainState, resident: Any) -> list[Labelled]:
        """Batches of the next steps, which Reptile's steps see after that of this one."""
        if not self._terms.reptile:
            return []
        step = int(state.step)
        return [
            self._further(state, resident, self._batch(step + ahead), np.int32(ahead))
            for ahead in range(1, self._config.reptile_steps)
        ]

    def close(self) -> None:
        """See `Driver`."""
        self._gradient.close()


def _nth_images(load: LoadFn, dtype: str) -> Callable[..., Images]:
    """Images of step k of a dispatch, in the type of the activations."""
    images = make_images(load)

    def nth_images(state: TrainState, resident: Any, batches: Any, k: jax.Array) -> Images:
        batch = jax.tree.map(lambda leaf: leaf[k], batches)
        pixels, labels, rng = images(state, resident, batch)
        return pixels.astype(dtype), labels, rng

    return nth_images


def _further_images(load: LoadFn, dtype: str) -> Callable[..., Labelled]:
    """Images of a batch that comes so many steps later, augmented by a key of their own."""
    images = make_images(load)

    def further_images(state: TrainState, resident: Any, batch: Any, ahead: jax.Array) -> Labelled:
        key = jax.random.fold_in(jax.random.wrap_key_data(state.rng), ahead)
        state = dataclasses.replace(state, rng=jax.random.key_data(key))
        pixels, labels, _ = images(state, resident, batch)
        return pixels.astype(dtype), labels

    return further_images


def _nth_update(config: TrainConfig) -> Callable[..., tuple[TrainState, Metrics]]:
    """The update of step k of a dispatch."""
    update = make_update(config)

    def nth_update(
        state: TrainState, loss: jax.Array, scores: Any, gradient: Any, rates: jax.Array, k: Any
    ) -> tuple[TrainState, Metrics]:
        return update(state, loss, jax.tree.map(jnp.mean, scores), gradient, rates[k])

    return nth_update


def _function(function: Callable[..., Any], donated: int | tuple[int, ...] = ()) -> CachedFunction:
    """For one run: its configuration is part of the function."""
    jit = functools.partial(jax.jit, donate_argnums=donated)
    return CachedFunction(function, object(), "training steps", jit=jit, placed=False)


@jax.jit
def _stacked(rows: list[Metrics]) -> Metrics:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *rows)
