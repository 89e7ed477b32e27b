"""What networks and hypernetworks must know of an image set, and how it travels with a checkpoint.

Legend: `s` image side.
"""

import dataclasses
import types
from collections.abc import Mapping
from typing import Any

from ppuda_jax import config

Channels = tuple[float, float, float]
"""A number for red, green and blue."""

IMAGE_SIZES = (32, 224)
"""Sides that the published hypernetworks and networks are made for."""


@dataclasses.dataclass(frozen=True)
class DatasetSpec:
    """Facts about an image set, as it is seen at one size.

    Attributes:
        name: what `--dataset` takes.
        num_classes: classes; labels are 0..num_classes-1.
        class_names: name of each class, () where they are not known.
        image_size: side `s` of the images that networks see.
        mean, std: per-channel statistics of the training images scaled to [0, 1].
        num_images: training images, without those held out for validation.
        fingerprint: differs where the contents differ; the name itself for a published set.
        crop_padding: zeros put around a training image before the random crop.
        flip: whether training images are mirrored with probability one half.
        resident: whether the training images are kept as arrays (otherwise they are streamed).
    """

    name: str
    num_classes: int
    class_names: tuple[str, ...]
    image_size: int
    mean: Channels
    std: Channels
    num_images: int
    fingerprint: str
    crop_padding: int = 4
    flip: bool = True
    resident: bool = True

    def to_metadata(self) -> dict[str, Any]:
        """What a checkpoint keeps; JSON-ready."""
        fields = config.to_dict(self)
        return {"dataset": fields.pop("name"), **fields}


PUBLISHED: Mapping[str, DatasetSpec] = types.MappingProxyType(
    {
        "cifar10": DatasetSpec(
            "cifar10",
            num_classes=10,
            class_names=(
                *("airplane", "automobile", "bird", "cat", "deer"),
                *("dog", "frog", "horse", "ship", "truck"),
            ),
            image_size=32,
            mean=(0.49139968, 0.48215827, 0.44653124),
            std=(0.24703233, 0.24348505, 0.26158768),
            num_images=45_000,
            fingerprint="cifar10",
        ),
        "digits": DatasetSpec(
            "digits",
            num_classes=10,
            class_names=tuple("0123456789"),
            image_size=32,
            mean=(0.3052, 0.3052, 0.3052),
            std=(0.3755, 0.3755, 0.3755),
            num_images=1295,
            fingerprint="digits",
            crop_padding=0,  # they are centred, in the test images too
            flip=False,
        ),
        "imagenet": DatasetSpec(
            "imagenet",
            num_classes=1000,
            class_names=(),
            image_size=224,
            mean=(0.485, 0.456, 0.406),
            std=(0.229, 0.224, 0.225),
            num_images=1_231_167,
            fingerprint="imagenet",
            crop_padding=0,
            resident=False,
        ),
    }
)
"""Sets whose statistics are published; those of any other are computed."""


def trained_spec(metadata: Mapping[str, Any]) -> DatasetSpec | None:
    """The images that a hypernetwork was trained on, from its checkpoint's metadata.

    Checkpoints that name a published set and nothing more are understood; None where the metadata
    do not tell.

    Raises:
        ValueError: metadata of images with a field missing or of another type.
    """
    name = metadata.get("dataset")
    if "fingerprint" not in metadata:
        return PUBLISHED.get(str(name))
    known = config.field_types(DatasetSpec)
    fields = {key: value for key, value in metadata.items() if key in known}
    return config.from_dict(DatasetSpec, {**fields, "name": name})


def check_same_images(trained: DatasetSpec, images: DatasetSpec, who: str) -> None:
    """Raises ValueError unless images are what a hypernetwork was trained for.

    The set may be another one (new pictures of the same classes); its classes, their order, the
    image size and the normalisation may not.

    Args:
        trained: from the checkpoint.
        images: those in hand.
        who: what messages call the hypernetwork.
    """
    rules = ["num_classes", "image_size", "mean", "std"]
    if trained.class_names and images.class_names:
        rules.insert(0, "class_names")
    elif trained.name != images.name:
        rules.insert(0, "name")
    for rule in rules:
        wanted, given = getattr(trained, rule), getattr(images, rule)
        if wanted != given:
            raise ValueError(
                f"{who} was trained on {trained.name} with {rule} {_short(wanted)}, the images of "
                f"{images.name} have {_short(given)}: pass --dataset={trained.name}, or a "
                f"checkpoint that was trained on {images.name}"
            )


def _short(value: Any) -> str:
    text = str(list(value)) if isinstance(value, tuple) else str(value)
    return text if len(text) <= 120 else f"{text[:117]}..."
