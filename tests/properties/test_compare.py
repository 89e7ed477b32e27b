"""Features are held against each other on the same divisions of the pool."""

import numpy as np
import pytest

from ppuda_jax.properties.compare import AS_IS, compare_features, divide
from ppuda_jax.properties.metrics import kendall, paired_test
from ppuda_jax.properties.regressors import fit


@pytest.fixture(scope="module")
def pool():
    rng = np.random.default_rng(0)
    good, bad = rng.standard_normal((60, 3)), rng.standard_normal((60, 3))
    return good, bad, 70 + 9 * good[:, 0] + rng.standard_normal(60)


def test_rows_are_fits_on_one_part_that_rank_the_other(pool):
    good, bad, truth = pool
    rows = compare_features(
        {"good": good, "bad": bad},
        {"clean_accuracy": truth},
        scores={"first": good[:, 0]},
        regressors=("ridge",),
        divisions=4,
    )
    assert [(r.features, r.regressor) for r in rows] == [
        ("good", "ridge"),
        ("bad", "ridge"),
        ("first", AS_IS),
    ]
    ours, theirs, score = rows
    for number, (tau, alone) in enumerate(zip(ours.divisions, score.divisions, strict=True)):
        fitted, tested = divide(60, number, 0.5, 5)
        predictor = fit("ridge", good[fitted], truth[fitted], rounded=True)
        assert tau == pytest.approx(kendall(truth[tested], predictor.predict(good[tested])))
        assert alone == pytest.approx(kendall(truth[tested], good[tested, 0]))
    assert ours.kendall > 0.7 > 0.3 > theirs.kendall
    assert ours.against is None
    assert theirs.against == paired_test(ours.divisions, theirs.divisions)
    assert score.against == paired_test(ours.divisions, score.divisions)
    assert theirs.against.p_value < 0.05


def test_divisions_share_nothing_and_differ():
    fitted, tested = divide(41, 0, 0.5, 5)
    assert sorted([*fitted, *tested]) == list(range(41)) and len(tested) == 20
    assert tested.tolist() != divide(41, 1, 0.5, 5)[1].tolist()


@pytest.mark.parametrize(
    "count, options, message",
    [
        (19, {}, "pool of 19 networks is too small: .* 9 networks to fit on, of which 5 folds"),
        (60, {"folds": 20}, "30 networks to fit on, of which 20 folds need 40"),
        (60, {"test_share": 0.01}, "1 to test on, of which there must be 3"),
        (60, {"test_share": 1.0}, r"must lie in \(0, 1\), received 1.0"),
        (60, {"divisions": 1}, "divisions must be at least 2"),
        (60, {"regressors": ("forest",)}, "must be one of svr, ridge, gp, received 'forest'"),
    ],
)
def test_refuses(count, options, message, pool):
    good, _, truth = pool
    with pytest.raises(ValueError, match=message):
        compare_features({"good": good[:count]}, {"clean_accuracy": truth[:count]}, **options)


def test_refuses_properties_that_are_unknown_or_do_not_vary(pool):
    good, _, truth = pool
    with pytest.raises(ValueError, match=r"properties are clean_accuracy.* received \['speed'\]"):
        compare_features({"good": good}, {"speed": truth})
    with pytest.raises(ValueError, match=r"convergence is 2 share of the run for all 60 networks"):
        compare_features({"good": good}, {"convergence": np.full(60, 2.0)})
