"""Checkpoints of the reference: names, layouts, both directions, damaged files."""

import dataclasses

import jax
import numpy as np
import pytest

from ppuda_jax.convert.files import load_torch_ghn, save_torch_ghn
from ppuda_jax.convert.state_dicts import (
    config_from_torch,
    config_to_torch,
    state_dict_from_theta,
    theta_from_state_dict,
)
from ppuda_jax.convert.tensors import tensor_table
from ppuda_jax.ghn.config import PRESETS, GHNConfig, ghn2_cifar10
from ppuda_jax.ghn.loaded import LoadedGHN
from ppuda_jax.ghn.model import init_theta
from tests.reference import REFERENCE, needs_reference

SMALL = GHNConfig(hid=4, max_shape=(8, 8, 3, 3), virtual_edges=50, layernorm=True)
VARIANTS = {
    "ghn2": SMALL,
    "ghn1": dataclasses.replace(SMALL, virtual_edges=1, layernorm=False),
    "mlp": dataclasses.replace(SMALL, hypernet="mlp"),
    "mlp_decoder": dataclasses.replace(SMALL, decoder="mlp"),
}
NUM_TENSORS = {"ghn1-cifar10": 25, "ghn2-cifar10": 31, "mlp-cifar10": 23}


@pytest.fixture(name="theta", scope="module")
def _theta():
    return init_theta(SMALL, jax.random.key(0))


@pytest.mark.parametrize("name", sorted(NUM_TENSORS))
def test_the_table_has_the_tensors_of_published_checkpoints(name):
    assert len(tensor_table(PRESETS[name]())) == NUM_TENSORS[name]


@pytest.mark.parametrize("name", sorted(VARIANTS))
def test_the_table_covers_theta_and_goes_both_ways(name):
    config = VARIANTS[name]
    theta = init_theta(config, jax.random.key(0))
    back = theta_from_state_dict(config, state_dict_from_theta(config, theta))
    assert jax.tree.structure(back) == jax.tree.structure(theta)
    for a, b in zip(jax.tree.leaves(back), jax.tree.leaves(theta), strict=True):
        np.testing.assert_array_equal(a, b)


def test_rows_of_the_tap_layer_are_channel_then_height_then_width(theta):
    tensors = state_dict_from_theta(SMALL, theta)
    weight = tensors["decoder.fc.0.weight"]  # [16 channels * 3 * 3, 4]
    kernel = theta["kernel_decoder"]["taps"]["kernel"]  # [4, 3, 3, 16]
    np.testing.assert_array_equal(weight[5 * 9 + 2 * 3 + 1], kernel[:, 2, 1, 5])
    last = tensors["decoder.conv.2.weight"]  # [8 out * 8 in, 32, 1, 1]
    kernel = theta["kernel_decoder"]["conv_1"]["kernel"]  # [32, in, out]
    np.testing.assert_array_equal(last[3 * 8 + 2, :, 0, 0], kernel[:, 2, 3])


def test_names_with_the_prefix_of_data_parallel_are_understood(theta):
    tensors = state_dict_from_theta(SMALL, theta)
    wrapped = {"module." + name: value for name, value in tensors.items()}
    back = theta_from_state_dict(SMALL, wrapped)
    np.testing.assert_array_equal(back["layer_norm"]["scale"], theta["layer_norm"]["scale"])


def test_all_problems_of_a_state_dict_are_reported_at_once(theta):
    tensors = state_dict_from_theta(SMALL, theta)
    del tensors["ln.weight"]
    tensors["gnn.gru.bias_ih"] = np.zeros(7, np.float32)
    tensors["ln.bias"] = tensors["ln.bias"].astype(np.int32)
    tensors["head.weight"] = np.zeros(1, np.float32)
    with pytest.raises(ValueError, match="4 problems") as error:
        theta_from_state_dict(SMALL, tensors)
    for part in ("ln.weight is missing", "(7,), (12,) expected", "int32", "head.weight is not"):
        assert part in str(error.value)


def test_all_problems_of_theta_are_reported_at_once(theta):
    damaged = {**theta, "layer_norm": {"scale": np.zeros(3)}, "extra": {"x": np.zeros(1)}}
    with pytest.raises(ValueError, match="3 problems") as error:
        state_dict_from_theta(SMALL, damaged)
    for part in ("layer_norm/scale has shape (3,)", "layer_norm/bias is missing", "extra/x"):
        assert part in str(error.value)


def test_configurations_go_both_ways():
    for preset in PRESETS.values():
        assert config_from_torch(config_to_torch(preset())) == preset()
    assert config_from_torch({"max_shape": (64, 64, 11, 11), "num_classes": 10}).hid == 32
    with pytest.raises(ValueError, match=r"missing \['num_classes'\], unknown \['heads'\]"):
        config_from_torch({"max_shape": (64, 64, 11, 11), "heads": 8})
    with pytest.raises(ValueError, match="up to 50 or none"):
        config_to_torch(dataclasses.replace(ghn2_cifar10(), virtual_edges=10))


class TestFiles:
    """Reading and writing .pt files, which takes PyTorch."""

    @pytest.fixture(autouse=True)
    def _torch(self):
        self.torch = pytest.importorskip("torch", reason="PyTorch is optional")

    def test_a_saved_checkpoint_loads_again(self, theta, tmp_path):
        path = tmp_path / "ghn.pt"
        save_torch_ghn(LoadedGHN(SMALL, theta, "tiny", {"epoch": 7}), path)
        loaded = load_torch_ghn(path)
        assert loaded.config == SMALL and loaded.metadata["epoch"] == 7
        for a, b in zip(jax.tree.leaves(loaded.theta), jax.tree.leaves(theta), strict=True):
            np.testing.assert_array_equal(a, b)
        assert [file.name for file in tmp_path.iterdir()] == ["ghn.pt"]

    def test_truncated_and_foreign_files_are_refused(self, theta, tmp_path):
        path = tmp_path / "ghn.pt"
        save_torch_ghn(LoadedGHN(SMALL, theta), path)
        path.write_bytes(path.read_bytes()[:5000])
        with pytest.raises(ValueError, match="truncated, or another format"):
            load_torch_ghn(path)
        path.write_text("not a checkpoint")
        with pytest.raises(ValueError, match="truncated, or another format"):
            load_torch_ghn(path)
        self.torch.save({"model": {}}, path)
        with pytest.raises(ValueError, match=r"\['config', 'state_dict'\] missing"):
            load_torch_ghn(path)
        with pytest.raises(FileNotFoundError, match="no checkpoint at"):
            load_torch_ghn(tmp_path / "absent.pt")

    @needs_reference
    @pytest.mark.parametrize("name", ["ghn1", "ghn2", "mlp"])
    def test_checkpoints_of_the_reference_go_both_ways_unchanged(self, name, tmp_path):
        source = REFERENCE / "peer" / f"{name}_cifar10_random.pt"
        ghn = load_torch_ghn(source)
        assert ghn.config == PRESETS[f"{name}-cifar10"]()
        assert ghn.metadata["dataset"] == "cifar10" and ghn.metadata["image_size"] == 32
        save_torch_ghn(ghn, tmp_path / "again.pt")
        first, second = (
            self.torch.load(path, weights_only=True) for path in (source, tmp_path / "again.pt")
        )
        assert first["config"] == second["config"] and first["epoch"] == second["epoch"]
        assert set(first["state_dict"]) == set(second["state_dict"])
        for key, tensor in first["state_dict"].items():
            assert self.torch.equal(tensor, second["state_dict"][key])
