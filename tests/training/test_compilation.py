"""The compiler counter and the cache folder."""

import jax

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
    assert (tmp_path / "deep" / "cache").is_dir()
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / "deep" / "cache")
    compilation.use_cache(None)
    assert not jax.config.jax_enable_compilation_cache
