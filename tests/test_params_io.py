"""Saving and loading target parameters."""

import numpy as np
import pytest

from ppuda_jax.params_io import load_params, save_params

PARAMS = {"conv": {"kernel": np.arange(6.0, dtype=np.float32).reshape(2, 3)}, "b": np.ones(2)}


@pytest.mark.parametrize("name", ["folder", "file.safetensors"])
def test_round_trip(tmp_path, name):
    path = save_params(tmp_path / "new" / name, PARAMS)
    loaded = load_params(path)
    np.testing.assert_array_equal(loaded["conv"]["kernel"], PARAMS["conv"]["kernel"])
    np.testing.assert_array_equal(loaded["b"], PARAMS["b"])
    with pytest.raises(ValueError, match="exists already"):
        save_params(path, PARAMS)


def test_other_pytrees_are_saved_by_path(tmp_path):
    path = save_params(tmp_path / "p.safetensors", [{"w": np.ones(2)}, (np.zeros(1),)])
    assert set(load_params(path)) == {"0", "1"}


def test_nothing_there(tmp_path):
    with pytest.raises(ValueError, match=r"neither a .safetensors file nor a folder"):
        load_params(tmp_path / "none")
