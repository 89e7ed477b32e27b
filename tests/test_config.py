"""Configurations: round trips, strict keys, typed text."""

import dataclasses
import pathlib
import typing
from typing import Literal

import numpy as np
import pytest

from ppuda_jax import config


@dataclasses.dataclass(frozen=True)
class Inner:
    size: int = 3


@dataclasses.dataclass(frozen=True)
class Outer:
    name: str
    rate: float = 0.5
    on: bool = False
    limit: float | None = None
    kind: Literal["a", "b"] = "a"
    marks: tuple[float, ...] = (0.1, 0.2)
    shape: tuple[int, int] = (1, 2)
    inner: Inner = Inner()


EXAMPLE = Outer("x", 2.0, True, 1.5, "b", (0.3,), (4, 5), Inner(7))


def test_json_round_trip():
    assert config.from_json(Outer, config.to_json(EXAMPLE)) == EXAMPLE


def test_save_is_readable_and_leaves_no_other_file(tmp_path):
    config.save_json(tmp_path / "c.json", EXAMPLE)
    assert config.from_json(Outer, (tmp_path / "c.json").read_text()) == EXAMPLE
    assert [p.name for p in tmp_path.iterdir()] == ["c.json"]


def test_a_file_that_cannot_be_written_leaves_nothing(tmp_path, monkeypatch):
    config.write_atomic(tmp_path / "c.json", "before")

    def full(self, text):
        self.touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pathlib.Path, "write_text", full)
    with pytest.raises(OSError, match="No space left"):
        config.write_atomic(tmp_path / "c.json", "after")
    assert [p.name for p in tmp_path.iterdir()] == ["c.json"]
    assert (tmp_path / "c.json").read_text() == "before"


def test_integers_become_floats_but_booleans_do_not_become_integers():
    assert config.from_dict(Outer, {"name": "x", "rate": 1}).rate == 1.0
    with pytest.raises(ValueError, match=r"Inner\.size: expected int, received True"):
        config.from_dict(Inner, {"size": True})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"name": "x", "rat": 1.0}, r"unknown keys \['rat'\]; did you mean 'rate'\?"),
        ({"name": "x", "rate": "fast"}, r"Outer\.rate: expected float, received 'fast'"),
        ({"name": "x", "kind": "c"}, r"Outer\.kind: expected one of a, b, received 'c'"),
        ({"name": "x", "shape": [1]}, r"Outer\.shape: expected 2 values, received 1"),
        ({"name": "x", "inner": {"sise": 1}}, r"Inner: unknown keys \['sise'\]"),
        ({}, r"Outer cannot be built: .*name"),
    ],
)
def test_wrong_values_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        config.from_dict(Outer, values)


@pytest.mark.parametrize(
    ("field", "text", "value"),
    [
        ("rate", "1e-3", 1e-3),
        ("on", "true", True),
        ("on", "0", False),
        ("limit", "none", None),
        ("limit", "60", 60.0),
        ("kind", "b", "b"),
        ("marks", "0.5, 0.7", (0.5, 0.7)),
        ("shape", "8,9", (8, 9)),
        ("name", "none", "none"),
    ],
)
def test_text_is_parsed_by_type(field, text, value):
    assert getattr(config.override(EXAMPLE, {field: text}), field) == value


@pytest.mark.parametrize(
    ("field", "text", "message"),
    [
        ("rate", "fast", "expected float, received 'fast'"),
        ("on", "maybe", "expected true or false, received 'maybe'"),
        ("shape", "1,2,3", "expected 2 values, received 3"),
        ("nam", "x", "did you mean 'name'"),
    ],
)
def test_wrong_text_is_refused(field, text, message):
    with pytest.raises(ValueError, match=message):
        config.override(EXAMPLE, {field: text})


def test_text_that_is_no_json():
    with pytest.raises(ValueError, match="Outer: not valid JSON"):
        config.from_json(Outer, "{")
    with pytest.raises(ValueError, match="expected a JSON object, received list"):
        config.from_json(Outer, "[]")


def config_classes():
    """Every configuration class of the package and the scripts."""
    from experiments import bench_evaluate, evaluate
    from ppuda_jax.archs.genotypes import DARTS, NetConfig
    from ppuda_jax.evaluation.evaluate import EvalSettings
    from ppuda_jax.ghn.config import GHNConfig
    from ppuda_jax.training.config import TrainConfig

    return {
        "TrainConfig": TrainConfig(),
        "EvalSettings": EvalSettings(),
        "GHNConfig": GHNConfig(),
        "NetConfig": NetConfig(DARTS, 4, 8),
        "EvaluateConfig": evaluate.EvaluateConfig(),
        "BenchConfig": bench_evaluate.BenchConfig(),
    }


@pytest.mark.parametrize("name", config_classes())
def test_values_of_another_type_are_refused_in_python_too(name):
    """`dataclasses.replace` and constructors, not only flags and files."""
    example = config_classes()[name]
    for field, hint in config.field_types(type(example)).items():
        for wrong in (object(), b"bytes", 1j, {"a"}):
            with pytest.raises(
                ValueError,
                match=rf"({name}\.{field}: expected|must be a mapping or an object) .*received",
            ):
                dataclasses.replace(example, **{field: wrong})
        if typing.get_origin(hint) is Literal:
            for wrong in ("nonsense", "", 0, None):
                with pytest.raises(
                    ValueError, match=rf"{name}\.{field}: expected one of .*received"
                ):
                    dataclasses.replace(example, **{field: wrong})
        if hint is int:
            for wrong in (True, 1.5, "1", None):
                with pytest.raises(ValueError, match=rf"{name}\.{field}: expected int"):
                    dataclasses.replace(example, **{field: wrong})


@pytest.mark.parametrize(
    ("cls", "changes"),
    [
        ("TrainConfig", {"lr_schedule": "linear"}),
        ("TrainConfig", {"model": "ghn3"}),
        ("TrainConfig", {"compute_dtype": "int8"}),
        ("TrainConfig", {"lr_milestones": 0.5}),
        ("EvalSettings", {"compute_dtype": "int8"}),
        ("EvalSettings", {"num_devices": "all"}),
        ("GHNConfig", {"hid": 32.0}),
        ("NetConfig", {"norm": 1}),
        ("NetConfig", {"C": "32"}),
    ],
)
def test_reported_wrong_values(cls, changes):
    (field,) = changes
    with pytest.raises(ValueError, match=rf"{cls}\.{field}: expected"):
        dataclasses.replace(config_classes()[cls], **changes)


def test_what_says_the_same_in_another_type_is_taken():
    from ppuda_jax.training.config import TrainConfig

    made = TrainConfig(
        steps=np.int64(3),
        learning_rate=1,
        grad_clip=np.float32(0.5),
        lr_milestones=[0.25, 0.5],
        workdir=pathlib.Path("runs") / "a",
        stratified=np.bool_(True),
    )
    assert config.from_json(TrainConfig, config.to_json(made)) == made
    types = [type(getattr(made, n)) for n in ("steps", "learning_rate", "workdir", "stratified")]
    assert types == [int, float, str, bool] and made.lr_milestones == (0.25, 0.5)


def test_differences_name_both_sides():
    there, now = {"a": 1, "b": "x", "c": None}, {"a": 1, "b": "y", "d": 2}
    assert config.differences(there, now) == ["b: there 'x', now 'y'", "d: there None, now 2"]
    assert config.differences(there, now, ["a", "d"]) == ["d: there None, now 2"]
