"""The command that trains a zoo: what it asks the library for, prints and refuses."""

import dataclasses

import pytest

from experiments import train_zoo
from experiments.train_zoo import ZooConfig
from ppuda_jax.finetune import zoo as zoo_module
from ppuda_jax.finetune.zoo import Ended


def _options(tmp_path, **changes):
    base = ZooConfig(output=str(tmp_path / "zoo"), max_images=64, compilation_cache=None)
    return dataclasses.replace(base, **changes)


@pytest.fixture
def asked(monkeypatch):
    found = {}

    def train(self, nets, *, seeds, at_once, progress):
        found.update(zoo=self, nets=nets, seeds=seeds)
        ended = tuple(
            Ended(net.split, net.index, net.fingerprint, 0, "" if i else "a.npz", 0.1, 0.5, d, 3.2)
            for i, (net, d) in enumerate(zip(nets, [None, 7, 7], strict=False))
        )
        for number, each in enumerate(ended, 1):
            progress(number, len(ended), each)
        return ended if not found.get("all_diverge") else ended[1:]

    monkeypatch.setattr(zoo_module.Zoo, "train", train)
    return found


def test_what_is_trained_and_printed(asked, tmp_path, capfd):
    text = train_zoo.run(_options(tmp_path, num_nets=3, steps=9, max_params=200_000))
    zoo, nets = asked["zoo"], asked["nets"]
    assert (zoo.steps, zoo.init_name, zoo.held_out.part, zoo.held_out.num_images) == (
        9,
        "he",
        "val",
        64,
    )
    assert zoo.images(0) is zoo.images(0) and zoo.images(0).spec.name == "digits"
    assert len(nets) == 3 and all(net.plan.num_params <= 200_000 for net in nets)
    assert all(net.split == "train" for net in nets)
    assert "1 of 3 networks are in" in text and "diverged at step 7" in text
    err = capfd.readouterr().err
    assert "diverged at step 7: it is left out, the others go on" in err
    assert "accuracy 0.100 to 0.500" in err


def test_epochs_become_steps(asked, tmp_path):
    train_zoo.run(_options(tmp_path, num_nets=1, epochs=0.5, batch_size=16))
    assert asked["zoo"].steps == round(0.5 * 1295 / 16)


def test_a_zoo_of_which_nothing_is_left_is_an_error(asked, tmp_path):
    asked["all_diverge"] = True
    with pytest.raises(ValueError, match="every network diverged, .* lower learning_rate"):
        train_zoo.run(_options(tmp_path, num_nets=2, steps=1))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"init": "ghn"}, "init must be he or predicted, received 'ghn'"),
        ({"steps": 0}, "steps must be at least 1, received 0"),
        ({"epochs": 0.0}, "epochs must be above zero"),
        ({"max_params": 1000, "num_nets": 1}, "have at most max_params=1000 parameters"),
        ({"split": "trane"}, "split must be one of"),
        ({"optimizer": "sgdd"}, "optimizer must be one of optax's"),
    ],
)
def test_bad_options(changes, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        train_zoo.run(_options(tmp_path, **changes))
    assert not (tmp_path / "zoo").exists()
