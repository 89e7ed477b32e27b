"""Where the outputs of the reference implementation lie; tests that read them skip without."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

REFERENCE = Path(
    os.environ.get("PPUDA_REFERENCE", Path(__file__).parents[2] / "shared" / "reference")
)
"""Folder with `peer/` and `deepnets1m/`; the environment variable moves it."""

needs_reference = pytest.mark.skipif(
    not REFERENCE.is_dir(), reason=f"outputs of the reference are not at {REFERENCE}"
)

DEEPNETS_SPLITS = ("train", "val", "test", "wide", "deep", "dense", "bnfree")


def peer_nets() -> list[dict[str, Any]]:
    """Networks whose predictions and graphs the reference wrote; empty without the folder."""
    index = REFERENCE / "peer" / "index.json"
    return json.loads(index.read_text())["nets"] if index.exists() else []


def deepnets_records(split: str) -> list[dict[str, Any]]:
    """Records of a file that the reference's generator wrote; empty without the folder."""
    meta = REFERENCE / "deepnets1m" / f"deepnets1m_{split}_meta.json"
    return json.loads(meta.read_text())[split]["nets"] if meta.exists() else []


def arrays_of(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an .npz file, which is closed again."""
    with np.load(path) as arrays:
        return dict(arrays)
