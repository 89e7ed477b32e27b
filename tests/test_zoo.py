"""Models for an image set."""

import numpy as np
import pytest

import ppuda_jax as pj
from ppuda_jax.zoo import load_model


def test_a_model_has_the_classes_and_the_size_of_its_images(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (12, 9, 9), dtype=np.uint8)
    np.savez(tmp_path / "a.npz", images=images, labels=np.arange(12) % 3)
    model = pj.build_model("resnet18", dataset=str(tmp_path / "a.npz"))
    assert (model.num_classes, model.image_size) == (3, 32)
    imagenet = pj.build_model("resnet18", dataset="imagenet")
    assert (imagenet.num_classes, imagenet.image_size) == (1000, 224)
    plain = pj.build_model("resnet18", 7, 64)
    assert (plain.num_classes, plain.image_size) == (7, 64)
    assert pj.build_model("resnet18") == pj.build_model("resnet18", dataset="cifar10")
    assert pj.build_model("resnet18", 10, 64, dataset="cifar10").image_size == 64


def test_another_number_of_classes_is_refused():
    with pytest.raises(ValueError, match="num_classes must be the 10 of digits, received 12"):
        pj.build_model("resnet18", 12, dataset="digits")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("json:dumps", "missing a required argument: 'obj'"),
        ("math:pi", "a function or class that makes a model, it is of type float"),
        ("json:nothing", "cannot be imported"),
        ("no_such_module:f", "cannot be imported"),
    ],
)
def test_what_makes_no_model_is_refused(name, message):
    with pytest.raises(ValueError, match=message):
        load_model(name, 10, 32)


def made(image_size, width=3):
    return image_size, width


def test_a_factory_gets_what_it_has_arguments_for():
    assert load_model("tests.test_zoo:made", 10, 32) == (32, 3)
