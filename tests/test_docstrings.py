"""The examples of docstrings print what they say."""

import doctest
import importlib
import inspect
from pathlib import Path

import pytest

import ppuda_jax as pj

PACKAGE = Path(pj.__file__).parent
FILES = [path for path in sorted(PACKAGE.rglob("*.py")) if ">>> " in path.read_text()]


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.relative_to(PACKAGE).as_posix())
def test_examples_print_what_they_say(path):
    name = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
    results = doctest.testmod(importlib.import_module(name))
    assert results.attempted
    assert not results.failed


def test_public_names_have_examples():
    bare = [name for name in pj.__all__ if ">>> " not in inspect.getdoc(getattr(pj, name))]
    assert bare == ["GHN", "load_split", "push_to_hub", "save_ghn"]
