"""Families of models: their graphs, values, shapes and errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ppuda_jax.structure.family import Family, FamilyError, Function, concat
from ppuda_jax.structure.functions import IDENTITY, ZERO, constant, dense, two_layer

KEY = jax.random.key(0)
X = jax.random.normal(jax.random.key(1), (5, 4))


def scale(factor):
    return Function(f"times_{factor}", lambda params, x: factor * x)


def test_the_value_is_the_weighted_sum_of_functions():
    family = Family(2, {(0, 1): (scale(2.0), scale(3.0), ZERO)})
    weights = family.init(KEY, X)
    y = family.apply(weights, {(0, 1): jnp.array([0.5, 0.25, 0.25])}, X)
    np.testing.assert_allclose(y, 1.75 * X, rtol=1e-6)


def test_vertices_aggregate_their_edges_in_topological_order():
    edges = {(0, 2): (scale(2.0),), (2, 1): (scale(3.0),), (0, 1): (IDENTITY,), (1, 3): (IDENTITY,)}
    family = Family(4, edges, {1: concat})
    assert family.order == (2, 1, 3)
    one = {edge: jnp.ones(1) for edge in edges}
    y = family.apply(family.init(KEY, X), one, X)
    np.testing.assert_allclose(y, np.concatenate([X, 6 * X], -1), rtol=1e-6)


def test_a_vertex_of_the_simplex_is_one_network():
    family = two_layer(3, 2)
    weights = family.init(KEY, X)
    y = family.apply(weights, family.select({(0, 1): 1, (1, 2): 0}), X)
    relu, last = weights[0, 1][1], weights[1, 2][0]
    hidden = np.maximum(np.asarray(X) @ np.asarray(relu["kernel"]) + np.asarray(relu["bias"]), 0)
    np.testing.assert_allclose(
        y, hidden @ np.asarray(last["kernel"]) + np.asarray(last["bias"]), rtol=1e-5
    )


def test_gradients_reach_weights_and_structure():
    family = two_layer(3, 1)
    weights = family.init(KEY, X)
    structure = {(0, 1): jnp.full(3, 1 / 3), (1, 2): jnp.ones(1)}
    slopes = jax.grad(lambda w, s: jnp.sum(family.apply(w, s, X)), argnums=(0, 1))(
        weights, structure
    )
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(slopes))


def test_shapes_are_enough_to_initialise():
    family = two_layer(3, 2)
    weights = family.init(KEY, jax.ShapeDtypeStruct((7, 4), jnp.float32))
    assert weights[0, 1][0]["kernel"].shape == (4, 3)


def test_constant_ignores_its_input():
    family = Family(2, {(0, 1): (constant(),)})
    y = family.apply({(0, 1): ({"bias": jnp.array(2.0)},)}, {(0, 1): jnp.ones(1)}, X)
    np.testing.assert_array_equal(y, np.full(5, 2.0))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Family(3, {(0, 1): (ZERO,), (1, 2): (ZERO,), (2, 1): (ZERO,)}), "close a cycle"),
        (lambda: Family(2, {(0, 1): (ZERO,), (1, 1): (ZERO,)}), r"cycle through .*\[1\]"),
        (lambda: Family(3, {(0, 2): (ZERO,), (1, 2): (ZERO,)}), "vertex 1 cannot be reached"),
        (lambda: Family(3, {(0, 1): (ZERO,), (0, 2): (ZERO,)}), "leads from vertex 1"),
        (lambda: Family(2, {(0, 1): ()}), r"at least one function, \(0, 1\) has none"),
        (lambda: Family(2, {(0, 2): (ZERO,)}), r"vertices 0 to 1, received \(0, 2\)"),
    ],
)
def test_graphs_that_make_no_family_are_refused(make, message):
    with pytest.raises(FamilyError, match=message):
        make()


def test_shapes_that_do_not_agree_are_refused():
    family = Family(2, {(0, 1): (dense(3), dense(2))})
    with pytest.raises(FamilyError, match=r"edge \(0, 1\) must agree in shape.*dense_3.*\(5, 3\)"):
        family.init(KEY, X)
    family = Family(3, {(0, 1): (dense(3),), (1, 2): (IDENTITY,), (0, 2): (IDENTITY,)})
    with pytest.raises(FamilyError, match="inputs of vertex 2 do not agree"):
        family.init(KEY, X)
    fixed = Function("fixed", lambda params, x: x @ jnp.ones((9, 2)))
    with pytest.raises(FamilyError, match=r"fixed of edge \(0, 1\) does not take .*\(5, 4\)"):
        Family(2, {(0, 1): (fixed,)}).init(KEY, X)


def test_structures_of_another_family_are_refused():
    family = two_layer(3, 2)
    weights = family.init(KEY, X)
    with pytest.raises(ValueError, match="must have the shapes"):
        family.apply(weights, {(0, 1): jnp.ones(2), (1, 2): jnp.ones(1)}, X)
    with pytest.raises(ValueError, match=r"edge \(0, 1\) has the functions 0 to 2, received 3"):
        family.select({(0, 1): 3, (1, 2): 0})
