"""Small problems with a known answer."""

import jax
import jax.numpy as jnp

from ppuda_jax.structure.family import Family, Function
from ppuda_jax.structure.functions import ZERO, dense
from ppuda_jax.structure.search.problem import Objects, regression
from ppuda_jax.structure.supernet import of_family


def _regression_data(count, key):
    x_key, noise_key = jax.random.split(key)
    x = jax.random.normal(x_key, (count, 4))
    y = 2 * jnp.abs(x[:, 0]) + 0.05 * jax.random.normal(noise_key, (count,))
    return Objects(x, y)


def _last(function):
    return Function(function.name, lambda p, x: function.apply(p, x)[:, 0], function.init)


def absolute_value():
    """The target is 2 |x_0|: of three functions only one can fit it."""
    absolute = Function(
        "abs",
        lambda p, x: (jnp.abs(x) @ p["kernel"])[:, 0],
        lambda key, x: {"kernel": jnp.zeros((x.shape[-1], 1))},
    )
    zero = Function("none", lambda p, x: ZERO.apply(p, x)[:, 0])
    family = Family(2, {(0, 1): (zero, _last(dense(1, name="linear")), absolute)})
    supernet = of_family(family, jax.ShapeDtypeStruct((1, 4), jnp.float32))
    train = _regression_data(64, jax.random.key(1))
    return regression(supernet, train, _regression_data(64, jax.random.key(2)))
