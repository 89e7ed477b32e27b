"""Texts and tables: in Markdown, on a terminal, for programs."""

import io
import json
import math
import pathlib
import re

import numpy as np
import pytest
import rich.console

from experiments import results
from experiments.results import draw, report, show, table, to_json


def drawn(shown, width):
    console = rich.console.Console(file=io.StringIO(), width=width, force_terminal=True)
    draw(shown, console)
    return re.sub(r"\x1b\[[0-9;]*m", "", console.file.getvalue())


def test_a_table_lines_up():
    text = table(["a", "long name"], [["x", 0.5], ["longer", None]], title="what it is")
    assert text.splitlines() == [
        "what it is",
        "| a      | long name |",
        "|--------|-----------|",
        "| x      |     0.500 |",
        "| longer |           |",
    ]


def test_programs_get_numbers():
    row = ["resnet", "39.3 ± 0.6", "1,620,764", 0.1234567, "-2", "1.5e-07", "never", "", None, "-"]
    header = ["", "top-1", "size", "loss", "gain", "p", "reached", "note", "file", "skips"]
    (record,) = report(table(header, [row])).record()["tables"][0]["rows"]
    assert record == {
        "name": "resnet",
        "top-1": {"mean": 39.3, "error": 0.6},
        "size": 1620764,
        "loss": 0.1234567,
        "gain": -2,
        "p": 1.5e-07,
        "reached": "never",
        "note": None,
        "file": None,
        "skips": None,
    }


def test_records_replace_cells():
    shown = table(["a"], [["0.12"]], records=[{"a": 0.1234, "b": [1, 2]}])
    assert report(shown).record()["tables"][0]["rows"] == [{"a": 0.1234, "b": [1, 2]}]


def test_a_report_knows_its_tables():
    first, second = table(["a"], [["x"]], "one"), table(["b"], [["y"]])
    found = report("before", first, "", report(second, "after"), status=1)
    assert found == f"before\n{first}\n\n{second}\nafter"
    assert found.record()["text"] == ["before", "after"] and found.status == 1
    assert [each["title"] for each in found.record()["tables"]] == ["one", ""]


def test_what_a_program_would_not_see_is_refused():
    with pytest.raises(ValueError, match="give the table by itself"):
        report(f"title\n{table(['a'], [['x']])}")
    with pytest.raises(ValueError, match="different names"):
        table(["a", "a"], [["x", "y"]])


def test_json_is_strict():
    value = {
        "arrays": np.arange(2, dtype=np.float32),
        "scalar": np.float64(0.5),
        "nothing": (math.nan, math.inf),
        "path": pathlib.Path("a/b"),
        "kept": [True, 3, None, "ä"],
    }
    assert json.loads(to_json(value)) == {
        "arrays": [0.0, 1.0],
        "scalar": 0.5,
        "nothing": [None, None],
        "path": "a/b",
        "kept": [True, 3, None, "ä"],
    }


WIDE = table(
    [f"column {i} of many" for i in range(12)],
    [[f"row {k}", *(f"{10 * k + i}.25 ± 0.5" for i in range(11))] for k in range(3)],
    title="[not] markup",
)


@pytest.mark.parametrize("width", [40, 80, 200])
def test_a_terminal_of_any_width_shows_every_cell(width):
    text = drawn(WIDE, width)
    assert max(map(len, text.splitlines())) <= width
    assert "[not] markup" in text and "…" not in text
    for row in WIDE.cells:
        assert all(cell in text for cell in row)
    assert text.count("row 1") == {40: 6, 80: 3, 200: 1}[width]  # repeated in each block


def test_long_cells_are_broken_between_words():
    said = "the loss of step 31 was not finite, which ended this training before its time"
    text = drawn(table(["run", "said"], [["first", said]]), 40)
    assert max(map(len, text.splitlines())) <= 40
    assert said.split() == [word for word in text.split() if word in said.split()]


def test_a_word_longer_than_the_terminal_is_folded():
    word = "a/very/long/path/without/any/space" * 3
    text = drawn(table(["run", "file", "seed"], [["first", word, 0], [word, "", 1]]), 40)
    assert max(map(len, text.splitlines())) <= 40
    assert "".join(text.split()).count("space") == 9  # the second is repeated beside the seeds


def test_a_pipe_gets_markdown_and_a_terminal_does_not(capsys, monkeypatch):
    found = report(table(["name", "value"], [["a", "1"]]), "note")
    show(found)
    assert capsys.readouterr().out == f"{found}\n"
    monkeypatch.setattr(results.sys.stdout, "isatty", lambda: True, raising=False)
    show(found)
    out = capsys.readouterr().out
    assert "|" not in out and "name" in out and out.endswith("note\n")
