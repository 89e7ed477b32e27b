"""Prepared TFDS folders: reading them, and naming what is wrong with them."""

import json

import numpy as np
import pytest

from ppuda_jax.data import datasets, tfds
from ppuda_jax.data.source import DatasetError
from tests.data.image_sets import encode, pictures, simple_tfds, write_tfds


def test_records_are_read_in_any_order_over_shards(tmp_path):
    simple_tfds(tmp_path, "small")
    source = tfds.open_tfds("small", str(tmp_path))
    assert source.class_names == ("class 0", "class 1", "class 2", "class 3")
    assert (len(source.train), len(source.test)) == (40, 12)
    rows = source.train.read([31, 2, 0])
    expected = [pictures(10, (28, 28, 1), 1)[1], *pictures(30, (28, 28, 1), 0)[[2, 0]]]
    assert [row.label for row in rows] == [1, 2, 0]
    for row, pixels in zip(rows, expected, strict=True):
        assert row.picture == encode(pixels)
    assert source.train.where(31).endswith("small-train.array_record-00001-of-00002, record 1")


def test_the_newest_version_is_read_unless_one_is_named(tmp_path):
    for version, count in (("2.0.0", 3), ("10.0.0", 5)):
        rows = [(encode(p), i % 2) for i, p in enumerate(pictures(count, (8, 8, 3)))]
        splits = {"train": [rows], "test": [rows]}
        write_tfds(tmp_path, "set/config", splits, ["a", "b"], version=version)
    assert len(tfds.open_tfds("set/config", str(tmp_path)).train) == 5
    assert len(tfds.open_tfds("set/config:2.0.0", str(tmp_path)).train) == 3


def test_validation_images_stand_in_for_missing_test_images(tmp_path):
    rows = [(encode(p), i % 2) for i, p in enumerate(pictures(6, (8, 8, 3)))]
    write_tfds(tmp_path, "a", {"train": [rows], "validation": [rows[:4]]}, "xy")
    assert len(tfds.open_tfds("a", str(tmp_path)).test) == 4
    splits = {"train": [rows], "test": [rows], "validation": [rows[:4]]}
    write_tfds(tmp_path, "imagenet2012", splits, "xy")  # its test images have no labels
    assert len(tfds.open_tfds("imagenet2012", str(tmp_path)).test) == 4
    write_tfds(tmp_path, "b", {"train": [rows]}, "xy")
    with pytest.raises(DatasetError, match=r"dataset_info.json: a set needs .*, received train"):
        tfds.open_tfds("b", str(tmp_path))


def test_a_missing_set_says_where_it_looked_and_how_to_prepare_it(tmp_path):
    simple_tfds(tmp_path, "small")
    message = r"mnist: no prepared .*Looked for .*mnist/<version>.*prepared there: small.*DIR"
    with pytest.raises(FileNotFoundError, match=message):
        tfds.open_tfds("mnist", str(tmp_path))


@pytest.mark.parametrize("name", ["cifar11", "cifar-10", "cifar 10"])
def test_a_name_that_tfds_does_not_know_is_answered_with_close_ones(tmp_path, monkeypatch, name):
    import tensorflow_datasets

    monkeypatch.setattr(tensorflow_datasets.core.constants, "DATA_DIR", str(tmp_path))
    message = rf"TFDS knows no '{name}' \(did you mean cifar10"
    with pytest.raises(FileNotFoundError, match=message):
        tfds.open_tfds(name, None)


def test_a_failed_download_is_told_from_a_bug(tmp_path, monkeypatch):
    import tensorflow_datasets

    def fail(error):
        def builder(*args, **options):
            raise error

        monkeypatch.setattr(tensorflow_datasets, "builder", builder)

    monkeypatch.setattr(tensorflow_datasets.core.constants, "DATA_DIR", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="mnist: no prepared .*, and no network to down"):
        tfds.open_tfds("mnist", None)  # tests have none
    monkeypatch.setattr(tfds, "_require_network", lambda *_: None)
    fail(OSError("no route to host"))
    with pytest.raises(FileNotFoundError, match="failed with OSError: no route to host. Looked"):
        tfds.open_tfds("mnist", None)
    fail(TypeError("a bug"))
    with pytest.raises(TypeError, match="a bug"):
        tfds.open_tfds("mnist", None)


def _shard(folder, name="train.array_record-00001-of-00002"):
    return folder / f"small-{name}"


def _cut(path, share=0.5):
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])


def _replaced(path):
    path.write_bytes(path.with_name(path.name.replace("00001-", "00000-")).read_bytes())


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.unlink(), "this shard is missing"),
        (lambda path: path.write_bytes(b""), "this shard is empty"),
        (_cut, "damaged or cut short"),
        (lambda path: _cut(path, 0.9999), "damaged or cut short"),
        (lambda path: path.write_bytes(b"x" * path.stat().st_size), "damaged or cut short"),
        (_replaced, "dataset_info.json says 10 records, the shard has 30"),
    ],
    ids=["missing", "empty", "cut", "end cut", "other bytes", "another shard"],
)
def test_a_damaged_shard_is_named(tmp_path, damage, message):
    shard = _shard(simple_tfds(tmp_path, "small"))
    damage(shard)
    with pytest.raises(DatasetError, match=f"{shard}: .*{message}"):
        datasets.load_images("small", "test", str(tmp_path))


def test_a_damaged_record_is_named(tmp_path):
    shard = _shard(simple_tfds(tmp_path, "small"))
    data = bytearray(shard.read_bytes())
    data[200:260] = bytes(60)  # of the first records; the index at the end stays whole
    shard.write_bytes(bytes(data))
    with pytest.raises(DatasetError, match=f"{shard}: damaged .*restore it"):
        datasets.load_images("small", "train", str(tmp_path))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ((b"no image", 1), "record 2: no readable PNG or JPEG image"),
        ((encode(pictures(1, (28, 28, 3))[0], "JPEG")[:200], 1), "record 2: no readable"),
        ((encode(pictures(1, (28, 28, 3))[0])[:-400], 1), "record 2: no readable"),
        ((encode(pictures(1, (28, 28, 3))[0]), 4), r"record 2: labels must lie in 0\.\.3, rec.* 4"),
        ((encode(pictures(1, (28, 28, 3))[0]), -1), r"record 2: labels must .*received -1"),
        ((encode(pictures(1, (27, 28, 3))[0]), 1), r"record 2: the set declares .*28x28.*27x28"),
    ],
    ids=["text", "cut JPEG", "cut PNG", "label", "negative label", "another size"],
)
def test_a_record_that_is_no_labelled_image_is_named(tmp_path, row, message):
    good = [(encode(p), i % 4) for i, p in enumerate(pictures(12, (28, 28, 3)))]
    bad = [*good[:2], row, *good[3:]]
    splits = {"train": [good], "test": [bad]}
    write_tfds(tmp_path, "small", splits, "abcd", (28, 28, 3))
    with pytest.raises(DatasetError, match=f"small-test.array_record-00000-of-00001, {message}"):
        datasets.load_images("small", "test", str(tmp_path))


def test_a_record_of_other_features_is_named(tmp_path):
    folder = simple_tfds(tmp_path, "small")
    from array_record.python.array_record_module import ArrayRecordWriter

    writer = ArrayRecordWriter(str(_shard(folder, "test.array_record-00000-of-00001")))
    for _ in range(12):
        writer.write(b"\xff\xff no example")
    writer.close()
    with pytest.raises(DatasetError, match="record 0: no record as features.json says"):
        datasets.load_images("small", "test", str(tmp_path))


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("dataset_info.json", "{", "dataset_info.json: cannot be read"),
        ("dataset_info.json", "[]", "dataset_info.json: must be a JSON object, received list"),
        ("dataset_info.json", '{"splits": 3}', "do not describe a dataset"),
        ("features.json", "", "features.json: cannot be read"),
        ("features.json", "{}", "do not describe a dataset"),
    ],
)
def test_a_damaged_description_is_named(tmp_path, name, text, message):
    folder = simple_tfds(tmp_path, "small")
    (folder / name).write_text(text)
    with pytest.raises(DatasetError, match=f"{folder}.*{message}"):
        tfds.open_tfds("small", str(tmp_path))


def test_shards_of_another_format_are_told_from_missing_ones(tmp_path):
    folder = simple_tfds(tmp_path, "small")
    for path in folder.glob("*array_record*"):
        path.rename(path.with_name(path.name.replace("array_record", "tfrecord")))
    info = json.loads((folder / "dataset_info.json").read_text())
    (folder / "dataset_info.json").write_text(json.dumps({**info, "fileFormat": "tfrecord"}))
    with pytest.raises(DatasetError, match=r"tfrecord.*only array_record .*tfds convert_format"):
        tfds.open_tfds("small", str(tmp_path))


def test_a_set_of_other_things_than_labelled_images_is_refused(tmp_path):
    import tensorflow_datasets

    features = {"text": tensorflow_datasets.features.Text()}
    write_tfds(tmp_path, "reviews", {"train": [], "test": []}, [], features=features)
    with pytest.raises(DatasetError, match=r"one image and one class label.*received text \(Text"):
        tfds.open_tfds("reviews", str(tmp_path))


def test_another_set_under_a_published_name_is_refused(tmp_path):
    simple_tfds(tmp_path, "cifar10", (32, 32, 3), classes=4)
    with pytest.raises(DatasetError, match="cifar10: expected 10 classes, received 4"):
        datasets.load_images("cifar10", "test", str(tmp_path))
    simple_tfds(tmp_path / "other", "cifar10", (28, 28, 3), classes=10)
    with pytest.raises(DatasetError, match=r"cifar10: expected images of 32x32 .* \[28, 28\]"):
        datasets.load_images("cifar10", "test", str(tmp_path / "other"))


def test_labels_and_pixels_of_a_whole_part(tmp_path):
    simple_tfds(tmp_path, "same", (32, 32, 3))
    arrays = datasets.load_images("same", "test", str(tmp_path))
    np.testing.assert_array_equal(arrays.images, pictures(12, (32, 32, 3), 2))
    np.testing.assert_array_equal(arrays.labels, np.arange(12) % 4)
