"""Hypothesis strategies that draw architectures of every split."""

from hypothesis import strategies as st

from ppuda_jax.archs.genotypes import NetConfig
from ppuda_jax.archs.sampling import arch_at
from ppuda_jax.archs.splits import SPLITS


def archs(image_size: int = 32) -> st.SearchStrategy[NetConfig]:
    """Architectures of all splits."""
    return st.builds(
        arch_at,
        st.sampled_from(sorted(SPLITS)),
        st.integers(0, 10**9),
        st.just(image_size),
    )
