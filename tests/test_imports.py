"""Imports point one way: a module imports from its own level or a lower one."""

import ast
import configparser
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "ppuda_jax"

# Lower comes first. A name is a sub-package or a module of ppuda_jax.
LEVELS = (
    ("types", "primitives", "config", "runtime"),
    ("archs",),
    ("graphs",),
    ("ghn", "nets", "tracing"),
    ("executor", "convert", "params_io"),
    (
        "prediction",
        "programs",
        "data",
        "checkpoints",
        "parallel",
        "calibration",
        "visualization",
        "hub",
    ),
    ("hostloop", "teachers", "zoo"),
    ("training",),
    ("evaluation", "structure"),
    ("finetune",),
    ("properties",),
    ("proxies",),
)
LEVEL = {name: level for level, names in enumerate(LEVELS) for name in names}
# Two families of one level that must not see each other.
STRANGERS = ({"ghn", "nets"}, {"ghn", "executor"})
# Only these load heavy packages, and only inside functions.
HEAVY = {"torch", "h5py", "matplotlib", "tensorflow_datasets", "tensorflow"}


def _modules():
    return sorted(p for p in PACKAGE.rglob("*.py") if p != PACKAGE / "__init__.py")


def _imports(tree, top_only=False):
    nodes = tree.body if top_only else ast.walk(tree)
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _family(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", _modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_down(path):
    family = _family(path)
    assert family in LEVEL, f"{family} has no level: add it to LEVELS"
    for name in _imports(ast.parse(path.read_text())):
        if not name.startswith("ppuda_jax."):
            continue
        other = name.split(".")[1]
        assert LEVEL[other] <= LEVEL[family], f"{family} imports {other}, which is above it"
        assert {family, other} not in STRANGERS, f"{family} and {other} must not see each other"


@pytest.mark.parametrize("path", _modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_heavy_packages_are_imported_where_they_are_used(path):
    loaded = {name.split(".")[0] for name in _imports(ast.parse(path.read_text()), top_only=True)}
    allowed = {"tensorflow_datasets"} if path.name == "deepnets1m.py" else set()  # a builder of it
    assert not loaded & (HEAVY - allowed)


def test_architectures_know_no_jax():
    for path in sorted((PACKAGE / "archs").glob("*.py")):
        names = {name.split(".")[0] for name in _imports(ast.parse(path.read_text()))}
        assert not names & {"jax", "flax", "jraph"}, path.name


def test_only_one_module_maps_over_devices():
    users = [
        path.name
        for path in _modules()
        if any(word in path.read_text() for word in ("pmap(", "shard_map("))
    ]
    assert users == ["parallel.py"]


def test_library_has_no_assert_statements():
    for path in _modules():
        tree = ast.parse(path.read_text())
        assert not [n.lineno for n in ast.walk(tree) if isinstance(n, ast.Assert)], path


# Where the name of a distribution is not that of its package.
DISTRIBUTIONS = {
    "PIL": "pillow",
    "absl": "absl-py",
    "orbax": "orbax-checkpoint",
    "sklearn": "scikit-learn",
}
# What extras bring; only imported where it is used.
OF_EXTRAS = {"torch", "safetensors", "huggingface_hub"}


def test_every_package_that_is_imported_is_required():
    """What CI's extras bring along may be missing where a user installs the package alone."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    lines = config["options"]["install_requires"].split()
    required = {re.split(r"[><=!~;]", line)[0].replace("-", "_").lower() for line in lines}
    imported = set()
    for path in PACKAGE.rglob("*.py"):
        imported |= {name.split(".")[0] for name in _imports(ast.parse(path.read_text()))}
    known = {*sys.stdlib_module_names, "ppuda_jax", "jaxlib"} | OF_EXTRAS
    foreign = {DISTRIBUTIONS.get(name, name).replace("-", "_").lower() for name in imported - known}
    assert foreign - required == set()
