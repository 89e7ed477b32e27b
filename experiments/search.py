r"""Searches for a network with a budget in queries: `python -m experiments.search`.

    python -m experiments.search --space=nasbench201 --table=CSV --method=evolution --queries=100 \
      --seeds=50
    python -m experiments.search --space=deepnets --dataset=digits --method=rank,evolution \
      --score=predicted_loss --queries=20 --output=DIR

The methods are `random` (networks drawn one by one), `evolution` (regularised evolution) and `rank`
(different networks: of the table, or the first of the split). A score is asked for each of them:
in nasbench201 by default the benchmark's validation accuracy after 12 epochs, else any proxy; in
deepnets also `property`, the accuracy that a regressor on embeddings predicts, fitted on `--pool`
networks of the val split that are trained first. The name of a score as a method is `rank` by it.
Picks of nasbench201 are looked up in the table of accuracies after training; for deepnets the
command that trains the winner is printed. With `--output`, queries are kept in `history.jsonl`,
scores in `scores.jsonl` and trainings in `ground_truth.jsonl`, and an interrupted search continues.
"""

import dataclasses
import json
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, Literal

from ppuda_jax.config import described, write_atomic
from ppuda_jax.proxies import registry
from ppuda_jax.runtime.compilation import compilation_cache
from ppuda_jax.runtime.progress import Progress

from . import flags
from .scorers import ScorerConfig, Source, cell_scorer, identity_of, net_scorer, property_scorer

_VALIDATION, _PROPERTY = "validation", "property"
_METHODS = ("random", "evolution", "rank")
_HEADER = ("search", "winner", "score", "parameters", "queries")


@dataclasses.dataclass(frozen=True)
class SearchConfig(ScorerConfig):
    """What is searched; every field is a flag."""

    space: Literal["nasbench201", "deepnets"] = described("nasbench201", "of the networks")
    method: tuple[str, ...] = described(
        ("random", "evolution"), f"of {', '.join(_METHODS)}, or a score to rank by"
    )
    score: str | None = described(
        None,
        "what is asked for: a proxy, or in deepnets property (accuracy predicted from embeddings "
        "and trained networks); by default validation (of the table) in nasbench201, and "
        "predicted_loss in deepnets",
    )
    queries: int | None = described(
        None, "networks that a search may ask for; 100 of nasbench201, 10 of deepnets"
    )
    seeds: int | None = described(None, "independent searches; 5 of nasbench201, 1 of deepnets")
    table: str | None = described(None, "CSV file with the accuracies of nasbench201")
    split: str = described("search", "of deepnets: by its rules networks are drawn, or ranked")
    pool: int = described(24, "networks of deepnets that are trained for the score property")
    pool_steps: int = described(20, "of each of these trainings")
    train_steps: int = described(1000, "of the command that trains the winner")
    output: str | None = described(None, "folder for history, scores and the table")

    def __post_init__(self) -> None:
        super().__post_init__()
        own = _VALIDATION if self.space == "nasbench201" else _PROPERTY
        known = (*_METHODS, *registry.PROXIES, *((own,) if own == _PROPERTY else ()))
        unknown = [name for name in self.method if name not in known]
        if unknown or not self.method:
            raise ValueError(f"methods must be of {', '.join(known)}, received {self.method}")
        scores = (*registry.PROXIES, own)
        if self.score is not None and self.score not in scores:
            raise ValueError(f"score must be one of {', '.join(scores)}, received {self.score!r}")
        if min(self.num_queries, self.num_seeds, self.pool, self.pool_steps) < 1:
            raise ValueError("queries, seeds, pool and pool_steps must be at least 1")

    @property
    def num_queries(self) -> int:
        """Networks that each search asks for."""
        default = 100 if self.space == "nasbench201" else 10
        return default if self.queries is None else self.queries

    @property
    def num_seeds(self) -> int:
        """Searches of each method."""
        default = 5 if self.space == "nasbench201" else 1
        return default if self.seeds is None else self.seeds

    @property
    def searches(self) -> dict[str, tuple[str, str]]:
        """Name of a search -> its method and its score."""
        usual = _VALIDATION if self.space == "nasbench201" else "predicted_loss"
        score = self.score or usual
        return {name: (name, score) if name in _METHODS else ("rank", name) for name in self.method}


def run(options: SearchConfig) -> str:
    """Searches; returns the table.

    Raises:
      ValueError: options that do not exist or do not fit together.
      FileNotFoundError: missing data.
    """
    with compilation_cache(options.compilation_cache):
        return _cells(options) if options.space == "nasbench201" else _nets(options)


def _cells(options: SearchConfig) -> str:
    from ppuda_jax.proxies.spaces import Cells
    from ppuda_jax.structure import nasbench201, nasbench201_search

    if options.table is None:
        raise ValueError("picks of nasbench201 are looked up: give --table=CSV")
    table = nasbench201.read_table(options.table)
    names = {score for _, score in options.searches.values()} - {_VALIDATION}
    told: dict[str, Any] = {"space": "nasbench201", "cells": len(table.cells)}
    scorer, source = None, None
    if names:
        source = options.source
        scorer = cell_scorer(options, source, tuple(names))
    asked = _Asked(options, scorer, source)
    asked.known[_VALIDATION] = lambda cell: table.accuracy(cell, split="val", epochs=12)
    found = _searched(options, Cells(), asked, told)
    picks = tuple((name, tuple(r.best for r in results)) for name, results in found.items())
    rows = nasbench201_search.Found(picks).rows(table)
    texts = {name: [nasbench201.to_text(cell) for cell in cells] for name, cells in picks}
    _write(
        options, {"picks": texts, "rows": [dict(zip(_columns(), row, strict=True)) for row in rows]}
    )
    title = f"{options.num_seeds} searches of {options.num_queries} queries, accuracy in %"
    return flags.table(_columns(), rows, title)


def _columns() -> tuple[str, ...]:
    from ppuda_jax.structure import nasbench201_search

    return nasbench201_search.HEADER


def _nets(options: SearchConfig) -> str:
    from ppuda_jax.proxies.spaces import DeepNets

    source = options.source
    names = tuple({score for _, score in options.searches.values()})
    space = DeepNets(options.split, source.spec.num_classes, source.spec.image_size)
    proxies = [name for name in names if name != _PROPERTY]
    scorer = net_scorer(options, source, proxies) if proxies else None
    told: dict[str, Any] = {"space": "deepnets", "split": options.split}
    asked = _Asked(options, scorer, source if proxies else None)
    if _PROPERTY in names:
        told["pool"] = [options.pool, options.pool_steps]
        asked.known[_PROPERTY] = _property(options, source, space)
    found = _searched(options, space, asked, told)
    rows, winners = [], []
    for name, results in found.items():
        best = max(results, key=lambda result: result.score)
        winner = {**space.record(best.best), "search": name, "score": best.score}
        winners.append(winner)
        plan = best.best.plan
        size = "" if plan is None else f"{plan.num_params:,}"
        rows.append((name, best.best.name, best.score, size, str(len(best.history))))
    _write(options, {"winners": winners})
    commands = [f"{winner['search']}: {_command(options, source, winner)}" for winner in winners]
    return flags.report(flags.table(_HEADER, rows), *commands)


def _property(options: SearchConfig, source: Source, space: Any) -> Callable[[Any], float]:
    """Predicted accuracy in % of a network; those that are ranked are embedded together."""
    folder = None if options.output is None else pathlib.Path(options.output).expanduser()
    predict = property_scorer(options, source, options.pool, options.pool_steps, folder)
    known: dict[str, float] = {}

    def predicted(nets: Sequence[Any]) -> None:
        known.update(zip((net.fingerprint for net in nets), map(float, predict(nets)), strict=True))

    if ("rank", _PROPERTY) in options.searches.values():
        import numpy as np

        predicted(list(space.first(options.num_queries, np.random.default_rng(0))))

    def worth(net: Any) -> float:
        if net.fingerprint not in known:
            predicted([net])
        return known[net.fingerprint]

    return worth


def _command(options: SearchConfig, source: Source, winner: dict[str, Any]) -> str:
    """What trains a winner; one that belongs to no split is written to a file first."""
    from ppuda_jax.evaluation.networks import SPLIT_NAMES

    where = f"--split={winner['split']} --index={winner['index']}"
    if winner["split"] not in SPLIT_NAMES:
        record = json.dumps(winner["config"])
        if options.output is None:
            return f"the network is {record}; --output keeps it in a file that can be trained"
        path = pathlib.Path(options.output).expanduser() / f"{winner['search']}.json"
        write_atomic(path, record + "\n")
        where = f"--model={path}"
    data = "" if options.data_dir is None else f" --data_dir={options.data_dir}"
    return (
        f"python -m experiments.train_net {where} --dataset={source.spec.name}{data} "
        f"--init=predicted --steps={options.train_steps} --workdir=runs/winner"
    )


class _Asked:
    """What networks are worth: each is scored once, however often it is asked for."""

    def __init__(self, options: SearchConfig, scorer: Any, source: Source | None) -> None:
        from ppuda_jax.evaluation.results import ResultFile
        from ppuda_jax.proxies.results import Scored

        self.known: dict[str, Callable[[Any], float]] = {}
        self._scorer, self._file = scorer, None
        self._scored: dict[tuple[str, int], Any] = {}
        if options.output is not None and source is not None:
            path = pathlib.Path(options.output).expanduser() / "scores.jsonl"
            self._file = ResultFile(path, identity_of(options, source, options.space), Scored)

    def worth(self, name: str, network: Any, seed: int) -> float:
        """A score of a network; minus infinity for one that cannot be scored."""
        if name in self.known:
            return self.known[name](network)
        key = self._scorer.name(network), seed
        found = self._scored.get(key) or (self._file.get(key) if self._file else None)
        if found is None or not found.has((name,)):
            new = self._scorer.score(network, seed)
            found = new if found is None else found.merged(new)
            if self._file:
                self._file.add(found)
        self._scored[key] = found
        return found.values.get(name, float("-inf"))


def _searched(
    options: SearchConfig, space: Any, asked: _Asked, told: dict[str, Any]
) -> dict[str, list[Any]]:
    from ppuda_jax.proxies.search import History, search

    path = None
    if options.output is not None:
        path = pathlib.Path(options.output).expanduser() / "history.jsonl"
    history: History = History(space, path, told)
    found: dict[str, list[Any]] = {name: [] for name in options.searches}
    bar, total = Progress("searches"), len(found) * options.num_seeds
    for name, (method, score) in options.searches.items():
        for seed in range(options.num_seeds):
            # Parameters are drawn by one seed, so that a network has one score.
            result = search(
                space,
                lambda network, score=score: asked.worth(score, network, 0),
                method,
                queries=options.num_queries,
                seed=seed,
                score_name=score,
                history=history,
            )
            found[name].append(result)
            bar.move(sum(map(len, found.values())) / total, f"{name} {seed}")
    bar.close()
    return found


def _write(options: SearchConfig, table: Any) -> None:
    if options.output is not None:
        folder = pathlib.Path(options.output).expanduser()
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(folder / "table.json", json.dumps(table, indent=1) + "\n")


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the script."""
    flags.start(
        SearchConfig,
        run,
        __doc__,
        argv,
        interrupted="interrupted; with --output, the same command continues",
    )


if __name__ == "__main__":
    main()
