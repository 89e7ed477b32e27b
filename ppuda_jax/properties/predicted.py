"""A property of networks that were never trained, from networks that were (paper, section 5.4).

A regressor is fitted on the embeddings of trained networks, and says of any other network what
training would give: the way in which the paper searches 100,000 networks for the best one.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from ppuda_jax.evaluation.networks import EvalNet
from ppuda_jax.ghn.loaded import LoadedGHN
from ppuda_jax.graphs.arch_graph import ArchGraph
from ppuda_jax.graphs.from_plan import graph_from_plan
from ppuda_jax.properties.embed import embed
from ppuda_jax.properties.ground_truth import PROPERTIES, Measured, reached_by, targets
from ppuda_jax.properties.regressors import FOLDS, Predictor, fit

_AT_A_TIME = 4000  # networks whose graphs are in memory


@dataclasses.dataclass(frozen=True)
class PropertyPredictor:
    """Predicts one property.

    Attributes:
      ghn: whose embeddings it reads.
      predictor: the fitted regressor.
      channels: width at which networks are embedded, that of the networks it was fitted on; None
        for their own.
    """

    ghn: LoadedGHN
    predictor: Predictor
    channels: int | None = None

    def __call__(self, nets: Sequence[EvalNet]) -> np.ndarray:
        """The property of n networks of DeepNets-1M, float64 [n], in its unit.

        Raises:
          ValueError: a hand-made model.
        """
        parts = [nets[start : start + _AT_A_TIME] for start in range(0, len(nets), _AT_A_TIME)]
        found = [self.predictor.predict(self._embeddings(part)) for part in parts]
        return np.concatenate(found) if found else np.zeros(0)

    def _embeddings(self, nets: Sequence[EvalNet]) -> np.ndarray:
        return embed(self.ghn, [_graph(net, self.channels) for net in nets])


def fit_property(
    ghn: LoadedGHN,
    nets: Sequence[EvalNet],
    measured: Sequence[Measured],
    name: str = "clean_accuracy",
    *,
    regressor: str = "svr",
    channels: int | None = None,
    folds: int = FOLDS,
) -> PropertyPredictor:
    """Fits a regressor on trained networks; those whose training failed are left out.

    Args:
      ghn: the hypernetwork.
      nets: n networks of DeepNets-1M.
      measured: what `ground_truth` says of them, in the same order.
      name: one of `ground_truth.PROPERTIES`.
      regressor: one of `regressors.REGRESSORS`. Predictions are not rounded: rank by them.
      channels: width of these networks, at which others are embedded; None for their own.
      folds: by which the regressor's settings are chosen.

    Raises:
      ValueError: records of other networks, an unknown property or regressor, a hand-made model,
        or too few networks whose property differs (see `regressors.fit`).
    """
    if [net.fingerprint for net in nets] != [record.fingerprint for record in measured]:
        raise ValueError("the records must be of the networks, in the same order")
    if name not in PROPERTIES:
        raise ValueError(f"property must be one of {', '.join(PROPERTIES)}, received {name!r}")
    kept = [number for number, record in enumerate(measured) if not record.failure]
    records = [measured[number] for number in kept]
    embeddings = embed(ghn, [_graph(nets[number], channels) for number in kept])
    target = reached_by(records) if name == "convergence" else 1.0
    values = targets(name, records, target)
    return PropertyPredictor(ghn, fit(regressor, embeddings, values, folds=folds), channels)


def _graph(net: EvalNet, channels: int | None) -> ArchGraph:
    if net.config is not None and channels is not None:
        net = dataclasses.replace(net, config=dataclasses.replace(net.config, C=channels))
    if net.plan is None:
        raise ValueError(
            f"{net.name} is a hand-made model: properties are predicted of networks of DeepNets-1M"
        )
    return graph_from_plan(net.plan)
