"""Maps of embeddings of networks, coloured by what they are worth.

Legend: `N` networks, `D` embedding.
"""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from ppuda_jax.visualization.files import Paths, write

Method = Literal["pca", "tsne"]
"""How embeddings come to the plane: linearly, or by neighbourhoods."""

_PERPLEXITY = 30.0
_FEWEST = 3
_MARKERS = "os^vDP*X"


def project(embeddings: ArrayLike, method: Method, seed: int = 0) -> np.ndarray:
    """Projects embeddings to the plane.

    Args:
      embeddings: [N, D].
      method: "pca" keeps the two directions of largest variance, "tsne" who is near whom.
      seed: of t-SNE.

    Returns:
      [N, 2].

    Raises:
      ValueError: fewer than three networks, fewer than two dimensions, or numbers that are not
        finite.
    """
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    points = np.asarray(embeddings, np.float64)
    if points.ndim != 2 or points.shape[0] < _FEWEST or points.shape[1] < 2:
        raise ValueError(
            f"embeddings must be [N, D] of at least {_FEWEST} networks and 2 dimensions, received "
            f"{points.shape}"
        )
    if not np.isfinite(points).all():
        raise ValueError("embeddings must be finite, received some that are not")
    if method == "pca":
        return PCA(2).fit_transform(points)
    perplexity = min(_PERPLEXITY, (len(points) - 1) / 3)
    return TSNE(2, perplexity=perplexity, init="pca", random_state=seed).fit_transform(points)


def draw_embeddings(
    embeddings: ArrayLike,
    values: ArrayLike,
    splits: Sequence[str],
    path: Paths = None,
    *,
    label: str = "accuracy, %",
    methods: Sequence[Method] = ("pca", "tsne"),
    seed: int = 0,
) -> Any:
    """Draws networks where their embeddings lie, with a colour by value and a marker by split.

    Args:
      embeddings: [N, D].
      values: [N] what they are coloured by, NaN for networks without one, which are grey.
      splits: [N] name of the split of each network.
      path: file or files to write (endings decide the formats), None for none.
      label: of the colours.
      methods: a panel for each, see `project`.
      seed: of t-SNE.

    Returns:
      The matplotlib figure.

    Raises:
      ValueError: lengths that differ, or what `project` refuses.
    """
    from matplotlib.figure import Figure

    points, shades = np.asarray(embeddings), np.asarray(values, np.float64)
    names = np.asarray(splits)
    if not len(points) == len(shades) == len(names) or shades.ndim != 1:
        raise ValueError(
            "embeddings, values and splits must be of as many networks, received shapes "
            f"{points.shape}, {shades.shape} and {names.shape}"
        )
    figure = Figure(figsize=(1.0 + 4.4 * len(methods), 4.2), layout="constrained")
    panels = figure.subplots(1, len(methods), squeeze=False)[0]
    known = np.isfinite(shades)
    low, high = (shades[known].min(), shades[known].max()) if known.any() else (0.0, 1.0)
    for axes, method in zip(panels, methods, strict=True):
        places = project(points, method, seed)
        for marker, split in zip(_MARKERS * len(names), dict.fromkeys(splits), strict=False):
            members = names == split
            style = {"marker": marker, "s": 22, "linewidths": 0.3, "edgecolors": "#333333"}
            axes.scatter(*places[members & ~known].T, color="#cccccc", **style)
            shown = axes.scatter(
                *places[members & known].T,
                c=shades[members & known],
                vmin=low,
                vmax=high,
                cmap="viridis",
                **style,
            )
            axes.scatter([], [], color="white", label=f"{split} ({members.sum()})", **style)
        axes.set_title({"pca": "PCA", "tsne": "t-SNE"}[method], fontsize=10)
        axes.set_xticks([])
        axes.set_yticks([])
    panels[0].legend(frameon=False, fontsize=8)
    if known.any():
        figure.colorbar(shown, ax=list(panels), label=label)
    return write(figure, path)
