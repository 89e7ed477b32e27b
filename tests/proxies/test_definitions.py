"""Every proxy against its definition, written out in NumPy for small networks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from ppuda_jax.proxies import costs, gradients, internals, jacobian, predicted
from ppuda_jax.proxies.base import Batch, UnsupportedError
from tests.close import assert_close

IMAGES = np.random.default_rng(0).standard_normal((6, 2, 2, 3)).astype(np.float32)
LABELS = np.array([0, 1, 2, 3, 0, 1])
BATCH = Batch(jnp.asarray(IMAGES), jnp.asarray(LABELS))
X = IMAGES.reshape(6, 12).astype(np.float64)


def draw(*shape, seed=1):
    return 0.3 * np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


PARAMS = {
    "first": {"w": jnp.asarray(draw(12, 5)), "b": jnp.asarray(draw(5, seed=2))},
    "second": {"w": jnp.asarray(draw(5, 4, seed=3)), "b": jnp.asarray(draw(4, seed=4))},
}
W1, B1 = (np.asarray(PARAMS["first"][name], np.float64) for name in "wb")
W2, B2 = (np.asarray(PARAMS["second"][name], np.float64) for name in "wb")


def mlp(variables, images):
    first, second = variables["params"]["first"], variables["params"]["second"]
    hidden = images.reshape(images.shape[0], -1) @ first["w"] + first["b"][None]
    return jax.nn.relu(hidden) @ second["w"] + second["b"][None]


def by_hand(w1, w2):
    """Loss, outputs of the layers, and the gradients in them of the mean loss."""
    hidden = X @ w1 + B1
    logits = np.maximum(hidden, 0) @ w2 + B2
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    loss = -np.log(p[np.arange(6), LABELS]).mean()
    g_logits = (p - np.eye(4)[LABELS]) / 6
    g_hidden = g_logits @ w2.T * (hidden > 0)
    return loss, (hidden, logits), (g_hidden, g_logits)


def weight_gradients(w1, w2):
    _, (hidden, _), (g_hidden, g_logits) = by_hand(w1, w2)
    return X.T @ g_hidden, np.maximum(hidden, 0).T @ g_logits


def test_gradient_proxies():
    g1, g2 = weight_gradients(W1, W2)
    found = gradients.gradient_scores(mlp, PARAMS, BATCH)
    assert_close(found["grad_norm"], np.linalg.norm(g1) + np.linalg.norm(g2), 1e-5)
    assert_close(found["plain"], (W1 * g1).sum() + (W2 * g2).sum(), 1e-5)
    assert_close(found["snip"], abs(W1 * g1).sum() + abs(W2 * g2).sum(), 1e-5)
    for name in found:
        alone = getattr(gradients, name)(mlp, PARAMS, BATCH)
        assert_close(alone, found[name], 1e-6)


def test_l2_norm_leaves_biases_out():
    expected = np.linalg.norm(W1) + np.linalg.norm(W2)
    assert_close(gradients.l2_norm(mlp, PARAMS, BATCH), expected, 1e-6)


def test_grasp_by_differences_of_gradients():
    g1, g2 = weight_gradients(W1, W2)
    step = 1e-5
    ahead = weight_gradients(W1 + step * g1, W2 + step * g2)
    behind = weight_gradients(W1 - step * g1, W2 - step * g2)
    product = sum(
        (w * (a - b)).sum() / (2 * step) for w, a, b in zip((W1, W2), ahead, behind, strict=True)
    )
    assert_close(gradients.grasp(mlp, PARAMS, BATCH), -product, 1e-4)


def test_fisher_of_outputs_with_their_biases():
    _, outputs, slopes = by_hand(W1, W2)
    expected = sum(
        0.5 * np.square(a * g).mean(0).sum() for a, g in zip(outputs, slopes, strict=True)
    )
    assert_close(internals.fisher(mlp, PARAMS, BATCH), expected, 1e-5)


def test_fisher_sums_over_pixels_before_it_squares():
    kernel = jnp.asarray(draw(1, 1, 3, 4))

    def network(variables, images):
        maps = jax.lax.conv_general_dilated(
            images,
            variables["params"]["k"],
            (1, 1),
            "SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        return jnp.square(maps).mean((1, 2))

    maps = np.einsum("nhwi,io->nhwo", IMAGES, np.asarray(kernel)[0, 0])
    logits = np.square(maps).mean((1, 2))
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    slopes = ((p - np.eye(4)[LABELS]) / 6)[:, None, None] * maps / 2
    expected = 0.5 * np.square((maps * slopes).sum((1, 2))).mean(0).sum()
    assert_close(internals.fisher(network, {"k": kernel}, BATCH), expected, 1e-5)


def test_synflow_takes_magnitudes_and_an_image_of_ones():
    hidden = abs(W1).sum(0) + abs(B1)
    first = (abs(W1) * abs(W2).sum(1)[None]).sum()
    second = (abs(W2) * hidden[:, None]).sum()
    assert_close(internals.synflow(mlp, PARAMS, BATCH), np.log(first + second), 1e-6)


def test_synflow_beyond_float32():
    depth, width = 40, 12
    params = {str(n): jnp.full((width, width), 10.0) for n in range(depth)}

    def network(variables, images):
        x = images.reshape(images.shape[0], -1)
        for n in range(depth):
            x = x @ variables["params"][str(n)]
        return x

    expected = np.log(depth) + np.log(width) + depth * np.log(10.0 * width)
    assert_close(internals.synflow(network, params, BATCH), expected, 1e-6)
    assert_close(jax.jit(lambda p: internals.synflow(network, p, BATCH))(params), expected, 1e-6)


def test_naswot_counts_equal_switches():
    codes = (X @ W1 + B1 > 0).astype(float)
    kernel = codes @ codes.T + (1 - codes) @ (1 - codes).T
    sign, expected = np.linalg.slogdet(kernel)
    found = internals.naswot(mlp, PARAMS, BATCH)
    assert sign and np.isfinite(expected)
    assert_close(found, expected, 1e-5)


def test_jacob_cov():
    rows = (X @ W1 + B1 > 0) * W2.sum(1) @ W1.T
    values = np.linalg.eigvalsh(np.corrcoef(rows))
    expected = -(np.log(values + 1e-5) + 1 / (values + 1e-5)).sum()
    wide = jacobian.spread_of(jnp.asarray(rows))
    assert_close(wide, expected, 1e-2)  # float32 in, and eigenvalues near zero
    far = jnp.asarray(np.eye(6, 12) + 0.1 * draw(6, 12))
    values = np.linalg.eigvalsh(np.corrcoef(np.asarray(far, np.float64)))
    expected = -(np.log(values + 1e-5) + 1 / (values + 1e-5)).sum()
    assert_close(jacobian.spread_of(far.reshape(6, 2, 2, 3)), expected, 1e-5)


def test_jacob_cov_takes_the_gradient_in_the_images():
    found = jacobian.jacob_cov(mlp, PARAMS, BATCH)
    rows = (X @ W1 + B1 > 0) * W2.sum(1) @ W1.T
    assert_close(found, jacobian.spread_of(jnp.asarray(rows, jnp.float32)), 1e-2)


def test_worth_of_logits():
    logits = jnp.asarray([[2.0, 0.0, 1.0], [0.0, 1.0, 3.0]])
    found = predicted.worth(logits, jnp.asarray([0, 1]))
    centred = np.asarray(logits) - np.asarray(logits).mean(1, keepdims=True)
    assert found["accuracy"] == 0.5
    assert_close(found["margin"], np.mean([1.0, -2.0]) / centred.std(), 1e-6)
    losses = np.log(np.exp(logits).sum(1)) - [2.0, 1.0]
    assert_close(found["loss"], -losses.mean(), 1e-6)
    network = lambda variables, images: images[:, 0, 0]  # noqa: E731
    batch = Batch(logits[:, None, None], jnp.asarray([0, 1]))
    for name, value in found.items():
        assert_close(getattr(predicted, name)(network, {}, batch), value, 1e-6)


def test_costs():
    assert costs.params(mlp, PARAMS, BATCH) == 12 * 5 + 5 + 5 * 4 + 4
    products = 2 * (12 * 5 + 5 * 4)
    assert products <= costs.flops(mlp, PARAMS, BATCH) <= products + 4 * 5 + 2 * 4


class Normed(nn.Module):
    """A convolution, a norm of the kind, a dense layer."""

    norm: str

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(4, (1, 1), use_bias=False, name="conv")(x)
        if self.norm == "batch":
            x = nn.BatchNorm(use_running_average=False, name="norm")(x)
        elif self.norm == "layer":
            x = nn.LayerNorm(name="norm")(x)
        elif self.norm == "rms":
            x = nn.RMSNorm(name="norm")(x)
        elif self.norm == "group":
            x = nn.GroupNorm(2, name="norm")(x)
        x = nn.relu(x).mean((1, 2))
        return nn.Dense(4, name="dense")(x)


def network_of(norm):
    module = Normed(norm)
    variables = module.init(jax.random.key(0), BATCH.images)
    state = {name: part for name, part in variables.items() if name != "params"}
    params = {name: dict(part) for name, part in variables["params"].items()}
    if norm == "batch":

        def apply_fn(variables, x):
            return module.apply({**variables, **state}, x, mutable=["batch_stats"])[0]

        return apply_fn, params
    return module.apply, params


@pytest.mark.parametrize("norm", ["batch", "layer", "rms", "group"])
def test_synflow_leaves_norms_out(norm):
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        apply_fn, params = network_of(norm)
        plain_fn, _ = network_of("none")
        plain = {name: params[name] for name in ("conv", "dense")}
        found = internals.synflow(apply_fn, params, BATCH)
        assert_close(found, internals.synflow(plain_fn, plain, BATCH), 1e-6)
        # What scales a norm has does not matter either.
        norms = {name: 3.0 * leaf for name, leaf in params["norm"].items()}
        assert_close(internals.synflow(apply_fn, {**params, "norm": norms}, BATCH), found, 1e-6)


@pytest.mark.parametrize("norm", ["batch", "none"])
def test_variances_are_no_relus(norm):
    from ppuda_jax.proxies.anatomy import open_network

    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        anatomy = open_network(*network_of(norm), BATCH.images).anatomy
    assert len(anatomy.relus) == 1 and len(anatomy.layers) == 2
    assert len(anatomy.deviations) == (norm == "batch")
    assert len(anatomy.statistics) == 2 * (norm == "batch")


def linear(variables, images):
    return images.reshape(images.shape[0], -1) @ variables["params"]["w"]


def looped(variables, images):
    def turn(x, w):
        return jax.nn.relu(x @ w), None

    return jax.lax.scan(turn, images.reshape(images.shape[0], -1), variables["params"]["w"])[0]


def test_networks_that_cannot_be_scored():
    with pytest.raises(UnsupportedError, match="codes of ReLUs, and the network has none"):
        internals.naswot(linear, {"w": jnp.ones((12, 4))}, BATCH)
    stack = {"w": jnp.ones((3, 12, 12))}
    with pytest.raises(UnsupportedError, match="fisher needs .* inside of a loop"):
        internals.fisher(looped, stack, BATCH)
    with pytest.raises(UnsupportedError, match="naswot needs .* inside of a loop"):
        internals.naswot(looped, stack, BATCH)
    with pytest.raises(UnsupportedError, match="the network has no weights"):
        gradients.snip(
            lambda v, x: x.mean((1, 2)) + v["params"]["b"][None], {"b": jnp.ones(3)}, BATCH
        )
    with pytest.raises(UnsupportedError, match="layers of the network cannot be found"):
        gradients.snip(lambda v, x: v["params"]["w"], {"w": jnp.ones((6, 4))}, BATCH)
