"""How far networks and sets of networks are from each other in the space of embeddings.

Tables 10, 11 and 12 of the paper: distances between named networks, Frechet distances between the
splits and the training networks, and how much the parameters that are predicted differ.

Legend: `n` and `m` networks, `D` width of embeddings.
"""

from collections.abc import Sequence

import numpy as np
import scipy.linalg
from numpy.typing import ArrayLike

from ppuda_jax.graphs.arch_graph import ArchGraph
from ppuda_jax.primitives import PRIMITIVES

_SMALL = 0.05  # a weight that counts as zero (paper, Table 12)


def frechet_distance(first: ArrayLike, second: ArrayLike) -> float:
    """Squared Frechet distance of two sets, each seen as a normal distribution (paper, Table 11).

    |m1 - m2|^2 + trace(C1 + C2 - 2 (C1 C2)^(1/2)), of their means and covariances.

    Args:
      first: float [n, D].
      second: float [m, D].

    Raises:
      ValueError: other shapes, fewer than two rows, or numbers that are not finite.
    """
    sets = [np.asarray(given, np.float64) for given in (first, second)]
    widths = {given.shape[-1] if given.ndim == 2 else None for given in sets}
    if None in widths or len(widths) != 1 or min(len(given) for given in sets) < 2:
        raise ValueError(
            "two sets of at least two embeddings of one width are needed, received shapes "
            f"{[given.shape for given in sets]}"
        )
    if not all(np.isfinite(given).all() for given in sets):
        raise ValueError("embeddings must be finite")
    (mean_1, cov_1), (mean_2, cov_2) = ((g.mean(axis=0), np.cov(g, rowvar=False)) for g in sets)
    # The product of two covariances has the eigenvalues of a symmetric matrix.
    root = np.atleast_2d(scipy.linalg.sqrtm(np.atleast_2d(cov_1))).real
    inner = root @ np.atleast_2d(cov_2) @ root
    overlap = np.sqrt(np.clip(np.linalg.eigvalsh((inner + inner.T) / 2), 0, None)).sum()
    spread = np.trace(np.atleast_2d(cov_1)) + np.trace(np.atleast_2d(cov_2)) - 2 * overlap
    return float(np.sum((mean_1 - mean_2) ** 2) + spread)


def diversity(tensors: Sequence[ArrayLike]) -> float:
    """Mean absolute cosine distance |1 - cos| over all pairs of tensors (paper, Table 12).

    Args:
      tensors: arrays of one size; those without any length are left out.

    Raises:
      ValueError: fewer than two tensors that have a length.
    """
    rows = np.array([np.ravel(tensor) for tensor in tensors], np.float64)
    norms = np.linalg.norm(rows, axis=1) if len(rows) else np.zeros(0)
    rows = rows[norms > 0] / norms[norms > 0, None] if len(rows) else rows
    if len(rows) < 2:
        raise ValueError(f"at least two tensors with a length are needed, received {len(rows)}")
    pairs = np.triu_indices(len(rows), 1)
    return float(np.abs(1 - (rows @ rows.T)[pairs]).mean())


def sparsity(tensors: Sequence[ArrayLike]) -> float:
    """Share of entries whose magnitude is below 0.05 (paper, Table 12)."""
    values = np.concatenate([np.abs(np.ravel(np.asarray(tensor))) for tensor in tensors])
    return float(np.mean(values < _SMALL))


def without_skips(graph: ArchGraph) -> ArchGraph:
    """A residual network without its shortcuts (paper, Table 10).

    Sums keep the input with the longest way from the images, and what reaches the output no more,
    such as convolutions on shortcuts, goes. The graph has no bindings: it is for embeddings.
    """
    depth = np.zeros(graph.num_nodes, np.int64)
    for source, target in graph.edges[np.argsort(graph.edges[:, 1], kind="stable")]:
        depth[target] = max(depth[target], depth[source] + 1)
    is_sum = graph.primitive == PRIMITIVES.index("sum")
    best: dict[int, int] = {}
    for source, target in graph.edges:
        kept = best.get(int(target))
        if is_sum[target] and (kept is None or depth[source] >= depth[kept]):
            best[int(target)] = int(source)
    edges = [(s, t) for s, t in graph.edges.tolist() if not is_sum[t] or best[t] == s]
    used = np.zeros(graph.num_nodes, bool)
    used[-1] = True
    for source, target in sorted(edges, key=lambda edge: -edge[1]):
        used[source] |= used[target]
    number = np.cumsum(used) - 1
    left = [(number[s], number[t]) for s, t in edges if used[s] and used[t]]
    return ArchGraph(graph.primitive[used], np.array(left, np.int32), graph.shapes[used])
