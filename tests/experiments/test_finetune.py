"""The comparison's script: what it asks the library for, prints and writes."""

import json
import math

import pytest

from experiments import finetune
from experiments.finetune import FinetuneConfig
from ppuda_jax.finetune.compare import Row


def _row(init, start, wins):
    nothing = math.nan
    p_value = nothing if math.isnan(wins) else 0.25
    mean = (start, 0.4, 0.5)
    numbers = (start, 0.5, 0.4, math.inf, 0.0, wins, p_value, 12.0, 1)
    return Row(init, "sgd", 0.025, (0, 5, 10), mean, (0.0, 0.01, 0.02), *numbers)


def test_table_and_files(monkeypatch, tmp_path):
    asked = {}

    def compare(networks, inits, recipes, images, held_out, **options):
        asked.update(options, inits=list(inits), recipes=recipes)
        asked["names"] = [net.name for net, _ in networks]
        assert held_out.num_images == 64 and images(0) is images(0)
        return (_row("he", 0.1, math.nan), _row("predicted", 0.3, 0.75))

    monkeypatch.setattr(finetune, "compare", compare)
    options = FinetuneConfig(
        dataset="digits",
        num_nets=2,
        steps=10,
        optimizers=("sgd", "adam"),
        inits=("he", "predicted", "warm5"),
        shots=20,
        max_images=64,
        compilation_cache=None,
        output=str(tmp_path / "out"),
        at_once=2,
    )
    text = finetune.run(options)
    assert (asked["every"], asked["at_once"]) == (1, 2) and asked["inits"] == [
        "he",
        "predicted",
        "warm5",
    ]
    assert {name: r.learning_rate for name, r in asked["recipes"].items()} == {
        "sgd": 0.025,
        "adam": 1e-3,
    }
    assert len(asked["names"]) == 2
    *lines, spent = text.splitlines()
    assert "s of processors), 0 programs compiled in 0 s, 0 of them" in spent
    *_, he, predicted = ([cell.strip() for cell in line.split("|")] for line in lines)
    assert he[1:-1] == [
        "sgd",
        "he",
        "0.025",
        "10.0",
        "50.0 ± 2.0",
        "40.0",
        "never (0 %)",
        "",
        "",
        "12",
        "1",
    ]
    assert predicted[8:10] == ["75 %", "0.250"]
    table = json.loads((tmp_path / "out" / "table.json").read_text())
    assert table[0]["wins"] is None and table[1]["mean"] == [0.3, 0.4, 0.5]
    assert (tmp_path / "out" / "curves.png").stat().st_size > 5_000
    assert b"<svg" in (tmp_path / "out" / "curves.svg").read_bytes()


@pytest.mark.parametrize(
    "options,message",
    [
        ({"inits": ("hee",)}, "inits are random, he, orthogonal, .* received 'hee'"),
        ({"inits": ("he", "warm0")}, "received 'warm0'"),
        ({"learning_rate": (0.1, 0.2)}, "one number for each of optimizers"),
        ({"steps": 0}, "must be at least 1"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        FinetuneConfig(**options)
