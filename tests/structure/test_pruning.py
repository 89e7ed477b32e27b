"""Pruning by relative density at zero."""

import jax.numpy as jnp
import numpy as np
import pytest

from ppuda_jax.structure.posterior import count_kept, init_posterior
from ppuda_jax.structure.pruning import prune, prune_share

MEANS = jnp.array([0.05, -0.3, 1.0, 0.0, -0.12])
POSTERIOR = init_posterior({(0, 1): ({"kernel": MEANS},)}, {}, std=0.1)


def kernel(tree):
    return np.asarray(tree[0, 1][0]["kernel"])


def test_weights_dense_at_zero_are_pruned():
    """Relative densities are exp(-mean^2 / 0.02): 0.88, 0.011, 0, 1 and 0.49."""
    found = prune(POSTERIOR)
    np.testing.assert_array_equal(kernel(found.mask), [False, True, True, False, True])
    np.testing.assert_allclose(kernel(found.weights), [0, -0.3, 1.0, 0, -0.12], rtol=1e-6)
    assert (found.kept, found.total) == (3, 5)
    assert found.kept == count_kept(POSTERIOR, 0.5)
    assert prune(POSTERIOR, 0.4).kept == 2
    assert prune(POSTERIOR, 1.0).kept == 4


@pytest.mark.parametrize("share", [0.0, 0.4, 0.8])
def test_a_share_of_the_weights_is_pruned(share):
    found = prune_share(POSTERIOR, share)
    assert found.kept == round(5 * (1 - share))
    order = np.argsort(-np.abs(np.asarray(MEANS)))
    assert kernel(found.mask)[order[: found.kept]].all()


def test_weights_far_from_zero_keep_their_order():
    """Their densities are all below the smallest float."""
    posterior = init_posterior({(0, 1): (jnp.array([3.0, 5.0, 4.0]),)}, {}, std=0.01)
    found = prune_share(posterior, 1 / 3)
    np.testing.assert_array_equal(found.mask[0, 1][0], [False, True, True])


@pytest.mark.parametrize("bad", [0.0, 1.5])
def test_settings_without_sense_are_refused(bad):
    with pytest.raises(ValueError, match=r"threshold must lie in \(0, 1\]"):
        prune(POSTERIOR, bad)
    with pytest.raises(ValueError, match=r"share must lie in \[0, 1\)"):
        prune_share(POSTERIOR, bad or -0.1)
