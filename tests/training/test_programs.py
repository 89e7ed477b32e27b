"""Compiled steps: one per variant, however many networks, and compiled elsewhere on a CPU."""

import dataclasses

import jax
import numpy as np
import pytest

from ppuda_jax import parallel
from ppuda_jax.programs import ProgramCache
from ppuda_jax.runtime.compilation import CompileCounter, compilation_cache
from ppuda_jax.training.programs import StepPrograms
from ppuda_jax.training.state import make_state
from tests.training import toy
from tests.training.test_step import CONFIG, TASK, arguments


def test_one_program_per_variant_however_many_networks():
    topology = parallel.make_topology(1)
    traced = []

    def loss_for(variant):
        traced.append(variant)
        return toy.loss_for(variant)

    programs = StepPrograms(loss_for, TASK.images.load, CONFIG, topology)
    state = make_state(toy.theta(), CONFIG)
    state = parallel.replicate(state, topology)
    resident, networks, batches, rates = parallel.replicate(arguments(toy.ToyNetworks()), topology)
    programs.warm_up([("variant0", (state, resident, networks, batches, rates))])
    for variant in ("variant0", "variant1", "variant0", "variant1"):
        networks = jax.tree.map(lambda x: x + 1.0, networks)
        state, _ = programs.run(variant, state, resident, networks, batches, rates)
    assert traced == ["variant0", "variant1"]
    assert programs.count == 2


def test_with_a_cache_on_disk_other_processes_compile(tmp_path):
    """This process finds their programs there, and they do the same as those compiled here."""
    topology = parallel.make_topology(1)
    config = dataclasses.replace(CONFIG, compilation_cache=str(tmp_path))
    args = (make_state(toy.theta(), CONFIG), *arguments(toy.ToyNetworks()))
    args = parallel.replicate(args, topology)
    examples = [("variant0", args), ("variant1", args)]
    with compilation_cache(tmp_path), CompileCounter() as counter:
        programs = StepPrograms(toy.loss_for, TASK.images.load, config, topology)
        assert programs.warm_up(examples) == 0
        assert programs.count == counter.calls == counter.cache_hits == 2
        again = StepPrograms(toy.loss_for, TASK.images.load, config, topology)
        assert again.warm_up(examples) == 2
    found, _ = programs.run("variant1", *args)
    args = parallel.replicate(
        (make_state(toy.theta(), CONFIG), *arguments(toy.ToyNetworks())), topology
    )
    here = StepPrograms(toy.loss_for, TASK.images.load, CONFIG, topology)
    expected, _ = here.run("variant1", *args)
    jax.tree.map(np.testing.assert_array_equal, found.theta, expected.theta)


def _limited(monkeypatch, limit):
    """A cache for a process in which each program takes 4,000 mappings."""
    cache = ProgramCache(lambda: limit, lambda: 100 + 4_000 * cache.loads)
    monkeypatch.setattr("ppuda_jax.training.programs.PROGRAMS", cache)


def test_too_many_programs_are_refused_before_the_process_is_ended(monkeypatch):
    """XLA:CPU aborts without a mapping left, and nothing could be saved."""
    _limited(monkeypatch, 10_000)
    programs = StepPrograms(toy.loss_for, TASK.images.load, CONFIG, parallel.make_topology(1))
    args = arguments(toy.ToyNetworks())
    for variant in ("variant0", "variant1"):
        programs.run(variant, make_state(toy.theta(), CONFIG), *args)
    with pytest.raises(
        ValueError, match=r"up to 4000 .* 8100 of 10000 .*sysctl -w vm\.max_map.*max_variants=2"
    ):
        programs.run("variant2", make_state(toy.theta(), CONFIG), *args)


def test_threads_that_compile_leave_each_other_room(monkeypatch):
    """On a mesh and without a cache on disk this process compiles, in several threads."""
    _limited(monkeypatch, 26_000)
    config = dataclasses.replace(CONFIG, compile_threads=5)
    programs = StepPrograms(toy.loss_for, TASK.images.load, config, parallel.make_topology(1))
    args = (make_state(toy.theta(), CONFIG), *arguments(toy.ToyNetworks()))
    programs.warm_up([(f"variant{i}", args) for i in range(6)])
    assert programs.count == 6


def test_too_many_programs_are_refused_before_all_are_compiled(tmp_path, monkeypatch):
    _limited(monkeypatch, 14_400)
    config = dataclasses.replace(CONFIG, compilation_cache=str(tmp_path), compile_threads=2)
    programs = StepPrograms(toy.loss_for, TASK.images.load, config, parallel.make_topology(1))
    args = (make_state(toy.theta(), CONFIG), *arguments(toy.ToyNetworks()))
    args = parallel.replicate(args, parallel.make_topology(1))
    with (
        compilation_cache(tmp_path),
        pytest.raises(ValueError, match="room for 3 compiled programs .*, 9 are wanted"),
    ):
        programs.warm_up([(f"variant{i}", args) for i in range(9)])
    assert programs.count == 1


def test_wrong_shapes_do_not_recompile_silently():
    topology = parallel.make_topology(1)
    programs = StepPrograms(toy.loss_for, TASK.images.load, CONFIG, topology)
    args = arguments(toy.ToyNetworks())
    state, _ = programs.run("variant0", make_state(toy.theta(), CONFIG), *args)
    resident, networks, batches, rates = args
    smaller = jax.tree.map(lambda x: x[:, :, :4], networks)
    with pytest.raises(TypeError, match="compiled"):
        programs.run("variant0", state, resident, smaller, batches, rates)
