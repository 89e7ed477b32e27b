"""The comparison of objectives: its arms, its test, its table, and what it refuses."""

import json
import math

import pytest

from experiments import teachers
from experiments.teachers import Row, TeachersConfig
from ppuda_jax.training.terms import Terms
from tests.networks import plan_of
from tests.teachers.stored import save_zoo

PLANS = [plan_of(f"conv_{k}x{k}:0 none:1", "none:0 max_pool_3x3:1", n_cells=2) for k in (1, 3)]


def _options(tmp_path, **changes):
    return TeachersConfig(str(tmp_path / "zoo"), str(tmp_path / "out"), dataset="digits", **changes)


def test_arms_differ_in_their_terms_alone(tmp_path):
    options = _options(tmp_path, trained=str(tmp_path / "random"), regress=0.2, steps=7)
    arms = {arm: options.settings(arm) for arm in options.arms}
    assert arms["task"].terms == Terms() and arms["distill"].terms == Terms(distill=1.0)
    assert arms["regress"].terms == Terms(regress=0.2)
    assert arms["regress_unaligned"].terms == Terms(regress_unaligned=0.2)
    assert arms["reptile"].terms == Terms(reptile=1.0)
    assert arms["regress"].teacher == options.trained and arms["task"].teacher == options.teachers
    same = {(s.seed, s.steps, s.learning_rate, s.init_from, s.batch_size) for s in arms.values()}
    assert same == {(1111, 7, 1e-4, "ghn2-cifar10", 32)}
    assert len({s.workdir for s in arms.values()}) == len(arms)


def test_the_table(tmp_path, monkeypatch, capfd):
    save_zoo(tmp_path / "zoo", PLANS)
    trained = []

    def measure(options, ghns, folder):
        assert list(ghns) == ["start", "task", "distill"]
        return [
            Row("start", (0.1, 0.1, 0.1, 0.1), 0.9, 1.0, math.nan),
            Row("task", (0.2, 0.2, 0.3, 0.3), 0.8, 0.9, math.nan),
            Row("distill", (0.3, 0.4, 0.4, 0.2), 0.8, 0.9, math.nan),
            Row("mean of trained networks", (0.2, 0.2, 0.3, 0.3)),
        ]

    monkeypatch.setattr(teachers, "_train", lambda settings: trained.append(settings))
    monkeypatch.setattr(teachers, "_measure", measure)
    options = _options(tmp_path, arms=("task", "distill"), compilation_cache=None)
    lines = teachers.run(options).splitlines()
    assert [settings.terms.names for settings in trained] == [("task",), ("task", "distill")]
    rows = {r[1]: r for r in ([cell.strip() for cell in line.split("|")] for line in lines[3:])}
    assert rows["distill"][2:6] == ["32.5 ± 4.8", "+7.5 ± 6.3", "75 %", "0.375"]
    assert rows["task"][2:6] == ["25.0 ± 2.9", "", "", ""] and rows["task"][6] == "0.800"
    assert rows["mean of trained networks"][3:6] == ["+0.0 ± 0.0", "0 %", ""]
    table = json.loads((tmp_path / "out" / "table.json").read_text())
    assert table[2]["gain"] == pytest.approx(0.075) and table[0]["distance_held_out"] is None
    assert table[3]["p_value"] is None


def test_distances_of_predictions(tmp_path):
    """Aligned predictions are closer to what was trained, here to random parameters."""
    save_zoo(tmp_path / "zoo", PLANS)
    options = _options(tmp_path, teacher_held_out=0.0)
    aligned, unaligned, held_out = teachers._distances(options, teachers._start(options))
    assert 0 < aligned < unaligned and math.isnan(held_out)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"arms": ("task", "destill")}, "arms are different ones of task, .* received"),
        ({"arms": ("task", "task")}, "arms are different ones"),
        ({"num_nets": 1}, "tested over networks, at least 2"),
    ],
)
def test_bad_options(changes, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        _options(tmp_path, **changes)


def test_both_zoos_must_have_the_same_architectures(tmp_path):
    save_zoo(tmp_path / "zoo", PLANS)
    save_zoo(tmp_path / "random", PLANS[:1])
    with pytest.raises(ValueError, match="same architectures: .* share 1 of 2 and 1; make both"):
        teachers.run(_options(tmp_path, trained=str(tmp_path / "random")))
