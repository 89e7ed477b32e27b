"""Compiled steps: one per variant, however many networks, and compiled elsewhere on a CPU."""

import dataclasses

import jax
import numpy as np
import pytest

from ppuda_jax import parallel
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


def test_too_many_programs_are_refused_before_the_process_is_ended(monkeypatch):
    """XLA:CPU aborts without a mapping left, and nothing could be saved."""
    in_use = iter([100, 4_000, 4_000, 8_000, 62_000])
    monkeypatch.setattr("ppuda_jax.training.programs.mappings", lambda: next(in_use))
    monkeypatch.setattr("ppuda_jax.training.programs.mapping_limit", lambda: 65_530)
    programs = StepPrograms(toy.loss_for, TASK.images.load, CONFIG, parallel.make_topology(1))
    args = (make_state(toy.theta(), CONFIG), *arguments(toy.ToyNetworks()))
    for variant in ("variant0", "variant1"):
        programs._compile(variant, args)
    with pytest.raises(ValueError, match=r"up to 4000 .* 62000 of 65530 .*sysctl -w vm\.max_map"):
        programs.run("variant2", *args)


def test_too_many_programs_are_refused_before_all_are_compiled(tmp_path, monkeypatch):
    in_use = iter([100, 4_100, 4_100])
    monkeypatch.setattr("ppuda_jax.training.programs.mappings", lambda: next(in_use))
    monkeypatch.setattr("ppuda_jax.training.programs.mapping_limit", lambda: 14_200)
    config = dataclasses.replace(CONFIG, compilation_cache=str(tmp_path), compile_threads=2)
    programs = StepPrograms(toy.loss_for, TASK.images.load, config, parallel.make_topology(1))
    args = (make_state(toy.theta(), CONFIG), *arguments(toy.ToyNetworks()))
    args = parallel.replicate(args, parallel.make_topology(1))
    with (
        compilation_cache(tmp_path),
        pytest.raises(ValueError, match="room for 3 compiled programs, 9 are wanted"),
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
