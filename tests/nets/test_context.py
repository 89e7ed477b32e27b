"""Static choices belong to a call: neither other calls of `jit` nor other threads see them."""

import concurrent.futures
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ppuda_jax.nets import norms, pools
from ppuda_jax.nets.context import OpContext
from ppuda_jax.nets.zoo import build_model
from tests.nets.forms import array

X = array(6, 4, 4, 8)
ONES, ZEROS = jnp.ones(8), jnp.zeros(8)


def of_first(count):
    """Batch norm by NumPy on the statistics of the first images; 0 for all."""
    x = np.asarray(X, np.float64)
    some = x[: count or None]
    return (x - some.mean((0, 1, 2))) / np.sqrt(some.var((0, 1, 2)) + norms.EPSILON)


@pytest.mark.parametrize("counts", [(0, 2, 0), (2, 0, 2), (4, 2, 4)])
def test_a_jitted_function_follows_its_context(counts):
    normed = jax.jit(norms.batch_norm, static_argnums=4)
    for count in counts:
        out = normed(X, ONES, ZEROS, 1.0, OpContext(norm_images=count))
        np.testing.assert_allclose(out, of_first(count), atol=1e-5)


def test_every_operation_of_a_trace_has_its_own_context():
    @jax.jit
    def both(x):
        return [norms.batch_norm(x, ONES, ZEROS, 1.0, OpContext(norm_images=n)) for n in (0, 2)]

    for out, count in zip(both(X), (0, 2), strict=True):
        np.testing.assert_allclose(out, of_first(count), atol=1e-5)


def test_threads_that_trace_at_the_same_time_do_not_see_each_other():
    meet = threading.Barrier(2, timeout=60)

    def work(context):
        def traced(x):
            meet.wait()
            y = norms.batch_norm(x, ONES, ZEROS, 1.0, context)
            meet.wait()
            return y, pools.max_pool(x, 1, context)

        text = str(jax.make_jaxpr(traced)(X))
        return jax.jit(traced)(X)[0], "reduce_window" in text

    contexts = (OpContext("taps", 2), OpContext("library", 0))
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        results = list(pool.map(work, contexts))
    for context, (out, library) in zip(contexts, results, strict=True):
        np.testing.assert_allclose(out, of_first(context.norm_images), atol=1e-5)
        assert library is (context.form == "library")


@pytest.mark.parametrize("name", ["resnet18", "wide_resnet28_10", "darts", "vit", "vit_b16"])
def test_every_model_with_batch_norm_follows_its_context(name):
    """Its norms take the statistics of a part of the batch."""
    net = build_model(name, image_size=32, context=OpContext(norm_images=2))
    shapes = jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    text = jax.make_jaxpr(lambda v, x: net.apply(v, x))(
        {"params": shapes["params"]}, jax.ShapeDtypeStruct((7, 32, 32, 3), jnp.float32)
    )
    taken = [eqn for eqn in _equations(text.jaxpr) if _cuts_the_batch(eqn)]
    assert bool(taken) is ("vit" not in name)  # those have no batch norm


def _equations(jaxpr):
    for eqn in jaxpr.eqns:
        yield eqn
        for value in eqn.params.values():
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from _equations(inner)


def _cuts_the_batch(eqn):
    return (
        eqn.primitive.name == "slice"
        and eqn.invars[0].aval.shape[0] == 7
        and eqn.outvars[0].aval.shape[0] == 2
    )


@pytest.mark.parametrize("function", [norms.batch_norm, norms.norm_pool])
@pytest.mark.parametrize("form", ["taps", "library"])
def test_norms_on_the_first_images_have_no_gradient(function, form):
    context = OpContext(form, 2)
    assert function(X, ONES, ZEROS, 1.0, context).shape[0] == 6
    with pytest.raises(ValueError, match=r"no gradient, received norm_images=2: .*norm_images=0"):
        jax.grad(lambda x: function(x, ONES, ZEROS, 1.0, context).sum())(X)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"form": "fast"}, "'taps', 'library' or None, received 'fast'"),
        ({"form": "Taps"}, "'taps', 'library' or None, received 'Taps'"),
        ({"norm_images": -1}, "must not be negative, received -1"),
    ],
)
def test_unknown_values_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        OpContext(**values)
