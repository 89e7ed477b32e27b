"""Scores many networks, continues where it was stopped, and reports what the proxies are worth."""

import dataclasses
import math
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

from ppuda_jax.evaluation.results import ResultFile
from ppuda_jax.properties.metrics import MIN_NETWORKS, rank, spearman
from ppuda_jax.proxies.results import Scored

N = TypeVar("N", contravariant=True)

BASELINE = "params"
"""What every proxy has to beat."""


class Scorer(Protocol, Generic[N]):
    """Scores networks of one space."""

    def name(self, network: N, /) -> str:
        """What tells a network from others."""

    def score(self, network: N, seed: int, /) -> Scored:
        """All proxies of a network whose random parameters are drawn by a seed."""


def score_all(
    scorer: Scorer[Any],
    networks: Sequence[Any],
    proxies: Sequence[str],
    *,
    seeds: int,
    path: str | os.PathLike[str] | None = None,
    identity: Mapping[str, Any] | None = None,
    progress: Callable[[int, int, Scored], None] | None = None,
) -> list[Scored]:
    """Scores networks at several initialisations, all networks at one seed after the other.

    Args:
      scorer: of the space.
      networks: of the space.
      proxies: that the scorer gives.
      seeds: initialisations, from seed 0.
      path: JSONL file of records; what it has already is not computed again.
      identity: what decides the scores, for the file; JSON-ready.
      progress: called after each network as (done, in all, newest).

    Returns:
      A record per seed and network, seeds one after the other.

    Raises:
      ValueError: no networks, no seeds, or a file of other scores.
    """
    if not networks or seeds < 1:
        raise ValueError(
            f"at least one network and one seed are needed, received {len(networks)} and {seeds}"
        )
    kept = None if path is None else ResultFile(path, identity or {}, Scored)
    total, found = seeds * len(networks), []
    for seed in range(seeds):
        for network in networks:
            known = kept.get((scorer.name(network), seed)) if kept else None
            if known is None or not known.has(proxies):
                scored = scorer.score(network, seed)
                known = scored if known is None else known.merged(scored)
                if kept:
                    kept.add(known)
            found.append(known)
            if progress:
                progress(len(found), total, known)
    return found


@dataclasses.dataclass(frozen=True)
class Row:
    """What one proxy is worth; deviations are over seeds of the initialisation.

    Attributes:
      proxy: its name.
      networks: that it could score at every seed.
      failed: name of a network that it cannot score -> why.
      spearman, kendall: with the truth.
      spearman_std, kendall_std: their deviations.
      all_spearman: over all networks, where those without a score rank last.
      upper_spearman, upper_kendall: among the better half; None where that is too small.
      regret: truth of the best network minus that of the proxy's pick.
      params_spearman: of the parameter count, over the same networks.
      seconds: for one network, its programs compiled.
    """

    proxy: str
    networks: int
    failed: Mapping[str, str]
    spearman: float
    spearman_std: float
    kendall: float
    kendall_std: float
    all_spearman: float
    upper_spearman: float | None
    upper_kendall: float | None
    regret: float
    params_spearman: float | None
    seconds: float


def report(
    scored: Sequence[Scored], truth: Mapping[str, float], proxies: Sequence[str]
) -> tuple[list[Row], dict[str, str]]:
    """Compares proxies with a truth.

    Args:
      scored: records of all networks at the same seeds.
      truth: accuracy by name of the network.
      proxies: names.

    Returns:
      A row for each proxy that scored enough networks to be ranked, and why the others have none.
    """
    seeds = sorted({record.seed for record in scored})
    table = {(record.name, record.seed): record for record in scored}
    names = list(dict.fromkeys(record.name for record in scored))
    rows, left_out = [], {}
    for proxy in proxies:
        failed = {r.name: r.failed[proxy] for r in scored if proxy in r.failed}
        good = [name for name in names if name not in failed]
        values = np.array([[table[n, s].values[proxy] for n in good] for s in seeds])
        try:
            every = np.array(
                [[table[n, s].values.get(proxy, -math.inf) for n in names] for s in seeds]
            )
            last = np.mean([spearman([truth[n] for n in names], finite(row)) for row in every])
            rows.append(_row(proxy, good, failed, values, truth, table, seeds, float(last)))
        except ValueError as error:
            why = "".join(f"; {name}: {reason}" for name, reason in list(failed.items())[:1])
            left_out[proxy] = f"{error}{why}"
    return rows, left_out


def _row(
    proxy: str,
    names: Sequence[str],
    failed: Mapping[str, str],
    values: np.ndarray,
    truth: Mapping[str, float],
    table: Mapping[tuple[str, int], Scored],
    seeds: Sequence[int],
    all_spearman: float,
) -> Row:
    if len(names) < MIN_NETWORKS:
        raise ValueError(
            f"{proxy} scores {len(names)} networks, and a ranking needs at least {MIN_NETWORKS}"
        )
    target = [truth[name] for name in names]
    rankings = [rank(target, finite(row)) for row in values]
    sizes = [table[name, seeds[0]].values.get(BASELINE) for name in names]
    known = [size for size in sizes if size is not None]
    seconds = [table[name, seed].seconds[proxy] for name in names for seed in seeds]

    def over_seeds(field: str) -> np.ndarray:
        return np.array([getattr(ranking, field) for ranking in rankings])

    return Row(
        proxy,
        len(names),
        failed,
        float(over_seeds("spearman").mean()),
        float(over_seeds("spearman").std()),
        float(over_seeds("kendall").mean()),
        float(over_seeds("kendall").std()),
        all_spearman,
        _or_none(over_seeds("upper_spearman").mean()),
        _or_none(over_seeds("upper_kendall").mean()),
        float(over_seeds("regret").mean()),
        spearman(target, known) if len(known) == len(names) else None,
        float(np.median(seconds)),
    )


def finite(values: np.ndarray) -> np.ndarray:
    """Scores [n] with the same ranks and no infinities."""
    known = values[np.isfinite(values)]
    low, high = (known.min() - 1, known.max() + 1) if known.size else (0.0, 0.0)
    return np.clip(values, low, high)


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else float(value)
