"""Terms of the objective: identities in float64, resuming, and what goes wrong."""

import dataclasses
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ppuda_jax.data.spec import PUBLISHED
from ppuda_jax.ghn.config import ghn2_cifar10
from ppuda_jax.hostloop.functions import Batch, StepFunctions
from ppuda_jax.hostloop.gradient import leaf_gradient
from ppuda_jax.hostloop.leaves import leaves_of_pages, pages_of_cotangents
from ppuda_jax.hostloop.meta_gradient import CrossEntropy
from ppuda_jax.teachers.alignment import permute, random_permutations
from ppuda_jax.teachers.distances import norm_penalty
from ppuda_jax.teachers.groups import channel_groups
from ppuda_jax.teachers.record import TeacherError
from ppuda_jax.teachers.store import TeacherStore
from ppuda_jax.training.config import TrainConfig
from ppuda_jax.training.host_terms import HostTerms, build_planned
from ppuda_jax.training.loop import train
from ppuda_jax.training.metrics import read_metrics
from ppuda_jax.training.setup import deepnets_task
from tests.hostloop.pages import random_pages
from tests.networks import plan_of
from tests.teachers.stored import save_zoo

PLAN = plan_of("conv_1x1:0 cse:1", "max_pool_3x3:0 skip_connect:1", n_cells=2)
(NETWORK,) = build_planned(ghn2_cifar10(), [PLAN], None)


@pytest.fixture(scope="module")
def functions():
    with jax.enable_x64(True):
        return StepFunctions(Batch(2, "float64", "float64"), 1)


@pytest.fixture
def batches():
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        yield [
            (jnp.asarray(rng.standard_normal((2, 32, 32, 3))), jnp.asarray(labels))
            for labels in ((3, 7), (0, 1))
        ]


PAGES = random_pages(NETWORK, 0, np.float64)
LEAVES = leaves_of_pages(NETWORK, PAGES)


def _objective(functions, teacher=None, **fields):
    teachers = None
    if teacher is not None:
        teachers = {NETWORK.fingerprint: types.SimpleNamespace(leaves=teacher)}
        teachers = TeacherStore("here", teachers, PUBLISHED["digits"])
        fields["teacher"] = "here"
    return HostTerms(TrainConfig(**fields), functions, teachers)


def _run(objective, batches):
    (images, labels), *further = batches
    pages = jax.tree.map(jnp.asarray, PAGES)
    args = (images, labels, None, jnp.float64(0.1), jnp.float64(1.0), further)
    return objective(NETWORK, pages, *args)


def _largest(gradient):
    return max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(gradient))


def _close(ours, theirs, tol):
    scale = _largest(theirs)
    for a, b in zip(*map(jax.tree.leaves, (ours, theirs)), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=tol * scale)


def test_the_task_alone_is_the_published_objective(functions, batches):
    scores, gradient = _run(_objective(functions, teacher_terms=("task:2",)), batches)
    want, want_gradient = _run(CrossEntropy(functions), batches)
    np.testing.assert_allclose(scores["task"], want["loss"], rtol=1e-6)
    np.testing.assert_allclose(scores["loss"], 2 * want["loss"], rtol=1e-6)
    _close(gradient, jax.tree.map(lambda g: 2 * g, want_gradient), 1e-12)


def test_nothing_is_distilled_from_the_own_prediction(functions, batches):
    terms = ("task:0", "distill:1")
    scores, gradient = _run(_objective(functions, LEAVES, teacher_terms=terms), batches)
    assert abs(scores["distill"]) < 1e-12
    _, task = _run(CrossEntropy(functions), batches)
    assert _largest(gradient) < 1e-10 * _largest(task)
    other = [leaf[..., ::-1] for leaf in LEAVES]
    scores, gradient = _run(_objective(functions, other, teacher_terms=terms), batches)
    assert scores["distill"] > 1e-4 and _largest(gradient) > 1e-4 * _largest(task)


def test_a_permuted_prediction_regresses_to_zero_once_it_is_aligned(functions, batches):
    groups = channel_groups(PLAN)
    permuted = permute(groups, LEAVES, random_permutations(groups, 1))
    terms = ("task:0", "regress:1", "regress_unaligned:1")
    scores, both = _run(_objective(functions, permuted, teacher_terms=terms), batches)
    assert scores["regress"] < 1e-20 and scores["regress_unaligned"] > 0.3
    np.testing.assert_allclose(scores["loss"], scores["regress_unaligned"], rtol=1e-6)
    aligned = _objective(functions, permuted, teacher_terms=("task:0", "regress:1"))
    assert _largest(_run(aligned, batches)[1]) < 1e-12 * _largest(both)


def test_one_step_of_reptile_has_the_gradient_of_the_task(functions, batches):
    terms = {"teacher_terms": ("task:0", "reptile:1"), "reptile_steps": 1}
    scores, gradient = _run(_objective(functions, **terms), batches)
    want, want_gradient = _run(CrossEntropy(functions), batches)
    np.testing.assert_allclose(scores["reptile"], want["loss"], rtol=1e-6)
    _close(gradient, want_gradient, 1e-10)


def test_reptile_goes_to_where_sgd_ends(functions, batches):
    terms = {"teacher_terms": ("task:0", "reptile:1"), "reptile_steps": 2, "reptile_rate": 0.3}
    _, gradient = _run(_objective(functions, **terms), batches)
    now = LEAVES
    for images, labels in batches:
        arrays = [jnp.asarray(leaf) for leaf in now]
        _, slopes = leaf_gradient(functions, NETWORK.steps, arrays, images, labels, None, 0.1)
        now = [leaf - 0.3 * np.asarray(g) for leaf, g in zip(now, slopes, strict=True)]
    moved = [(before - after) / (2 * 0.3) for before, after in zip(LEAVES, now, strict=True)]
    _close(gradient, pages_of_cotangents(NETWORK, moved, PAGES), 1e-10)


def test_the_penalty_of_norms_has_the_slope_of_finite_differences(functions, batches):
    terms = ("task:0", "norm:0.5")
    scores, gradient = _run(_objective(functions, teacher_terms=terms), batches)
    np.testing.assert_allclose(scores["norm"], norm_penalty(LEAVES)[0], rtol=1e-6)
    direction = random_pages(NETWORK, 5, np.float64)
    ahead, behind = (
        norm_penalty(
            leaves_of_pages(NETWORK, jax.tree.map(lambda p, d, s=s: p + s * d, PAGES, direction))
        )[0]
        for s in (1e-5, -1e-5)
    )
    products = jax.tree.map(lambda g, d: np.vdot(g, d), gradient, direction)
    slope = sum(jax.tree.leaves(products))
    np.testing.assert_allclose(slope, 0.5 * (ahead - behind) / 2e-5, rtol=1e-7)


def test_predictions_that_are_not_finite_are_no_error(functions, batches):
    objective = _objective(functions, LEAVES, teacher_terms=("regress:1",))
    pages = jax.tree.map(lambda page: np.full_like(page, np.nan), PAGES)
    leaves = leaves_of_pages(NETWORK, pages)
    value, cotangents = objective._regress(True, NETWORK, leaves)
    assert np.isnan(value) and all(not c.any() for c in cotangents)


# ---- whole runs ---------------------------------------------------------------------------------

SETTINGS = TrainConfig(
    dataset="digits",
    hidden=8,
    meta_batch_size=1,
    batch_size=8,
    steps=4,
    num_devices=1,
    arch_workers=0,
    checkpoint_every=2,
    log_every=1,
    compilation_cache=None,
    teacher_terms=("distill:1", "regress:0.1", "reptile:0.5", "norm:3e-5"),
    reptile_steps=2,
    teacher="zoo",
    teacher_held_out=0.0,
)


def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path):
    small = plan_of("conv_1x1:0 none:1", "max_pool_3x3:0 none:1", n_cells=2)
    save_zoo(tmp_path / "zoo", [small])
    settings = dataclasses.replace(SETTINGS, teacher=str(tmp_path / "zoo"))
    whole = dataclasses.replace(settings, workdir=str(tmp_path / "whole"))
    result = train(whole, deepnets_task(whole))
    half = dataclasses.replace(settings, workdir=str(tmp_path / "half"), steps=2)
    train(half, deepnets_task(half))
    rest = dataclasses.replace(half, steps=4, change_length=True)
    jax.tree.map(
        np.testing.assert_array_equal, train(rest, deepnets_task(rest)).theta, result.theta
    )
    rows = read_metrics(rest.workdir)
    assert [row["loss"] for row in rows] == [row["loss"] for row in read_metrics(whole.workdir)]
    for row in rows:
        weighted = row["task"] + row["distill"] + 0.1 * row["regress"] + 0.5 * row["reptile"]
        assert row["loss"] == pytest.approx(weighted + 3e-5 * row["norm"], rel=1e-5)
    # It goes on with these teachers alone.
    save_zoo(tmp_path / "zoo", [small, PLAN])
    with pytest.raises(ValueError, match="was taught by other trained networks than are there now"):
        train(rest, deepnets_task(rest))


def test_architectures_are_those_of_the_teachers(tmp_path):
    plans = [plan_of(f"conv_{k}x{k}:0 none:1", "cse:0 none:1", n_cells=2) for k in (1, 3, 5)]
    save_zoo(tmp_path, plans)
    task = deepnets_task(dataclasses.replace(SETTINGS, teacher=str(tmp_path)))
    first, second = ([task.networks.config(e * 3 + i) for i in range(3)] for e in range(2))
    for epoch in (first, second):
        assert {str(c) for c in epoch} == {str(plan.config) for plan in plans}
    assert isinstance(task.networks.build([0], None)[0], type(NETWORK))
    assert len(task.record["metadata"]["teachers"]) == 16


def test_one_network_teaches_all_architectures(tmp_path):
    (record,) = save_zoo(tmp_path, [PLAN])
    one = str(tmp_path / f"{record.name}.npz")
    settings = dataclasses.replace(SETTINGS, teacher=one, teacher_terms=("distill:1",))
    task = deepnets_task(settings)
    assert not task.networks.given and task.record["metadata"]["teachers"]
    with pytest.raises(
        TeacherError, match="by its logits alone .distill., received the terms regr"
    ):
        deepnets_task(dataclasses.replace(settings, teacher_terms=("regress:1",)))


def test_teachers_that_do_not_fit(tmp_path):
    save_zoo(tmp_path / "zoo", [PLAN], spec=PUBLISHED["cifar10"])
    settings = dataclasses.replace(SETTINGS, teacher=str(tmp_path / "zoo"))
    with pytest.raises(TeacherError, match="the zoo .* cifar10 with class_names"):
        deepnets_task(settings)
    store = TeacherStore("here", {}, PUBLISHED["digits"])
    objective = HostTerms(settings, StepFunctions(Batch(2), 1), store)
    with pytest.raises(TeacherError, match="here has no trained network of the architecture"):
        objective._regress(True, NETWORK, LEAVES)


def test_without_terms_nothing_is_said_of_teachers():
    plain = dataclasses.replace(SETTINGS, teacher=None, teacher_terms=())
    task = deepnets_task(plain)
    assert "teachers" not in task.record["metadata"] and not task.networks.given
    assert type(task.networks.build([0], None)[0]) is not type(NETWORK)
