"""The space of NAS-Bench-201; tests with its table are skipped where it is not there.

PPUDA_NASBENCH201 names the table.
"""

import gzip
import os
import pathlib

import numpy as np
import pytest

from ppuda_jax.structure import nasbench201 as nb
from ppuda_jax.structure.search.sampling import random_search, regularised_evolution

SKIPS = dict.fromkeys(nb.EDGES, 1)
TEXT = "|avg_pool_3x3~0|+|nor_conv_1x1~0|skip_connect~1|+|none~0|nor_conv_3x3~1|skip_connect~2|"


def test_cells_go_to_text_and_back():
    choice = nb.from_text(TEXT)
    assert choice == {(0, 1): 4, (0, 2): 2, (1, 2): 1, (0, 3): 0, (1, 3): 3, (2, 3): 1}
    assert nb.to_text(choice) == TEXT
    cells = [nb.to_text(c) for c in nb.all_cells()]
    assert len(set(cells)) == nb.NUM_CELLS == 15625


def test_isomorphic_cells_share_their_expression():
    none = dict.fromkeys(nb.EDGES, 0)
    first = {**none, (0, 1): 3, (1, 3): 1}
    second = {**none, (0, 1): 1, (1, 3): 3}
    assert nb.canonical(first) == nb.canonical(second) == "#+#+(0)@nor_conv_3x3"
    assert nb.canonical({**first, (1, 3): 2}) == "#+#+((0)@nor_conv_3x3)@nor_conv_1x1"
    assert nb.canonical(SKIPS) == "0+0+0+0"
    assert nb.canonical(none) == "#+#+#"


@pytest.mark.parametrize(
    "text",
    ["", TEXT[:-1], TEXT.replace("none", "nor_conv_5x5"), TEXT.replace("none~0", "none~1")],
)
def test_text_that_is_no_cell_is_refused(text):
    with pytest.raises(ValueError, match="no edge to node|must read like"):
        nb.from_text(text)


def test_cells_with_other_edges_are_refused():
    with pytest.raises(ValueError, match="a cell has one of the operations 0 to 4 on each"):
        nb.to_text({(0, 1): 1})
    with pytest.raises(ValueError, match="received {.*5"):
        nb.to_text({**SKIPS, (0, 1): 5})


@pytest.fixture
def small(tmp_path):
    path = tmp_path / "table.csv.gz"
    lines = ["index,cell,c10_test_200,c10_val_12", f"0,{TEXT},90.5,80.25"]
    lines.append(f"1,{nb.to_text(SKIPS)},54.3,50.0")
    path.write_bytes(gzip.compress("\n".join(lines).encode()))
    return path


def test_a_table_is_read_and_asked(small):
    table = nb.read_table(small)
    assert table.accuracy(nb.from_text(TEXT)) == 90.5
    assert table.accuracy(nb.from_text(TEXT), split="val", epochs=12) == 80.25
    assert table.rank(SKIPS) == 1
    with pytest.raises(ValueError, match="received 'cifar100', 'test' and 200"):
        table.accuracy(SKIPS, "cifar100")
    with pytest.raises(ValueError, match="table of 2 cells does not have"):
        table.accuracy(dict.fromkeys(nb.EDGES, 2))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a,b\n1,2\n", r"must have the columns cell and .*received \['a', 'b'\]"),
        ("cell,c10_test_200\n|x|,1\n", "line 2: a cell must read like"),
        (f"cell,c10_test_200\n{TEXT},many\n", "line 2: could not convert"),
    ],
)
def test_files_that_are_no_table_are_refused(tmp_path, content, message):
    path = tmp_path / "bad.csv"
    path.write_text(content)
    with pytest.raises(ValueError, match=message):
        nb.read_table(path)


@pytest.fixture(scope="module")
def table():
    path = os.environ.get("PPUDA_NASBENCH201")
    if not path or not pathlib.Path(path).exists():
        pytest.skip("PPUDA_NASBENCH201 does not name the table")
    return nb.read_table(path)


def test_the_table_has_the_published_optimum_and_all_skips(table):
    assert [c.max() for c in (table.column(d, "test", 200) for d in nb.DATASETS)] == pytest.approx(
        [94.37, 73.51, 47.31], abs=0.005
    )
    assert [table.accuracy(SKIPS, d) for d in nb.DATASETS] == pytest.approx(
        [54.30, 15.61, 16.32], abs=0.005
    )


def test_isomorphic_cells_of_the_table(table):
    """6,466 classes; cells of a class were trained apart and differ by chance."""
    groups = {}
    for cell in nb.all_cells():
        groups.setdefault(nb.canonical(cell), []).append(table.row(cell))
    assert len(groups) == 6466
    column = table.column("cifar10", "test", 200)
    assert np.mean([np.ptp(column[rows]) for rows in groups.values()]) < 1


@pytest.mark.parametrize(
    ("search", "expected", "tolerance"),
    [
        (random_search, (93.70, 71.04, 44.57), (0.2, 0.4, 0.5)),
        (regularised_evolution, (93.99, 72.02, 45.57), (0.15, 0.3, 0.4)),
    ],
)
def test_published_searches_on_the_table(table, search, expected, tolerance):
    found = [
        search(
            lambda choice: table.accuracy(choice, split="val", epochs=12),
            dict.fromkeys(nb.EDGES, 5),
            np.random.default_rng(seed),
            queries=100,
        ).best
        for seed in range(100)
    ]
    means = [np.mean([table.accuracy(c, d) for c in found]) for d in nb.DATASETS]
    assert np.all(np.abs(np.array(means) - expected) < tolerance), means
