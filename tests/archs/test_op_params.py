"""Parameters of every kind of operation: one row per tensor, in the agreed order."""

import pytest

from ppuda_jax.archs.op_params import op_param_count, op_params
from ppuda_jax.archs.plan import Op
from ppuda_jax.primitives import CELL_OP_KERNELS, OP_KINDS

EXPECTED = {
    "stem_conv": "kernel norm_scale norm_bias",
    "patch_conv": "kernel",
    "pos_enc": "pos_enc",
    "preprocess": "kernel norm_scale norm_bias",
    "factorized_reduce": "kernel kernel norm_scale norm_bias",
    "sep_conv_3x3": "kernel kernel norm_scale norm_bias kernel kernel norm_scale norm_bias",
    "sep_conv_5x5": "kernel kernel norm_scale norm_bias kernel kernel norm_scale norm_bias",
    "dil_conv_3x3": "kernel kernel norm_scale norm_bias",
    "dil_conv_5x5": "kernel kernel norm_scale norm_bias",
    "conv_1x1": "kernel norm_scale norm_bias",
    "conv_3x3": "kernel norm_scale norm_bias",
    "conv_5x5": "kernel norm_scale norm_bias",
    "conv_7x7": "kernel norm_scale norm_bias",
    "conv_7x1_1x7": "kernel kernel norm_scale norm_bias",
    "msa": "norm_scale norm_bias kernel kernel bias norm_scale norm_bias kernel bias kernel bias",
    "cse": "kernel bias kernel bias",
    "dense": "kernel bias",
}


def make_op(kind, norm=True):
    name = {"stem_conv": "stem.0", "dense": "classifier.3"}.get(kind, "cells.2._ops.1")
    kernel = CELL_OP_KERNELS.get(kind, 3)
    return Op(kind, name, 2, (0,), 1, 16, 32, 11, 11, kernel, norm=norm)


@pytest.mark.parametrize("kind", OP_KINDS)
def test_roles_and_shapes(kind):
    specs = op_params(make_op(kind))
    assert " ".join(spec.role for spec in specs) == EXPECTED.get(kind, "")
    assert op_param_count(make_op(kind)) == sum(spec.size for spec in specs)
    for spec in specs:
        assert len(spec.shape) == {"kernel": len(spec.shape), "pos_enc": 4}.get(spec.role, 1)
        assert spec.path[-1] in ("kernel", "bias", "scale", "embedding")
    bare = op_params(make_op(kind, norm=False))
    kept = [spec for spec in specs if kind == "msa" or not spec.role.startswith("norm")]
    assert list(bare) == kept


def test_canonical_shapes():
    depthwise, pointwise = op_params(make_op("dil_conv_5x5"))[:2]
    assert (depthwise.shape, depthwise.canonical_shape) == ((5, 5, 1, 16), (16, 1, 5, 5))
    assert (pointwise.shape, pointwise.canonical_shape) == ((1, 1, 16, 32), (32, 16, 1, 1))
    first, second = op_params(make_op("conv_7x1_1x7"))[:2]
    assert (first.canonical_shape, second.canonical_shape) == ((16, 16, 1, 7), (32, 16, 7, 1))
    (embedding,) = op_params(make_op("pos_enc"))
    assert (embedding.shape, embedding.canonical_shape) == ((1, 11, 11, 16), (1, 16, 11, 11))
    kernel, bias = op_params(make_op("dense"))
    assert kernel.path == ("classifier_1", "kernel") and kernel.canonical_shape == (32, 16)
    assert bias.torch_name == "classifier.3.bias"
