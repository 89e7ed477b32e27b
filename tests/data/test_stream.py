"""The stream of meta-batches: same result with and without processes, exact continuation."""

import itertools
import os
import pathlib
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from ppuda_jax.data.grouping import StreamError
from ppuda_jax.data.stream import ArchitectureStream
from tests.training.toy import ToyNetworks


def open_stream(**options):
    defaults = {
        "meta_batch_size": 4,
        "steps_per_dispatch": 2,
        "num_shards": 2,
        "max_nodes": 60,
        "workers": 0,
    }
    return ArchitectureStream(ToyNetworks(), **(defaults | options))


def take(stream, count):
    groups = list(itertools.islice(stream, count))
    stream.close()
    return groups


def assert_equal_groups(left, right):
    assert len(left) == len(right)
    for a, b in zip(left, right, strict=True):
        assert (a.variant, a.indices, a.state) == (b.variant, b.indices, b.state)
        jax.tree.map(np.testing.assert_array_equal, a.arrays, b.arrays)


def test_arrays_are_stacked_by_step_and_shard():
    group = take(open_stream(), 1)[0]
    assert group.arrays["vector"].shape == (2, 2, 2, 6)
    alone = ToyNetworks().build(group.indices[6:], group.variant)["vector"]
    np.testing.assert_array_equal(group.arrays["vector"][1, 1], alone)


def test_processes_change_nothing():
    assert_equal_groups(take(open_stream(workers=2), 12), take(open_stream(), 12))


def test_a_host_builds_its_own_shards_only():
    whole = take(open_stream(), 3)
    part = take(open_stream(host_shards=range(1, 2)), 3)
    for a, b in zip(whole, part, strict=True):
        np.testing.assert_array_equal(a.arrays["vector"][:, 1:], b.arrays["vector"])


def test_continues_exactly():
    whole = take(open_stream(), 10)
    for cut in (0, 4):
        assert_equal_groups(take(open_stream(state=whole[cut].state), 9 - cut), whole[cut + 1 :])


def test_probe_counts_variants_and_restriction_holds():
    stream = open_stream()
    found = stream.probe(40)
    assert [(variant, len(surveys)) for variant, surveys in found] == [
        ("variant0", 14),
        ("variant1", 13),
        ("variant2", 13),
    ]
    assert stream.example(found[0][1])["vector"].shape == (2, 2, 2, 6)
    stream.restrict({"variant1": 1.0})
    assert {g.variant for g in take(stream, 5)} == {"variant1"}


def test_a_meta_batch_must_divide_among_devices():
    with pytest.raises(ValueError, match="must be a multiple of the 3 devices, received 4"):
        open_stream(num_shards=3)


def test_networks_that_do_not_fit_are_left_out_and_counted():
    class Tight(ToyNetworks):
        def build(self, indices, variant):
            return None if 7 in indices else super().build(indices, variant)

    stream = ArchitectureStream(Tight(), meta_batch_size=2, max_nodes=60, workers=0)
    groups = take(stream, 12)
    assert all(7 not in group.indices for group in groups)
    assert (groups[0].state.unfit_skipped, groups[-1].state.unfit_skipped) == (0, 1)


class Unfit(ToyNetworks):
    """No meta-batch of these has room in the executor."""

    def build(self, indices, variant):
        return None


@pytest.mark.parametrize(
    ("networks", "options", "message"),
    [
        (ToyNetworks(), {"max_nodes": 5}, "at most 5 graph nodes.*raise max_nodes"),
        (ToyNetworks(), {"shares": {"variant9": 1.0}}, "raise max_variants"),
        (Unfit(), {}, r"do not \(the last one.*raise meta_batch_size or lower num_devices"),
    ],
)
def test_a_stream_from_which_nothing_comes_is_an_error(networks, options, message):
    stream = ArchitectureStream(networks, meta_batch_size=2, workers=0, **options)
    with pytest.raises(StreamError, match=message):
        next(stream)


def test_examples_avoid_networks_without_room():
    class Tight(ToyNetworks):
        def build(self, indices, variant):
            return None if len(set(indices)) > 1 else super().build(indices, variant)

    stream = ArchitectureStream(Tight(), meta_batch_size=2, workers=0)
    surveys = stream.probe(9)[0][1]
    assert stream.example(surveys)["vector"].shape == (1, 1, 2, 6)


def test_an_error_names_the_architectures():
    class Broken(ToyNetworks):
        def build(self, indices, variant):
            raise KeyError("channels")

    stream = ArchitectureStream(Broken(), meta_batch_size=2, workers=0)
    with pytest.raises(RuntimeError, match=r"architectures \[0, 3\] of the stream cannot be built"):
        next(stream)


@pytest.mark.skipif(not pathlib.Path("/proc").is_dir(), reason="needs /proc")
def test_workers_end_with_a_parent_that_is_killed():
    code = (
        "import concurrent.futures, multiprocessing, os, time\n"
        "from ppuda_jax.data.stream import end_with_parent\n"
        "if __name__ == '__main__':\n"
        "    pool = concurrent.futures.ProcessPoolExecutor(\n"
        "        1, mp_context=multiprocessing.get_context('spawn'), initializer=end_with_parent)\n"
        "    print(pool.submit(os.getpid).result(), flush=True)\n"
        "    pool.submit(time.sleep, 600).result()\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    worker = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    parent.stdout.close()  # a worker that lives on still holds the other end
    for _ in range(100):
        if not _runs(worker):
            return
        time.sleep(0.1)
    os.kill(worker, signal.SIGKILL)
    pytest.fail("the worker outlived its parent")


def _runs(pid: int) -> bool:
    try:
        state = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"  # ended, and only waits to be collected
