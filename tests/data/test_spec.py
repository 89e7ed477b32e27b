"""What a checkpoint keeps of its images, and what other images are checked against."""

import dataclasses
import json

import pytest

from ppuda_jax.data.spec import PUBLISHED, DatasetSpec, check_same_images, trained_spec

SPEC = DatasetSpec(
    "folder:/pets",
    num_classes=2,
    class_names=("cat", "dog"),
    image_size=32,
    mean=(0.1, 0.2, 0.3),
    std=(0.4, 0.5, 0.6),
    num_images=90,
    fingerprint="abc",
)


def test_a_spec_survives_a_checkpoint():
    metadata = json.loads(json.dumps({**SPEC.to_metadata(), "training": []}))
    assert trained_spec(metadata) == SPEC
    assert metadata["dataset"] == "folder:/pets" and metadata["num_classes"] == 2


def test_checkpoints_that_only_name_their_images_are_understood():
    given = {"dataset": "cifar10", "num_classes": 10, "image_size": 32}
    assert trained_spec(given) == PUBLISHED["cifar10"]
    assert trained_spec({}) is None and trained_spec({"dataset": None}) is None


def test_damaged_metadata_are_refused():
    with pytest.raises(ValueError, match="DatasetSpec.num_classes: expected int, received 'two'"):
        trained_spec({**SPEC.to_metadata(), "num_classes": "two"})
    lacking = SPEC.to_metadata()
    del lacking["mean"]
    with pytest.raises(ValueError, match="mean"):
        trained_spec(lacking)


def test_new_pictures_of_the_same_classes_are_accepted():
    other = dataclasses.replace(SPEC, name="npz:/new.npz", fingerprint="other", num_images=7)
    check_same_images(SPEC, other, "ghn")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"class_names": ("dog", "cat")}, r"with class_names \['cat', 'dog'\], .*'dog', 'cat'"),
        ({"num_classes": 3, "class_names": ()}, "with name folder:/pets, .* have npz:/new.npz"),
        ({"image_size": 224}, "with image_size 32, .* have 224"),
        ({"mean": (0.0, 0.2, 0.3)}, r"with mean \[0.1, .* have \[0.0"),
        ({"std": (0.0, 0.2, 0.3)}, "with std"),
    ],
)
def test_other_images_are_refused(changes, message):
    other = dataclasses.replace(SPEC, name="npz:/new.npz", **changes)
    with pytest.raises(ValueError, match=f"^ghn was trained on folder:/pets {message}"):
        check_same_images(SPEC, other, "ghn")
