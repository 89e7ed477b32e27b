"""The generator writes what sampling gives, whatever the number of processes."""

import pytest

from experiments.generate import generate, table
from ppuda_jax.archs.hdf5 import load_split
from ppuda_jax.archs.sampling import arch_at


def test_one_process_or_two(tmp_path):
    paths = [str(tmp_path / f"{processes}.hdf5") for processes in (1, 2)]
    for processes, path in enumerate(paths, start=1):
        reports = generate(("test", "wide"), 5, path, processes)
        assert [(r.split, r.nets, r.repeats) for r in reports] == [("test", 5, 0), ("wide", 5, 0)]
    assert table(reports, 2).splitlines()[2].split()[:6] == ["|", "test", "|", "5", "|", "0"]
    for split in ("test", "wide"):
        first, second = (load_split(path, split) for path in paths)
        for index in range(5):
            assert first[index] == second[index]
            assert first[index].config == arch_at(split, index)
            adjacency = first.stored_graph(index).adjacency
            assert (adjacency == second.stored_graph(index).adjacency).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [((("tset",), 5), "split must be one of"), ((("test",), 0), "num_nets must be at least 1")],
)
def test_impossible_requests_are_refused(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        generate(*arguments, str(tmp_path / "x.hdf5"))
    assert list(tmp_path.iterdir()) == []
