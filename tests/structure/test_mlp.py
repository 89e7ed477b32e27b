"""The nested family of perceptrons against plain networks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ppuda_jax.structure.functions import two_layer
from ppuda_jax.structure.mlp import mlp
from ppuda_jax.structure.supernet import count_flops, of_family

NET = mlp(5, 3, widths=(2, 4, 8), num_layers=3)
WEIGHTS = NET.init(jax.random.key(0))
X = jax.random.normal(jax.random.key(1), (6, 5))


def plain(widths):
    """The network with these widths (None for the identity) by hand, and its parameters."""
    h, total = np.asarray(X), 0
    for i, width in enumerate(widths):
        if width is None:
            continue
        layer = WEIGHTS[f"layer_{i}"]
        kernel = np.asarray(layer["kernel"])[: h.shape[1], :width]
        h = np.tanh(h @ kernel + np.asarray(layer["bias"])[:width])
        total += kernel.size + width
    head = np.asarray(WEIGHTS["head"]["kernel"])[: h.shape[1]]
    return h @ head + np.asarray(WEIGHTS["head"]["bias"]), total + head.size + 3


@pytest.mark.parametrize(
    ("numbers", "widths"),
    [((1, 2, 3), (2, 4, 8)), ((3, 0, 1), (8, None, 2)), ((0, 0, 0), (None,) * 3)],
)
def test_a_choice_is_a_plain_network(numbers, widths):
    structure = NET.vertex({(i, i + 1): n for i, n in enumerate(numbers)})
    expected, parameters = plain(widths)
    np.testing.assert_allclose(NET.apply(WEIGHTS, structure, X), expected, atol=1e-5)
    assert NET.size(structure) == parameters
    assert NET.flops(structure) == 2 * (parameters - sum(w or 0 for w in widths) - 3)


def test_the_non_centred_form_scales_the_units_of_a_width():
    structure = {e: jnp.array([0.1, 0.2, 0.3, 0.4]) for e in NET.names}
    scaled = NET.scale(WEIGHTS, structure)["layer_0"]["bias"]
    units = np.array([0.9, 0.9, 0.7, 0.7, 0.4, 0.4, 0.4, 0.4])
    bias = jax.tree.map(jnp.ones_like, WEIGHTS)
    np.testing.assert_allclose(NET.scale(bias, structure)["layer_0"]["bias"], units, rtol=1e-6)
    assert scaled.shape == (8,)


def test_sizes_and_operations_of_a_family():
    net = of_family(two_layer(4, 2), jax.ShapeDtypeStruct((7, 5), jnp.float32))
    structure = net.vertex({(0, 1): 2, (1, 2): 0})
    assert net.size(structure) == 5 * 4 + 4 + 4 * 2 + 2
    assert net.flops(structure) >= 2 * (5 * 4 + 4 * 2)
    assert net.describe({(0, 1): 2, (1, 2): 0}) == "0-1:linear 1-2:dense_2"
    product = count_flops(
        lambda a, b: a @ b,
        jax.ShapeDtypeStruct((1, 16), jnp.float32),
        jax.ShapeDtypeStruct((16, 8), jnp.float32),
    )
    assert product == 2 * 16 * 8


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"widths": (4, 2)}, r"widths must increase from 1 or more, received \(4, 2\)"),
        ({"widths": ()}, "widths must increase"),
        ({"num_layers": 0}, "num_layers must be at least 1"),
    ],
)
def test_families_without_sense_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        mlp(5, 3, **options)
