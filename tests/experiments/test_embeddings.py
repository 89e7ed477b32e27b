"""The embeddings' script: tables beside the published numbers, files, refusals."""

import json
import types

import numpy as np
import pytest

from experiments import embeddings
from experiments.embeddings import EmbeddingsConfig


def test_tables_and_files(monkeypatch, tmp_path):
    asked = []

    def embed_networks(ghn, networks, num, *, folder, progress):
        asked.append((networks.split, num, folder.name))
        progress(num, num)
        rng = np.random.default_rng(len(networks.split))
        return types.SimpleNamespace(embeddings=rng.normal(size=(num, 3)))

    monkeypatch.setattr(embeddings, "embed_networks", embed_networks)
    monkeypatch.setattr(embeddings, "named_distances", lambda ghn: {"resnet34": 0.5})
    monkeypatch.setattr(
        embeddings, "predicted_parameters", lambda ghn, num: {"diversity": None, "sparsity": 0.25}
    )
    text = embeddings.run(EmbeddingsConfig(num_train=20, num_nets=10, output=str(tmp_path)))
    splits = ["train", "test", "wide", "deep", "dense", "bnfree"]
    assert asked == [(split, 20 if split == "train" else 10, split) for split in splits]
    found = json.loads((tmp_path / "table.json").read_text())
    assert set(found["frechet"]) == set(splits[1:]) and found["parameters"]["diversity"] is None
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()]
    assert ["resnet34", "0.500", "1.000"] in rows
    assert ["sparsity", "0.250", "0.390"] in rows and ["diversity", "", "0.170"] in rows


@pytest.mark.parametrize("field", ["num_train", "num_nets", "num_predicted"])
def test_bad_options(field):
    with pytest.raises(ValueError, match=f"{field} must be at least 2, received 1"):
        EmbeddingsConfig(**{field: 1})
