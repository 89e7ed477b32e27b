"""The benchmark of the start: its flags and its table; nothing is compiled."""

import pytest

from experiments import bench_start

FOUND = {
    "first": 12.5,
    "longest": 3.25,
    "programs": 300,
    "calls": 310.0,
    "hits": 290.0,
    "each": 0.05,
    "cpu": 40.0,
    "mappings": 5000,
    "gib": 1.5,
}


def test_a_row_has_a_cell_for_each_column():
    row = bench_start.row("host", "full", FOUND)
    assert len(row) == len(bench_start.HEADER)
    assert row[:5] == ["host, full cache", 12.5, 3.25, 300, "310 (290)"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"steps": 1}, "steps must be at least 2, received 1"),
        ({"variants": 0}, "variants must be at least 1, received 0"),
        ({"session": "folder"}, "a session has one driver"),
    ],
)
def test_settings_are_checked(fields, message):
    with pytest.raises(ValueError, match=message):
        bench_start.BenchConfig(**fields)


def test_a_session_that_fails_is_said(tmp_path, capfd):
    options = bench_start.BenchConfig(dataset="npz:nowhere.npz")
    with pytest.raises(ValueError, match="the session of driver=host ended with 1"):
        bench_start.start(options, "host", str(tmp_path))
    assert "nowhere.npz" in capfd.readouterr().err
