"""`.npz` files."""

import numpy as np
import pytest

from ppuda_jax.data.arrays import open_npz
from ppuda_jax.data.source import DatasetError
from tests.data.image_sets import pictures

IMAGES, LABELS = pictures(20, (9, 8, 3)), np.arange(20) % 4
GIVEN = {
    "train_images": IMAGES,
    "train_labels": LABELS,
    "test_images": IMAGES[:8],
    "test_labels": LABELS[:8],
}


def _open(path, **arrays):
    np.savez(path / "set.npz", **arrays)
    return open_npz(path / "set.npz")


def _pairs(rows):
    return {(row.picture.tobytes(), row.label) for row in rows.read(range(len(rows)))}


def test_given_parts_are_kept(tmp_path):
    source = _open(tmp_path, **GIVEN)
    assert source.class_names == ("0", "1", "2", "3")
    expected = {(p.tobytes(), int(label)) for p, label in zip(IMAGES, LABELS, strict=True)}
    assert _pairs(source.train) == expected and len(source.train) == 20
    assert _pairs(source.test) < expected and len(source.test) == 8


def test_other_spellings_validation_images_and_names_of_classes(tmp_path):
    source = _open(
        tmp_path,
        x_train=IMAGES,
        y_train=LABELS[:, None],
        val_images=IMAGES,
        val_labels=LABELS,
        x_test=IMAGES,
        y_test=LABELS,
        class_names=np.asarray(["a", "b", "c", "d"]),
    )
    assert source.class_names == ("a", "b", "c", "d") and len(source.train) == 40


def test_a_split_is_made(tmp_path):
    source = _open(tmp_path, images=IMAGES, labels=np.sort(LABELS))
    assert (len(source.train), len(source.test)) == (16, 4)
    assert {row.label for row in source.test.read(range(4))} == {0, 1, 2, 3}
    assert len({row.label for row in source.train.read(range(4))}) == 4


@pytest.mark.parametrize(
    ("images", "expected"),
    [
        (np.asarray([[[0.0, 0.5, 1.0]]]), [0, 128, 255]),
        (np.asarray([[[0, 257 * 7, 65535]]], np.uint16), [0, 7, 255]),
        (np.asarray([[[0, 7, 255]]], np.uint16), [0, 7, 255]),
        (np.asarray([[[0, 7, 255]]], np.int64), [0, 7, 255]),
    ],
)
def test_other_types_are_scaled(tmp_path, images, expected):
    images = images.repeat(4, axis=0)
    labels = np.asarray([0, 1, 0, 1])
    source = _open(tmp_path, images=images, labels=labels)
    assert source.train.read([0])[0].picture.tolist() == [expected]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train_labels": LABELS + 0.5}, "labels must be integers from 0, received float64"),
        ({"train_labels": np.asarray(["a"] * 20)}, "labels must be integers from 0, received <U1"),
        ({"train_labels": LABELS[:19]}, r"labels must be \[20\], one for each .*received \[19\]"),
        ({"train_labels": LABELS - 1}, r"without gaps, received -1\.\.2 for 20 images"),
        ({"train_labels": LABELS * 1000}, r"without gaps, received 0\.\.3000"),
        ({"train_labels": LABELS + 1}, "no training image of class '0'"),
        ({"train_labels": LABELS * 0, "test_labels": LABELS[:8] * 0}, "at least 2 classes"),
        ({"test_labels": LABELS[:8] % 2}, "no test image of class '2', '3'"),
        ({"class_names": np.asarray(["a"])}, "class_names has 1 names, but labels go up to 3"),
        ({"train_images": IMAGES.transpose(0, 3, 1, 2)}, "channels come last"),
        ({"train_images": IMAGES[..., :2]}, "with 1, 3 or 4 channels"),
        ({"train_images": IMAGES[:, :5]}, "must have one shape"),
        ({"train_images": IMAGES[:0], "train_labels": LABELS[:0]}, "no image"),
        ({"train_images": IMAGES * 1.0}, "floats in .0, 1., received float64 from 0.0 to 255.0"),
        ({"train_images": IMAGES / np.nan}, "from nan to nan"),
        ({"weights": LABELS}, "the keys must be .*weights"),
    ],
)
def test_what_is_wrong_with_arrays_is_named(tmp_path, changes, message):
    with pytest.raises(DatasetError, match=f"{tmp_path}/set.npz.*{message}"):
        _open(tmp_path, **{**GIVEN, **changes})


def test_images_of_mixed_sizes_are_refused(tmp_path):
    mixed = np.empty(2, object)
    mixed[:] = [IMAGES[0], IMAGES[0, :5]]
    with pytest.raises(DatasetError, match="images of mixed sizes .* --dataset=folder:PATH"):
        _open(tmp_path, images=mixed, labels=LABELS[:2])


@pytest.mark.parametrize("data", [b"", b"text", b"PK\x03\x04 cut"])
def test_a_file_of_other_bytes_is_named(tmp_path, data):
    (tmp_path / "set.npz").write_bytes(data)
    with pytest.raises(DatasetError, match="set.npz: no .npz file of plain arrays"):
        open_npz(tmp_path / "set.npz")


def test_one_array_and_no_file(tmp_path):
    with (tmp_path / "set.npz").open("wb") as file:
        np.save(file, IMAGES)
    with pytest.raises(DatasetError, match="one array, expected an .npz file"):
        open_npz(tmp_path / "set.npz")
    with pytest.raises(FileNotFoundError, match="no such file"):
        open_npz(tmp_path / "other.npz")
