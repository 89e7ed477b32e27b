"""Compiled steps: one per variant, however many networks, within the process's mappings."""

import dataclasses

import jax
import pytest

from ppuda_jax import parallel
from ppuda_jax.data.grouping import GroupingState
from ppuda_jax.data.stream import MetaBatches
from ppuda_jax.programs import ProgramCache
from ppuda_jax.training.executor_driver import ExecutorDriver
from ppuda_jax.training.loop import train
from ppuda_jax.training.state import make_state
from tests.training import toy
from tests.training.test_step import CONFIG, TASK, arguments

ONE = parallel.make_topology(1)


def placed():
    """State, images, batches and rates of a step, and the arrays of its networks."""
    resident, arrays, batches, rates = arguments(toy.ToyNetworks())
    state = make_state(toy.theta(), CONFIG)
    return parallel.replicate((state, resident, batches, rates), ONE), arrays


def group(variant, arrays):
    return MetaBatches(variant, (), arrays, GroupingState())


def make(config=CONFIG, loss_for=toy.loss_for):
    return ExecutorDriver(loss_for, TASK.images.load, config, ONE)


def test_one_program_per_variant_however_many_networks():
    traced = []

    def loss_for(variant):
        traced.append(variant)
        return toy.loss_for(variant)

    driver, ((state, *rest), arrays) = make(loss_for=loss_for), placed()
    driver.warm_up([("variant0", arrays)], (state, *rest))
    for variant in ("variant0", "variant1", "variant0", "variant1"):
        arrays = jax.tree.map(lambda x: x + 1.0, arrays)
        state, _ = driver.run(group(variant, arrays), (state, *rest))
    assert traced == ["variant0", "variant1"]
    assert driver.count == 2


def _limited(monkeypatch, limit):
    """A cache for a process in which each program takes 4,000 mappings."""
    cache = ProgramCache(lambda: limit, lambda: 100 + 4_000 * cache.loads)
    monkeypatch.setattr("ppuda_jax.training.executor_driver.PROGRAMS", cache)


def test_too_many_programs_are_refused_before_the_process_is_ended(monkeypatch):
    """XLA:CPU aborts without a mapping left, and nothing could be saved."""
    _limited(monkeypatch, 10_000)
    driver = make()
    for variant in ("variant0", "variant1"):
        args, arrays = placed()
        driver.run(group(variant, arrays), args)
    args, arrays = placed()
    with pytest.raises(
        ValueError, match=r"up to 4000 .* 8100 of 10000 .*sysctl -w vm\.max_map.*max_variants=2"
    ):
        driver.run(group("variant2", arrays), args)


def test_threads_that_compile_leave_each_other_room(monkeypatch):
    _limited(monkeypatch, 26_000)
    driver, (args, arrays) = make(dataclasses.replace(CONFIG, compile_threads=5)), placed()
    driver.warm_up([(f"variant{i}", arrays) for i in range(6)], args)
    assert driver.count == 6


def test_wrong_shapes_do_not_recompile_silently():
    driver, ((state, *rest), arrays) = make(), placed()
    state, _ = driver.run(group("variant0", arrays), (state, *rest))
    smaller = jax.tree.map(lambda x: x[:, :, :4], arrays)
    with pytest.raises(TypeError, match="compiled"):
        driver.run(group("variant0", smaller), (state, *rest))


def test_rare_variants_can_be_left_out():
    config = toy.settings(max_variants=2)
    assert train(config, toy.task(config)).programs == 2
