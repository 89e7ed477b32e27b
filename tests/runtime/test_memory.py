"""Freed memory stays in the process (glibc only)."""

import mmap
import platform
import subprocess
import sys

import pytest

from ppuda_jax.runtime.memory import mapping_limit, mappings

SCRIPT = """
import contextlib, ctypes, resource, threading
from ppuda_jax.runtime.memory import freed_memory_kept, share_one_arena
shared = {share} and share_one_arena()
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.malloc.argtypes, libc.free.argtypes = [ctypes.c_size_t], [ctypes.c_void_p]
libc.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
size = 200 << 20

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    block = libc.malloc(size)
    libc.memset(block, 1, size)
    libc.free(block)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def measure():
    with freed_memory_kept() if {keep} else contextlib.nullcontext(False) as kept:
        first, second = faults(), faults()
        with freed_memory_kept():
            third = faults()
    print(shared, kept, first, second, third, faults(), faults())

thread = threading.Thread(target=measure)
thread.start()
thread.join()
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the setting is glibc's")
@pytest.mark.parametrize(("share", "keep"), [(False, False), (True, False), (True, True)])
def test_a_block_freed_by_a_thread_is_reused_without_page_faults(share, keep):
    out = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(share=share, keep=keep)],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split()
    shared, kept, first, second, third, *after = out
    assert (shared, kept) == (str(share), str(keep))
    pages = (200 << 20) // 4096
    assert int(first) > pages / 600  # huge pages have 512
    if keep:
        assert int(second) < int(first) / 20
        assert int(third) > int(first) / 2  # entering returned the block
    else:
        assert int(second) > int(first) / 2
    assert min(map(int, after)) > int(first) / 2  # nothing is kept any more


@pytest.mark.skipif(sys.platform != "linux", reason="Linux counts mappings")
def test_mappings_are_counted():
    limit, before = mapping_limit(), mappings()
    assert 0 < before < limit
    kept = [mmap.mmap(-1, 4096, prot=p) for p in 10 * (mmap.PROT_READ, mmap.PROT_WRITE)]
    assert before < mappings() <= before + 2 * len(kept)
