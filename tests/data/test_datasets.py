"""Any image set by its name: splits, sizes, statistics, and what a hypernetwork requires."""

import dataclasses
import pathlib

import numpy as np
import pytest

from ppuda_jax.data import datasets
from ppuda_jax.data.batches import ResidentImages, StreamedImages, training_images
from ppuda_jax.data.source import DatasetError
from ppuda_jax.data.spec import PUBLISHED, trained_spec
from tests.data.image_sets import encode, pictures, simple_tfds, write_folder, write_tfds

TFDS = pathlib.Path(__file__).parents[2].parent / "shared" / "tfds"


def _npz(path, images, labels):
    np.savez(path, images=images, labels=labels)
    return f"npz:{path}"


def test_digits_splits_are_disjoint_and_complete():
    splits = ("train", "val", "test", "trainval")
    sizes = {split: len(datasets.load_images("digits", split)) for split in splits}
    assert sizes == {"train": 1295, "val": 143, "test": 359, "trainval": 1438}
    both = datasets.load_images("digits", "trainval").images
    parts = [datasets.load_images("digits", split).images for split in ("train", "val")]
    np.testing.assert_array_equal(np.concatenate(parts), both)


def test_published_statistics_are_those_of_the_training_images():
    dataset = datasets.open_dataset("digits")
    mean, std, colour = dataset._statistics()
    np.testing.assert_allclose(mean, PUBLISHED["digits"].mean, atol=1e-4)
    np.testing.assert_allclose(std, PUBLISHED["digits"].std, atol=1e-4)
    assert not colour and dataset.spec == PUBLISHED["digits"]
    assert len(dataset.rows("train")) == PUBLISHED["digits"].num_images


@pytest.mark.skipif(not TFDS.is_dir(), reason="no prepared CIFAR-10 beside the repository")
def test_cifar10_from_a_prepared_folder():
    test = datasets.load_images("cifar10", "test", str(TFDS))
    assert test.images.shape == (10_000, 32, 32, 3) and test.spec == PUBLISHED["cifar10"]
    np.testing.assert_array_equal(np.bincount(test.labels), np.full(10, 1000))


def test_a_set_of_tfds_that_nobody_named_before(tmp_path):
    simple_tfds(tmp_path, "tiny", (28, 28, 1))
    dataset = datasets.open_dataset("tiny", str(tmp_path))
    spec = dataset.spec
    assert (spec.num_classes, spec.num_images, spec.image_size) == (4, 36, 32)
    assert spec.class_names[3] == "class 3" and spec.resident and not spec.flip
    train = dataset.load("train")
    assert train.images.shape == (36, 32, 32, 3)
    np.testing.assert_array_equal(train.images[..., 0], train.images[..., 2])
    np.testing.assert_allclose(spec.mean, (train.images / 255).mean((0, 1, 2)), atol=1e-6)
    np.testing.assert_allclose(spec.std, (train.images / 255).std((0, 1, 2)), atol=1e-6)
    large = datasets.load_images("tiny", "test", str(tmp_path), image_size=224, max_images=3)
    assert large.images.shape == (3, 224, 224, 3) and large.spec.crop_padding == 28


def test_a_folder_and_arrays_of_the_same_pictures_are_the_same_images(tmp_path):
    images, labels = pictures(24, (32, 32, 3)), np.arange(24) % 3
    for part, rows in (("train", range(18)), ("test", range(18, 24))):
        for row in rows:
            folder = tmp_path / "pets" / part / str(labels[row])
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{row:02d}.png").write_bytes(encode(images[row]))
    parts = {"train_images": images[:18], "train_labels": labels[:18]}
    np.savez(tmp_path / "a.npz", **parts, test_images=images[18:], test_labels=labels[18:])
    folder = datasets.open_dataset(f"folder:{tmp_path}/pets")
    arrays = datasets.open_dataset(str(tmp_path / "a.npz"))
    for split in ("trainval", "test"):
        one, other = folder.load(split), arrays.load(split)
        found = [
            {(p.tobytes(), int(n)) for p, n in zip(a.images, a.labels, strict=True)}
            for a in (one, other)
        ]
        assert found[0] == found[1]
    assert folder.spec.flip and folder.spec.class_names == ("0", "1", "2")
    assert arrays.spec.name == f"npz:{tmp_path}/a.npz"


def test_sizes_may_differ_within_a_folder(tmp_path):
    write_folder(tmp_path, {"a": 6, "b": 6}, [(20, 30, 3), (64, 40), (33, 33, 4)])
    arrays = datasets.load_images(f"folder:{tmp_path}", "trainval")
    assert arrays.images.shape[1:] == (32, 32, 3)


def test_chosen_images_are_those_of_the_whole_split(tmp_path):
    simple_tfds(tmp_path, "tiny", (32, 32, 3))
    dataset = datasets.open_dataset("tiny", str(tmp_path))
    for split in ("train", "val", "test"):
        some, every = dataset.load(split, [2, 0]), dataset.load(split)
        np.testing.assert_array_equal(some.images, every.images[[2, 0]])
        np.testing.assert_array_equal(some.labels, every.labels[[2, 0]])


def test_large_sets_stream_and_small_ones_stay(tmp_path, monkeypatch):
    simple_tfds(tmp_path, "tiny", (40, 48, 3))
    assert isinstance(training_images("tiny", 4, 0, str(tmp_path)), ResidentImages)
    monkeypatch.setattr(datasets, "_RESIDENT_BYTES", 36 * 32 * 32 * 3 - 1)
    streamed = training_images("tiny", 4, 0, str(tmp_path))
    assert isinstance(streamed, StreamedImages) and streamed.num_images == 36
    images, labels = streamed.batch(0)
    assert images.shape == (4, 32, 32, 3) and labels.shape == (4,)
    assert not streamed.spec.resident and streamed.spec.crop_padding == 0
    streamed.stream.close()


def test_more_images_than_memory_should_hold_are_refused(tmp_path, monkeypatch):
    simple_tfds(tmp_path, "tiny")
    monkeypatch.setattr(datasets, "_LOADED_BYTES", 5 * 32 * 32 * 3)
    dataset = datasets.open_dataset("tiny", str(tmp_path))
    assert len(datasets.open_dataset("tiny", str(tmp_path)).rows("test")) == 12
    with pytest.raises(ValueError, match="tiny test: 12 images .* load at most 5 of them"):
        dataset.load("test")


def test_at_most_fifty_thousand_images_are_held_out():
    class Rows:
        declared_size = (None, None)

        def __len__(self):
            return 1_281_167

    dataset = datasets.open_dataset("digits")
    source = dataclasses.replace(dataset.source, train=Rows())
    many = datasets.Dataset("many", datasets._Opened(source), 32)
    assert many.rows("train") == range(1_231_167)  # ImageNet's, as in the paper
    assert many.rows("val") == range(1_231_167, 1_281_167)


def test_imagenet_is_evaluated_as_published(tmp_path):
    names = [f"n{i:08d}" for i in range(1000)]
    rows = [(encode(pixels), i * 90) for i, pixels in enumerate(pictures(10, (300, 400, 3)))]
    write_tfds(tmp_path, "imagenet2012", {"train": [rows], "validation": [rows[:4]]}, names)
    test = datasets.load_images("imagenet", "test", str(tmp_path), max_images=3)
    assert test.images.shape == (3, 224, 224, 3) and test.labels.tolist() == [0, 90, 180]
    assert len(datasets.load_images("imagenet", "val", str(tmp_path))) == 1
    images = training_images("imagenet", 4, 0, str(tmp_path))
    assert isinstance(images, StreamedImages) and images.batch(0)[0].shape == (4, 224, 224, 3)
    images.stream.close()


def test_unknown_splits_and_sizes_are_refused():
    with pytest.raises(ValueError, match="split must be"):
        datasets.load_images("digits", "valid")
    with pytest.raises(ValueError, match="image_size must be 32 or 224, received 64"):
        datasets.open_dataset("digits", image_size=64)


def test_images_of_one_colour_are_refused(tmp_path):
    name = _npz(tmp_path / "a.npz", np.full((20, 8, 8), 7, np.uint8), np.arange(20) % 2)
    with pytest.raises(DatasetError, match="images are of one colour"):
        datasets.dataset_spec(name)


def test_too_few_images_to_hold_some_out(tmp_path):
    name = _npz(tmp_path / "a.npz", pictures(10, (8, 8)), np.arange(10) % 2)
    assert len(datasets.load_images(name, "train")) == 8
    with pytest.raises(DatasetError, match="no images in split val; of 8 training images 0 are"):
        datasets.load_images(name, "val")


def test_fewer_images_than_a_batch_are_refused(tmp_path):
    name = _npz(tmp_path / "a.npz", pictures(20, (8, 8)), np.arange(20) % 2)
    message = f"batch_size must be at most the 15 training images of {name}, received 64"
    with pytest.raises(ValueError, match=message):
        training_images(name, 64, 0)


def test_new_pictures_get_the_normalisation_of_the_training(tmp_path):
    old = _npz(tmp_path / "old.npz", pictures(40, (32, 32, 3), 1), np.arange(40) % 2)
    new = _npz(tmp_path / "new.npz", pictures(40, (32, 32, 3), 2) // 2, np.arange(40) % 2)
    other = _npz(tmp_path / "other.npz", pictures(40, (32, 32, 3), 2), np.arange(40) % 4)
    trained = datasets.dataset_spec(old, image_size=224)
    metadata = trained.to_metadata()
    assert datasets.dataset_of(metadata).spec == trained == datasets.spec_for(metadata)
    found = datasets.dataset_of(metadata, new).spec
    assert (found.mean, found.std, found.image_size) == (trained.mean, trained.std, 224)
    assert found.fingerprint != trained.fingerprint
    assert datasets.dataset_spec(new).mean != trained.mean
    with pytest.raises(ValueError, match="with class_names .'0', '1'., .*'2', '3'"):
        datasets.dataset_of(metadata, other)
    with pytest.raises(ValueError, match="does not say what images it was trained on"):
        datasets.dataset_of({})
    assert datasets.spec_for({}, "digits") == PUBLISHED["digits"]
    with pytest.raises(ValueError, match="was trained on cifar10 with class_names"):
        datasets.dataset_of({"dataset": "cifar10"}, "digits")
    assert trained_spec({"dataset": "cifar10"}) == datasets.spec_for({"dataset": "cifar10"})


def test_mirroring_follows_the_colours_unless_it_is_said(tmp_path):
    grey = _npz(tmp_path / "grey.npz", pictures(20, (8, 8)), np.arange(20) % 2)
    colour = _npz(tmp_path / "colour.npz", pictures(20, (8, 8, 3)), np.arange(20) % 2)
    assert [datasets.dataset_spec(name).flip for name in (grey, colour)] == [False, True]
    assert datasets.open_dataset(grey, flip=True).spec.flip
    assert not training_images("digits", 4, 0).spec.flip
    assert not datasets.open_dataset(colour, flip=False).spec.flip
    simple_tfds(tmp_path, "svhn_cropped", (32, 32, 3))
    assert not datasets.dataset_spec("svhn_cropped", str(tmp_path)).flip
