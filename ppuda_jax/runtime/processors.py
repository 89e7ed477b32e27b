"""How many processors this process may use."""

import os


def processors() -> int:
    """Processors that the system lets this process run on, at least one.

    A container or a batch system often gives a process a few of many processors; a pool as large
    as the machine would start dozens of workers of gigabytes each for them.
    """
    if hasattr(os, "sched_getaffinity"):  # not on macOS and Windows
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
