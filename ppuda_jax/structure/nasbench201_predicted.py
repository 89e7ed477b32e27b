"""Parameters of cells that a hypernetwork predicts: no training per cell.

One program serves all cells: it embeds the padded graph of a cell, takes the embedding of every
parameter of the whole space from the node that the cell has for it, and decodes all parameters.
What the cell does not have is decoded from some other node and not used.

Legend: `N` nodes, `P` leaves of the space, `D` node embedding.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import unflatten_dict

from ppuda_jax.ghn.loaded import LoadedGHN
from ppuda_jax.graphs.arch_graph import Binding
from ppuda_jax.graphs.batching import Bucket, PaddedGraphs, pad_graphs
from ppuda_jax.prediction.blocks import BlockDecoder
from ppuda_jax.prediction.leaves import assemble
from ppuda_jax.prediction.predict import unsupported_leaves
from ppuda_jax.structure import nasbench201_net as net
from ppuda_jax.structure.discretise import Choice
from ppuda_jax.structure.nasbench201 import EDGES, OPS
from ppuda_jax.structure.nasbench201_graph import Path, graph_of
from ppuda_jax.tracing.api import trace_graph

_WIDTH = 4  # nodes that are updated in one step


class Inputs(NamedTuple):
    """A cell as a hypernetwork sees it.

    Attributes:
      theta: of the hypernetwork.
      graphs: the cell's graph.
      nodes: node of every leaf of the space, int [P].
    """

    theta: Any
    graphs: PaddedGraphs
    nodes: np.ndarray


class CellPredictor:
    """Predicts the parameters of cells, see `weights.Predictor`.

    Attributes:
      ghn: the hypernetwork.
    """

    def __init__(self, ghn: LoadedGHN, skeleton: net.Skeleton) -> None:
        """Finds which leaves there are; nothing is compiled.

        Args:
          ghn: the hypernetwork.
          skeleton: of the networks.

        Raises:
          ValueError: the hypernetwork cannot predict the networks: another number of classes.
        """
        self.ghn, self._skeleton = ghn, skeleton
        self._bindings = _all_bindings(ghn, skeleton)
        full = graph_of(skeleton, dict.fromkeys(EDGES, OPS.index("nor_conv_3x3")))[0]
        self._bucket = Bucket(full.num_nodes, full.num_nodes, _WIDTH)

    def inputs(self, choice: Choice) -> Inputs:
        """A cell as data.

        Raises:
          ValueError: nothing reaches the cell's output.
        """
        graph, nodes = graph_of(self._skeleton, choice)
        padded = pad_graphs([graph], self._bucket, max(1, self.ghn.config.virtual_edges))
        index = np.array([nodes.get(b.path, 0) for b in self._bindings], np.int32)
        return Inputs(self.ghn.theta, padded, index)

    def weights(self, inputs: Inputs) -> Any:
        """Parameters of the whole space, of which the cell's are its predictions."""
        h = BlockDecoder(self.ghn.config, inputs.theta).embed(inputs.graphs)[0]
        leaves = assemble(self.ghn.config, inputs.theta, h[inputs.nodes], self._bindings)
        return unflatten_dict(leaves)


def _all_bindings(ghn: LoadedGHN, skeleton: net.Skeleton) -> tuple[Binding, ...]:
    """Bindings of all leaves of the mixed network, each to a node of its own.

    Two networks have all of them between them: one with 1x1 convolutions everywhere, and one with
    3x3 convolutions.
    """
    shapes = jax.eval_shape(lambda key: net.init(skeleton, key), jax.random.key(0))
    size = skeleton.image_size
    images = jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32)
    found: dict[Path, Binding] = {}
    for op in ("nor_conv_1x1", "nor_conv_3x3"):
        choice = dict.fromkeys(EDGES, OPS.index(op))
        graph = trace_graph(net.network(skeleton, choice), {"params": shapes}, images)
        refused = [leaf for leaf in unsupported_leaves(graph, ghn) if leaf.path in _bound(graph)]
        if refused:
            raise ValueError(
                f"{ghn.name} cannot predict {'/'.join(refused[0].path)}: {refused[0].reason}"
            )
        found |= {binding.path: binding for binding in graph.bindings}
    return tuple(
        dataclasses.replace(binding, node=number) for number, binding in enumerate(found.values())
    )


def _bound(graph: Any) -> set[Path]:
    return {binding.path for binding in graph.bindings}
