"""The pictures' script: what it draws, and what it says where it cannot."""

import json

import flax.linen as nn
import jax
import numpy as np
import pytest

from experiments import visualize
from ppuda_jax.checkpoints import save_ghn
from ppuda_jax.evaluation import NetResult, ResultFile
from ppuda_jax.ghn.config import GHNConfig
from ppuda_jax.ghn.loaded import LoadedGHN
from ppuda_jax.ghn.model import init_theta
from ppuda_jax.params_io import save_params

HERE = "tests.experiments.test_visualize"


class Tiny(nn.Module):
    num_classes: int

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(8, (3, 3), strides=4)(x))
        return nn.Dense(self.num_classes)(x.mean((1, 2)))


class Dense(nn.Module):
    num_classes: int

    @nn.compact
    def __call__(self, x):
        return nn.Dense(self.num_classes)(x.reshape(len(x), -1))


def tiny(num_classes):
    return Tiny(num_classes)


def dense(num_classes):
    return Dense(num_classes)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    config = GHNConfig(hid=8)
    path = tmp_path_factory.mktemp("ghn") / "small"
    metadata = {"dataset": "digits", "num_classes": 10, "image_size": 32}
    save_ghn(path, LoadedGHN(config, init_theta(config, jax.random.key(0)), "small", metadata))
    return f"--checkpoint={path}"


def draw(capsys, *flags):
    visualize.main([*flags, "--compilation_cache=none"])
    return capsys.readouterr().out


def written(folder):
    return {path.name for path in folder.iterdir()}


def pictures(*names):
    return {f"{name}.{ending}" for name in names for ending in ("png", "svg")}


def test_a_model_beside_random_parameters(checkpoint, tmp_path, capsys):
    flags = (f"--model={HERE}:tiny", checkpoint, f"--output={tmp_path}")
    text = draw(capsys, *flags)
    assert written(tmp_path) == pictures("graph", "filters", "norms")
    assert "Conv_0/kernel, beside: random, He's normal (not trained)" in text
    assert draw(capsys, *flags) == text  # pictures that are there are drawn again


def test_beside_given_parameters(checkpoint, tmp_path, capsys, monkeypatch):
    own = Tiny(10).init(jax.random.key(0), np.zeros((2, 32, 32, 3), np.float32))["params"]
    save_params(tmp_path / "own", own)
    seen = {}
    monkeypatch.setattr(visualize, "draw_filters", lambda kernels, *_: seen.update(kernels) or seen)
    flags = [f"--model={HERE}:tiny", checkpoint, f"--trained={tmp_path / 'own'}"]
    text = draw(capsys, *flags, f"--output={tmp_path / 'out'}")
    assert "beside: trained (own)" in text
    np.testing.assert_array_equal(seen["trained (own)"], own["Conv_0"]["kernel"])
    other = [f"--model={HERE}:dense", *flags[1:], f"--output={tmp_path / 'out'}"]
    with pytest.raises(SystemExit, match=r"1 of 2 leaves are missing or have another shape"):
        visualize.main(other)


def test_trained_shortly(checkpoint, tmp_path, capsys):
    flags = (f"--model={HERE}:tiny", checkpoint, "--train_steps=2", f"--output={tmp_path}")
    assert "beside: trained for 2 steps" in draw(capsys, *flags)


def test_a_network_without_kernels_of_four_axes_gets_the_rest(checkpoint, tmp_path, capsys):
    text = draw(capsys, f"--model={HERE}:dense", checkpoint, f"--output={tmp_path}")
    assert "filters are not written: no kernel has four axes" in text
    assert written(tmp_path) == pictures("graph", "norms")


def test_a_network_of_a_split(checkpoint, tmp_path, capsys):
    flags = ("--split=bnfree", "--index=4", "--virtual_edges=50", f"--output={tmp_path}")
    text = draw(capsys, checkpoint, *flags)
    assert written(tmp_path) == pictures("graph", "filters", "norms") and "nodes" in text


def result(split, index, top1):
    return NetResult(split, index, f"{split}-{index}", 9, top1, 0.9, 1.0, 5, 0.1, 0.2, 0.0, "host")


def test_an_evaluation_beside_the_papers(tmp_path, capsys, monkeypatch):
    seen = {}
    monkeypatch.setattr(
        visualize, "draw_bars", lambda rows, columns, chance, *_: seen.update(rows, chance=chance)
    )
    identity = {"dataset": "cifar10", "params": "ghn", "ghn": GHNConfig(hid=8).to_dict()}
    for split in ("test", "wide"):
        ResultFile(tmp_path / f"{split}.jsonl", identity, NetResult).add(result(split, 0, 0.5))
    (tmp_path / "sgd.jsonl").write_text("a training\n")
    text = draw(capsys, f"--results={tmp_path}", f"--output={tmp_path / 'out'}")
    assert "1 of test, 1 of wide" in text
    assert seen["ours"] == {"test": (50.0, 0.0), "test max": (50.0, 0.0), "wide": (50.0, 0.0)}
    assert seen["chance"] == 10.0 and seen["paper, SGD, 1 epoch"]["wide"] == (47.2, 0.0)
    ResultFile(tmp_path / "deep.jsonl", identity | {"dataset": "digits"}, NetResult).add(
        result("deep", 0, 0.5)
    )
    with pytest.raises(SystemExit, match="are of different evaluations"):
        visualize.main([f"--results={tmp_path}", f"--output={tmp_path / 'out'}"])


def test_a_run_and_embeddings(checkpoint, tmp_path, capsys):
    run = checkpoint.partition("=")[2]
    lines = [{"step": 1, "accuracy": 0.5, "loss": 2.0}, {"step": 2, "accuracy": 0.6, "loss": 1.0}]
    with open(f"{run}/metrics.jsonl", "w") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)
    rng = np.random.default_rng(0)
    np.savez(
        tmp_path / "map.npz",
        embeddings=rng.normal(size=(9, 4)),
        accuracy=rng.random(9),
        split=["val"] * 9,
    )
    text = draw(
        capsys, f"--run={run}", f"--embeddings={tmp_path / 'map.npz'}", f"--output={tmp_path / 'o'}"
    )
    assert written(tmp_path / "o") == pictures("curves", "embeddings")
    assert "2 lines of metrics" in text and "9 networks" in text


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "give what is drawn"),
        (["--model=resnet51"], r"model must be one of \['darts', .*'resnet50'"),
        (["--model=resnet50", "--split=test"], "not both"),
        (["--split=tset"], "split must be one of"),
        (["--split=test", "--index=500"], "networks 0..499"),
        (["--model=resnet50", "--trained=a", "--train_steps=2"], "0 where --trained"),
        (["--split=test", "--virtual_edges=0"], "between 1 and 50"),
        (["--run=nowhere"], "no lines in metrics.jsonl"),
        (["--results=nowhere"], "nowhere"),
        (["--results=FOREIGN"], "is no file of results"),
        (["--embeddings=FOREIGN"], "must be an .npz file"),
        (["--embeddings=EMPTY"], "lacks embeddings, accuracy, split"),
    ],
)
def test_mistakes_end_in_one_line(checkpoint, tmp_path, flags, message):
    (tmp_path / "foreign").write_text("no results\n")
    np.savez(tmp_path / "empty.npz", other=np.zeros(3))
    places = {"FOREIGN": str(tmp_path / "foreign"), "EMPTY": str(tmp_path / "empty.npz")}
    for name, place in places.items():
        flags = [flag.replace(name, place) for flag in flags]
    with pytest.raises(SystemExit, match=message):
        visualize.main([checkpoint, *flags, f"--output={tmp_path / 'out'}"])
