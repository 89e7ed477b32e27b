"""The commands that compare proxies and search: tables, files and errors."""

import json

import pytest

from experiments import properties, proxies, search
from ppuda_jax.properties.ground_truth import Measured
from ppuda_jax.structure import nasbench201


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    names = ["c10_test_200", "c100_test_200", "im16_test_200", "c10_val_12"]
    lines = [",".join(["cell", *names])]
    cells = nasbench201.all_cells()
    lines += [f"{nasbench201.to_text(cell)},{i},2,3,{i}" for i, cell in enumerate(cells)]
    path = tmp_path_factory.mktemp("nasbench201") / "table.csv"
    path.write_text("\n".join(lines))
    return path


def test_searches_on_the_table_are_kept(table, tmp_path, capsys):
    command = [
        *("--space=nasbench201", "--method=random,evolution", "--queries=30", "--seeds=3"),
        *(f"--table={table}", f"--output={tmp_path}", "--compilation_cache=none"),
    ]
    search.main(command)
    printed = capsys.readouterr().out
    assert "| random" in printed and "| evolution" in printed and "| all skips" in printed
    saved = json.loads((tmp_path / "table.json").read_text())
    assert len(saved["picks"]["evolution"]) == 3
    assert len((tmp_path / "history.jsonl").read_text().splitlines()) == 1 + 2 * 3 * 30
    search.main(command)
    assert capsys.readouterr().out == printed


def test_ranks_by_the_accuracy_that_embeddings_predict(tmp_path, capsys, monkeypatch):
    def measured(options, dataset, nets, folder):
        assert (len(nets), options.steps, folder) == (10, 7, tmp_path)
        points = {"points": []}
        return tuple(
            Measured(n.split, n.index, n.fingerprint, 1, number / 10, 0.1, 1.0, points)
            for number, n in enumerate(nets)
        )

    monkeypatch.setattr(properties, "measure", measured)
    search.main(
        [
            *("--space=deepnets", "--dataset=digits", "--method=property", "--queries=2"),
            *("--pool=10", "--pool_steps=7", f"--output={tmp_path}", "--compilation_cache=none"),
        ]
    )
    assert "--split=search --index=" in capsys.readouterr().out
    (winner,) = json.loads((tmp_path / "table.json").read_text())["winners"]
    history = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    scores = [query["score"] for query in history[1:]]
    assert len(scores) == 2 and winner["score"] == max(scores) and 0 < max(scores) < 100


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--method=enas"], "methods must be of random, evolution, rank, grad_norm"),
        (["--score=zen"], "score must be one of grad_norm.*validation, received 'zen'"),
        (["--space=deepnets", "--score=validation"], "received 'validation'"),
        (["--queries=0"], "queries, seeds, pool and pool_steps must be"),
        (["--method=property"], "methods must be of .*received .'property'"),
        ([], "give --table=CSV"),
        (["--table=missing.csv"], "missing.csv"),
        (["--space=nasbench301"], "space"),
    ],
)
def test_bad_searches_end_with_one_line(arguments, message):
    with pytest.raises(SystemExit, match=message):
        search.main(arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--proxies=zen"], "proxies must be of grad_norm, .*received zen"),
        (["--num_nets=2"], "num_nets must be at least 4"),
        (["--seeds=0"], "seeds and truth_steps must be at least 1"),
        (["--images=64"], "images must be at least two batches"),
        ([], "give --table=CSV"),
        (["--table=missing.csv"], "missing.csv"),
    ],
)
def test_bad_comparisons_end_with_one_line(arguments, message):
    with pytest.raises(SystemExit, match=message):
        proxies.main(arguments)


def test_tables_of_another_space_and_small_ones(table, tmp_path):
    other = tmp_path / "other.csv"
    other.write_text("graph,accuracy\n1,2\n")
    with pytest.raises(SystemExit, match="must have the columns cell and"):
        proxies.main([f"--table={other}"])
    damaged = tmp_path / "damaged.csv"
    damaged.write_text("cell,c10_test_200\n|what~0|,1\n")
    with pytest.raises(SystemExit, match="line 2"):
        search.main([f"--table={damaged}"])
    with pytest.raises(SystemExit, match="the table has 15625 cells, received num_nets=20000"):
        proxies.main([f"--table={table}", "--num_nets=20000"])
