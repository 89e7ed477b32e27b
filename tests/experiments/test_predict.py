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


def haiku_function(num_classes):
    """Parameters are the variables, without collections; a slope that is not predicted."""
    hk = pytest.importorskip("haiku")

    def forward(x):
        x = hk.Conv2D(8, 3, stride=4)(x)
        slope = hk.get_parameter("slope", (8, 1, 2), init=jnp.ones)
        return hk.Linear(num_classes)(x.mean((1, 2)) * slope.sum((1, 2)))

    net = hk.without_apply_rng(hk.transform(forward))
    images = jnp.zeros((2, 32, 32, 3))
    return net.apply, net.init(jax.random.key(0), images), images


def equinox_function(num_classes):
    eqx = pytest.importorskip("equinox")
    first, last = jax.random.split(jax.random.key(0))
    net = eqx.nn.Sequential(
        [
            eqx.nn.Conv2d(3, 8, 3, stride=4, key=first),
            eqx.nn.Lambda(lambda x: x.mean((1, 2))),
            eqx.nn.Linear(8, num_classes, key=last),
        ]
    )
    arrays, static = eqx.partition(net, eqx.is_array)

    def apply(variables, images):
        return jax.vmap(eqx.combine(variables, static))(images.transpose(0, 3, 1, 2))

    return apply, arrays, jnp.zeros((2, 32, 32, 3))


def plain_function(num_classes):
    """A tuple of arrays."""

    def apply(params, images):
        return images.reshape(images.shape[0], -1) @ params[0] + params[1]

    return (
        apply,
        (jnp.zeros((3072, num_classes)), jnp.zeros(num_classes)),
        jnp.zeros((2, 32, 32, 3)),
    )


@pytest.mark.parametrize("factory", ["haiku_function", "equinox_function", "plain_function"])
@pytest.mark.parametrize("policy", ["init", "error"])
def test_variables_without_collections_are_evaluated(checkpoint, capsys, factory, policy):
    if factory == "haiku_function":
        policy = "init"
    options = ["--evaluate", "--dataset=digits", "--max_images=64", f"--unsupported={policy}"]
    with jax.numpy_rank_promotion("allow"):
        predict.main([f"--model={HERE}:{factory}", checkpoint, *options])
    assert "of 64 test images right" in capsys.readouterr().out


def test_a_checkpoint_for_digits_is_evaluated_on_digits(tmp_path, capsys):
    config = GHNConfig(hid=8)
    metadata = {"dataset": "digits", "num_classes": 10, "image_size": 32}
    theta = init_theta(config, jax.random.key(0))
    save_ghn(tmp_path / "digits", LoadedGHN(config, theta, "digits", metadata))
    options = [f"--checkpoint={tmp_path / 'digits'}", "--evaluate", "--max_images=64"]
    predict.main([f"--model={HERE}:tiny", *options])
    assert "digits: " in capsys.readouterr().out


def test_images_of_another_size_than_the_network_are_refused(checkpoint):
    options = [f"--model={HERE}:tiny", checkpoint, "--dataset=digits", "--any_image_size"]
    with pytest.raises(SystemExit, match="images of 32x32 pixels, received --image_size=64"):
        predict.main([*options, "--image_size=64", "--evaluate"])
