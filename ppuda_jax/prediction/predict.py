"""`predict_params`: the parameters of a network in one forward pass, from its graph.

Legend: `N` nodes.
"""

import dataclasses
import functools
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import jax
import jraph
from flax.traverse_util import unflatten_dict

from ppuda_jax.checkpoints import ASSETS, load_ghn
from ppuda_jax.ghn.config import GHNConfig
from ppuda_jax.ghn.loaded import LoadedGHN
from ppuda_jax.graphs.arch_graph import ArchGraph, Binding
from ppuda_jax.graphs.batching import Bucket, PaddedGraphs, level_schedule, pad_graphs
from ppuda_jax.prediction.blocks import BlockDecoder
from ppuda_jax.prediction.initial import UnsupportedLeaf, take_leaves
from ppuda_jax.prediction.leaves import Path, assemble, unsupported_reason
from ppuda_jax.programs import CachedFunction
from ppuda_jax.tracing.api import check_apply_fn

Policy = Literal["error", "init", "skip"]
"""What becomes of leaves that cannot be predicted."""
POLICIES: tuple[Policy, ...] = ("error", "init", "skip")
"""All policies."""
DEFAULT_GHN = "ghn2-cifar10"
"""The shipped hypernetwork."""

_CACHED_GRAPHS = 64
_LOG = logging.getLogger(__name__)


def predict_params(
    apply_fn: Callable[..., Any] | None,
    graph: ArchGraph | jraph.GraphsTuple,
    ghn: LoadedGHN | str | os.PathLike[str] | None = None,
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
      ghn: a hypernetwork from `load_ghn`, or what `load_ghn` takes; the shipped
        "ghn2-cifar10", which is read once, if None.
      unsupported: what happens to leaves that cannot be predicted (see `unsupported_leaves`):
        "error" raises, "init" takes them from `initial`, "skip" leaves them out, which no type
        but nested dictionaries allows.
      initial: the network's own initial parameters, for `unsupported="init"`: arrays, not their
        shapes. Leaves that are taken from it (integers and random keys among them) stay as they
        are; floating-point ones get the type that the network was traced with.
      any_image_size: accept a graph traced with images of another size than those that the
        hypernetwork was trained for.

    Returns:
      A pytree like `variables["params"]` of the network. If leaves were left out, or the graph
      was not traced from a function: nested dictionaries of the predicted leaves, by their keys.

    Raises:
      ValueError: leaves cannot be predicted, the graph is of another function, or an argument is
        invalid.

    Examples:
      >>> import jax
      >>> from flax import linen as nn
      >>> import ppuda_jax as pj
      >>> pool = lambda x: x.mean((1, 2))
      >>> model = nn.Sequential([nn.Conv(8, (3, 3)), nn.relu, pool, nn.Dense(10)])
      >>> images = jax.ShapeDtypeStruct((1, 32, 32, 3), "float32")
      >>> variables = jax.eval_shape(model.init, jax.random.key(0), images)
      >>> graph = pj.trace(model.apply, variables, images)
      >>> params = pj.predict_params(model.apply, graph)
      >>> jax.tree.map(lambda leaf: leaf.shape, params)["layers_0"]
      {'bias': (8,), 'kernel': (3, 3, 3, 8)}
    """
    if unsupported not in POLICIES:
        raise ValueError(f"unsupported must be one of {POLICIES}, received {unsupported!r}")
    if unsupported == "init" and initial is None:
        raise ValueError(
            'unsupported="init" takes what cannot be predicted from the network\'s own initial '
            "parameters: pass them as initial=variables['params']"
        )
    if unsupported != "init" and initial is not None:
        raise ValueError(
            'initial is what unsupported="init" takes leaves from, received '
            f"unsupported={unsupported!r}: leave one of them out or give both"
        )
    arch = ArchGraph.of(graph)
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
    taken = take_leaves(initial, refused, arch.source) if unsupported == "init" else {}
    leaves: dict[Path, Any] = dict(
        predict_leaves(arch, ghn, skip=frozenset(leaf.path for leaf in refused))
    )
    if arch.source is None:
        return unflatten_dict(leaves | taken)
    tree = arch.source.tree
    dtypes = dict(zip(tree.paths, tree.dtypes, strict=True))
    leaves = {path: leaf.astype(dtypes[path]) for path, leaf in leaves.items()} | taken
    return tree.unflatten(leaves) if len(leaves) == len(tree.paths) else unflatten_dict(leaves)


def unsupported_leaves(
    graph: ArchGraph | jraph.GraphsTuple, ghn: LoadedGHN
) -> tuple[UnsupportedLeaf, ...]:
    """Lists the leaves of a network that a hypernetwork cannot predict, with the reason.

    Examples:
        >>> import jax
        >>> import ppuda_jax as pj
        >>> def network(variables, images):
        ...     w = variables["params"]
        ...     hidden = images.mean((1, 2)) @ w["first"]
        ...     return jax.nn.leaky_relu(hidden, w["slope"]) @ w["second"]
        >>> sizes = {"first": (3, 8), "slope": (), "second": (8, 10)}
        >>> params = {name: jax.ShapeDtypeStruct(size, "float32") for name, size in sizes.items()}
        >>> images = jax.ShapeDtypeStruct((1, 32, 32, 3), "float32")
        >>> graph = pj.trace(network, {"params": params}, images)
        >>> for leaf in pj.unsupported_leaves(graph, pj.load_ghn("ghn2-cifar10")):
        ...     print(leaf.path, leaf.reason)
        ('slope',) slope of an activation function, for which there is no decoder
    """
    arch = ArchGraph.of(graph)
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
    return _predictor(ghn.config, tuple(arch.bindings)).load(ghn.theta, _padded(arch, ghn.config))


def leaf_pullback(
    graph: ArchGraph | jraph.GraphsTuple, ghn: LoadedGHN, cotangents: Mapping[Path, jax.Array]
) -> Any:
    """Gradient in theta of the inner product of cotangents with leaves, see `pullback`.

    Raises:
      ValueError: cotangents of leaves that are not predicted, or of other shapes.
    """
    arch = ArchGraph.of(graph)
    refused = {leaf.path for leaf in unsupported_leaves(arch, ghn)}
    shapes = {b.path: b.leaf_shape for b in arch.bindings if b.path not in refused}
    wrong = [
        f"{'/'.join(path)} {value.shape}"
        for path, value in cotangents.items()
        if shapes.get(path) != value.shape
    ]
    if wrong or not cotangents:
        raise ValueError(
            "cotangents must be those of predicted leaves, and of their shapes, received "
            f"{', '.join(wrong) or 'none'}: give a pytree like the result of predict_params"
        )
    bindings = tuple(b for b in arch.bindings if b.path in cotangents)
    pull = CachedFunction(
        functools.partial(_pull, ghn.config, bindings), (ghn.config, bindings), "pullbacks"
    )
    graphs = _padded(arch, ghn.config)
    return pull(ghn.theta, graphs, [cotangents[path] for path in _paths(bindings)])


def _pull(
    config: GHNConfig,
    bindings: tuple[Binding, ...],
    theta: Mapping[str, Any],
    graphs: PaddedGraphs,
    cotangents: Sequence[jax.Array],
) -> Any:
    leaves, pull = jax.vjp(lambda t: _predict(config, bindings, t, graphs), theta)
    (gradient,) = pull([c.astype(leaf.dtype) for c, leaf in zip(cotangents, leaves, strict=True)])
    return gradient


def _predictor(config: GHNConfig, bindings: tuple[Binding, ...]) -> CachedFunction:
    """The compiled (theta, graphs) -> leaves of one set of bindings."""
    predict = functools.partial(_predict, config, bindings)
    return CachedFunction(predict, (config, bindings), "predictors")


def _predict(
    config: GHNConfig,
    bindings: tuple[Binding, ...],
    theta: Mapping[str, Any],
    graphs: PaddedGraphs,
) -> list[jax.Array]:
    h = BlockDecoder(config, theta).embed(graphs)[0]
    leaves = assemble(config, theta, h, bindings)
    return [leaves[path] for path in _paths(bindings)]


@functools.lru_cache(maxsize=_CACHED_GRAPHS)
def _paths(bindings: tuple[Binding, ...]) -> tuple[Path, ...]:
    return tuple(dict.fromkeys(binding.path for binding in bindings))


def _as_ghn(ghn: LoadedGHN | str | os.PathLike[str] | None) -> LoadedGHN:
    if isinstance(ghn, LoadedGHN):
        return ghn
    if ghn is None:
        return _shipped(DEFAULT_GHN)
    if not isinstance(ghn, str | os.PathLike):
        raise ValueError(
            f"ghn must be a LoadedGHN, a name or a path, received {type(ghn).__name__}: wrap "
            "theta with its configuration, LoadedGHN(config, theta)."
        )
    name = os.fspath(ghn)
    # A folder of that name comes first, as in `load_ghn`; what is in a folder may change.
    return _shipped(name) if name == DEFAULT_GHN and not os.path.exists(name) else load_ghn(name)


@functools.lru_cache(maxsize=1)
def _shipped(name: str) -> LoadedGHN:
    """A hypernetwork that comes with the package: its files do not change, so it is read once."""
    return dataclasses.replace(load_ghn(ASSETS / name), name=name)


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
