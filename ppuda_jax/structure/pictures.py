"""Pictures of structures and searches; matplotlib is imported when something is drawn.

Legend: `S` seeds, `E` epochs, `R` samples.
"""

import os
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ppuda_jax.structure.distributions import BinConcrete, GumbelSoftmax, LogitNormal

_CORNERS = np.array([[0.0, 0.0], [1.0, 0.0], [0.5, 3**0.5 / 2]])
_TEMPERATURES = (0.2, 0.5, 1.0, 3.0, 10.0)
_SAMPLES = 600


def on_triangle(structures: np.ndarray) -> np.ndarray:
    """Where points of the simplex [..., 3] are drawn in the plane: [..., 2]."""
    if structures.shape[-1] != 3:
        raise ValueError(f"a triangle shows 3 weights, received {structures.shape}")
    return structures @ _CORNERS


def draw_temperatures(path: str | os.PathLike[str], seed: int = 0) -> Any:
    """Draws samples on the simplex and on the cube against temperature; returns the figure.

    The simplex: Gumbel-Softmax with logits 0, 0.5 and 1, and a logit-normal whose scale takes the
    temperature's place. The cube: relaxed Bernoulli variables of the same logits.
    """
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    key = jax.random.key(seed)
    logits = jnp.array([0.0, 0.5, 1.0])
    figure = Figure(
        figsize=(2.2 * len(_TEMPERATURES), 6.6),
        layout=ConstrainedLayoutEngine(rect=(0.02, 0, 0.98, 1)),
    )
    for column, tau in enumerate(_TEMPERATURES):
        top, middle = (figure.add_subplot(3, 5, 5 * row + column + 1) for row in (0, 1))
        _scatter(top, GumbelSoftmax(logits, tau).sample(key, (_SAMPLES,)))
        top.set_title(f"temperature {tau:g}", fontsize=9, pad=12)
        scale = 1.5 / tau
        normal = LogitNormal((logits[:2] - logits[2]) / tau, jnp.full(2, scale))
        _scatter(middle, normal.sample(key, (_SAMPLES,)))
        middle.set_title(f"deviation {scale:.2g}", fontsize=9, pad=12)
        cube = figure.add_subplot(3, 5, 10 + column + 1, projection="3d")
        points = np.asarray(BinConcrete(logits, tau).sample(key, (_SAMPLES,)))
        cube.scatter(*points.T, s=2, alpha=0.4)
        cube.set(xlim=(0, 1), ylim=(0, 1), zlim=(0, 1), xticks=[0, 1], yticks=[0, 1], zticks=[0, 1])
        cube.tick_params(labelsize=6, pad=-3)
    for row, name in enumerate(("Gumbel-Softmax", "logit-normal", "relaxed Bernoulli")):
        figure.text(0.002, 0.84 - 0.33 * row, name, rotation=90, va="center", fontsize=9)
    figure.savefig(os.fspath(path), dpi=110)
    return figure


def draw_outcomes(outcomes: Sequence[Any], path: str | os.PathLike[str]) -> Any:
    """Draws structures from the posterior of every setting of `synthetic`; returns the figure."""
    from matplotlib.figure import Figure

    columns = 3
    rows = -(-len(outcomes) // columns)
    figure = Figure(figsize=(3.0 * columns, 2.6 * rows), layout="constrained")
    for number, outcome in enumerate(outcomes):
        axes = figure.add_subplot(rows, columns, number + 1)
        for samples in outcome.samples:
            _scatter(axes, samples[:150])
        axes.set_title(outcome.setting, fontsize=8, pad=12)
    figure.savefig(os.fspath(path), dpi=110)
    return figure


def _scatter(axes: Any, structures: Any) -> None:
    points = on_triangle(np.asarray(structures))
    outline = _CORNERS[[0, 1, 2, 0]]
    axes.plot(*outline.T, color="0.6", linewidth=0.8, zorder=0)
    axes.scatter(*points.T, s=3, alpha=0.35, linewidths=0)
    for corner, (x, y) in enumerate(_CORNERS):
        side = {"va": "top"} if y == 0 else {"va": "bottom"}
        axes.text(x, y + (-0.03 if y == 0 else 0.03), str(corner), ha="center", fontsize=7, **side)
    axes.set_aspect("equal")
    axes.set_axis_off()


def draw_comparison(results: Sequence[Any], path: str | os.PathLike[str]) -> Any:
    """Draws searches of `comparison`: score and size by epoch, and the chosen networks."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(11, 3.4), layout="constrained")
    score, size, chosen = (figure.add_subplot(1, 3, i) for i in (1, 2, 3))
    for number, result in enumerate(results):
        colour = f"C{number}"
        if result.scores is not None:
            epochs = 1 + np.arange(result.scores.shape[1])
            score.plot(epochs, result.scores.mean(0), color=colour, label=result.method)
            size.plot(epochs, result.sizes.mean(0), color=colour)
        chosen.scatter(
            [row.parameters for row in result.rows],
            [row.test_score for row in result.rows],
            color=colour,
            label=result.method,
            s=18,
        )
    score.set(xlabel="epoch", title="chosen network, shared weights: validation accuracy")
    size.set(xlabel="epoch", title="its parameters", yscale="log")
    chosen.set(xlabel="parameters", xscale="log", title="trained from the start: test accuracy")
    _in_numbers_of(size.yaxis, [r.sizes for r in results if r.sizes is not None])
    _in_numbers_of(chosen.xaxis, [[row.parameters for row in r.rows] for r in results])
    for axes in (score, size):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    for axes in (score, size, chosen):
        axes.title.set_fontsize(9)
    chosen.legend(fontsize=7)
    figure.savefig(os.fspath(path), dpi=110)
    return figure


def _in_numbers_of(axis: Any, values: Sequence[Any]) -> None:
    """Labels a logarithmic axis with numbers, which a part of a decade has none of by itself."""
    from matplotlib.ticker import EngFormatter, MaxNLocator, NullFormatter

    axis.set_major_formatter(EngFormatter(sep=""))
    axis.set_minor_formatter(NullFormatter())
    flat = [float(value) for part in values for value in np.ravel(part)]
    if flat and max(flat) < 10 * min(flat):
        axis.set_major_locator(MaxNLocator(4))
