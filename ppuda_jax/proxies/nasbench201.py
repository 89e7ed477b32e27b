"""Proxies of NAS-Bench-201: one program of each proxy scores every cell, whose operations are data.

Legend: `B` images of a batch, `P` leaves of the whole space.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ppuda_jax.programs import CachedFunction
from ppuda_jax.proxies import predicted, registry
from ppuda_jax.proxies.base import Batch, Path
from ppuda_jax.proxies.results import Scored, Scorings
from ppuda_jax.proxies.weights import with_leaves
from ppuda_jax.structure import nasbench201_net as net
from ppuda_jax.structure.discretise import Choice
from ppuda_jax.structure.family import Edge
from ppuda_jax.structure.nasbench201 import OPS, to_text
from ppuda_jax.structure.nasbench201_predicted import CellPredictor
from ppuda_jax.tracing.params import param_tree
from ppuda_jax.types import Role

PROXIES = (*registry.RANDOM, *registry.STATIC, *registry.PREDICTED)
"""Proxies of cells."""


class CellScorer:
    """Scores cells by proxies."""

    def __init__(
        self,
        skeleton: net.Skeleton,
        batch: Batch,
        proxies: Sequence[str],
        predictor: CellPredictor | None = None,
    ) -> None:
        """Prepares; a program is compiled when it is first used.

        Args:
          skeleton: of the networks.
          batch: images and labels, twice as many as a proxy looks at; NASWOT looks at all of them.
          proxies: of `PROXIES`.
          predictor: predicts parameters, for the proxies that need it.

        Raises:
          ValueError: proxies that do not exist or need a hypernetwork, or an odd number of images.
        """
        registry.check_names(proxies, PROXIES)
        if len(batch.labels) % 2 or len(batch.labels) < 4:
            raise ValueError(
                f"a scorer needs twice the images of a batch, at least 4, received "
                f"{len(batch.labels)}"
            )
        if predictor is None and set(proxies) & set(registry.PREDICTED):
            raise ValueError("predicted proxies need a hypernetwork: give one, or leave them out")
        self._skeleton, self._proxies, self._predictor = skeleton, tuple(proxies), predictor
        self._whole, half = batch, len(batch.labels) // 2
        self._half = Batch(batch.images[:half], batch.labels[:half])
        shapes = jax.eval_shape(lambda key: net.init(skeleton, key), jax.random.key(0))
        self._roles: dict[Path, Role] = {path: _role(path) for path in param_tree(shapes)[0].paths}
        self._supernet = net.supernet(skeleton)
        self._init = jax.jit(lambda key: net.init(skeleton, key))
        self._seed: tuple[int, Any] | None = None

    def name(self, choice: Choice) -> str:
        """The cell's text."""
        return to_text(choice)

    def score(self, choice: Choice, seed: int) -> Scored:
        """The proxies of a cell at parameters that a seed draws."""
        scorings = Scorings(to_text(choice), seed)
        cell = {edge: np.int32(op) for edge, op in net.pruned(choice).items()}
        programs = registry.programs_of(self._proxies)
        params = self._params(choice, seed) if programs else None
        for key, program in programs.items():
            batch = self._whole if program.batches == 2 else self._half
            function = self._program(key, program).load(params, cell, batch)
            scorings.add(program.names, functools.partial(function, params, cell, batch))
        structure = self._supernet.vertex(choice)
        scorings.add(("params",), lambda: {"params": self._supernet.size(structure)})
        scorings.add(("flops",), lambda: {"flops": self._supernet.flops(structure)})
        if self._predictor is not None and set(self._proxies) & set(registry.PREDICTED):
            if net.connected(choice):
                scorings.add(registry.PREDICTED, self._predicted(self._predictor, choice, cell))
            else:
                scorings.fail(registry.PREDICTED, "nothing reaches the output of the cell")
        return scorings.result(self._proxies)

    def _params(self, choice: Choice, seed: int) -> Any:
        """Parameters of the space; those that the cell does not have are zero."""
        if self._seed is None or self._seed[0] != seed:
            self._seed = seed, self._init(jax.random.key(seed))
        has = {(net.edge_name(edge), OPS[op]) for edge, op in choice.items()}

        def kept(path: Path, leaf: jax.Array) -> jax.Array:
            own = not path[0].startswith("cell") or path[1:3] in has
            return leaf if own else _zeros(leaf.shape)

        return with_leaves(self._seed[1], kept)

    def _program(self, key: str, program: registry.Program) -> CachedFunction:
        def scores(params: Any, cell: Any, batch: Batch) -> Mapping[str, jax.Array]:
            return program.scores(self._apply(cell), params, batch, self._roles)

        return CachedFunction(scores, (key, self._skeleton), "proxies of cells")

    def _apply(self, cell: Any) -> Callable[[Any, jax.Array], jax.Array]:
        def apply_fn(variables: Any, images: jax.Array) -> jax.Array:
            return net.apply_vertex(self._skeleton, variables["params"], cell, images)

        return apply_fn

    def _predicted(
        self, predictor: CellPredictor, choice: Choice, cell: Mapping[Edge, np.int32]
    ) -> Callable[[], Mapping[str, jax.Array]]:
        def scores(of_ghn: Any, cell: Any, batch: Batch) -> Any:
            params = predictor.weights(of_ghn)
            logits = self._apply(cell)({"params": params}, batch.images)
            return {
                f"predicted_{name}": x for name, x in predicted.worth(logits, batch.labels).items()
            }

        key = (predictor.ghn.config, self._skeleton)
        inputs = (predictor.inputs(choice), cell, self._half)
        function = CachedFunction(scores, key, "predictions of cells").load(*inputs)
        return functools.partial(function, *inputs)


@functools.cache
def _zeros(shape: tuple[int, ...]) -> jax.Array:
    return jnp.zeros(shape)


def _role(path: Path) -> Role:
    if path[-1] == "kernel":
        return "kernel"
    if path[0] == "head":
        return "bias"
    return "norm_scale" if path[-1] == "scale" else "norm_bias"
