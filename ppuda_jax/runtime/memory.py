"""Keeping freed memory in the process, and how many programs it has room for.

XLA:CPU allocates a program's temporary memory, hundreds of megabytes for the executor, at every
call and frees it after. By default glibc maps and unmaps such blocks, and the kernel then clears
every page again: a third of the time of a training step, where it was measured. Both functions are
needed: threads with an arena of their own map blocks above 64 MB whatever else is set. What runs
blocks of ever new sizes must return some of it from time to time, see `return_freed_memory`.
"""

import contextlib
import ctypes
import functools
import mmap
import pathlib
import platform
from collections.abc import Iterator

# Parameters of mallopt(3).
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8
_NEVER = 2**31 - 1
_MMAP_MAX_DEFAULT, _TRIM_THRESHOLD_DEFAULT = 65_536, 128 << 10


def share_one_arena() -> bool:
    """Makes all threads that start from now on allocate from the main arena of the C library.

    To be called before the first use of JAX, whose threads otherwise get their own. There is no
    way back: a thread keeps its arena.

    Returns:
        Whether the setting was made: only glibc has it, elsewhere nothing happens.
    """
    libc = _glibc()
    return libc is not None and libc.mallopt(_ARENA_MAX, 1) == 1


@contextlib.contextmanager
def freed_memory_kept() -> Iterator[bool]:
    """Returns the memory that is free now, and makes the C library keep what is freed meanwhile.

    To be entered between compilation, whose gigabytes of debris slow down every later allocation
    if they are kept, and the first run of a compiled program; see also `share_one_arena`. Where
    programs run on a GPU or TPU it is of no use, and costs the host's memory. At the end the
    C library's documented defaults hold and what is free is returned, but its threshold for blocks
    of their own no longer adapts.

    Yields:
        Whether the setting was made: only glibc has it, elsewhere nothing happens.
    """
    libc = _glibc()
    if libc is None:
        yield False
        return
    libc.malloc_trim(0)
    try:
        yield _set_malloc(libc, mmap_max=0, trim_threshold=_NEVER)
    finally:
        _set_malloc(libc, _MMAP_MAX_DEFAULT, _TRIM_THRESHOLD_DEFAULT)
        libc.malloc_trim(0)


class _Usage(ctypes.Structure):
    """`struct mallinfo2` of glibc, in bytes but for three counts; see mallinfo(3)."""

    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in (
            "arena",
            "ordblks",
            "smblks",
            "hblks",
            "hblkhd",
            "usmblks",
            "fsmblks",
            "uordblks",
            "fordblks",
            "keepcost",
        )
    )


def return_freed_memory(above: int) -> bool:
    """Returns what is free in this process to the system, where it is more than `above` bytes.

    Blocks of ever new sizes leave holes that the next ones do not fit into, so that a process that
    keeps freed memory grows: by about 1 GiB a meta-batch where the host drives the networks, while
    0.7 GiB are in use between two of them.

    Args:
        above: bytes.

    Returns:
        Whether something was returned. Only glibc since 2.33 on Linux counts what is in use;
        elsewhere nothing happens.
    """
    libc = _glibc()
    usage = getattr(libc, "mallinfo2", None)
    if libc is None or usage is None:
        return False
    usage.restype = _Usage
    # What it counts as free includes holes that were returned already: they have no pages.
    _, resident, files, *_ = map(int, pathlib.Path("/proc/self/statm").read_text().split())
    kept = (resident - files) * mmap.PAGESIZE - usage().uordblks
    return kept > above and libc.malloc_trim(0) == 1


def _set_malloc(libc: ctypes.CDLL, mmap_max: int, trim_threshold: int) -> bool:
    settings = ((_MMAP_MAX, mmap_max), (_TRIM_THRESHOLD, trim_threshold))
    return all(libc.mallopt(name, value) == 1 for name, value in settings)


def mapping_limit() -> int | None:
    """Memory mappings that the system allows a process; None if it does not say.

    XLA:CPU makes about three for every small function of a program, thousands for an executor, and
    ends the process when there are no more.
    """
    limit = pathlib.Path("/proc/sys/vm/max_map_count")
    return int(limit.read_text()) if limit.exists() else None


def mappings() -> int:
    """Memory mappings of this process; 0 if the system does not say."""
    maps = pathlib.Path("/proc/self/maps")
    return maps.read_text().count("\n") if maps.exists() else 0


@functools.cache  # the version is found by reading Python's own file
def _glibc() -> ctypes.CDLL | None:
    return ctypes.CDLL(None) if platform.libc_ver()[0] == "glibc" else None
