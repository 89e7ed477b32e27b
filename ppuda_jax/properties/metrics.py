"""How well a score ranks networks: correlations, the same among the better half, and regret.

A score that tells good networks from bad ones may still say nothing about which of the good ones
is best, and that is what a search needs: so every correlation is also taken in the upper half.

Legend: `n` networks, `J` divisions of a pool.
"""

import dataclasses
import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import scipy.stats

MIN_NETWORKS = 3
"""Fewer points have no rank correlation worth the name."""

Metric = Callable[[npt.ArrayLike, npt.ArrayLike], float]
"""(truth [n], predicted [n]) -> correlation."""


def kendall(truth: npt.ArrayLike, predicted: npt.ArrayLike) -> float:
    """Kendall's tau-b, which accounts for ties on both sides.

    Args:
      truth: float [n], what was measured.
      predicted: float [n], the score of the same networks.

    Returns:
      From -1 to 1; 0 where all scores are equal, which rank nothing.

    Raises:
      ValueError: fewer than `MIN_NETWORKS` networks, lengths that differ, numbers that are not
        finite, or a constant truth.
    """
    return _correlation(scipy.stats.kendalltau, truth, predicted)


def spearman(truth: npt.ArrayLike, predicted: npt.ArrayLike) -> float:
    """Spearman's correlation of ranks; see `kendall` for arguments and errors."""
    return _correlation(scipy.stats.spearmanr, truth, predicted)


def pearson(truth: npt.ArrayLike, predicted: npt.ArrayLike) -> float:
    """Pearson's correlation of values; see `kendall` for arguments and errors."""
    return _correlation(scipy.stats.pearsonr, truth, predicted)


METRICS: dict[str, Metric] = {"kendall": kendall, "spearman": spearman, "pearson": pearson}
"""The correlations by name."""


def upper_half(
    metric: Metric, truth: npt.ArrayLike, predicted: npt.ArrayLike, *, larger_is_better: bool = True
) -> float:
    """A correlation among the networks that truly are the better half.

    Args:
      metric: one of `METRICS`.
      truth: float [n].
      predicted: float [n].
      larger_is_better: whether the better half is that of the larger truth.

    Returns:
      The correlation over networks at the median of the truth or better.

    Raises:
      ValueError: see `kendall`; the better half needs enough networks that differ too.
    """
    truth, predicted = _checked(truth, predicted)
    better = truth if larger_is_better else -truth
    chosen = better >= np.median(better)
    try:
        return metric(truth[chosen], predicted[chosen])
    except ValueError as error:
        raise ValueError(
            f"the better half has {int(chosen.sum())} of {len(truth)} networks: {error}"
        ) from error


def top_k_regret(
    truth: npt.ArrayLike, predicted: npt.ArrayLike, k: int = 1, *, larger_is_better: bool = True
) -> float:
    """What is lost by taking the best of the k networks that a score puts first.

    Args:
      truth: float [n].
      predicted: float [n]; networks with equal scores count in their worst order.
      k: how many are looked at.
      larger_is_better: of truth and score.

    Returns:
      Best truth of all minus best truth of the k (the other way round where smaller is better):
      never negative, 0 for a pick that cannot be improved.

    Raises:
      ValueError: see `kendall`, except that a constant truth has no regret; or k outside 1..n.
    """
    truth, predicted = _checked(truth, predicted, may_be_constant=True)
    if not 1 <= k <= len(truth):
        raise ValueError(f"k must lie in 1..{len(truth)} (the networks), received {k}")
    sign = 1.0 if larger_is_better else -1.0
    order = np.lexsort((sign * truth, -sign * predicted))  # by score, then the worst first
    return float(np.max(sign * truth) - np.max(sign * truth[order[:k]]))


@dataclasses.dataclass(frozen=True)
class Ranking:
    """Everything at once; a field is NaN where the better half does not allow it.

    Attributes:
      kendall, spearman, pearson: over all networks.
      upper_kendall, upper_spearman, upper_pearson: over the better half; NaN where that has too
        few networks that differ.
      regret: `top_k_regret` of the first pick.
    """

    kendall: float
    spearman: float
    pearson: float
    upper_kendall: float
    upper_spearman: float
    upper_pearson: float
    regret: float


def rank(
    truth: npt.ArrayLike, predicted: npt.ArrayLike, *, larger_is_better: bool = True
) -> Ranking:
    """All metrics of a score.

    Args:
      truth: float [n].
      predicted: float [n].
      larger_is_better: see `upper_half`.

    Raises:
      ValueError: see `kendall`.
    """
    values = {name: metric(truth, predicted) for name, metric in METRICS.items()}
    for name, metric in METRICS.items():
        try:
            found = upper_half(metric, truth, predicted, larger_is_better=larger_is_better)
        except ValueError:  # the whole pool passed its checks above, the half is too small
            found = math.nan
        values[f"upper_{name}"] = found
    values["regret"] = top_k_regret(truth, predicted, larger_is_better=larger_is_better)
    return Ranking(**values)


@dataclasses.dataclass(frozen=True)
class PairedTest:
    """One method against another on the same divisions of a pool.

    Attributes:
      difference: mean of ours minus theirs.
      error: its standard error, corrected for the overlap of the divisions.
      p_value: two-sided; 1 where the methods never differ.
      wins: share of divisions where ours is larger, ties counted half.
    """

    difference: float
    error: float
    p_value: float
    wins: float


def paired_test(
    ours: npt.ArrayLike, theirs: npt.ArrayLike, *, test_share: float = 0.5
) -> PairedTest:
    """Tests whether one method is better than another over random divisions of one pool.

    The divisions share networks, so their differences are not independent and an ordinary t-test
    is far too sure. The variance of the mean is corrected for it: times 1/J + test/fit instead of
    1/J (Nadeau and Bengio, Machine Learning 52, 2003).

    Args:
      ours: float [J], a figure per division, J at least 2.
      theirs: float [J], on the same divisions.
      test_share: share of the pool that is tested on in each division; the rest is fitted on.

    Raises:
      ValueError: fewer than two divisions, lengths that differ, numbers that are not finite, or a
        share outside (0, 1).
    """
    ours, theirs = _checked(ours, theirs, may_be_constant=True, least=2, what="divisions")
    if not 0 < test_share < 1:
        raise ValueError(f"test_share must lie in (0, 1), received {test_share}")
    differences = ours - theirs
    count, mean = len(differences), float(differences.mean())
    wins = float(np.mean((differences > 0) + 0.5 * (differences == 0)))
    scale = 1 / count + test_share / (1 - test_share)
    error = math.sqrt(scale * float(differences.var(ddof=1)))
    if error == 0:
        return PairedTest(mean, 0.0, 0.0 if mean else 1.0, wins)
    p_value = 2 * float(scipy.stats.t.sf(abs(mean) / error, count - 1))
    return PairedTest(mean, error, p_value, wins)


def _correlation(function: Callable, truth: npt.ArrayLike, predicted: npt.ArrayLike) -> float:
    truth, predicted = _checked(truth, predicted)
    if np.ptp(predicted) == 0:
        return 0.0
    return float(function(truth, predicted)[0])


def _checked(
    truth: npt.ArrayLike,
    predicted: npt.ArrayLike,
    *,
    may_be_constant: bool = False,
    least: int = MIN_NETWORKS,
    what: str = "networks",
) -> tuple[np.ndarray, np.ndarray]:
    truth, predicted = np.asarray(truth, np.float64), np.asarray(predicted, np.float64)
    if truth.ndim != 1 or truth.shape != predicted.shape:
        raise ValueError(
            f"truth and score must be vectors of one length, received shapes {truth.shape} and "
            f"{predicted.shape}"
        )
    if len(truth) < least:
        raise ValueError(f"at least {least} {what} are needed, received {len(truth)}")
    for name, values in (("truth", truth), ("score", predicted)):
        bad = np.flatnonzero(~np.isfinite(values))
        if bad.size:
            raise ValueError(
                f"the {name} must be finite, received {values[bad[0]]} at {bad[0]} "
                f"({bad.size} in all): leave these {what} out"
            )
    if not may_be_constant and np.ptp(truth) == 0:
        raise ValueError(
            f"the truth must vary, received {truth[0]:g} for all {len(truth)} {what}: nothing can "
            "be ranked by it"
        )
    return truth, predicted
