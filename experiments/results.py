"""What a script found: texts and tables, for a reader, a terminal or a program.

Both are strings in Markdown, which is what files, pipes and tests get. A terminal gets its tables
drawn to its width; `--json` gets

    {"text": ["what stands beside the tables", ...],
     "tables": [{"title": "...", "rows": [{"column": value, ...}, ...]}, ...]}
"""

import json
import math
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import rich.box
import rich.console
import rich.table
import rich.text

_BROKEN_PIPE = 141
_LONGEST_WORD = 16  # cells up to this long stay on one line, such as 31.2 ± 3.1
_FIRST_SHARE = 0.5  # of a terminal that the first column may take, where it is repeated
_BETWEEN, _EDGES = 3, 4  # characters of a drawn table without its columns
_NUMBER = r"[+-]?\d[\d,]*(?:\.\d+)?(?:e[+-]?\d+)?"
_SPREAD = re.compile(f"({_NUMBER}) ± ({_NUMBER})")


class Table(str):
    """A table in Markdown that remembers its cells.

    Attributes:
      title: the line above it, or "".
      header: names of the columns.
      cells: texts, row by row.
      records: a mapping per row for programs.
    """

    title: str
    header: tuple[str, ...]
    cells: tuple[tuple[str, ...], ...]
    records: tuple[Mapping[str, Any], ...]


class Report(str):
    """Texts and tables, one below the other.

    Attributes:
      parts: of the report, in order.
      status: what the process exits with.
    """

    parts: tuple[str, ...]
    status: int

    def record(self) -> dict[str, list]:
        """The report for a program; see the module."""
        tables = [part for part in self.parts if isinstance(part, Table)]
        return {
            "text": [part for part in self.parts if part and not isinstance(part, Table)],
            "tables": [{"title": each.title, "rows": list(each.records)} for each in tables],
        }


def table(
    header: Sequence[str],
    rows: Sequence[Sequence[object]],
    title: str = "",
    records: Sequence[Mapping[str, Any]] | None = None,
) -> Table:
    """Formats a Markdown table whose columns line up; floats get three digits.

    Args:
      header: names of the columns, all different.
      rows: their cells; None is an empty one.
      title: a line above the table.
      records: what `--json` prints of the rows; by default their cells, numbers as numbers and
        `a ± b` as `{"mean": a, "error": b}`. The column without a name is called `name`.

    Raises:
      ValueError: two columns of the same name, of which a program would see one.
    """
    if len(set(header)) < len(header):
        raise ValueError(f"columns of a table have different names, received {list(header)}")
    header = tuple(header)
    cells = tuple(tuple(map(_cell, row)) for row in rows)
    widths = [max(map(len, column)) for column in zip(header, *cells, strict=True)]

    def line(texts: Sequence[str]) -> str:
        first, *rest = (
            text.ljust(width) if i == 0 else text.rjust(width)
            for i, (text, width) in enumerate(zip(texts, widths, strict=True))
        )
        return "| " + " | ".join([first, *rest]) + " |"

    rule = "|".join("-" * (width + 2) for width in widths)
    lines = [*([title] if title else []), line(header), f"|{rule}|", *map(line, cells)]
    found = Table("\n".join(lines))
    found.title, found.header, found.cells = title, header, cells
    names = [name or "name" for name in header]
    shown = [dict(zip(names, map(_value, row), strict=True)) for row in rows]
    found.records = tuple(shown if records is None else records)
    return found


def report(*parts: str, status: int = 0) -> Report:
    """Puts texts and tables below each other.

    Args:
      parts: texts, tables, or other reports.
      status: what the process exits with.

    Raises:
      ValueError: a table that was made part of a text, of which a program would see nothing.
    """
    flat: list[str] = []
    for part in parts:
        flat += part.parts if isinstance(part, Report) else [part]
    for part in flat:
        if not isinstance(part, Table) and re.search(r"^\|[-|]+\|$", part, re.M):
            raise ValueError(f"give the table by itself, not within a text: {part!r}")
    found = Report("\n".join(flat))
    found.parts, found.status = tuple(flat), status
    return found


def show(text: str) -> None:
    """Prints a text or a report; a reader that has seen enough, as `head` has, ends it quietly."""
    try:
        if isinstance(text, Report) and sys.stdout.isatty():
            console = rich.console.Console()
            for part in text.parts:
                draw(part, console) if isinstance(part, Table) else print(part)
            sys.stdout.flush()
        else:
            print(text, flush=True)
    except BrokenPipeError:
        # Python flushes again when it ends, which must not fail a second time.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(_BROKEN_PIPE) from None


def draw(shown: Table, console: rich.console.Console) -> None:
    """Draws a table within the width of a terminal.

    Names of columns and long cells are broken between words. Columns that still have no room come
    below the others, with the first column again; nothing is cut off.
    """
    if shown.title:
        console.print(shown.title, markup=False, highlight=False)
    columns = [[name, *cells] for name, *cells in zip(shown.header, *shown.cells, strict=True)]
    room = console.width - _EDGES
    least = [_narrowest(column) for column in columns]
    least[0] = min(least[0], int(room * _FIRST_SHARE))
    least[1:] = [min(width, room - least[0] - _BETWEEN) for width in least[1:]]
    for block in _blocks(least, room):
        drawn = rich.table.Table(box=rich.box.SIMPLE_HEAD)
        spare = room - sum(least[i] for i in block) - _BETWEEN * (len(block) - 1)
        for i in block:
            # What is left over goes to names and long cells, from the first column on.
            more = min(spare, max(0, max(map(len, columns[i])) - least[i]))
            spare -= more
            drawn.add_column(
                rich.text.Text(columns[i][0]),
                justify="right" if i else "left",
                overflow="fold",
                width=least[i] + more,
            )
        for k in range(1, len(columns[0])):
            drawn.add_row(*(rich.text.Text(columns[i][k]) for i in block))
        console.print(drawn)


def _blocks(widths: Sequence[int], room: int) -> Iterator[list[int]]:
    """Columns that fit beside each other, the first in every block."""
    block, taken = [0], widths[0]
    for i, width in enumerate(widths[1:], 1):
        if len(block) > 1 and taken + _BETWEEN + width > room:
            yield block
            block, taken = [0], widths[0]
        block.append(i)
        taken += _BETWEEN + width
    yield block


def _narrowest(column: Sequence[str]) -> int:
    """Characters of the longest part of a column that is not broken."""
    name, *cells = column
    words = name.split()
    for cell in cells:
        words += [cell] if len(cell) <= _LONGEST_WORD else cell.split()
    return max(map(len, words), default=0)


def to_json(value: Any) -> str:
    """JSON of records: arrays as lists, paths as texts, and what is not finite as null."""
    return json.dumps(_plain(value), indent=1, ensure_ascii=False, allow_nan=False)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if hasattr(value, "tolist"):  # arrays and their scalars
        return _plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, bool | int) else str(value)


def _cell(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def _value(cell: object) -> Any:
    """What a program sees of a cell."""
    if not isinstance(cell, str):
        return cell
    if spread := _SPREAD.fullmatch(cell):
        return {"mean": _number(spread[1]), "error": _number(spread[2])}
    if cell in ("", "-"):
        return None
    return _number(cell) if re.fullmatch(_NUMBER, cell) else cell


def _number(text: str) -> int | float:
    text = text.replace(",", "")
    return int(text) if re.fullmatch(r"[+-]?\d+", text) else float(text)
