"""Freed memory stays in the process (glibc only)."""

import ctypes
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


HOLES = """
import ctypes, pathlib
from ppuda_jax.runtime.memory import freed_memory_kept, return_freed_memory, share_one_arena
share_one_arena()
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.malloc.argtypes, libc.free.argtypes = [ctypes.c_size_t], [ctypes.c_void_p]
libc.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
size = 1 << 20

def resident():
    return int(pathlib.Path("/proc/self/statm").read_text().split()[1]) * 4096 // size

with freed_memory_kept():
    before = resident()
    blocks = [libc.malloc(size) for _ in range(200)]
    for block in blocks:
        libc.memset(block, 1, size)
    for block in blocks[::2]:
        libc.free(block)  # a hole between every two blocks that stay
    kept = resident() - before
    few = return_freed_memory(above=150 * size), resident() - before
    many = return_freed_memory(above=50 * size), resident() - before
    print(kept, *few, *many, return_freed_memory(above=50 * size))
"""


@pytest.mark.skipif(
    not hasattr(ctypes.CDLL(None), "mallinfo2"),
    reason="only glibc since 2.33 counts what is in use",
)
def test_holes_are_returned_once_they_are_many():
    run = [sys.executable, "-c", HOLES]
    out = subprocess.run(run, check=True, capture_output=True, text=True).stdout.split()
    kept, returned_few, few, returned_many, many, again = out
    assert (returned_few, returned_many, again) == ("False", "True", "False")
    assert int(kept) >= 199 and int(few) >= 199
    assert int(many) < 110
