"""The command that chooses structures: its table, files and errors."""

import json

import pytest

from experiments import structure
from ppuda_jax.structure import nasbench201, synthetic


def test_synthetic_table(tmp_path, capsys, monkeypatch):
    last = synthetic.settings()[-1:]
    monkeypatch.setattr(synthetic, "settings", lambda: last)
    structure.main(["--family=synthetic", "--seeds=1", "--steps=4", f"--output={tmp_path}"])
    assert "strong prior, away from 0 and 2" in capsys.readouterr().out
    table = json.loads((tmp_path / "table.json").read_text())
    assert len(table) == 1
    assert all(entry["model"] in (0, 1, 2) and entry["seed"] == 0 for entry in table)
    assert (tmp_path / "synthetic.png").exists()


def test_comparison_on_digits(tmp_path, capsys):
    structure.main(
        [
            "--family=mlp",
            "--method=random",
            "--epochs=1",
            "--seeds=1",
            "--max_images=100",
            "--widths=4,8",
            "--layers=1",
            f"--output={tmp_path}",
        ]
    )
    assert "| random" in capsys.readouterr().out
    (entry,) = json.loads((tmp_path / "table.json").read_text())
    assert entry["method"] == "random" and 0 <= entry["test_score"] <= 1
    assert (tmp_path / "comparison.png").exists()
    assert (tmp_path / "random" / "1").is_dir()


def test_picks_are_looked_up(tmp_path, capsys):
    names = ["c10_test_200", "c100_test_200", "im16_test_200", "c10_val_12"]
    cells = list(nasbench201.all_cells())
    lines = [",".join(["cell", *names])]
    lines += [f"{nasbench201.to_text(cell)},{i},2,3,{i}" for i, cell in enumerate(cells)]
    path = tmp_path / "table.csv"
    path.write_text("\n".join(lines))
    out = tmp_path / "out"
    structure.main(
        [
            "--family=nasbench201",
            "--weights=table",
            "--method=evolution",
            "--queries=50",
            "--seeds=2",
            f"--table={path}",
            f"--output={out}",
        ]
    )
    printed = capsys.readouterr().out
    assert "| evolution" in printed and "| all skips" in printed
    saved = json.loads((out / "table.json").read_text())
    assert len(saved["picks"]["evolution"]) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--method=gdas"], "the family synthetic is for --method=variational"),
        (["--seeds=0"], "seeds must be at least 1"),
        (["--family=mlp", "--method=enas", "--max_images=50"], "methods must be of"),
        (["--family=resnet"], "family"),
        (["--family=nasbench201"], "give --table=CSV"),
    ],
)
def test_bad_options_end_with_one_line(arguments, message):
    with pytest.raises(SystemExit, match=message):
        structure.main(arguments)
