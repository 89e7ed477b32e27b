"""Folders of image files."""

import numpy as np
import pytest

from ppuda_jax.data import datasets
from ppuda_jax.data.folder import open_folder
from ppuda_jax.data.source import DatasetError
from tests.data.image_sets import encode, pictures, write_folder


def test_train_and_test_folders(tmp_path):
    write_folder(tmp_path / "train", {"cat": 12, "dog": 8})
    write_folder(tmp_path / "test", {"dog": 3, "cat": 2})
    source = open_folder(tmp_path)
    assert source.class_names == ("cat", "dog")
    rows = source.train.read(range(20))
    assert np.bincount([row.label for row in rows]).tolist() == [12, 8]
    for index, row in enumerate(rows):
        assert f"/train/{source.class_names[row.label]}/" in source.train.where(index)
    assert [source.test.read([i])[0].label for i in range(5)].count(1) == 3


def test_a_split_is_made_of_each_class_and_always_the_same(tmp_path):
    write_folder(tmp_path, {"a": 20, "b": 10, "c": 2})
    source, again = open_folder(tmp_path), open_folder(tmp_path)
    test = [source.test.where(i) for i in range(len(source.test))]
    train = [source.train.where(i) for i in range(len(source.train))]
    assert not set(test) & set(train) and len(test) + len(train) == 32
    labels = [row.label for row in source.test.read(range(len(test)))]
    assert np.bincount(labels).tolist() == [4, 2, 1]
    assert test == [again.test.where(i) for i in range(len(test))]
    held_out = [row.label for row in source.train.read(range(len(train) - 6, len(train)))]
    assert {0, 1} <= set(held_out)  # the last rows are for validation: all classes are among them


def test_train_alone_is_split_too(tmp_path):
    write_folder(tmp_path / "train", {"a": 5, "b": 5})
    source = open_folder(tmp_path)
    assert (len(source.train), len(source.test)) == (8, 2)


@pytest.mark.parametrize("name", ["val", "valid", "validation"])
def test_validation_images_are_tested_on_or_else_trained_on(tmp_path, name):
    write_folder(tmp_path / "train", {"a": 5, "b": 5})
    write_folder(tmp_path / name, {"a": 3, "b": 1})
    source = open_folder(tmp_path)
    assert (len(source.train), len(source.test)) == (10, 4)
    assert all(f"/{name}/" in source.test.where(i) for i in range(4))
    write_folder(tmp_path / "test", {"a": 2, "b": 2})
    source = open_folder(tmp_path)
    assert (len(source.train), len(source.test)) == (14, 4)
    assert all("/test/" in source.test.where(i) for i in range(4))
    assert sum(f"/{name}/" in source.train.where(i) for i in range(14)) == 4


def test_classes_with_the_names_of_parts(tmp_path):
    write_folder(tmp_path, {"bus": 5, "train": 5, "test": 5})
    source = open_folder(tmp_path)
    assert source.class_names == ("bus", "test", "train")


def test_the_fingerprint_follows_names_and_sizes(tmp_path):
    write_folder(tmp_path, {"a": 5, "b": 5})
    before = open_folder(tmp_path).fingerprint
    assert open_folder(tmp_path).fingerprint == before
    (tmp_path / "a" / "000.png").write_bytes(encode(pictures(1, (20, 31, 3))[0]))
    assert open_folder(tmp_path).fingerprint != before


def test_files_of_the_system_are_no_images(tmp_path):
    write_folder(tmp_path, {"a": 5, "b": 5})
    for name in (".DS_Store", "Thumbs.db"):
        (tmp_path / "a" / name).write_bytes(b"x")
    (tmp_path / ".cache").mkdir()
    (tmp_path / "a" / "deeper").mkdir()
    (tmp_path / "a" / "deeper" / "more.JPG").write_bytes(encode(pictures(1, (9, 9, 3))[0], "JPEG"))
    source = open_folder(tmp_path)
    assert source.class_names == ("a", "b") and len(source.train) + len(source.test) == 11


def _empty_class(path):
    (path / "train" / "mouse").mkdir()


def _not_in_test(path):
    write_folder(path / "train", {"mouse": 2})


def _not_in_train(path):
    write_folder(path / "test", {"mouse": 2})


def _text(path):
    (path / "train" / "cat" / "notes.txt").write_text("x")


def _one_class(path):
    for part in ("train", "test"):
        for file in (path / part / "dog").iterdir():
            file.unlink()
        (path / part / "dog").rmdir()


def _no_train(path):
    (path / "train").rename(path / "others")


def _only_val(path):
    _no_train(path)
    (path / "test").rename(path / "val")


def _not_in_train_but_in_val(path):
    write_folder(path / "val", {"cat": 2, "mouse": 2})


def _not_in_val_alone(path):
    write_folder(path / "train", {"mouse": 2})
    (path / "test").rename(path / "val")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_empty_class, "train/mouse: this class has no PNG or JPEG file"),
        (_not_in_test, "test: class 'mouse' of .*train is missing"),
        (_not_in_train, "test/mouse: this class is not in .*train"),
        (_text, "train/cat/notes.txt: only PNG and JPEG files are read"),
        (_one_class, "train: needs a folder .* at least 2 classes, received cat"),
        (_no_train, "has test/ but no train/"),
        (_only_val, "has val/ but no train/"),
        (_not_in_train_but_in_val, "val/mouse: this class is not in .*train"),
        (_not_in_val_alone, "val: class 'mouse' of .*train is missing"),
    ],
)
def test_what_is_wrong_with_a_folder_is_named(tmp_path, damage, message):
    write_folder(tmp_path / "train", {"cat": 4, "dog": 4})
    write_folder(tmp_path / "test", {"cat": 2, "dog": 2})
    damage(tmp_path)
    with pytest.raises(DatasetError, match=f"^{tmp_path}.*{message}"):
        open_folder(tmp_path)


def test_a_class_of_one_image_cannot_be_split(tmp_path):
    write_folder(tmp_path, {"a": 5, "b": 1})
    with pytest.raises(DatasetError, match="class 'b' needs at least 2 images .* received 1"):
        open_folder(tmp_path)


def test_no_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere: no such folder"):
        open_folder(tmp_path / "nowhere")


def test_a_file_that_is_no_image_is_named(tmp_path):
    write_folder(tmp_path, {"a": 5, "b": 5})
    (tmp_path / "a" / "002.png").write_text("no image")
    with pytest.raises(DatasetError, match=f"{tmp_path}/a/002.png: no readable PNG or JPEG image"):
        datasets.load_images(f"folder:{tmp_path}", "trainval")
        datasets.load_images(f"folder:{tmp_path}", "test")
