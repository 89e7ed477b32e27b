"""Processors are those that the process may use, everywhere."""

import os
from pathlib import Path

import pytest

from ppuda_jax.runtime.processors import processors

ROOT = Path(__file__).parents[2]


def test_processors_follow_the_affinity(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3, 5}, raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    assert processors() == 2


@pytest.mark.parametrize(("count", "expected"), [(64, 64), (None, 1)])
def test_without_affinities_all_processors_of_the_machine_count(monkeypatch, count, expected):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: count)
    assert processors() == expected


def test_nothing_else_counts_processors():
    files = [*ROOT.glob("ppuda_jax/**/*.py"), *ROOT.glob("experiments/**/*.py")]
    words = ("cpu_count", "sched_getaffinity")
    users = [path.name for path in files if any(word in path.read_text() for word in words)]
    assert users == ["processors.py"]
