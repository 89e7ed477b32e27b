"""Messages of the libraries underneath that a user can do nothing about, and no others.

What a library logs or warns of is shown unless it is listed here, with the reason.
"""

import contextlib
import logging
import re
import warnings
from collections.abc import Iterator

_LOGGED: tuple[tuple[str, str], ...] = (
    # Orbax looks for the record of a whole checkpoint beside each item that is read by itself.
    ("absl", r"Metadata file does not exist: .*_CHECKPOINT_METADATA$"),
    # A search saves after every epoch, which may be shorter than writing its state.
    ("absl", r"Waiting for previous save to complete took"),
    # TFDS uses its own deprecated field.
    ("absl", r"`\w+\.dtype` is deprecated\. Please change your code to use NumPy with the field"),
)
"""(logger, beginning of a message), the latter a regular expression."""

_WARNED: tuple[tuple[str, type[Warning]], ...] = (
    # A boot setting of the TPU's host, which nobody can change from a notebook.
    (r"Transparent hugepages are not enabled", UserWarning),
)
"""(beginning of a warning, its category), as of `warnings.filterwarnings`."""


class _Listed(logging.Filter):
    """Stops messages that begin with a pattern."""

    def __init__(self, pattern: str) -> None:
        super().__init__()
        self._pattern = re.compile(pattern)

    def filter(self, record: logging.LogRecord) -> bool:
        return self._pattern.match(record.getMessage()) is None


@contextlib.contextmanager
def quiet_libraries() -> Iterator[None]:
    """Hides the messages listed above, in the whole process, until the context ends."""
    filters = [(logging.getLogger(name), _Listed(pattern)) for name, pattern in _LOGGED]
    for logger, listed in filters:
        logger.addFilter(listed)
    try:
        with warnings.catch_warnings():
            for text, category in _WARNED:
                warnings.filterwarnings("ignore", text, category)
            yield
    finally:
        for logger, listed in filters:
            logger.removeFilter(listed)
