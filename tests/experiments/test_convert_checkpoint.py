"""The conversion command, both ways."""

import jax
import numpy as np
import pytest

from experiments.convert_checkpoint import main
from ppuda_jax.checkpoints import load_ghn, save_ghn
from ppuda_jax.ghn.config import GHNConfig
from ppuda_jax.ghn.loaded import LoadedGHN
from ppuda_jax.ghn.model import init_theta


def test_to_torch_and_back(tmp_path, capsys):
    pytest.importorskip("torch", reason="PyTorch is optional")
    config = GHNConfig(hid=4, max_shape=(8, 8, 3, 3), virtual_edges=50, layernorm=True)
    theta = init_theta(config, jax.random.key(0))
    save_ghn(tmp_path / "start", LoadedGHN(config, theta, "tiny", {}))
    main([str(tmp_path / "start"), str(tmp_path / "ghn.pt")])
    main([str(tmp_path / "ghn.pt"), str(tmp_path / "back")])
    back = load_ghn(tmp_path / "back")
    assert back.config == config
    for a, b in zip(jax.tree.leaves(dict(back.theta)), jax.tree.leaves(theta), strict=True):
        np.testing.assert_array_equal(a, b)
    assert capsys.readouterr().out.count("parameters") == 2


def test_clear_refusals(tmp_path, capsys):
    with pytest.raises(SystemExit, match="no hypernetwork 'no-such-name'"):
        main(["no-such-name", str(tmp_path / "x")])
    with pytest.raises(SystemExit, match="exists already"):
        main(["ghn2-cifar10", str(tmp_path)])
    with pytest.raises(SystemExit):
        main(["ghn2-cifar10"])
    assert "missing arguments ['target']" in capsys.readouterr().err
