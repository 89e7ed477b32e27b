"""Both forms of every primitive agree, forwards and in gradients."""

import jax.numpy as jnp
import numpy as np
import pytest

from ppuda_jax.nets import lowering
from ppuda_jax.nets.context import OpContext
from tests.nets.forms import array, assert_forms_agree


@pytest.mark.parametrize("size", [4, 7, 8])
@pytest.mark.parametrize(
    ("kernel", "stride"),
    [
        ((3, 3), (1, 1)),
        ((3, 3), (2, 2)),
        ((5, 5), (1, 1)),
        ((7, 7), (1, 1)),
        ((1, 7), (1, 2)),
        ((7, 1), (2, 1)),
        ((1, 1), (2, 2)),
    ],
)
def test_convolution(kernel, stride, size):
    assert_forms_agree(
        lambda context, x, w: lowering.conv(x, w, stride, context=context),
        array(2, size, size, 3),
        array(*kernel, 3, 4),
    )


def test_patches():
    assert_forms_agree(
        lambda context, x, w: lowering.conv(x, w, (3, 3), (1, 1), context),
        array(2, 32, 32, 3),
        array(3, 3, 3, 4),
    )


@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("k", [3, 5])
def test_depthwise(k, stride, dilation):
    assert_forms_agree(
        lambda context, x, w: lowering.depthwise(x, w, stride, dilation, context),
        array(3, 8, 8, 4),
        array(k, k, 1, 4),
    )


def test_attention():
    assert_forms_agree(
        lambda context, *qkv: lowering.attention(*qkv, context),
        *(array(4, 9, 2, 4) for _ in range(3)),
    )


def test_attention_does_not_overflow():
    huge = 1e3 * jnp.ones((2, 5, 1, 4))
    mixed = lowering.attention(huge, huge, huge, OpContext("taps"))
    np.testing.assert_allclose(mixed, huge, rtol=1e-5)
