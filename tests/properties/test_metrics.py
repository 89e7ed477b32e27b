import itertools
import math

import numpy as np
import pytest
import scipy.stats

from ppuda_jax.properties.metrics import (
    METRICS,
    kendall,
    paired_test,
    pearson,
    rank,
    spearman,
    top_k_regret,
    upper_half,
)

TRUTH = np.array([70.0, 80.0, 80.0, 90.0, 60.0, 85.0])
SCORE = np.array([0.2, 0.4, 0.3, 0.3, 0.1, 0.6])


def test_kendall_counts_pairs_with_ties_as_tau_b_does():
    signs = [
        (np.sign(TRUTH[i] - TRUTH[j]), np.sign(SCORE[i] - SCORE[j]))
        for i, j in itertools.combinations(range(len(TRUTH)), 2)
    ]
    agreement = sum(a * b for a, b in signs)
    untied = math.sqrt(sum(a != 0 for a, _ in signs) * sum(b != 0 for _, b in signs))
    assert kendall(TRUTH, SCORE) == pytest.approx(agreement / untied)


def test_spearman_is_pearson_of_ranks():
    ranks = scipy.stats.rankdata(TRUTH), scipy.stats.rankdata(SCORE)
    assert spearman(TRUTH, SCORE) == pytest.approx(np.corrcoef(*ranks)[0, 1])
    assert pearson(TRUTH, SCORE) == pytest.approx(np.corrcoef(TRUTH, SCORE)[0, 1])


def test_upper_half_is_at_or_above_the_median_of_the_truth():
    chosen = [1, 2, 3, 5]  # the median is 80
    expected = pearson(TRUTH[chosen], SCORE[chosen])
    assert upper_half(pearson, TRUTH, SCORE) == pytest.approx(expected)
    lower = [0, 1, 2, 4]
    expected = pearson(TRUTH[lower], SCORE[lower])
    assert upper_half(pearson, TRUTH, SCORE, larger_is_better=False) == pytest.approx(expected)


def test_scores_that_are_all_equal_rank_nothing():
    assert [metric(TRUTH, np.ones(6)) for metric in METRICS.values()] == [0.0] * 3


def test_regret_of_the_first_pick_and_of_the_first_two():
    assert top_k_regret(TRUTH, SCORE) == 5.0  # takes 85, the best has 90
    assert top_k_regret(TRUTH, SCORE, 2) == 5.0  # 85 and 80
    assert top_k_regret(TRUTH, SCORE, 6) == 0.0
    assert top_k_regret(TRUTH, SCORE, larger_is_better=False) == 0.0  # 60 has the smallest score
    assert top_k_regret(TRUTH, np.zeros(6), 2) == 20.0  # ties are in their worst order


def test_rank_has_nan_where_the_better_half_is_of_one_kind():
    ranking = rank([1.0, 2.0, 3.0, 3.0, 3.0], [1.0, 2.0, 3.0, 4.0, 5.0])
    assert ranking.spearman > 0.8
    assert math.isnan(ranking.upper_kendall)
    assert ranking.regret == 0.0


@pytest.mark.parametrize(
    "truth, score, message",
    [
        ([1.0, 2.0], [1.0, 2.0], "at least 3 networks are needed, received 2"),
        ([1.0] * 4, [1.0, 2.0, 3.0, 4.0], "must vary, received 1 for all 4"),
        ([1.0, 2.0, 3.0], [1.0, 2.0], "one length"),
        ([1.0, math.nan, 3.0], [1.0, 2.0, 3.0], "truth must be finite, received nan at 1"),
        ([1.0, 2.0, 3.0], [1.0, 2.0, math.inf], "score must be finite, received inf at 2"),
    ],
)
@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)
def test_refuses(metric, truth, score, message):
    with pytest.raises(ValueError, match=message):
        metric(truth, score)


def test_refuses_a_half_that_cannot_be_ranked_and_picks_that_are_not_there():
    with pytest.raises(ValueError, match="the better half has 2 of 4 networks: at least 3"):
        upper_half(kendall, [1.0, 2.0, 3.0, 4.0], [1.0, 2.0, 3.0, 4.0])
    with pytest.raises(ValueError, match=r"k must lie in 1\.\.6 .*received 7"):
        top_k_regret(TRUTH, SCORE, 7)


def test_paired_test_corrects_the_ordinary_one_for_shared_networks():
    ours, theirs = np.array([0.6, 0.5, 0.7, 0.4]), np.array([0.5, 0.5, 0.4, 0.5])
    found = paired_test(ours, theirs, test_share=0.2)
    ordinary = scipy.stats.ttest_rel(ours, theirs)
    statistic = ordinary.statistic * math.sqrt((1 / 4) / (1 / 4 + 0.2 / 0.8))
    assert found.difference == pytest.approx(0.075)
    assert found.difference / found.error == pytest.approx(statistic)
    assert found.p_value == pytest.approx(2 * scipy.stats.t.sf(statistic, 3))
    assert found.wins == (2 + 0.5) / 4


def test_paired_test_of_equals_and_its_errors():
    same = paired_test([0.1, 0.2], [0.1, 0.2])
    assert (same.difference, same.p_value, same.wins) == (0.0, 1.0, 0.5)
    with pytest.raises(ValueError, match="at least 2 divisions are needed, received 1"):
        paired_test([0.1], [0.2])
    with pytest.raises(ValueError, match=r"test_share must lie in \(0, 1\), received 1"):
        paired_test([0.1, 0.2], [0.1, 0.2], test_share=1)
