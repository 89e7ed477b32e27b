"""A graph as a table of text."""

from typing import Any

from ppuda_jax.graphs.arch_graph import ArchGraph, Binding


def describe(graph: Any) -> str:
    """Lists the nodes of a graph.

    Args:
      graph: `ArchGraph`, or the GraphsTuple that `trace` or `network_graph` gives.

    Returns:
      One line a node: number, kind, shape (O, I, kh, kw), predecessors and the parameter leaves
      that it predicts, with their roles; then the leaves that are not predicted, with reasons.

    Examples:
      >>> import jax
      >>> from flax import linen as nn
      >>> import ppuda_jax as pj
      >>> pool = lambda x: x.mean((1, 2))
      >>> model = nn.Sequential([nn.Conv(8, (3, 3)), nn.relu, pool, nn.Dense(10)])
      >>> images = jax.ShapeDtypeStruct((1, 32, 32, 3), "float32")
      >>> variables = jax.eval_shape(model.init, jax.random.key(0), images)
      >>> graph = pj.trace(model.apply, variables, images)
      >>> print(pj.describe(graph))
      node  kind      shape     from  leaf
      0     input     -         -     -
      1     conv      8x3x3x3   0     layers_0/kernel (kernel)
      2     bias      8x1x1x1   1     layers_0/bias (bias)
      3     glob_avg  -         2     -
      4     conv      10x8x1x1  3     layers_3/kernel (kernel)
      5     bias      10x1x1x1  4     layers_3/bias (bias)
      6 nodes, 5 edges, 4 bindings
    """
    arch = ArchGraph.of(graph)
    leaves: dict[int, list[str]] = {}
    for binding in arch.bindings:
        leaves.setdefault(binding.node, []).append(_leaf(binding))
    preds: dict[int, list[str]] = {}
    for source, target in arch.edges.tolist():
        preds.setdefault(target, []).append(str(source))
    rows = [("node", "kind", "shape", "from", "leaf")]
    for node, kind in enumerate(arch.primitive_names):
        shape = "x".join(map(str, arch.shapes[node])) if arch.shapes[node].any() else "-"
        found = ", ".join(leaves.get(node, ["-"]))
        rows.append((str(node), kind, shape, ",".join(preds.get(node, ["-"])), found))
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    lines = [
        "  ".join([*(cell.ljust(n) for cell, n in zip(row, widths, strict=False)), row[4]])
        for row in rows
    ]
    lines.append(f"{arch.num_nodes} nodes, {arch.num_edges} edges, {len(arch.bindings)} bindings")
    for path, shape, reason in arch.unbound:
        lines.append(f"not predicted: {'/'.join(path)} {tuple(shape)}: {reason}")
    return "\n".join(lines)


def _leaf(binding: Binding) -> str:
    where = ""
    if binding.index is not None:
        entries = (
            str(entry) if isinstance(entry, int) else f"{entry[0]}:{entry[1]}"
            for entry in binding.index
        )
        where = f"[{','.join(entries)}]"
    return f"{'/'.join(binding.path)}{where} ({binding.role})"
