"""Flags made from a configuration, and the command line of every script."""

import ast
import dataclasses
import importlib
import inspect
import json
import pathlib
from typing import Literal

import pytest
from absl import flags

from experiments import flags as config_flags
from experiments.configs import RECIPES, recipe
from ppuda_jax.config import check_types, described
from ppuda_jax.training.config import TrainConfig


def parsed(*arguments):
    values = flags.FlagValues()
    names = config_flags.define(TrainConfig, flag_values=values)
    values(["program", *arguments])
    return names, values


def test_every_field_is_a_flag_with_a_help_text():
    names, values = parsed()
    assert set(names) == set(TrainConfig.__dataclass_fields__)
    assert all(len(values[name].help) > 10 for name in names)


def test_only_given_flags_change_the_configuration():
    names, values = parsed("--steps=50", "--lr_milestones=0.5,0.9", "--time_limit_s=none")
    base = TrainConfig(time_limit_s=9.0, learning_rate=0.5)
    changed = config_flags.apply(base, names, values)
    assert (changed.steps, changed.lr_milestones, changed.time_limit_s) == (50, (0.5, 0.9), None)
    assert changed.learning_rate == 0.5


def test_a_boolean_field_needs_no_value():
    for arguments, expected in ((("--stratified",), True), (("--nostratified",), False)):
        names, values = parsed(*arguments)
        base = TrainConfig(stratified=not expected)
        assert config_flags.apply(base, names, values).stratified is expected


def test_a_switch_may_be_left_open():
    names, values = parsed("--noflip")
    assert config_flags.apply(TrainConfig(), names, values).flip is False


def test_a_wrong_value_names_the_field():
    names, values = parsed("--steps=many")
    with pytest.raises(ValueError, match="TrainConfig.steps: expected int, received 'many'"):
        config_flags.apply(TrainConfig(), names, values)


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_recipes_are_for_their_dataset(name):
    assert recipe(name).dataset == name


def test_other_image_sets_have_the_recipe_of_cifar10():
    assert dataclasses.replace(recipe("mnist"), dataset="cifar10") == recipe("cifar10")


# The reference's side of the benchmarks runs where this package is not; `__main__` has no flags.
NO_SCRIPTS = {"bench_peer", "__main__"}
SCRIPTS = sorted(
    path.stem
    for path in pathlib.Path(config_flags.__file__).parent.glob("*.py")
    if '__name__ == "__main__"' in path.read_text() and path.stem not in NO_SCRIPTS
)


@pytest.mark.parametrize("name", SCRIPTS)
def test_help_lists_every_flag_and_mistakes_end_in_one_line(name, capsys):
    script = importlib.import_module(f"experiments.{name}")
    script.main(["--help"])
    text = capsys.readouterr().out
    classes = [
        cls
        for cls in vars(script).values()
        if isinstance(cls, type) and cls.__module__ == script.__name__ and "Flags" in cls.__name__
    ] or [
        cls
        for cls in vars(script).values()
        if isinstance(cls, type) and cls.__module__ == script.__name__ and "Config" in cls.__name__
    ]
    (cls,) = classes
    for field in dataclasses.fields(cls):
        assert (
            f"--{field.name}" in text
            or f"--[no]{field.name}" in text
            or (f"  {field.name.upper()}\n" in text)
        ), field.name
        assert len(field.metadata["help"]) > 5
    assert script.__doc__.strip().splitlines()[0] in text
    assert "flagfile" not in text and "--[no]json" in text
    flags_shown = text.partition("\n  --")[2].splitlines()
    assert max(map(len, flags_shown)) <= 80  # a terminal's width
    for mistake in (["--no_such_flag=3"], ["one", "two", "three"]):
        with pytest.raises(SystemExit) as stopped:
            script.main(mistake)
        assert stopped.value.code == 2
        assert len(capsys.readouterr().err.strip().splitlines()) == 1


def config_of(script):
    """The class that its flags come from, and the fields that are arguments without a name."""
    positional = [
        [getattr(element, "value", None) for element in keyword.value.elts]
        for node in ast.walk(ast.parse(inspect.getsource(script.main)))
        if isinstance(node, ast.Call)
        for keyword in node.keywords
        if keyword.arg == "positional"
    ]
    text = inspect.getsource(script.main)
    (cls,) = (
        cls
        for name, cls in vars(script).items()
        if isinstance(cls, type) and cls.__module__ == script.__name__ and f"{name}," in text
    )
    return cls, positional[0] if positional else []


def needed_flags(cls, unnamed):
    """A value for each field that has none."""
    names = [
        field.name
        for field in dataclasses.fields(cls)
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    ]
    return [f"--{name}=given" for name in names if name not in unnamed] + ["given"] * len(unnamed)


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_script_has_json_on_stdout_and_all_else_on_stderr(name, capsys, monkeypatch):
    script = importlib.import_module(f"experiments.{name}")
    found = config_flags.report(config_flags.table(["a", ""], [[1, "x"]], "title"), "note")

    def stand_in(options):
        print("a message")
        return found

    cls, unnamed = config_of(script)
    given = needed_flags(cls, unnamed)
    monkeypatch.setattr(script, "run", stand_in)
    monkeypatch.setattr(cls, "__post_init__", lambda self: None)  # what is given fits nothing
    script.main([*given, "--json"])
    out, error = capsys.readouterr()
    assert json.loads(out) == {
        "text": ["note"],
        "tables": [{"title": "title", "rows": [{"a": 1, "name": "x"}]}],
    }
    assert "a message" in error
    script.main(given)
    out, error = capsys.readouterr()
    assert out == f"a message\n{found}\n"


FILES = sorted(pathlib.Path(config_flags.__file__).parent.glob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_no_table_ends_as_a_mere_text(path):
    """A table in an f-string or joined with others would be lost to `--json`."""
    tree = ast.parse(path.read_text())

    def name_of(node):
        return ast.unparse(node.func) if isinstance(node, ast.Call) else None

    def makes_one(node):
        return any(name_of(inner) in makers for inner in ast.walk(node))

    makers = {"flags.table", "flags.report"}
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    for function in functions:
        returned = [node.value for node in ast.walk(function) if isinstance(node, ast.Return)]
        if any(name_of(value) in makers for value in returned):
            makers.add(function.name)
    for node in ast.walk(tree):
        joins = isinstance(node, ast.Call) and ast.unparse(node.func).endswith(".join")
        if isinstance(node, ast.JoinedStr) or joins:
            assert not makes_one(node), f"{path.name}:{node.lineno}: use flags.report"


def test_a_report_says_how_the_process_ends(capsys):
    with pytest.raises(SystemExit) as stopped:
        config_flags.start(
            Small, lambda options: config_flags.report("bad", status=1), None, ["--needed=x"]
        )
    assert stopped.value.code == 1 and capsys.readouterr().out == "bad\n"
    config_flags.start(Small, lambda options: None, None, ["--needed=x", "--json"])
    assert json.loads(capsys.readouterr().out) == {"text": [], "tables": []}


@dataclasses.dataclass(frozen=True)
class Small:
    """A configuration with everything."""

    needed: str = described(dataclasses.MISSING, "a field without a default")
    kind: Literal["a", "b"] = described("a", "a choice")
    sizes: tuple[int, ...] = described((1, 2), "several numbers")

    def __post_init__(self) -> None:
        check_types(self)


def test_fields_without_a_default_are_asked_for():
    with pytest.raises(SystemExit, match="needed"):
        config_flags.start(Small, print, None, [])
    seen = []
    config_flags.start(Small, seen.append, None, ["x", "--sizes=3"], positional=("needed",))
    assert seen == [Small("x", "a", (3,))]


def test_choices_and_defaults_are_shown(capsys):
    config_flags.start(Small, print, "What it does.", ["--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "one of a, b (default: a)" in text and "(default: 1,2)" in text


def test_faults_of_ours_keep_their_traceback():
    def fail(options):
        raise KeyError("ours")

    with pytest.raises(KeyError):
        config_flags.start(Small, fail, None, ["--needed=x"])


@pytest.mark.parametrize("width", [40, 72, 200])
def test_help_is_filled_to_the_width_of_a_terminal(width):
    text = (
        "What it does, said at some length in a paragraph\nof two lines.\n\n"
        "    python -m experiments.one --first=1 --second=2 --third=3\n\n"
        "- one thing that a list says, and it takes\n  two lines;\n- another.\n\n"
        "  --flag=VALUE\n      what it is (default: none)"
    )
    found = config_flags.fitted(text, width)
    assert found.split() == text.split()
    assert "    python -m experiments.one --first=1 --second=2 --third=3\n" in found
    assert all(len(line) <= width for line in found.splitlines() if "python -m" not in line)
    assert config_flags.fitted(text, None) == text
    if width == 200:
        assert found == text
    else:
        assert "\n- another." in found and "\n      what it is" in found
