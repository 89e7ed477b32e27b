"""Published accuracies to compare with (paper, Tables 3 and 4): percent, mean over networks.

CIFAR-10 is top-1, ImageNet top-5. The val column, which the tables lack, is the mean of the
published per-network results on validation images.
"""

from collections.abc import Mapping
from types import MappingProxyType

from ppuda_jax.ghn.config import GHNConfig

COLUMNS = ("val", "test", "test max", "wide", "deep", "dense", "bnfree", "resnet50", "vit")
"""Columns of the table; all but the maximum and the last two are means over a split."""

METRIC: Mapping[str, str] = MappingProxyType({"cifar10": "top1", "imagenet": "top5"})
"""Which accuracy the paper reports for a dataset."""

_ROWS = {
    ("cifar10", "mlp"): (43.83, 42.2, 60.2, 22.3, 37.9, 44.8, 23.9, 17.7, 10.0),
    ("cifar10", "ghn1"): (51.49, 51.4, 59.9, 43.1, 48.3, 51.8, 13.7, 19.2, 18.2),
    ("cifar10", "ghn2"): (67.52, 66.9, 77.1, 64.0, 60.5, 65.8, 36.8, 58.6, 11.4),
    ("cifar10", "SGD, 1 epoch"): (None, 46.1, 66.5, 47.2, 34.2, 45.3, 18.0, 61.8, 34.5),
    ("imagenet", "ghn1"): (None, 17.2, 32.1, 15.8, 15.9, 15.1, 0.5, 6.9, 0.9),
    ("imagenet", "ghn2"): (None, 27.2, 48.3, 19.4, 24.7, 26.4, 7.2, 5.3, 4.4),
}


def model_of(config: GHNConfig) -> str:
    """Name of the published method that a configuration is: "ghn2", "ghn1" or "mlp"."""
    if config.hypernet == "mlp":
        return "mlp"
    return "ghn2" if config.weight_norm else "ghn1"


def published_row(dataset: str, method: str) -> dict[str, float] | None:
    """Published accuracies by column; None if the paper has no such row."""
    row = _ROWS.get((dataset, method))
    if row is None:
        return None
    return {name: value for name, value in zip(COLUMNS, row, strict=True) if value is not None}
