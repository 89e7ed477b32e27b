"""Rows, static channels, taps and classifier heads of both decoders."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ppuda_jax.ghn.config import GHNConfig
from ppuda_jax.ghn.decoders import take_static
from ppuda_jax.ghn.model import GHN, init_theta
from tests.close import assert_close

CONV = GHNConfig(hid=8, max_shape=(6, 6, 5, 5), num_classes=3)
CONFIGS = {"conv": CONV, "mlp": dataclasses.replace(CONV, decoder="mlp")}


def _decoder(name, method, *args, **kwargs):
    config = CONFIGS[name]
    theta = init_theta(config, jax.random.key(0))
    return GHN(config).apply({"params": theta}, *args, method=method, **kwargs)


@pytest.fixture(name="h")
def _h():
    return jax.random.normal(jax.random.key(2), (4, 8))


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_rows_gathered_by_node_equal_rows_decoded_alone(name, h):
    node, y, x = np.array([[0, 0, 3, 1, 3], [0, 2, 1, 0, 2], [1, 0, 0, 2, 2]], np.int32)
    gathered = _decoder(name, "decode_taps", h, y, x, node=node, kernel_size=(3, 3))
    alone = _decoder(name, "decode_taps", h[node], y, x)
    assert gathered.shape == (5, 6, 6)
    assert_close(gathered, alone, 1e-5)


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_static_channels_select_from_the_full_block(name, h):
    zero = np.zeros(4, np.int32)
    full = _decoder(name, "decode_taps", h, zero, zero, kernel_size=(1, 1))
    out_index, in_index = [0, 1, 4, 0], [2]
    part = _decoder(name, "decode_taps", h, zero, zero, out_index, in_index, kernel_size=(1, 1))
    assert_close(part, full[:, np.array(out_index)][:, :, in_index], 1e-5)
    other = _decoder(
        name, "decode_taps", h, zero, zero, out_index, in_index, kernel_size=(1, 1), order="io"
    )
    assert_close(other, part.swapaxes(1, 2), 1e-5)


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_class_kernels_can_be_cut_to_fewer_inputs(name, h):
    full = _decoder(name, "decode_class_kernel", h)
    assert full.shape == (4, 3, 6)
    assert_close(_decoder(name, "decode_class_kernel", h, np.arange(2)), full[..., :2], 1e-5)


def test_conv_class_kernel_is_a_dense_layer_over_the_out_channels_of_tap_zero(h):
    theta = init_theta(CONV, jax.random.key(0))["kernel_decoder"]["classes"]
    zero = np.zeros(4, np.int32)
    block = jax.nn.relu(_decoder("conv", "decode_taps", h, zero, zero, kernel_size=(1, 1)))
    expected = jnp.einsum("voi,oc->vci", block, theta["kernel"]) + theta["bias"][None, :, None]
    assert_close(_decoder("conv", "decode_class_kernel", h), expected, 1e-5)


def test_vectors_and_class_bias(h):
    theta = init_theta(CONV, jax.random.key(0))["vector_decoder"]["classes"]
    vectors = _decoder("conv", "decode_vectors", h)
    assert vectors.shape == (4, 2, 6)
    expected = jax.nn.relu(vectors[:, 1]) @ theta["kernel"] + theta["bias"][None]
    assert_close(_decoder("conv", "decode_class_bias", h), expected, 1e-5)


def test_gradients_of_rows_have_no_scatter_of_single_elements(h):
    node, y, x = np.array([[0, 0, 3], [0, 2, 1], [1, 0, 0]], np.int32)
    theta = init_theta(CONV, jax.random.key(0))

    def loss(theta):
        rows = GHN(CONV).apply(
            {"params": theta},
            h,
            y,
            x,
            [0, 2],
            [1],
            node=node,
            kernel_size=(3, 3),
            method="decode_taps",
        )
        return jnp.sum(rows)

    program = str(jax.make_jaxpr(jax.grad(loss))(theta))
    assert program.count("scatter-add[") == program.count("update_window_dims=(1,)") == 1


@pytest.mark.parametrize("index", [[], [6], [-1]])
def test_positions_outside_the_axis_are_refused(index):
    with pytest.raises(ValueError, match=r"positions in 0..5"):
        take_static(jnp.zeros((2, 6)), index, 1)
