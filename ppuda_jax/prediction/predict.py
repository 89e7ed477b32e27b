"""`predict_params`: the parameters of a network in one forward pass, from its graph.

Legend: `N` nodes.
"""

import collections
import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jraph

from ppuda_jax.ghn.config import GHNConfig
from ppuda_jax.ghn.loaded import LoadedGHN
from ppuda_jax.ghn.model import GHN
from ppuda_jax.graphs.arch_graph import ArchGraph, Binding
from ppuda_jax.graphs.batching import Bucket, PaddedGraphs, level_schedule, pad_graphs
from ppuda_jax.prediction.leaves import Path, assemble, unsupported_reason
from ppuda_jax.programs import CachedFunction
from ppuda_jax.tracing.api import check_apply_fn

Policy = Literal["error", "init", "skip"]
POLICIES: tuple[Policy, ...] = ("error", "init", "skip")
DEFAULT_GHN = "ghn2-cifar10"

_CACHED_GRAPHS = 64
_LOG = logging.getLogger(__name__)


class UnsupportedLeaf(NamedTuple):
    """A leaf that is not predicted, and why."""

    path: Path
    shape: tuple[int, ...]
    reason: str


def predict_params(
    apply_fn: Callable[..., Any] | None,
    graph: ArchGraph | jraph.GraphsTuple,
    ghn: LoadedGHN | str | None = None,
    unsupported: Policy = "error",
    *,
    initial: Any = None,
    any_image_size: bool = False,
) -> Any:
    """Predicts the parameters of a network that was never trained.

    The first call for a graph compiles; later calls for graphs with the same parameters, with
    any hypernetwork of the same configuration, do not.

    Args:
      apply_fn: the network that the graph was traced from, to check that the two belong
        together; None to skip the check.
      graph: its graph, from `trace` or `network_graph`.
      ghn: a hypernetwork from `load_ghn`, or what `load_ghn` takes; "ghn2-cifar10" if None.
      unsupported: what happens to leaves that cannot be predicted (see `unsupported_leaves`):
        "error" raises, "init" takes them from `initial`, "skip" leaves them out.
      initial: the network's own initial parameters, for `unsupported="init"`.
      any_image_size: accept a graph traced with images of another size than those that the
        hypernetwork was trained for.

    Returns:
      A pytree like `variables["params"]` of the network.

    Raises:
      ValueError: leaves cannot be predicted, the graph is of another function, or an argument is
        invalid.
    """
    if unsupported not in POLICIES:
        raise ValueError(f"unsupported must be one of {POLICIES}, received {unsupported!r}")
    if unsupported == "init" and initial is None:
        raise ValueError(
            'unsupported="init" takes what cannot be predicted from the network\'s own initial '
            "parameters: pass them as initial=variables['params']"
        )
    arch = _as_arch(graph)
    if apply_fn is not None and arch.source is not None:
        check_apply_fn(arch.source, apply_fn)
    ghn = _as_ghn(ghn)
    if not any_image_size:
        _check_image_size(arch, ghn)
    refused = unsupported_leaves(arch, ghn)
    if refused and unsupported == "error":
        raise ValueError(_refusal(refused, ghn))
    if refused:
        _LOG.warning("%s", _refusal(refused, ghn))
    leaves = predict_leaves(arch, ghn, skip=frozenset(leaf.path for leaf in refused))
    if unsupported == "init" and refused:
        leaves = leaves | _take(initial, refused)
    if arch.source is None:
        return _nest(leaves)
    tree = arch.source.tree
    dtypes = dict(zip(tree.paths, tree.dtypes, strict=True))
    leaves = {path: leaf.astype(dtypes[path]) for path, leaf in leaves.items()}
    return tree.unflatten(leaves) if len(leaves) == len(tree.paths) else _nest(leaves)


def unsupported_leaves(
    graph: ArchGraph | jraph.GraphsTuple, ghn: LoadedGHN
) -> tuple[UnsupportedLeaf, ...]:
    """Lists the leaves of a network that a hypernetwork cannot predict, with the reason."""
    arch = _as_arch(graph)
    found = [UnsupportedLeaf(*leaf) for leaf in arch.unbound]
    for binding in arch.bindings:
        reason = unsupported_reason(binding, ghn.config)
        if reason is not None:
            found.append(UnsupportedLeaf(binding.path, binding.leaf_shape, reason))
    return tuple({leaf.path: leaf for leaf in found}.values())


def predict_leaves(
    arch: ArchGraph, ghn: LoadedGHN, skip: frozenset[Path] = frozenset()
) -> dict[Path, jax.Array]:
    """Predicts all leaves of a graph but those in `skip`, by path."""
    bindings = tuple(b for b in arch.bindings if b.path not in skip)
    graphs = _padded(arch, ghn.config)
    arrays = _predictor(ghn.config, bindings)(ghn.theta, graphs)
    return dict(zip(_paths(bindings), arrays, strict=True))


def load_predictor(arch: ArchGraph, ghn: LoadedGHN) -> Any:
    """Compiles what `predict_params` runs, without running it.

    Returns:
      The program; it stays in the process's cache while somebody holds it.
    """
    return _predictor(ghn.config, arch.bindings).load(ghn.theta, _padded(arch, ghn.config))


def _predictor(config: GHNConfig, bindings: tuple[Binding, ...]) -> CachedFunction:
    """The compiled (theta, graphs) -> leaves of one set of bindings."""

    def predict(theta: Mapping[str, Any], graphs: PaddedGraphs) -> list[jax.Array]:
        h = GHN(config).apply({"params": theta}, graphs)[0]
        leaves = assemble(config, theta, h, bindings)
        return [leaves[path] for path in _paths(bindings)]

    return CachedFunction(predict, (config, bindings), "predictors")


@functools.lru_cache(maxsize=_CACHED_GRAPHS)
def _paths(bindings: tuple[Binding, ...]) -> tuple[Path, ...]:
    return tuple(dict.fromkeys(binding.path for binding in bindings))


_GRAPHS: collections.OrderedDict[int, tuple[Any, ArchGraph]] = collections.OrderedDict()


def _as_arch(graph: ArchGraph | jraph.GraphsTuple) -> ArchGraph:
    """The graph as an `ArchGraph`; conversions are kept for the last few graphs."""
    if isinstance(graph, ArchGraph):
        return graph
    known = _GRAPHS.get(id(graph))
    if known is not None and known[0] is graph:
        return known[1]
    arch = ArchGraph.from_graphs_tuple(graph)
    _GRAPHS[id(graph)] = (graph, arch)
    while len(_GRAPHS) > _CACHED_GRAPHS:
        _GRAPHS.popitem(last=False)
    return arch


def _as_ghn(ghn: LoadedGHN | str | None) -> LoadedGHN:
    if isinstance(ghn, LoadedGHN):
        return ghn
    from ppuda_jax.checkpoints import load_ghn

    return load_ghn(DEFAULT_GHN if ghn is None else ghn)


def _check_image_size(arch: ArchGraph, ghn: LoadedGHN) -> None:
    """Raises ValueError if the graph was traced with images of a size foreign to the GHN."""
    trained = ghn.metadata.get("image_size")
    size = None if arch.source is None else arch.source.image_size
    if trained is not None and size is not None and len(size) == 2 and max(size) != trained:
        raise ValueError(
            f"{ghn.name} was trained on images of {trained}x{trained} pixels, and the graph was "
            f"traced with images of {size[0]}x{size[1]}: trace the network with images of that "
            "size, take another hypernetwork, or pass any_image_size=True"
        )


def _padded(arch: ArchGraph, config: GHNConfig) -> PaddedGraphs:
    """The graph as a batch of one without padding, with the cheaper of two schedules."""
    nodes = arch.num_nodes
    steps = level_schedule(arch, 2).shape[0]
    bucket = Bucket(nodes, steps, 2) if steps <= 0.7 * nodes else Bucket(nodes, nodes, 1)
    return pad_graphs([arch], bucket, max(1, config.virtual_edges))


def _refusal(refused: Sequence[UnsupportedLeaf], ghn: LoadedGHN) -> str:
    lines = [f"{'/'.join(leaf.path)} {leaf.shape}: {leaf.reason}" for leaf in refused]
    return (
        f"{len(refused)} parameter leaves cannot be predicted by {ghn.name}:\n  "
        + "\n  ".join(lines)
        + '\nPass unsupported="init" with initial=variables["params"] to keep the network\'s own '
        'values there, unsupported="skip" to leave them out, or a hypernetwork that fits.'
    )


def _take(initial: Any, refused: Sequence[UnsupportedLeaf]) -> dict[Path, jax.Array]:
    """The refused leaves from a parameter pytree."""
    found = {
        tuple(_key_name(key) for key in path): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(initial)
    }
    missing = [leaf for leaf in refused if leaf.path not in found]
    if missing:
        raise ValueError(
            "initial must hold every leaf that cannot be predicted, missing "
            f"{['/'.join(leaf.path) for leaf in missing]}: pass variables['params'] as it is"
        )
    return {leaf.path: jax.numpy.asarray(found[leaf.path]) for leaf in refused}


def _key_name(key: Any) -> str:
    """A key of a pytree path as the graphs' paths spell it."""
    if isinstance(key, jax.tree_util.DictKey):
        return str(key.key)
    if isinstance(key, jax.tree_util.GetAttrKey):
        return key.name
    return str(key.idx if isinstance(key, jax.tree_util.SequenceKey) else key.key)


def _nest(leaves: Mapping[Path, jax.Array]) -> dict[str, Any]:
    """Nested dictionaries from leaves by path."""
    tree: dict[str, Any] = {}
    for path, leaf in leaves.items():
        branch = tree
        for key in path[:-1]:
            branch = branch.setdefault(key, {})
        branch[path[-1]] = leaf
    return tree
