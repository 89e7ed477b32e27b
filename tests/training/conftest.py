"""Fixtures of the training tests."""

import jax
import pytest


@pytest.fixture
def cache_settings_restored():
    """Puts the settings of the compilation cache back."""
    names = (
        "jax_enable_compilation_cache",
        "jax_compilation_cache_dir",
        "jax_persistent_cache_min_compile_time_secs",
    )
    before = {name: getattr(jax.config, name) for name in names}
    yield
    for name, value in before.items():
        jax.config.update(name, value)
