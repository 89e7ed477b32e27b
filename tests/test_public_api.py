"""The public names: exact, documented, and light to import."""

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import ppuda_jax as pj

HEAVY = ("tensorflow", "torch", "h5py", "matplotlib", "tensorflow_datasets")


def test_all_is_sorted_and_exact():
    assert pj.__all__ == sorted(pj.__all__)
    assert dir(pj) == pj.__all__
    for name in pj.__all__:
        assert getattr(pj, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'training'"):
        pj.__getattr__("training")


def test_type_checkers_see_the_same_names():
    tree = ast.parse(Path(pj.__file__).read_text())
    seen = [
        alias.asname
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if alias.asname
    ]
    assert sorted(seen) == pj.__all__


def test_every_public_name_has_a_docstring():
    assert not [name for name in pj.__all__ if not inspect.getdoc(getattr(pj, name))]


def test_every_argument_of_a_public_function_is_annotated():
    bare = [
        (name, argument)
        for name in pj.__all__
        if inspect.isfunction(getattr(pj, name))
        for argument, parameter in inspect.signature(getattr(pj, name)).parameters.items()
        if parameter.annotation is inspect.Parameter.empty
    ]
    assert not bare


def test_using_every_name_loads_no_heavy_package():
    code = (
        "import sys, ppuda_jax as pj; [getattr(pj, name) for name in pj.__all__]; "
        f"print([m for m in {HEAVY!r} if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_sampling_architectures_loads_no_jax():
    code = "import sys, ppuda_jax.archs.sampling; print('jax' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "False"
