"""Messages of other libraries: hidden while asked, and only then."""

import logging
import subprocess
import sys

import pytest

from ppuda_jax.runtime.logs import quiet_libraries


def test_other_libraries_are_quiet_meanwhile():
    logger = logging.getLogger("absl")
    before = logger.level
    with pytest.raises(KeyError), quiet_libraries():
        assert not logger.isEnabledFor(logging.WARNING) and logger.isEnabledFor(logging.ERROR)
        raise KeyError
    assert logger.level == before


SCRIPT = """
import ctypes, logging, os, signal, threading
import absl.logging, jax, numpy, orbax.checkpoint

def state():
    loggers = [logging.getLogger(name) for name in ("", "absl", "jax", "orbax")]
    return (
        [(logger.level, logger.handlers, logger.disabled) for logger in loggers],
        {k: v for k, v in jax.config.values.items()}, dict(os.environ), numpy.geterr(),
        [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)], threading.active_count(),
    )

before = state()
import importlib, pkgutil
import ppuda_jax
for module in pkgutil.walk_packages(ppuda_jax.__path__, "ppuda_jax."):
    importlib.import_module(module.name)
after = state()
assert before == after, [pair for pair in zip(before, after) if pair[0] != pair[1]]
"""


def test_importing_the_package_changes_nothing_of_the_process():
    subprocess.run([sys.executable, "-c", SCRIPT], check=True)
