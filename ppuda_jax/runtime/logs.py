"""Messages of the libraries underneath."""

import contextlib
import logging
from collections.abc import Iterator

_NOISY = "absl"
"""Where Orbax reports every write, and TFDS advises on decoders that are not used here."""


@contextlib.contextmanager
def quiet_libraries(level: int = logging.ERROR) -> Iterator[None]:
    """Shows only messages of at least `level` of the libraries underneath, for the whole process.

    Args:
        level: lowest level of the standard `logging` module that is shown.
    """
    logger = logging.getLogger(_NOISY)
    before = logger.level
    logger.setLevel(level)
    try:
        yield
    finally:
        logger.setLevel(before)
