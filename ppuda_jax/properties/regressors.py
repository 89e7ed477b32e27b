"""From features of networks to a property: scikit-learn's regressors, chosen by cross-validation.

The paper's (section 5.4) is a support vector regression on embeddings as they are, with a grid of
settings; its predictions are rounded to integers. Ridge regression and a Gaussian process stand
beside it, both on standardised features.

Legend: `n` networks, `d` features.
"""

import dataclasses
import warnings
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
import sklearn
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVR

FOLDS = 5
"""Folds by which settings are chosen, as published."""

SVR_GRID: Mapping[str, tuple] = MappingProxyType(
    {
        "C": (1, 10, 50, 100, 200, 500, 1000),
        "gamma": ("auto", 0.05, 0.1, 0.2, 0.5),
        "epsilon": (0.05, 0.1, 0.2),
    }
)
"""The published grid; the kernel is Gaussian."""

RIDGE_GRID: Mapping[str, tuple] = MappingProxyType(
    {"ridge__alpha": tuple(float(a) for a in np.logspace(-3, 4, 15))}
)
"""Penalties of ridge regression that cross-validation chooses from."""


def _svr(features: int) -> tuple[Any, Mapping[str, tuple]]:
    del features
    return SVR(kernel="rbf"), SVR_GRID


def _ridge(features: int) -> tuple[Any, Mapping[str, tuple]]:
    del features
    return make_pipeline(StandardScaler(), Ridge()), RIDGE_GRID


def _gaussian_process(features: int) -> tuple[Any, Mapping[str, tuple]]:
    """Its settings maximise the marginal likelihood; there is no grid."""
    width = float(np.sqrt(features))  # distance of standardised points, up to a constant
    kernel = ConstantKernel(1.0) * RBF(width, (0.1 * width, 100 * width)) + WhiteKernel(0.1)
    process = GaussianProcessRegressor(kernel, normalize_y=True, random_state=0)
    return make_pipeline(StandardScaler(), process), {}


_MAKERS: Mapping[str, Callable[[int], tuple[Any, Mapping[str, tuple]]]] = MappingProxyType(
    {"svr": _svr, "ridge": _ridge, "gp": _gaussian_process}
)
REGRESSORS: tuple[str, ...] = tuple(_MAKERS)
"""Names that `fit` takes."""


@dataclasses.dataclass(frozen=True)
class Predictor:
    """A fitted regressor.

    Attributes:
      regressor: one of `REGRESSORS`.
      settings: what cross-validation chose.
      features: d.
      rounded: whether predictions are whole numbers.
      estimator: scikit-learn's.
    """

    regressor: str
    settings: Mapping[str, Any]
    features: int
    rounded: bool
    estimator: Any = dataclasses.field(repr=False)

    def predict(self, features: npt.ArrayLike) -> np.ndarray:
        """The property of networks.

        Args:
          features: [n, d].

        Returns:
          Float64 [n].

        Raises:
          ValueError: features of another width, or not finite.
        """
        found = self.estimator.predict(self._checked(features))
        return np.round(found) if self.rounded else found

    def std(self, features: npt.ArrayLike) -> np.ndarray:
        """Standard deviation of the prediction, float64 [n]; of a Gaussian process alone.

        Raises:
          ValueError: another regressor, or see `predict`.
        """
        if self.regressor != "gp":
            raise ValueError(f"only gp knows how sure it is; this is {self.regressor}")
        return self.estimator.predict(self._checked(features), return_std=True)[1]

    def _checked(self, features: npt.ArrayLike) -> np.ndarray:
        features = _matrix(features)
        if features.shape[1] != self.features:
            raise ValueError(
                f"the regressor was fitted on {self.features} features, received "
                f"{features.shape[1]}"
            )
        return features


def fit(
    regressor: str,
    features: npt.ArrayLike,
    targets: npt.ArrayLike,
    *,
    folds: int = FOLDS,
    seed: int | None = None,
    rounded: bool = False,
) -> Predictor:
    """Fits a regressor; its settings are those with the best R2 over folds.

    Args:
      regressor: one of `REGRESSORS`.
      features: [n, d], such as embeddings.
      targets: [n], the property of the same networks. The published grid is for accuracies in
        percent: it chooses errors that are small in those units.
      folds: parts of the networks that settings are chosen on.
      seed: order of the networks before they are cut into folds; as given if None.
      rounded: round predictions to integers, as the paper does for all but convergence.

    Raises:
      ValueError: an unknown regressor, fewer than two networks per fold, constant targets,
        lengths that differ, or numbers that are not finite.
    """
    if regressor not in _MAKERS:
        raise ValueError(
            f"regressor must be one of {', '.join(REGRESSORS)}, received {regressor!r}"
        )
    features, targets = _matrix(features), np.asarray(targets, np.float64)
    count, width = features.shape
    if targets.shape != (count,):
        raise ValueError(
            f"targets must be one number per network ({count}), received shape {targets.shape}"
        )
    if folds < 2 or count < 2 * folds:
        raise ValueError(
            f"{folds} folds need at least {2 * max(folds, 2)} networks to fit on (and two folds), "
            f"received {count}: take more networks or fewer folds"
        )
    if not np.isfinite(targets).all():
        raise ValueError(
            f"targets must be finite, received {np.count_nonzero(~np.isfinite(targets))} that are "
            "not: leave these networks out"
        )
    if np.ptp(targets) == 0:
        raise ValueError(
            f"targets must vary, received {targets[0]:g} for all {count} networks: there is "
            "nothing to predict"
        )
    order = np.arange(count) if seed is None else np.random.default_rng(seed).permutation(count)
    estimator, grid = _MAKERS[regressor](width)
    unchecked = sklearn.config_context(assume_finite=True, skip_parameter_validation=True)
    with unchecked, warnings.catch_warnings():  # checks take longer than small fits
        # Settings at the end of their range are a result, and the fit stands.
        warnings.simplefilter("ignore", ConvergenceWarning)
        if grid:
            search = GridSearchCV(estimator, dict(grid), cv=folds)
            search.fit(features[order], targets[order])
            chosen, estimator = search.best_params_, search.best_estimator_
        else:
            estimator.fit(features[order], targets[order])
            chosen = {"kernel": str(estimator[-1].kernel_)}
    return Predictor(regressor, chosen, width, rounded, estimator)


def _matrix(features: npt.ArrayLike) -> np.ndarray:
    features = np.asarray(features, np.float64)
    if features.ndim != 2 or not features.shape[1]:
        raise ValueError(f"features must be a matrix [n, d], received shape {features.shape}")
    if not np.isfinite(features).all():
        rows = np.flatnonzero(~np.isfinite(features).all(axis=1))
        raise ValueError(f"features must be finite, those of networks {rows[:5].tolist()} are not")
    return features
