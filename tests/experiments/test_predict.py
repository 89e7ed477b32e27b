"""The prediction command."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import predict
from ppuda_jax.checkpoints import save_ghn
from ppuda_jax.ghn.config import GHNConfig
from ppuda_jax.ghn.loaded import LoadedGHN
from ppuda_jax.ghn.model import init_theta
from ppuda_jax.params_io import load_params


class Tiny(nn.Module):
    num_classes: int

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(8, (3, 3), strides=4)(x))
        return nn.Dense(self.num_classes)(x.mean((1, 2)))


class Sloped(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(10)(nn.PReLU()(nn.Conv(8, (3, 3), strides=4)(x)).mean((1, 2)))


def tiny(num_classes):
    return Tiny(num_classes)


def sloped_function():
    net, images = Sloped(), jnp.zeros((2, 32, 32, 3))
    return net.apply, net.init(jax.random.key(0), images), images


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    config = GHNConfig(hid=8)
    path = tmp_path_factory.mktemp("ghn") / "small"
    save_ghn(path, LoadedGHN(config, init_theta(config, jax.random.key(0)), "small", {}))
    return f"--checkpoint={path}"


HERE = "tests.experiments.test_predict"


def test_predicts_saves_and_evaluates(checkpoint, tmp_path, capsys):
    output = tmp_path / "params.safetensors"
    predict.main(
        [
            f"--model={HERE}:tiny",
            checkpoint,
            f"--output={output}",
            "--evaluate",
            "--dataset=digits",
            "--describe",
            f"--draw={tmp_path / 'graph.png'}",
        ]
    )
    printed = capsys.readouterr().out
    assert "6 nodes traced" in printed and "% of 359 test images right" in printed
    assert "Conv_0/kernel (kernel)" in printed and (tmp_path / "graph.png").exists()
    loaded = load_params(output)
    assert loaded["Conv_0"]["kernel"].shape == (3, 3, 3, 8)
    assert np.isfinite(loaded["Dense_0"]["kernel"]).all()
    predict.main(
        [f"--model={HERE}:tiny", checkpoint, "--evaluate", "--dataset=digits", "--max_images=70"]
    )
    assert "% of 70 test images right" in capsys.readouterr().out


def test_what_cannot_be_predicted_is_kept_on_request(checkpoint, tmp_path, capsys):
    model = f"--model={HERE}:Sloped"
    with pytest.raises(SystemExit, match="slope of an activation function"):
        predict.main([model, checkpoint])
    model = f"--model={HERE}:sloped_function"
    predict.main([model, checkpoint, "--unsupported=init", f"--output={tmp_path / 'p'}"])
    assert load_params(tmp_path / "p")["PReLU_0"]["negative_slope"] == np.float32(0.01)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--model=resnet51"], "model must be one of"),
        (["--model=no.such:model"], "cannot be imported"),
        ([f"--model={HERE}:missing"], "cannot be imported"),
        ([f"--model={HERE}:tiny", "--dataset=mnist"], "mnist"),
        (
            [f"--model={HERE}:tiny", "--dataset=digits", "--evaluate", "--max_images=0"],
            "max_images must be at least 2, received 0",
        ),
        ([f"--model={HERE}:tiny", "--dataset=imagenet"], "1000 classes|32x32"),
    ],
)
def test_mistakes_end_in_one_line(checkpoint, flags, message):
    with pytest.raises(SystemExit, match=message):
        predict.main([checkpoint, *flags])


def test_unknown_checkpoint():
    with pytest.raises(SystemExit, match="no hypernetwork 'none'"):
        predict.main([f"--model={HERE}:tiny", "--checkpoint=none"])
