"""Comparison of both forms of a primitive."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from ppuda_jax.nets.context import OpContext

RNG = np.random.default_rng(0)


def array(*shape):
    return jnp.asarray(RNG.normal(size=shape), jnp.float32)


@functools.partial(jax.jit, static_argnums=0)
def _with_gradient(function, *arrays):
    value, pull = jax.vjp(function, *arrays)
    seed = jnp.cos(jnp.arange(value.size, dtype=jnp.float32)).reshape(value.shape)
    return value, pull(seed)


def assert_forms_agree(function, *arrays):
    """Values and gradients of both forms of `function(context, *arrays)`, to float32 rounding."""
    results = []
    for form in ("taps", "library"):
        results.append(_with_gradient(functools.partial(function, OpContext(form)), *arrays))
    for ours, theirs in zip(*map(jax.tree.leaves, results), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=2e-5)
