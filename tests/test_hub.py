"""Hypernetworks on the hub, through a stand-in of the client's file API."""

import fnmatch
import inspect
import pathlib
import shutil
import sys

import jax
import numpy as np
import pytest

import ppuda_jax as pj
from ppuda_jax import hub
from ppuda_jax.checkpoints import CheckpointError


class StandIn:
    """Repositories as folders of one place."""

    def __init__(self, root: pathlib.Path) -> None:
        self.root, self.private = root, {}

    def create_repo(self, repo_id, *, private, exist_ok):
        self.private[repo_id] = private
        (self.root / repo_id).mkdir(parents=True, exist_ok=exist_ok)

    def upload_folder(self, *, repo_id, folder_path, commit_message):
        assert commit_message
        shutil.copytree(folder_path, self.root / repo_id, dirs_exist_ok=True)

    def snapshot_download(self, repo_id, *, revision, allow_patterns):
        if not (self.root / repo_id).is_dir() or revision not in (None, "v1"):
            raise FileNotFoundError(f"404: {repo_id}@{revision}")
        target = self.root / "cache" / repo_id
        target.mkdir(parents=True, exist_ok=True)
        source = self.root / repo_id
        for path in source.rglob("*"):
            name = path.relative_to(source)
            if path.is_file() and any(fnmatch.fnmatch(str(name), p) for p in allow_patterns):
                (target / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, target / name)
        return str(target)


@pytest.fixture
def ghn():
    config = pj.GHNConfig(hid=8)
    metadata = {"dataset": "digits", "num_classes": 10, "image_size": 32}
    return pj.LoadedGHN(config, pj.init_theta(config, jax.random.key(0)), "small", metadata)


def test_what_is_pushed_is_loaded(ghn, tmp_path, monkeypatch):
    client = StandIn(tmp_path)
    monkeypatch.setattr(hub, "_client", lambda: client)
    address = pj.push_to_hub(ghn, "someone/ghn2-digits", private=True)
    assert address == "hf://someone/ghn2-digits"
    assert client.private == {"someone/ghn2-digits": True}
    card = (tmp_path / "someone" / "ghn2-digits" / "README.md").read_text()
    assert f'pj.load_ghn("{address}")' in card and '"dataset": "digits"' in card
    for name in (address, f"{address}@v1"):
        loaded = pj.load_ghn(name)
        assert (loaded.name, loaded.config) == (name, ghn.config)
        assert loaded.metadata == ghn.metadata
        jax.tree.map(np.testing.assert_array_equal, dict(loaded.theta), dict(ghn.theta))
    pj.push_to_hub(ghn, "someone/ghn2-digits")  # once more


def test_the_real_client_takes_these_calls():
    api = pytest.importorskip("huggingface_hub").HfApi
    for name in ("create_repo", "upload_folder", "snapshot_download"):
        ours = inspect.signature(getattr(hub.HubApi, name)).parameters
        theirs = inspect.signature(getattr(api, name))
        positional = [n for n, p in ours.items() if p.kind is p.POSITIONAL_OR_KEYWORD]
        named = {n: None for n, p in ours.items() if p.kind is p.KEYWORD_ONLY}
        theirs.bind(*positional, **named)


def test_mistakes(ghn, tmp_path, monkeypatch):
    client = StandIn(tmp_path)
    for wrong in ("hf://", "hf://name", "hf://a/b/c", "hf://a/b@"):
        with pytest.raises(ValueError, match="hf://OWNER/NAME"):
            pj.load_ghn(wrong)
    with pytest.raises(ValueError, match="without a revision"):
        pj.push_to_hub(ghn, "a/b@v1", api=client)
    with pytest.raises(CheckpointError, match="hf://a/none cannot be downloaded: 404"):
        hub.load_from_hub("hf://a/none", client)
    (tmp_path / "a" / "empty").mkdir(parents=True)
    with pytest.raises(CheckpointError):
        hub.load_from_hub("hf://a/empty", client)

    def refuse(*_, **__):
        raise PermissionError("403")

    monkeypatch.setattr(client, "create_repo", refuse)
    with pytest.raises(CheckpointError, match="a/b cannot be uploaded: 403"):
        pj.push_to_hub(ghn, "a/b", api=client)


def test_without_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ImportError, match=r"ppuda_jax\[hub\]"):
        pj.load_ghn("hf://a/b")
