"""Checkpoints: round trips, strictness, clear errors for what is damaged or foreign."""

import dataclasses
import json
import os
import shutil

import jax
import numpy as np
import pytest

from ppuda_jax import checkpoints
from ppuda_jax.checkpoints import CheckpointError
from ppuda_jax.ghn.config import ghn2_cifar10
from ppuda_jax.ghn.loaded import LoadedGHN
from ppuda_jax.ghn.model import init_theta

CONFIG = dataclasses.replace(ghn2_cifar10(), hid=8, max_shape=(8, 8, 3, 3))
META = {"dataset": "digits", "num_classes": 10, "image_size": 32}


@pytest.fixture(scope="module")
def ghn():
    return LoadedGHN(CONFIG, init_theta(CONFIG, jax.random.key(0)), "tiny", META)


@pytest.fixture(scope="module")
def saved(ghn, tmp_path_factory):
    path = tmp_path_factory.mktemp("ghn") / "tiny"
    checkpoints.save_ghn(path, ghn)
    return path


@pytest.fixture
def copy(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "copy")


def test_a_hypernetwork_comes_back(ghn, saved):
    loaded = checkpoints.load_ghn(saved)
    assert loaded.config == CONFIG and loaded.metadata == META
    jax.tree.map(np.testing.assert_array_equal, loaded.theta, dict(ghn.theta))


def test_a_saved_hypernetwork_names_no_folder_of_its_machine(saved):
    files = [path for path in saved.rglob("*") if path.is_file()]
    assert files
    for path in files:
        assert str(saved.parent).encode() not in path.read_bytes(), path


def test_a_run_gives_its_best_checkpoint_else_its_last(ghn, tmp_path):
    theta = jax.tree.map(np.asarray, dict(ghn.theta))
    run = checkpoints.RunCheckpoints(tmp_path)
    record = checkpoints.ghn_record(CONFIG, META)
    for step in (1, 2, 3):
        scaled = jax.tree.map(lambda x, s=step: x * s, theta)
        run.save("last", step, scaled, {"count": np.asarray(step)}, record)
    run.wait()
    assert sorted(p.name for p in (tmp_path / "last").iterdir() if p.name.isdigit()) == ["2", "3"]
    assert run.folders("last") == [tmp_path / "last" / "3", tmp_path / "last" / "2"]
    leaf = jax.tree.leaves(theta)[0]
    np.testing.assert_array_equal(
        jax.tree.leaves(checkpoints.load_ghn(tmp_path).theta)[0], leaf * 3
    )
    run.save("best", 2, theta, {"count": np.asarray(2)}, record)
    run.close()
    np.testing.assert_array_equal(jax.tree.leaves(checkpoints.load_ghn(tmp_path).theta)[0], leaf)
    loaded = checkpoints.load_ghn(tmp_path / "last" / "2")
    np.testing.assert_array_equal(jax.tree.leaves(loaded.theta)[0], leaf * 2)


def test_an_existing_folder_is_not_overwritten(ghn, saved):
    with pytest.raises(ValueError, match="exists already"):
        checkpoints.save_ghn(saved, ghn)


def test_unknown_name_lists_what_is_shipped():
    with pytest.raises(CheckpointError, match="no hypernetwork 'ghn9'.*shipped:"):
        checkpoints.load_ghn("ghn9")


def test_foreign_folder(tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(CheckpointError, match=r"has no 'record' \(found \['notes.txt'\]\)"):
        checkpoints.load_ghn(tmp_path)


def edit_record(folder, change):
    path = folder / "record" / "metadata"
    record = json.loads(path.read_text())
    change(record)
    path.write_text(json.dumps(record))


def test_other_format(copy):
    edit_record(copy, lambda record: record.update(format=99))
    with pytest.raises(CheckpointError, match="must say format 1, received 99"):
        checkpoints.load_ghn(copy)


def test_damaged_record(copy):
    (copy / "record" / "metadata").write_text("{")
    with pytest.raises(CheckpointError, match="record is damaged"):
        checkpoints.load_ghn(copy)


def test_missing_parameters(copy):
    shutil.rmtree(copy / "theta")
    with pytest.raises(CheckpointError, match="has no 'theta'; it is no complete checkpoint"):
        checkpoints.load_ghn(copy)


@pytest.mark.parametrize("kept", [0, 20])
def test_truncated_parameters(copy, kept):
    for path in (copy / "theta").rglob("*"):
        if path.is_file():
            os.truncate(path, min(kept, path.stat().st_size))
    with pytest.raises(CheckpointError, match="theta is damaged"):
        checkpoints.load_ghn(copy)


def test_all_differences_are_listed(copy):
    edit_record(copy, lambda record: record["ghn"].update(layernorm=False, hid=12))
    with pytest.raises(CheckpointError, match="does not fit the configuration") as caught:
        checkpoints.load_ghn(copy)
    message = str(caught.value)
    assert "missing: []" in message
    assert "unexpected: ['layer_norm.bias', 'layer_norm.scale']" in message
    assert message.count("stored (") > 5


def test_the_shipped_hypernetwork_loads():
    ghn = checkpoints.load_ghn("ghn2-cifar10")
    assert (ghn.config.num_classes, ghn.metadata["dataset"]) == (10, "cifar10")
    leaves = jax.tree.leaves(dict(ghn.theta))
    assert sum(leaf.size for leaf in leaves) == 1_620_764
    assert all(np.isfinite(leaf).all() for leaf in leaves)
