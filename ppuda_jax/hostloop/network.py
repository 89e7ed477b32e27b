"""A network as data: its steps, its graph, and what to decode into its pages.

All of it is NumPy on the host, in a few sizes, so that nothing is compiled per network.

Legend: `N` padded nodes, `V` nodes with kernels of several taps, `S` taps per side of the largest
kernel, `R` rows of a page.
"""

import dataclasses
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from ppuda_jax.archs.plan import Plan
from ppuda_jax.ghn.config import GHNConfig
from ppuda_jax.graphs.batching import Bucket, PaddedGraphs, pad_graphs
from ppuda_jax.graphs.from_plan import graph_from_plan, param_nodes
from ppuda_jax.hostloop.pages import Block, Place, place_steps
from ppuda_jax.hostloop.steps import Step, steps_of
from ppuda_jax.prediction.blocks import MAX_BLOCK, weight_scale
from ppuda_jax.prediction.rows import Rows
from ppuda_jax.types import ParamSpec

_CHUNK = 32  # rows that are decoded at once
_NODES = (704, 1024, 2048, 4096)
_KERNEL_NODES = (96, 512, 1024, 4096)  # 300 training networks have up to 83


class Inputs(NamedTuple):
    """What the features of a network depend on.

    Attributes:
      graphs: its graph, a batch of one.
      kernel_nodes: int32 [V]; 0 in the padding.
      class_nodes: int32 [2]: nodes of the classifier's kernel and bias.
      class_scale: float32 []: fan-in scale of the classifier.
    """

    graphs: PaddedGraphs
    kernel_nodes: np.ndarray
    class_nodes: np.ndarray
    class_scale: np.ndarray


@dataclasses.dataclass(frozen=True)
class Network:
    """A network as data for the functions of this package.

    Attributes:
      steps: what it computes.
      places: where each step finds its parameters.
      inputs: what its features depend on.
      rows: of each page, what to decode. Sources are rows of `predictor.Features`: of the taps for
        kernels (tap 0 of all nodes, then the S * S taps of V nodes), else of the vectors (scale and
        bias of each node). The classifier has no rows.
    """

    steps: tuple[Step, ...]
    places: tuple[Place, ...]
    inputs: Inputs
    rows: Mapping[Block, tuple[Rows, ...]]

    @property
    def size(self) -> Hashable:
        """What decides the functions of the hypernetwork that the network needs."""
        nodes = self.inputs.graphs.primitive.shape, self.inputs.kernel_nodes.shape
        return (*nodes, frozenset(self.rows))


def make_network(plan: Plan, config: GHNConfig) -> Network:
    """Prepares a network for a hypernetwork.

    Args:
      plan: the network.
      config: the hypernetwork; only the convolutional decoder with blocks of 64 has pages.

    Raises:
      ValueError: another decoder.
    """
    if config.decoder != "conv" or config.max_shape[:2] != (MAX_BLOCK, MAX_BLOCK):
        raise ValueError(
            f"pages come from a conv decoder with blocks of {MAX_BLOCK} x {MAX_BLOCK} channels, "
            f"received decoder={config.decoder!r} and max_shape={config.max_shape}: predict the "
            "leaves by predict_params and run the network on them."
        )
    steps = steps_of(plan)
    placement = place_steps(steps)
    graph, nodes = graph_from_plan(plan), param_nodes(plan)
    size = _fit(graph.num_nodes, _NODES)
    slots: dict[int, int] = {}
    side = config.max_shape[2]

    def scale_of(param: int) -> float:
        spec = plan.params[param]
        return weight_scale(spec.canonical_shape, spec.role, config.weight_norm)

    def kernel_rows(param: int) -> tuple[np.ndarray, float]:
        spec, node, scale = plan.params[param], int(nodes[param]), scale_of(param)
        height, width = _window(spec)
        if height * width == 1:
            return np.array([node]), scale
        y, x = (axis.reshape(-1) for axis in np.mgrid[:height, :width])
        slot = slots.setdefault(node, len(slots))
        return size + slot * side * side + y * side + x, scale

    def vector_rows(param: int) -> tuple[np.ndarray, float]:
        return np.array([2 * nodes[param] + (plan.params[param].role != "norm_scale")]), 1.0

    rows = {
        block: tuple(
            _page_rows(page, block, vector_rows if block.decoder == "vector" else kernel_rows)
            for page in pages
        )
        for block, pages in placement.rows.items()
        if not block.decoder.startswith("class")
    }
    inputs = Inputs(
        graphs=pad_graphs([graph], Bucket(size, size), max(1, config.virtual_edges)),
        kernel_nodes=np.array(
            [*slots, *[0] * (_fit(len(slots), _KERNEL_NODES) - len(slots))], np.int32
        ),
        class_nodes=nodes[-2:].astype(np.int32),
        class_scale=np.array(scale_of(len(plan.params) - 2), np.float32),
    )
    return Network(steps, placement.steps, inputs, rows)


def _window(spec: ParamSpec) -> tuple[int, int]:
    """Height and width of a kernel or a positional encoding."""
    if len(spec.shape) < 4:
        return 1, 1
    first = 1 if spec.role == "pos_enc" else 0
    return spec.shape[first], spec.shape[first + 1]


def _fit(count: int, sizes: tuple[int, ...]) -> int:
    return next((size for size in sizes if size >= count), -(-count // sizes[-1]) * sizes[-1])


def _page_rows(
    page: Sequence[tuple[int, int]],
    block: Block,
    rows_of: Callable[[int], tuple[np.ndarray, float]],
) -> Rows:
    """Rows of one page, from its parameters with their first rows."""
    capacity, used = block.shape[0], 0
    source, scale = np.zeros(capacity, np.int32), np.zeros(capacity, np.float32)
    for param, start in page:
        found, factor = rows_of(param)
        used = start + len(found)
        source[start:used], scale[start:used] = found, factor
    return Rows(
        source=source.reshape(-1, _CHUNK),
        scale=scale.reshape(-1, _CHUNK),
        layer=np.zeros(capacity // _CHUNK, np.int32),
        count=np.int32(-(-used // _CHUNK)),
    )
