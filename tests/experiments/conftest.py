"""Every table that a test of a script makes is also asked for as JSON."""

import json

import pytest

from experiments import flags, results


@pytest.fixture(autouse=True)
def _tables_are_json(monkeypatch):
    def checked(header, rows, *rest, **named):
        made = results.table(header, rows, *rest, **named)
        (record,) = results.report(made).record()["tables"]
        assert len(record["rows"]) == len(rows)
        assert all(json.loads(results.to_json(row)) for row in record["rows"])
        return made

    monkeypatch.setattr(flags, "table", checked)
