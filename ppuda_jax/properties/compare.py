"""Which features of networks predict a property best, over the same divisions of one pool.

Each division fits on one part of the pool and ranks the other, which the regressor never saw.

Legend: `n` networks, `d` features, `J` divisions.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from ppuda_jax.properties.ground_truth import PROPERTIES
from ppuda_jax.properties.metrics import MIN_NETWORKS, PairedTest, Ranking, paired_test, rank
from ppuda_jax.properties.regressors import FOLDS, REGRESSORS, fit

AS_IS = "as it is"
"""In place of a regressor, for scores."""


@dataclasses.dataclass(frozen=True)
class Row:
    """One property predicted from one kind of features by one regressor.

    Attributes:
      target: name of the property.
      features: name of the features.
      regressor: name of the regressor; `AS_IS` if the features are a score.
      divisions: float [J], Kendall's tau-b of each division.
      ranking: every metric, mean over divisions; NaN where no division has it.
      against: paired test of the first features against these, by the same regressor; None for
        the first.
    """

    target: str
    features: str
    regressor: str
    divisions: tuple[float, ...]
    ranking: Ranking
    against: PairedTest | None = None

    @property
    def kendall(self) -> float:
        """Mean over divisions."""
        return float(np.mean(self.divisions))

    @property
    def deviation(self) -> float:
        """Standard deviation over divisions."""
        return float(np.std(self.divisions))


def divide(count: int, division: int, test_share: float, folds: int) -> tuple[np.ndarray, ...]:
    """One division of a pool.

    Args:
      count: n.
      division: its number, which is its seed.
      test_share: share that is tested on.
      folds: of the fitted part.

    Returns:
      Numbers of the fitted and of the tested networks.

    Raises:
      ValueError: the pool is too small.
    """
    if not 0 < test_share < 1:
        raise ValueError(f"test_share must lie in (0, 1), received {test_share}")
    tested = round(count * test_share)
    if tested < MIN_NETWORKS or count - tested < 2 * folds:
        raise ValueError(
            f"a pool of {count} networks is too small: with test_share={test_share:g} it leaves "
            f"{count - tested} networks to fit on, of which {folds} folds need {2 * folds}, and "
            f"{tested} to test on, of which there must be {MIN_NETWORKS}: take more networks or "
            "fewer folds"
        )
    order = np.random.default_rng(division).permutation(count)
    return order[tested:], order[:tested]


def compare_features(
    features: Mapping[str, np.ndarray],
    targets: Mapping[str, np.ndarray],
    *,
    scores: Mapping[str, np.ndarray] | None = None,
    regressors: Sequence[str] = REGRESSORS,
    divisions: int = 5,
    test_share: float = 0.5,
    folds: int = FOLDS,
    progress: Callable[[float, str], None] | None = None,
) -> tuple[Row, ...]:
    """Predicts properties from features of networks.

    Args:
      features: [n, d] by name; the first ones are tested against all others.
      targets: [n] by property, in its unit (`ground_truth.targets`).
      scores: [n] by name, which rank networks as they are, without a regressor.
      regressors: names, see `regressors.fit`.
      divisions: J, at least 2.
      test_share: share of the pool that each division tests on.
      folds: by which regressors choose their settings.
      progress: called with the share that is done and what is next.

    Returns:
      A row for each property, regressor and kind of features, and for each score; scores are
      tested against the first features with the first regressor.

    Raises:
      ValueError: an unknown property or regressor, a pool too small for the folds, or a property
        that does not vary.
    """
    if divisions < 2:
        raise ValueError(f"divisions must be at least 2 to be compared, received {divisions}")
    unknown = [name for name in targets if name not in PROPERTIES]
    if unknown:
        raise ValueError(f"properties are {', '.join(PROPERTIES)}, received {unknown}")
    count = len(next(iter(features.values())))
    parts = [divide(count, number, test_share, folds) for number in range(divisions)]
    for name, truth in targets.items():
        if np.ptp(truth) == 0:
            raise ValueError(
                f"{name} is {truth[0]:g} {PROPERTIES[name].unit} for all {count} networks: there "
                "is nothing to predict; leave it out, or train longer"
            )
    kinds = [(regressor, *item) for regressor in regressors for item in features.items()]
    kinds += [(AS_IS, *item) for item in (scores or {}).items()]
    rows: list[Row] = []
    for name in targets:
        first: dict[str, tuple[float, ...]] = {}
        for regressor, label, matrix in kinds:
            if progress:
                done = len(rows) / (len(targets) * len(kinds))
                progress(done, f"{name} from {label} by {regressor}")
            rankings = [
                _division(name, regressor, matrix, targets[name], part, folds) for part in parts
            ]
            taus = tuple(r.kendall for r in rankings)
            against = None
            if regressor == AS_IS or regressor in first:
                ours = first[regressors[0] if regressor == AS_IS else regressor]
                against = paired_test(ours, taus, test_share=test_share)
            if regressor != AS_IS:
                first.setdefault(regressor, taus)
            rows.append(Row(name, label, regressor, taus, _mean(rankings), against))
    return tuple(rows)


def _division(
    name: str,
    regressor: str,
    features: np.ndarray,
    truth: np.ndarray,
    part: tuple[np.ndarray, ...],
    folds: int,
) -> Ranking:
    fitted, tested = part
    facts = PROPERTIES[name]
    try:
        if regressor == AS_IS:
            predicted = features[tested]
        else:
            predictor = fit(
                regressor, features[fitted], truth[fitted], folds=folds, rounded=facts.rounded
            )
            predicted = predictor.predict(features[tested])
        return rank(truth[tested], predicted, larger_is_better=facts.larger_is_better)
    except ValueError as error:
        raise ValueError(f"{name} in a division of {len(truth)} networks: {error}") from error


def _mean(rankings: Sequence[Ranking]) -> Ranking:
    """Mean of each metric over the divisions that have it."""
    table = np.array([dataclasses.astuple(ranking) for ranking in rankings])
    there = np.isfinite(table)
    sums = np.where(there, table, 0.0).sum(axis=0)
    counts = there.sum(axis=0)
    return Ranking(*np.where(counts > 0, sums / np.maximum(counts, 1), np.nan).tolist())
