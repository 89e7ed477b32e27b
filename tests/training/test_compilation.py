"""The compiler counter and the cache folder."""

import os

import jax
import pytest

from ppuda_jax.training import compilation


def test_compilations_are_counted_once_per_program():
    counter = compilation.CompileCounter()
    function = jax.jit(lambda x: x * 3 + 1)
    before = counter.calls
    function(2.0)
    first = counter.calls
    function(5.0)
    assert first > before and counter.calls == first and counter.seconds > 0


def test_the_cache_folder_is_made_and_can_be_switched_off(tmp_path, cache_settings_restored):
    compilation.use_cache(tmp_path / "deep" / "cache")
    (folder,) = (tmp_path / "deep" / "cache").iterdir()
    assert jax.config.jax_compilation_cache_dir == str(folder)
    compilation.use_cache(None)
    assert not jax.config.jax_enable_compilation_cache


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="processors cannot be taken away")
def test_programs_for_other_numbers_of_processors_are_kept_apart(tmp_path, cache_settings_restored):
    allowed = os.sched_getaffinity(0)
    if len(allowed) < 2:
        pytest.skip("one processor only")
    compilation.use_cache(tmp_path)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        compilation.use_cache(tmp_path)
    finally:
        os.sched_setaffinity(0, allowed)
    assert len(list(tmp_path.iterdir())) == 2
