"""Executors are the largest programs of the suite: here they are compiled without optimisation."""

from collections.abc import Iterator

import jax
import pytest


@pytest.fixture(autouse=True, scope="package")
def _unoptimised() -> Iterator[None]:
    """Compiling is nearly all the time of these tests; the optimised ones run in `evaluation`."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)
