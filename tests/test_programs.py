"""The cache of compiled programs: what it keeps, what it forgets, and when it refuses."""

import concurrent.futures
import gc
import threading
import time
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ppuda_jax.programs import PROGRAMS, CachedFunction, NoRoomError, ProgramCache


@pytest.fixture(scope="module", autouse=True)
def _little_to_collect():
    """The cache collects garbage to see what has gone: not among all that other tests have made."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()  # what is frozen is never collected, nor are its mappings returned


class Program:
    """Takes mappings of a process while it lives, as a program of XLA:CPU does."""

    def __init__(self, process: "Process", size: int) -> None:
        process.grow(size)
        weakref.finalize(self, process.grow, -size)


class Process:
    """A process that is ended when it makes more mappings than the limit."""

    def __init__(self, limit: int, base: int = 100) -> None:
        self.limit, self.base, self.used, self.peak, self.compiled = limit, base, base, base, []
        self._lock = threading.RLock()
        self.cache = ProgramCache(lambda: self.limit, lambda: self.used)

    def grow(self, size: int) -> None:
        with self._lock:
            self.used += size
            self.peak = max(self.peak, self.used)
            assert self.used <= self.limit, "Unable to allocate section memory"

    def load(self, key, size=1000, seconds=0.0, kind="tested", **options):
        process = self

        class Lowered:
            def compile(self):
                pieces = [Program(process, size // 4) for _ in range(3)]
                time.sleep(seconds)
                program = Program(process, size - 3 * (size // 4))
                program.pieces = pieces
                process.compiled.append(key)
                return program

        return self.cache.load(key, Lowered, kind=kind, **options)


def test_a_program_is_compiled_once_and_found_again():
    process = Process(65_530)
    assert process.load("a") is process.load("a")
    assert process.compiled == ["a"] and process.cache.loads == len(process.cache) == 1


def test_any_number_of_programs_fits_by_forgetting_the_least_recently_used():
    process = Process(10_000)
    for number in range(50):
        process.load(number)
        process.load(0)  # always in use
    assert process.compiled == list(range(50)) and process.peak <= 9_900
    assert 6 <= len(process.cache) <= 9
    process.load(1)
    assert process.compiled[-1] == 1


def test_programs_of_other_kinds_make_room_too():
    process = Process(10_000)
    for number in range(20):
        process.load(number, size=300, kind="predictors")
        process.load(number + 100, size=3_000, kind="executors")
    assert process.peak <= 9_900


def test_without_a_limit_the_number_of_programs_is_bounded():
    cache = ProgramCache(lambda: None, lambda: 0)
    process = Process(10**9)
    process.cache = cache
    for number in range(10):
        process.load(number, most=3)
    gc.collect()
    assert len(cache) <= 3


def test_what_is_held_elsewhere_lives_on_and_is_not_compiled_twice():
    process = Process(4_000)
    held = process.load("held")
    for number in range(5):
        process.load(number)
    assert process.load("held") is held and process.compiled.count("held") == 1


def test_clearing_lets_go_of_what_nobody_else_holds():
    process = Process(65_530)
    kept = process.load("kept")
    process.load("gone")
    process.cache.clear()
    gc.collect()
    assert len(process.cache) == 1 and process.used == process.base + 1000
    assert process.load("kept") is kept and process.compiled == ["kept", "gone"]


def test_pinned_programs_are_refused_when_they_do_not_fit_and_others_give_way():
    process, steps = Process(10_000), []
    for number in range(6):
        process.load(f"predictor{number}", kind="predictors")
    for number in range(9):
        steps.append(process.load(number, kind="steps", pinned=True))
    with pytest.raises(
        NoRoomError,
        match=r"room for 9 compiled programs \(steps\), 10 are wanted: each takes up "
        r"to 1000 memory mappings, 9100 of 10000 .*sysctl -w vm\.max_map_count=40000",
    ) as refused:
        process.load(9, kind="steps", pinned=True)
    assert refused.value.room == 9 and len(process.cache) == 9
    steps.clear()
    assert process.load(9, kind="steps", pinned=True) and len(process.cache) == 1


def test_small_programs_are_counted_and_forgotten_many_at_a_time(monkeypatch):
    """To count mappings, or to collect garbage, takes longer than to compile one of them."""
    process, counts, collections = Process(40_000), [], []
    process.cache = ProgramCache(lambda: process.limit, lambda: counts.append(None) or process.used)
    collect = gc.collect
    monkeypatch.setattr(gc, "collect", lambda: collections.append(None) or collect())
    for number in range(3_000):
        process.load(number, size=20, most=10_000)
    assert 36_000 < process.peak <= 39_600
    assert len(counts) < 500 and 1 <= len(collections) <= 15
    process.load(2_999)
    assert len(process.compiled) == 3_000


def test_programs_compiled_elsewhere_are_not_taken_for_the_size_of_ones_own():
    process = Process(65_530)
    for number in range(200):
        process.load(number, 20, most=1000)
        if number == 50:
            process.grow(40_000)
    assert len(process.cache) == 200


def test_threads_that_compile_side_by_side_do_not_count_each_others_mappings():
    process = Process(65_530)
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        jobs = [pool.submit(process.load, number, 4_700, 0.05, pinned=True) for number in range(12)]
        programs = [job.result() for job in jobs]
    assert len(programs) == len(process.cache) == 12


def test_threads_stay_below_the_limit_together():
    process = Process(10_000)
    process.load("first")
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: process.load(n, 1_000, 0.01) and None, range(40)))
    assert 5_000 < process.peak <= 9_900 and len(process.compiled) == 41


def test_threads_compile_what_they_share_once():
    process = Process(65_530)
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: process.load(n % 2, 1_000, 0.05), range(16)))
    assert sorted(process.compiled) == [0, 1]


def test_a_failed_compilation_leaves_the_cache_as_it_was():
    process = Process(10_000)

    class Broken:
        def compile(self):
            raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        process.cache.load("a", Broken, kind="tested")
    assert process.load("a") and len(process.cache) == 1


def test_a_function_has_one_program_per_signature_and_key():
    before = PROGRAMS.loads
    double = CachedFunction(lambda x: 2 * x, "double", "tested")
    same = CachedFunction(lambda x: 2 * x, "double", "tested")
    for x in (jnp.ones(3), np.ones(3, np.float32), jnp.zeros(3)):
        np.testing.assert_array_equal(double(x), 2 * x)
        same(x)
    assert PROGRAMS.loads == before + 1
    double(jnp.ones(4)), double(jnp.ones(3, jnp.int32))
    assert PROGRAMS.loads == before + 3
    double.load(jax.ShapeDtypeStruct((3,), jnp.float32))
    assert jax.grad(lambda x: double(x).sum())(jnp.ones(3)).tolist() == [2.0] * 3
    elsewhere = jax.device_put(jnp.ones(3), jax.devices()[1])
    assert double(elsewhere).devices() == {jax.devices()[1]}


def test_forgetting_a_real_program_returns_its_mappings():
    """The cache relies on it; a program that has run lies in a cycle of references."""
    from ppuda_jax.runtime.memory import mappings

    cache = ProgramCache()
    x = jnp.ones((8, 8))

    def many(x, n):
        for i in range(n):
            x = jnp.sort(jnp.sin(x) @ x * (i + 1.0), axis=0)[::-1] + x.sum()
        return x

    sizes = []
    for n in (60, 61, 62):
        function = jax.jit(lambda x, n=n: many(x, n))
        cache.load(n, lambda f=function: f.lower(x), kind="tested", most=1)(x)
        del function
        gc.collect()
        sizes.append(mappings())
    if sizes[0] == 0:
        pytest.skip("this system does not say how many mappings there are")
    assert sizes[2] - sizes[0] < 50
