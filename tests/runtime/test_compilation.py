"""The compiler counter and the cache folder."""

import os

import jax
import pytest

from ppuda_jax.runtime import compilation
from ppuda_jax.runtime.compilation import CompileCounter, compilation_cache

SETTINGS = (
    "jax_enable_compilation_cache",
    "jax_compilation_cache_dir",
    "jax_persistent_cache_min_compile_time_secs",
)


def settings():
    return [getattr(jax.config, name) for name in SETTINGS]


def compile_sum(size):
    """Compiles a function that jit does not know yet, and that this process may have cached."""
    shape = jax.ShapeDtypeStruct((size,), "float32")
    jax.jit(lambda x: (x * x).sum()).lower(shape).compile()


def test_compilations_are_counted_once_per_program():
    with CompileCounter() as counter:
        function = jax.jit(lambda x: x * 3 + 1)
        before = counter.calls
        function(2.0)
        first = counter.calls
        function(5.0)
    assert first > before and counter.calls == first and counter.seconds > 0


def test_a_closed_counter_counts_no_more_and_leaves_no_listener():
    removed = []
    with CompileCounter() as counter, CompileCounter() as other:
        compile_sum(3)
        removed = [counter._on_duration, other._on_duration]
    calls = counter.calls
    compile_sum(4)
    assert (counter.calls, other.calls) == (calls, calls) and calls == 1
    for listener in removed:
        with pytest.raises(AssertionError):  # JAX has no such listener any more
            jax.monitoring.unregister_event_duration_listener(listener)


def test_renamed_compile_events_give_nan_and_a_warning(monkeypatch):
    monkeypatch.setattr(compilation, "_COMPILE_EVENT", "/jax/of/another/version")
    compilation._compilations_are_reported.cache_clear()
    try:
        with (
            pytest.warns(RuntimeWarning, match=r"not report them as /jax/of/another/version, rec"),
            CompileCounter() as counter,
        ):
            compile_sum(5)
    finally:
        compilation._compilations_are_reported.cache_clear()
    assert counter.calls != counter.calls and counter.seconds != counter.seconds
    assert counter.cache_hits != counter.cache_hits


@pytest.mark.parametrize("name", ["_CACHE_HIT_EVENT", "_CACHE_READ_EVENT"])
def test_renamed_cache_events_give_nan(tmp_path, monkeypatch, name):
    monkeypatch.setattr(compilation, name, "/jax/of/another/version")
    with compilation_cache(tmp_path), CompileCounter() as counter:
        jax.config.update(SETTINGS[2], 0.0)
        compile_sum(6)
        compile_sum(6)
    assert counter.calls == 2 and counter.cache_hits != counter.cache_hits


def test_the_cache_answers_the_second_compilation_and_is_left_as_it_was(tmp_path):
    before = settings()
    with compilation_cache(tmp_path / "deep" / "cache"), CompileCounter() as counter:
        (folder,) = (tmp_path / "deep" / "cache").iterdir()
        assert settings() == [True, str(folder), 0.0]
        jax.config.update(SETTINGS[2], 0.0)
        compile_sum(7)
        assert counter.cache_hits == 0
        compile_sum(7)
        assert (counter.calls, counter.cache_hits) == (2, 1)
    assert settings() == before and list(folder.iterdir())


def test_a_second_folder_is_used_after_a_first_one(tmp_path):
    """JAX opens one folder and goes on with it, whatever its settings say."""
    for name in ("first", "second"):
        with compilation_cache(tmp_path / name):
            jax.config.update(SETTINGS[2], 0.0)
            compile_sum(8)
            assert list((tmp_path / name).glob("*/*"))


def test_no_cache_is_no_cache_only_meanwhile(tmp_path):
    with compilation_cache(tmp_path):
        users = settings()
        with compilation_cache(None):
            jax.config.update(SETTINGS[2], 0.0)
            compile_sum(9)
            assert not list(tmp_path.glob("*/*"))
        assert settings() == users


def test_an_error_restores_the_cache(tmp_path):
    before = settings()
    with pytest.raises(KeyError), compilation_cache(tmp_path):
        raise KeyError
    assert settings() == before


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="processors cannot be taken away")
def test_programs_for_other_numbers_of_processors_are_kept_apart(tmp_path):
    allowed = os.sched_getaffinity(0)
    if len(allowed) < 2:
        pytest.skip("one processor only")
    with compilation_cache(tmp_path):
        pass
    try:
        os.sched_setaffinity(0, {min(allowed)})
        with compilation_cache(tmp_path):
            pass
    finally:
        os.sched_setaffinity(0, allowed)
    assert len(list(tmp_path.iterdir())) == 2
