"""Writing of figures."""

import os
import pathlib
from collections.abc import Sequence
from typing import Any

Paths = str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | None
"""One file, several, or none; their endings decide the formats."""

_DOTS_PER_INCH = 150


def write(figure: Any, paths: Paths, **options: Any) -> Any:
    """Writes a matplotlib figure, and returns it.

    Args:
      figure: what is written.
      paths: where; folders are made.
      **options: of `Figure.savefig`.
    """
    several = [paths] if isinstance(paths, str | os.PathLike) else paths or ()
    for path in map(pathlib.Path, several):
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(os.fspath(path), dpi=_DOTS_PER_INCH, **options)
    return figure
