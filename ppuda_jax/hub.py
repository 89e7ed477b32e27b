"""Hypernetworks on the Hugging Face hub.

huggingface_hub, of the extra `hub`, is imported here only. A repository holds what `save_ghn`
writes (`theta/`, `record/`) and a card. Tested against a stand-in of the client's file API; it was
not tried against the real hub.
"""

import json
import pathlib
import re
import tempfile
from typing import Any, Protocol

from ppuda_jax.checkpoints import CheckpointError, load_ghn, save_ghn
from ppuda_jax.ghn.loaded import LoadedGHN

SCHEME = "hf://"
"""How the address of a hypernetwork on the hub begins."""

_NAME = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?")
_ITEMS = ("theta/*", "record/*", "_CHECKPOINT_METADATA")  # * is any text, slashes included


class HubApi(Protocol):
    """What is used of `huggingface_hub.HfApi`."""

    def create_repo(self, repo_id: str, *, private: bool | None, exist_ok: bool) -> Any:
        """Makes a repository of models, unless it is there."""

    def upload_folder(self, *, repo_id: str, folder_path: str, commit_message: str) -> Any:
        """Uploads the files of a folder in one commit."""

    def snapshot_download(
        self, repo_id: str, *, revision: str | None, allow_patterns: list[str]
    ) -> Any:
        """Returns the path of a folder with the files."""


def push_to_hub(
    ghn: LoadedGHN, repo: str, *, private: bool | None = None, api: HubApi | None = None
) -> str:
    """Uploads a hypernetwork, for `load_ghn("hf://OWNER/NAME")`.

    Args:
      ghn: the hypernetwork.
      repo: OWNER/NAME; it is made if it is not there.
      private: whether a new repository is.
      api: the client; one with the token that `hf auth login` stored if None.

    Returns:
      What `load_ghn` takes.

    Raises:
      ValueError: a name that is none.
      ImportError: without huggingface_hub (install the extra `hub`).
      CheckpointError: the hub refuses, or is not reached.
    """
    name, revision = _parse(SCHEME + repo)
    if revision is not None:
        raise ValueError(f"repo must be OWNER/NAME without a revision, received {repo!r}")
    client = api or _client()
    with tempfile.TemporaryDirectory() as folder:
        target = pathlib.Path(folder) / "ghn"
        save_ghn(target, ghn)
        (target / "README.md").write_text(_card(ghn, name))
        try:
            client.create_repo(name, private=private, exist_ok=True)
            client.upload_folder(
                repo_id=name, folder_path=str(target), commit_message="Upload a hypernetwork"
            )
        except OSError as error:  # of which the client's own errors are kinds
            raise CheckpointError(f"{name} cannot be uploaded: {error}") from error
    return SCHEME + name


def load_from_hub(address: str, api: HubApi | None = None) -> LoadedGHN:
    """Downloads a hypernetwork, or takes it from the client's cache.

    Args:
      address: hf://OWNER/NAME, or hf://OWNER/NAME@REVISION.
      api: the client; the default one if None.

    Raises:
      ValueError: an address that is none.
      ImportError: without huggingface_hub (install the extra `hub`).
      CheckpointError: there is no such repository, it is not reached, or holds something else.
    """
    name, revision = _parse(address)
    client = api or _client()
    try:
        folder = client.snapshot_download(name, revision=revision, allow_patterns=list(_ITEMS))
    except OSError as error:
        raise CheckpointError(f"{address} cannot be downloaded: {error}") from error
    ghn = load_ghn(folder)
    return LoadedGHN(ghn.config, ghn.theta, address, ghn.metadata)


def _parse(address: str) -> tuple[str, str | None]:
    found = _NAME.fullmatch(address.removeprefix(SCHEME))
    if found is None:
        raise ValueError(
            f"a hypernetwork on the hub is {SCHEME}OWNER/NAME or {SCHEME}OWNER/NAME@REVISION, "
            f"received {address!r}"
        )
    return found["repo"], found["revision"]


def _client() -> HubApi:
    try:
        from huggingface_hub import HfApi
    except ImportError as error:
        raise ImportError(
            "the Hugging Face hub needs huggingface_hub: pip install 'ppuda_jax[hub]'"
        ) from error
    return HfApi()


def _card(ghn: LoadedGHN, name: str) -> str:
    known = json.dumps(
        {key: ghn.metadata[key] for key in ("dataset", "num_classes") if key in ghn.metadata}
    )
    return (
        "---\nlibrary_name: ppuda_jax\ntags: [hypernetwork, parameter-prediction, jax]\n---\n\n"
        f"# {name.partition('/')[2]}\n\nA graph hypernetwork that predicts the parameters of "
        f"neural networks. Trained for: `{known}`.\n\n"
        "```python\nimport ppuda_jax as pj\n\n"
        f'ghn = pj.load_ghn("{SCHEME}{name}")\n```\n'
    )
