"""The code that the pages of docs/ print."""

import pathlib
import re

import pytest

from ppuda_jax.archs.hdf5 import load_split

DOCS = pathlib.Path(__file__).parents[1] / "docs"
BLOCK = re.compile(r"^```python\n(.*?)^```", re.M | re.S)


@pytest.mark.parametrize("path", sorted(DOCS.rglob("*.md")), ids=lambda p: p.stem)
def test_python_blocks_are_python(path):
    for code in BLOCK.findall(path.read_text()):
        compile(code, str(path), "exec")


def test_a_space_of_ones_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (code,) = BLOCK.findall((DOCS / "howto" / "architectures.md").read_text())
    exec(compile(code.replace("range(100)", "range(3)"), "architectures.md", "exec"), {})
    nets = load_split("narrow.hdf5", "train")
    assert [net.config.C for net in nets] == [16, 16, 16]
