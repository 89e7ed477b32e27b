"""The code that the pages of docs/ print."""

import importlib.util
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


ROOT = DOCS.parent
PAGES = [*sorted(DOCS.rglob("*.md")), *sorted(ROOT.glob("*.md"))]
NOTEBOOKS = sorted((ROOT / "experiments" / "notebooks").glob("*.ipynb"))
LINK = re.compile(r"\]\(([^)\s]+)\)")
COMMAND = re.compile(r"(?:python -m experiments\.|ppuda-jax )([a-z_0-9]+)((?: +--?[^\s`)]+)*)")


@pytest.mark.parametrize("path", PAGES, ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_links_lead_somewhere(path):
    """The site's build checks anchors; README and others are not in it."""
    for link in LINK.findall(path.read_text()):
        if not re.match(r"[a-z]+:|#", link):
            assert (path.parent / link.partition("#")[0]).exists(), link


def test_files_that_notebooks_name_exist():
    for path in NOTEBOOKS:
        for name in re.findall(r"\bdocs/[\w/]+\.\w+", path.read_text()):
            assert (ROOT / name).exists(), f"{path.name}: {name}"


def test_commands_and_their_flags_exist(capsys):
    known = {}
    for path in [*PAGES, *NOTEBOOKS]:
        text = path.read_text().replace("\\\n", " ")
        for name, flags in COMMAND.findall(text):
            if name not in known:
                importlib.import_module(f"experiments.{name}").main(["--help"])
                known[name] = set(
                    re.findall(r"^  --(?:\[no\])?(\w+)", capsys.readouterr().out, re.M)
                )
            for flag in re.findall(r"--(\w+)", flags):
                given = flag if flag in known[name] else flag.removeprefix("no")
                assert given in known[name], f"{path.name}: {name} --{flag}"
    assert {"train", "predict", "evaluate", "finetune", "search"} <= set(known)


def _hook():
    spec = importlib.util.spec_from_file_location("hook", DOCS / "reference" / "hook.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_reference_shows_every_module_and_its_names_are_documented(tmp_path, monkeypatch):
    pytest.importorskip("griffe")
    errors = pytest.importorskip("mkdocs.exceptions")
    hook = _hook()
    hook.on_pre_build()

    def refused(source, page, match):
        (tmp_path / "ppuda_jax" / "new.py").write_text(source)
        (tmp_path / "docs" / "reference" / "new.md").write_text(page)
        with pytest.raises(errors.PluginError, match=match):
            hook.on_pre_build()

    for folder in ("ppuda_jax", "docs/reference"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "ppuda_jax" / "__init__.py").touch()
    monkeypatch.setattr(hook, "_ROOT", tmp_path)
    monkeypatch.setattr(hook, "__file__", str(tmp_path / "docs" / "reference" / "hook.py"))
    page = "::: ppuda_jax.new\n"
    refused("def f():\n    pass\n", "", "no page of docs/reference shows: ppuda_jax.new$")
    refused("def f():\n    pass\n", page, "without a docstring: ppuda_jax.new.f$")
    refused("SIZE = 3\n", page, "ppuda_jax.new.SIZE")
    refused('class A:\n    """A."""\n    def f(self):\n        pass\n', page, "ppuda_jax.new.A.f")
