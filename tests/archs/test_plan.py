"""Plans: structure, sizes, pruning, and parameters equal to the reference's."""

import numpy as np
import pytest
from hypothesis import given, settings

from ppuda_jax.archs.genotypes import DARTS, VIT_CONFIG, Genotype, NetConfig
from ppuda_jax.archs.plan import DisconnectedError, make_plan, plan_stats
from ppuda_jax.primitives import OP_KINDS
from tests.archs.strategies import archs
from tests.reference import REFERENCE, needs_reference, peer_nets


def check_plan(plan):
    """Every value is written once before it is read, sizes agree, nothing is dead."""
    written = {0}
    read = set()
    for op in plan.ops:
        assert op.kind in OP_KINDS
        assert set(op.inputs) <= written and op.output not in written
        written.add(op.output)
        read.update(op.inputs)
        sizes = {plan.value_size[value] for value in op.inputs}
        assert sizes == {op.h_in}
        channels = [plan.value_channels[value] for value in op.inputs]
        if op.kind == "concat":
            assert op.c_in == sum(channels)
            assert op.inputs == tuple(v for v in op.concat_slots if v is not None)
            assert op.c_out == len(op.concat_slots) * channels[0]
        else:
            assert set(channels) == {op.c_in}
            assert not op.concat_slots
        assert (plan.value_channels[op.output], plan.value_size[op.output]) == (op.c_out, op.h_out)
    output = plan.ops[-1].output
    assert plan.ops[-1].kind == "dense" and plan.ops[-1].c_out == plan.num_classes
    assert read == written - {output}
    assert sorted(written) == list(range(len(plan.value_channels)))
    paths = [spec.path for spec in plan.params]
    assert len(set(paths)) == len(paths)
    assert plan.num_params == sum(spec.size for spec in plan.params)


@settings(max_examples=60, deadline=None)
@given(archs())
def test_plans_hold_together_at_32_pixels(config):
    check_plan(make_plan(config))


@settings(max_examples=20, deadline=None)
@given(archs(224))
def test_plans_hold_together_at_224_pixels(config):
    check_plan(make_plan(config, num_classes=1000, image_size=224))


@needs_reference
@pytest.mark.parametrize("net", peer_nets(), ids=lambda net: net["file"])
def test_parameters_are_those_of_the_reference(net):
    plan = make_plan(NetConfig.from_dict(net["net_args"]))
    with np.load(REFERENCE / "peer" / net["file"]) as arrays:
        expected = {
            name.removeprefix("param/"): arrays[name].shape
            for name in arrays.files
            if name.startswith("param/")
        }
    assert {spec.torch_name: spec.canonical_shape for spec in plan.params} == expected
    assert plan.num_params == net["n_params"]


def test_predefined_transformer():
    assert make_plan(VIT_CONFIG).num_params == 1_012_234
    assert make_plan(VIT_CONFIG, 1000, 224).num_params == 1_244_392


def test_dead_parts_are_left_out():
    # State 2 does not reach the output, so its two convolutions go; each cell reads only the
    # cell before the last, so cells 0 and 2 go as a whole.
    edges = (("conv_3x3", 0), ("conv_5x5", 1), ("sep_conv_3x3", 0), ("none", 1))
    config = NetConfig(Genotype(edges, (3,), edges, (3,)), 4, 32)
    plan = make_plan(config)
    kinds = plan_stats([plan])
    assert "conv_3x3" not in kinds and kinds["sep_conv_3x3"] == 2
    assert {op.cell for op in plan.ops} == {-1, 1, 3, 4}
    assert all(not op.name.endswith("preprocess1") for op in plan.ops)
    check_plan(plan)


def test_absent_states_become_zeros():
    edges = (("none", 0), ("none", 1), ("conv_1x1", 0), ("conv_1x1", 1))
    plan = make_plan(NetConfig(Genotype(edges, (2, 3), edges, (2, 3)), 4, 32))
    concat = next(op for op in plan.ops if op.kind == "concat")
    assert concat.concat_slots[0] is None and concat.c_out == 64 and concat.c_in == 32


def test_disconnected_networks_are_refused():
    edges = (("none", 0), ("none", 1))
    with pytest.raises(DisconnectedError, match="path from the image"):
        make_plan(NetConfig(Genotype(edges, (2,), edges, (2,)), 4, 32))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [((10, 64), "image_size must be one of"), ((0, 32), "num_classes must be at least 1")],
)
def test_impossible_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        make_plan(NetConfig(DARTS, 4, 32), *arguments)


def test_transformers_need_channels_for_their_heads():
    with pytest.raises(ValueError, match="multiple of the 8 attention heads"):
        make_plan(NetConfig(VIT_CONFIG.genotype, 4, 20))


def test_stems():
    simple = make_plan(NetConfig(DARTS, 4, 32, stem_pool=True)).ops
    assert [op.kind for op in simple[:2]] == ["stem_conv", "stem_pool"]
    assert (simple[0].c_out, simple[1].h_out) == (96, 16)
    double = make_plan(NetConfig(DARTS, 6, 32, stem_type=1, ks=7)).ops
    assert [(op.name, op.c_out, op.h_out, op.relu) for op in double[:3]] == [
        ("stem0.0", 16, 32, False),
        ("stem0.3", 32, 32, True),
        ("stem1.1", 32, 16, True),
    ]
    assert double[3].kind == "factorized_reduce" and double[3].name == "cells.0.preprocess0"
    large = make_plan(NetConfig(DARTS, 6, 32, stem_type=1), 1000, 224).ops
    assert [op.h_out for op in large[:3]] == [112, 56, 28]
