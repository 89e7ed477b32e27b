"""All commands under one name, in a checkout and installed."""

import ast
import pathlib
import subprocess
import sys

import pytest

from experiments import __main__ as commands
from experiments import flags

FOLDER = pathlib.Path(commands.__file__).parent
CHECKOUT = ("bench_", "check_", "peer", "own_network")  # as in setup.py


def test_every_command_is_listed_with_what_it_does(capsys):
    commands.main(["--help"])
    text = capsys.readouterr().out
    known = commands.commands()
    assert {"predict", "train", "evaluate", "generate", "finetune", "visualize"} <= set(known)
    assert not [name for name in known if name.startswith(("bench", "check", "flags"))]
    assert all(what and f"{name} " in text and what in text for name, what in known.items())
    assert not [line for line in text.splitlines() if len(line) > 100]


def test_a_command_gets_its_flags(capsys):
    commands.main(["predict", "--help"])
    assert "--model" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="model must be one of"):
        commands.main(["predict", "--model=resnet51"])


def test_a_command_that_does_not_exist(capsys):
    with pytest.raises(SystemExit) as exit_info:
        commands.main(["predcit"])
    assert exit_info.value.code == 2
    error = capsys.readouterr().err
    assert "no command 'predcit'; did you mean predict?" in error and "evaluate" in error


def test_what_is_installed_knows_no_package_experiments():
    for path in [*FOLDER.glob("*.py"), *(FOLDER / "configs").glob("*.py")]:
        if path.stem.startswith(CHECKOUT):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            absolute = [n for n in names if n.split(".")[0] == "experiments"]
            assert not absolute, f"{path.name} must import {absolute} relatively, see __init__.py"


def test_help_of_an_installed_command_names_it(capsys, monkeypatch):
    monkeypatch.setattr(flags, "__package__", "ppuda_jax.cli")
    commands.main(["evaluate", "--help"])
    text = capsys.readouterr().out
    assert "ppuda-jax evaluate --checkpoint" in text and "python -m" not in text


def test_a_reader_that_has_seen_enough_ends_it_quietly():
    command = f"{sys.executable} -m experiments.generate --help | head -n 1"
    result = subprocess.run(
        command, shell=True, cwd=FOLDER.parent, capture_output=True, text=True, timeout=120
    )
    assert result.stdout.startswith("Writes splits") and result.stderr == ""
