"""What a person sees of a long job: one bar with the time that is left, and lines above it."""

import collections
import shutil
import sys
import time

import tqdm

_FORMAT = "{desc} {percentage:3.0f}% |{bar}| {unit}"
_SIZE = (100, 24)  # of a terminal that does not tell, as under `script` or in a container
_WINDOW = 30  # moves whose speed the time that is left is reckoned by


class Progress:
    """A bar on stderr that goes when it is closed; without a terminal there is none.

    Attributes:
      shown: whether there is a bar.
    """

    def __init__(self, what: str, first: float = 0.0) -> None:
        """Shows the bar.

        Args:
          what: is being done.
          first: fraction of the job that is done already.
        """
        self._moves = collections.deque([(time.monotonic(), first)], _WINDOW)
        self.shown = sys.stderr.isatty()
        self._bar = tqdm.tqdm(
            total=1.0,
            initial=first,
            desc=what,
            unit="",
            bar_format=_FORMAT,
            ncols=shutil.get_terminal_size(_SIZE).columns,
            nrows=_SIZE[1],
            leave=False,
            disable=not self.shown,
        )

    def move(self, done: float, note: str = "") -> None:
        """Moves the bar to the fraction `done`, with a note behind it."""
        self._moves.append((time.monotonic(), done))
        if self.shown:
            self._bar.unit = f"{self.left} left, {note}" if note else f"{self.left} left"
            self._bar.update(done - self._bar.n)

    @property
    def left(self) -> str:
        """How long the rest takes at the latest speed, as mm:ss or h:mm:ss."""
        (start, first), (end, last) = self._moves[0], self._moves[-1]
        if last <= first:
            return "?"
        seconds = (end - start) / (last - first) * (1.0 - last)
        return tqdm.tqdm.format_interval(round(seconds))

    def close(self) -> None:
        """Takes the bar away."""
        self._bar.close()


def say(text: str) -> None:
    """Prints a line on stderr, above a bar if there is one."""
    tqdm.tqdm.write(text, file=sys.stderr)
    sys.stderr.flush()
