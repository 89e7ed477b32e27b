"""The tables of `experiments.bench_train`."""

from collections.abc import Mapping, Sequence

import numpy as np

from experiments import flags

Row = Mapping[str, float]


def summary(seconds: Sequence[float]) -> list[float]:
    """Mean, median, 90th percentile and maximum."""
    return [
        float(x)
        for x in (np.mean(seconds), np.median(seconds), np.percentile(seconds, 90), np.max(seconds))
    ]


def comparison(ours: Sequence[float], peers: Sequence[Row]) -> str:
    """Table of both implementations' steps and their ratios (ours to the reference's)."""
    theirs = [row["step"] for row in peers]
    ratios = np.array(ours) / np.array(theirs)
    rows = [
        ["ours", *summary(ours), ""],
        ["reference", *summary(theirs), ""],
        [
            "ratio",
            *[a / b for a, b in zip(summary(ours), summary(theirs), strict=True)],
            float(np.median(ratios)),
        ],
    ]
    head = ["s/step", "mean", "median", "90 %", "max", "median of ratios"]
    parts = [
        [name, float(np.mean([row[name] for row in peers]))]
        for name in ("build", "predict", "forward", "backward")
    ]
    note = (
        f"{len(theirs)} steps each, by turns, on the same architectures. Neither time has the\n"
        "graphs in it (both implementations make or read them in other processes); the\n"
        "reference's has its networks' construction (`build`), which its loop does in each step."
    )
    return flags.report(
        flags.table(head, rows), "", note, "", flags.table(["reference, part", "mean s"], parts)
    )


def breakdown_table(rows: Sequence[Row]) -> str:
    """Table of where a step's time goes, from rows of `Bench.take_apart`."""
    mean = {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
    parts = [
        ["predict, forward", mean["predict"]],
        ["predict, backward", mean["predict_grad"] - mean["predict"]],
        ["stems, heads, images, update, buffers", mean["empty"] - mean["predict_grad"]],
        ["operations, forward", mean["no_backward"] - mean["empty"]],
        ["operations, backward", mean["step"] - mean["no_backward"]],
        ["whole step", mean["step"]],
        ["(loops alone: every instruction an addition)", mean["additions"] - mean["empty"]],
    ]
    named = [[name, seconds, f"{seconds / mean['step']:.0%}"] for name, seconds in parts]
    return flags.table(["part", "mean s", "share"], named)
