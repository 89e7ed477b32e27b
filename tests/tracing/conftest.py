"""Marks the cases that the tracer gets wrong today; strict, so that a mended one is noticed."""

import pathlib

import pytest

_FILE = pathlib.Path(__file__).with_name("known_failures.txt")
KNOWN = frozenset(_FILE.read_text().splitlines()) if _FILE.exists() else frozenset()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A line of `known_failures.txt` is a file's name and a test's, as pytest prints them."""
    for item in items:
        if f"{item.path.name}::{item.name}" in KNOWN:
            item.add_marker(pytest.mark.xfail(strict=True, reason="not traced rightly yet"))
