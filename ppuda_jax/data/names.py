"""Names of image sets: `digits`, a name of TFDS, `folder:PATH`, `npz:PATH` or a path to an .npz."""

import pathlib
import re

ALIASES = {"imagenet2012": "imagenet"}
"""TFDS's name of a set -> the name that it goes by here."""


def parse_name(name: str) -> tuple[str, str]:
    """Splits a name into its kind (digits, tfds, folder or npz) and what comes after it.

    Raises:
        ValueError: no name, or no path.
    """
    kind, colon, place = name.partition(":")
    if colon and kind in ("folder", "npz"):
        if not place:
            raise ValueError(f"dataset {name!r} needs a path: {kind}:PATH")
        return kind, place
    if name.endswith(".npz"):
        return "npz", name
    if not name:
        raise ValueError(
            "dataset must be digits, a name of TFDS, folder:PATH or npz:PATH, received nothing"
        )
    if name == "digits":
        return "digits", name
    return "tfds", ALIASES.get(name, name)


def full_name(name: str) -> str:
    """A name that means the same in any folder: paths become absolute."""
    kind, place = parse_name(name)
    if kind in ("folder", "npz"):
        return f"{kind}:{pathlib.Path(place).expanduser().absolute()}"
    return place


def short_name(name: str) -> str:
    """A name without path or punctuation, for the names of folders and tables."""
    kind, place = parse_name(name)
    if kind in ("folder", "npz"):
        return pathlib.Path(place).expanduser().absolute().stem
    return re.sub(r"[^\w.]+", "-", place)
