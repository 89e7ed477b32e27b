"""Makes traces.json: `python -m tests.golden.make_traces`.

One entry for each traced network of the tests: counts that a person can read, leaves without a
node with their reasons, and a digest of every node, edge and binding. A change of the tracer
that is meant to change nothing leaves the file as it is; any other change shows in its diff.
"""

import collections
import hashlib
import importlib.metadata
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ppuda_jax.archs.plan import make_plan
from ppuda_jax.archs.sampling import sample_arch
from ppuda_jax.graphs.arch_graph import ArchGraph
from ppuda_jax.nets.zoo import build_model
from ppuda_jax.tracing.api import trace_graph
from tests.nets.test_zoo import SIZES, abstract
from tests.tracing import modern_models, plain_models, plain_structures, third_party_models
from tests.tracing.test_networks import SPLITS, abstract_params, trace_plan

FILE = Path(__file__).with_name("traces.json")
CASES = {
    **plain_models.CASES,
    **plain_structures.CASES,
    **modern_models.CASES,
    **third_party_models.CASES,
}
LIBRARIES = ("jax", "flax", "dm-haiku", "equinox")
FORMS = ("taps", "library")


def versions() -> dict[str, str]:
    """Versions of what the networks are written in."""
    return {name: importlib.metadata.version(name) for name in LIBRARIES}


def networks() -> dict[str, Callable[[], ArchGraph]]:
    """Name of each network, and a function that traces it."""
    found: dict[str, Callable[[], ArchGraph]] = {}
    for name in CASES:
        found[name] = lambda name=name: _foreign(name)
    for name in SIZES:
        found[f"zoo/{name}"] = lambda name=name: _zoo(name)
    for split in SPLITS:
        for form in FORMS:
            found[f"{split}/{form}"] = lambda split=split, form=form: _planned(split, form)
    return found


def _foreign(name: str) -> ArchGraph:
    """Other authors rely on implicit promotion."""
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        return trace_graph(*CASES[name][0]())


def _zoo(name: str) -> ArchGraph:
    size, classes = SIZES[name][:2]
    if name != "darts":
        net, variables, images = abstract(name, classes, size)
        return trace_graph(net.apply, variables, images)
    net = build_model(name, classes, size)
    images = jax.ShapeDtypeStruct((2, size, size, 3), np.float32)
    return trace_graph(net.apply, abstract_params(net.plan), images)


def _planned(split: str, form: str) -> ArchGraph:
    rng = np.random.default_rng(100 + SPLITS.index(split))
    return trace_plan(make_plan(sample_arch(rng, split), 10, 32), form)


def entry(graph: ArchGraph) -> dict[str, Any]:
    """What the file holds of one graph."""
    detail = [
        list(graph.primitive_names),
        graph.shapes.tolist(),
        graph.edges.tolist(),
        graph.num_classes,
        [
            [
                b.path,
                b.node,
                b.role,
                b.shape,
                b.split,
                b.perm,
                b.part_shape,
                b.leaf_shape,
                b.index,
                b.view_shape,
                b.is_classifier,
            ]
            for b in graph.bindings
        ],
    ]
    return {
        "kinds": dict(sorted(collections.Counter(graph.primitive_names).items())),
        "roles": dict(sorted(collections.Counter(b.role for b in graph.bindings).items())),
        "edges": graph.num_edges,
        "classes": graph.num_classes,
        "unbound": {"/".join(path): reason for path, _, reason in graph.unbound},
        "digest": hashlib.sha256(json.dumps(detail).encode()).hexdigest()[:16],
    }


def main() -> None:
    """Writes traces.json beside this file."""
    made = {name: entry(trace()) for name, trace in networks().items()}
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(row)}" for name, row in made.items())
    head = json.dumps(versions())
    FILE.write_text(f'{{"versions": {head},\n"networks": {{\n{lines}\n}}}}\n')


if __name__ == "__main__":
    main()
