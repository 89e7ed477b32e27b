"""The code that the pages of docs/ print."""

import importlib.util
import pathlib
import re

import jax
import jax.numpy as jnp
import pytest

import ppuda_jax as pj
from ppuda_jax.archs.hdf5 import load_split
from tests.data.image_sets import write_folder

DOCS = pathlib.Path(__file__).parents[1] / "docs"
BLOCK = re.compile(r"^```python\n(.*?)^```", re.M | re.S)


@pytest.mark.parametrize("path", sorted(DOCS.rglob("*.md")), ids=lambda p: p.stem)
def test_python_blocks_are_python(path):
    for code in BLOCK.findall(path.read_text()):
        compile(code, str(path), "exec")


def run(page, names=None, **smaller):
    """Runs the Python of a page from top to bottom, on the numbers that are given instead."""
    code = "".join(BLOCK.findall((DOCS / page).read_text()))
    for old, new in smaller.items():
        assert old in code
        code = code.replace(old, new)
    names = {"__name__": "page"} | (names or {})
    exec(compile(code, page, "exec"), names)
    return names


def test_a_space_of_ones_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run("howto/architectures.md", **{"range(100)": "range(3)"})
    nets = load_split("narrow.hdf5", "train")
    assert [net.config.C for net in nets] == [16, 16, 16]


def test_a_network_of_ones_own_is_predicted_and_trained_on():
    names = run("index.md")
    assert names["logits"].shape == (64, 10)
    names["initial"] = lambda seed: names["model"].init(
        jax.random.key(seed), jnp.zeros((1, 32, 32, 3))
    )["params"]
    names["ghn"] = pj.load_ghn("ghn2-cifar10")
    smaller = {"steps=100": "steps=2", "every=10": "every=1", "max_images=256": "max_images=32"}
    names = run("howto/finetune.md", names, **smaller)
    assert len(names["curve"].accuracy) == 3


def test_tracing(capsys):
    names = {"pj": pj, "apply_fn": lambda v, x: x.mean((1, 2)) @ v["params"]["w"]}
    names["variables"], names["inputs"] = (
        {"params": {"w": jnp.ones((3, 10))}},
        jnp.ones((1, 32, 32, 3)),
    )
    assert run("tracing.md", names)["params"]["w"].shape == (3, 10)
    assert "w (kernel)" in capsys.readouterr().out


def test_image_sets(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("pets", "new_pets"):
        for part in ("train", "test"):
            write_folder(tmp_path / folder / part, {"cat": 12, "dog": 12})
    spec = pj.dataset_spec("folder:pets")
    config = pj.GHNConfig(num_classes=2, hid=8)
    theta = pj.init_theta(config, jax.random.key(0))
    pj.save_ghn("runs/ghn2-pets", pj.LoadedGHN(config, theta, "pets", spec.to_metadata()))
    names = run("datasets.md", {"pj": pj})
    assert names["model"].num_classes == names["images"].spec.num_classes == 2


def test_proxies(capsys):
    run("proxies.md")
    assert len(capsys.readouterr().out.split()) == 2


def test_structures(capsys):
    names = run(
        "structure.md",
        **{"channels=8, cells=3": "channels=8, cells=2", "max_images=128": "max_images=64"},
    )
    assert names["one"].shape == (8, 1)
    assert "Worth(loss=" in capsys.readouterr().out


def test_a_map_of_networks(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run("howto/properties.md", **{", 100)": ", 3)"})
    assert (tmp_path / "map.png").exists()


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
