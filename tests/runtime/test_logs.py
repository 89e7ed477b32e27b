"""Messages of other libraries: those that are listed are hidden while asked, no others."""

import logging
import subprocess
import sys
import warnings

import pytest

from ppuda_jax.runtime.logs import quiet_libraries


@pytest.mark.parametrize(
    ("logger", "message", "shown"),
    [
        ("absl", "Metadata file does not exist: /a b/theta/_CHECKPOINT_METADATA", False),
        ("absl", "`TensorInfo.dtype` is deprecated. Please change your code to use NumPy with the "
         "field `TensorInfo.np_dtype`", False),
        ("absl", "Waiting for previous save to complete took 4.4 seconds. If this number is "
         "high, consider checkpointing less frequently.", False),
        ("absl", "Metadata file does not exist: /a/record", True),
        ("absl", "Checkpoint is damaged", True),
        ("jax", "Metadata file does not exist: /a/_CHECKPOINT_METADATA", True),
    ],
)  # fmt: skip
def test_only_listed_messages_are_hidden(logger, message, shown, caplog):
    with quiet_libraries():
        logging.getLogger(logger).warning(message)
    assert bool(caplog.records) is shown
    caplog.clear()
    logging.getLogger(logger).warning(message)
    assert caplog.messages == [message]


def test_only_listed_warnings_are_hidden():
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        with pytest.raises(KeyError), quiet_libraries():
            warnings.warn("Transparent hugepages are not enabled. TPU runtime", stacklevel=1)
            warnings.warn("the disk is full", stacklevel=1)
            raise KeyError
        warnings.warn("Transparent hugepages are not enabled. TPU runtime", stacklevel=1)
    assert [str(warning.message)[:11] for warning in seen] == ["the disk is", "Transparent"]


def test_loading_a_checkpoint_says_nothing():
    code = "import ppuda_jax as pj; pj.load_ghn('ghn2-cifar10')"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


SCRIPT = """
import ctypes, logging, os, signal, threading
import absl.logging, jax, numpy, orbax.checkpoint, sklearn  # sklearn sets two variables

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
