"""The bar of a long job."""

import io
import re
import sys

import pytest

from ppuda_jax.runtime import progress
from ppuda_jax.runtime.progress import Progress, say


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_a_terminal_shows_what_is_done_and_left_and_nothing_afterwards(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    bar = Progress("training", 0.5)
    bar._bar.mininterval = 0
    bar.move(0.75, "step 3 of 4")
    say("a line")
    bar.close()
    written = terminal.getvalue()
    assert bar.shown and "training  50% |" in written and "training  75% |" in written
    assert re.search(r"\| \d\d:\d\d left, step 3 of 4", written) and "a line\n" in written
    assert written.split("\r")[-1] == "" and not written.split("\r")[-2].strip()


def test_without_a_terminal_there_is_no_bar(capsys):
    bar = Progress("training")
    bar.move(0.5, "note")
    bar.close()
    assert not bar.shown and capsys.readouterr().err == ""


def test_the_time_that_is_left_goes_by_the_latest_speed(clock):
    bar = Progress("training", 0.2)
    assert bar.left == "?"
    for number in range(1, 41):
        clock[0] += 60 if number < 10 else 3
        bar.move(0.2 + 0.01 * number)
    assert bar.left == "02:00"
    bar.move(1.0)
    assert bar.left == "00:00"
