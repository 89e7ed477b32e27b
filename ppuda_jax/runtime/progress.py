"""What a person sees of a long job: one bar with the time that is left, and lines above it."""

import sys
import time

import tqdm

_FORMAT = "{desc} {percentage:3.0f}% |{bar}| {remaining} left{postfix}"


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
        self._first, self._started = first, time.monotonic()
        self.shown = sys.stderr.isatty()
        self._bar = tqdm.tqdm(
            total=1.0,
            initial=first,
            desc=what,
            bar_format=_FORMAT,
            dynamic_ncols=True,
            leave=False,
            disable=not self.shown,
        )

    def move(self, done: float, note: str = "") -> None:
        """Moves the bar to the fraction `done`, with a note behind it."""
        if self.shown:
            self._bar.set_postfix_str(note, refresh=False)
            self._bar.update(done - self._bar.n)

    def left(self, done: float) -> str:
        """How long the rest takes at the average speed so far, as mm:ss or h:mm:ss."""
        passed, moved = time.monotonic() - self._started, done - self._first
        return tqdm.tqdm.format_interval(passed / moved * (1.0 - done)) if moved > 0 else "?"

    def close(self) -> None:
        """Takes the bar away."""
        self._bar.close()


def say(text: str) -> None:
    """Prints a line on stderr, above a bar if there is one."""
    tqdm.tqdm.write(text, file=sys.stderr)
    sys.stderr.flush()
