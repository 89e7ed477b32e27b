"""What the tests of tracing share: promotion as other authors use it."""

from collections.abc import Iterator

import jax
import pytest


@pytest.fixture(autouse=True)
def _foreign_code() -> Iterator[None]:
    """Other authors rely on implicit promotion."""
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        yield
