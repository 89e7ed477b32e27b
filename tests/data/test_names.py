"""Names of image sets."""

import pytest

from ppuda_jax.data import names


@pytest.mark.parametrize(
    ("name", "full", "short"),
    [
        ("digits", "digits", "digits"),
        ("imagenet2012", "imagenet", "imagenet"),
        ("a/b:1.0.0", "a/b:1.0.0", "a-b-1.0.0"),
        ("folder:/pets/small", "folder:/pets/small", "small"),
        ("/x/y.npz", "npz:/x/y.npz", "y"),
        ("npz:/x/y.npz", "npz:/x/y.npz", "y"),
    ],
)
def test_names(name, full, short):
    assert names.full_name(name) == full and names.short_name(name) == short


def test_paths_in_names_are_made_absolute(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert names.full_name("folder:pets") == f"folder:{tmp_path}/pets"


@pytest.mark.parametrize("name", ["folder:", "npz:", ""])
def test_names_without_a_place_are_refused(name):
    with pytest.raises(ValueError, match="dataset"):
        names.parse_name(name)
