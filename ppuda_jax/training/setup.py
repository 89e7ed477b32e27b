"""From settings to a task: the published hypernetworks on DeepNets-1M."""

import dataclasses
import functools
import logging
import pathlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import jax

from ppuda_jax import checkpoints, parallel
from ppuda_jax.data.architectures import Build, DeepNets, VariantOf
from ppuda_jax.data.batches import LoadFn, TrainingImages, training_images
from ppuda_jax.data.spec import DatasetSpec
from ppuda_jax.executor.layout import Variant
from ppuda_jax.executor.variants import find_variant, variant_of
from ppuda_jax.ghn import config as ghn_configs
from ppuda_jax.ghn.config import GHNConfig
from ppuda_jax.ghn.loaded import LoadedGHN
from ppuda_jax.ghn.model import init_theta
from ppuda_jax.ghn.transfer import with_classes
from ppuda_jax.prediction.meta_batch import build_meta_batch
from ppuda_jax.teachers.store import Teacher, TeacherError, TeacherStore, open_store
from ppuda_jax.training.config import TrainConfig
from ppuda_jax.training.driver import choose_driver
from ppuda_jax.training.executor_driver import ExecutorDriver
from ppuda_jax.training.history import with_history
from ppuda_jax.training.host_driver import HostDriver, build_networks
from ppuda_jax.training.host_terms import build_planned
from ppuda_jax.training.objective import meta_loss
from ppuda_jax.training.step import LossFn
from ppuda_jax.training.task import EvaluateFn, MakeDriver, Task

_LOG = logging.getLogger(__name__)

_PRESETS = MappingProxyType(
    {
        ("ghn1", 32): ghn_configs.ghn1_cifar10,
        ("ghn2", 32): ghn_configs.ghn2_cifar10,
        ("mlp", 32): ghn_configs.mlp_cifar10,
        ("ghn1", 224): ghn_configs.ghn1_imagenet,
        ("ghn2", 224): ghn_configs.ghn2_imagenet,
        ("mlp", 224): ghn_configs.mlp_imagenet,
    }
)


def ghn_config(settings: TrainConfig, image_size: int, num_classes: int) -> GHNConfig:
    """The hypernetwork that the settings ask for."""
    preset = _PRESETS[settings.model, image_size]()
    return dataclasses.replace(preset, hid=settings.hidden, num_classes=num_classes)


def deepnets_task(settings: TrainConfig, evaluate: EvaluateFn | None = None) -> Task:
    """Everything that `ppuda_jax.training.loop.train` needs for a run on DeepNets-1M.

    Args:
        settings: the run.
        evaluate: metrics on validation data, see `Task`.

    Raises:
        ValueError: settings that do not fit together.
        FileNotFoundError: images, architectures or a checkpoint that are not there.
    """
    images = training_images(
        settings.dataset,
        settings.batch_size,
        settings.seed,
        settings.data_dir,
        settings.stratified,
        image_size=settings.image_size,
        flip=settings.flip,
    )
    spec = images.spec
    ghn = ghn_config(settings, spec.image_size, spec.num_classes)
    teachers, shared = _teachers(settings, spec)
    variant_of_plan: VariantOf = variant_of
    build: Build = functools.partial(build_meta_batch, weight_norm=ghn.weight_norm)
    make_driver: MakeDriver = functools.partial(_executor, ghn, images.load)
    if choose_driver(settings, parallel.make_topology(settings.num_devices)) == "host":
        variant_of_plan = find_variant
        build_each = build_networks if settings.terms.plain else build_planned
        build = functools.partial(build_each, ghn)
        make_driver = functools.partial(_host, ghn, images, teachers, shared)
    networks = DeepNets(
        variant_of_plan,
        build,
        image_size=spec.image_size,
        num_classes=spec.num_classes,
        seed=settings.seed,
        path=settings.arch_file,
        bnfree_share=settings.bnfree_share,
        given=() if teachers is None else teachers.configs,
    )
    metadata = spec.to_metadata()
    taught_by = teachers if shared is None else open_store(shared.path)
    if taught_by is not None:
        metadata["teachers"] = taught_by.digest
    if settings.init_from is None:
        theta: Mapping[str, Any] = init_theta(ghn, jax.random.key(settings.seed))
    else:
        given = _given(settings.init_from, ghn, jax.random.key(settings.seed))
        theta = given.theta
        metadata["training"] = given.metadata.get("training", [])
    record = checkpoints.ghn_record(ghn, metadata)
    return Task(networks, make_driver, images, theta, record, evaluate)


def _teachers(
    settings: TrainConfig, images: DatasetSpec
) -> tuple[TeacherStore | None, Teacher | None]:
    """Trained networks of a run's architectures, or the one that teaches any."""
    if settings.teacher is None:
        return None, None
    store = open_store(settings.teacher)
    store.check_images(images)
    if pathlib.Path(store.name).expanduser().is_dir():
        return store.split(settings.teacher_held_out)[0], None
    alone = settings.terms.of_architectures
    if alone:
        raise TeacherError(
            f"teacher={settings.teacher!r} is one trained network, which teaches other "
            f"architectures by its logits alone (distill), received the terms {', '.join(alone)}: "
            "pass the folder, whose architectures are then trained on"
        )
    (shared,) = store.teachers.values()
    return None, shared


def _given(name: str, ghn: GHNConfig, rng: jax.Array) -> LoadedGHN:
    """The hypernetwork that a run starts from, with how it was trained."""
    loaded = with_history(checkpoints.load_ghn(name))
    given = with_classes(loaded, ghn.num_classes, rng)
    if given is not loaded:
        _LOG.warning(
            "init_from=%r predicts %d classes, the run's images have %d: its class heads are drawn "
            "anew, everything else is kept",
            name,
            loaded.config.num_classes,
            ghn.num_classes,
        )
    if given.config != ghn:
        raise ValueError(
            f"init_from={name!r} is another hypernetwork than the run's: it is {given.config}, "
            f"the run's is {ghn}; choose --model, --hidden and --dataset to match"
        )
    return given


def _executor(
    ghn: GHNConfig, load: LoadFn, settings: TrainConfig, topology: parallel.Topology
) -> ExecutorDriver:
    return ExecutorDriver(functools.partial(_loss_for, ghn, settings), load, settings, topology)


def _host(
    ghn: GHNConfig,
    images: TrainingImages,
    teachers: TeacherStore | None,
    shared: Teacher | None,
    settings: TrainConfig,
    topology: parallel.Topology,
) -> HostDriver:
    del topology  # the one device that arrays are on
    return HostDriver(ghn, images, settings, teachers, shared)


def _loss_for(ghn: GHNConfig, settings: TrainConfig, variant: Variant) -> LossFn:
    """The loss of one variant's networks."""

    def loss_fn(
        theta: Any, networks: Any, images: jax.Array, labels: jax.Array, rng: jax.Array
    ) -> tuple[jax.Array, Mapping[str, jax.Array]]:
        images = images.astype(settings.compute_dtype)
        smoothing = settings.label_smoothing
        return meta_loss(ghn, variant, theta, networks, images, labels, rng, smoothing)

    return loss_fn
