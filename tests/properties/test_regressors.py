import numpy as np
import pytest
from sklearn.model_selection import cross_val_score
from sklearn.svm import SVR

from ppuda_jax.properties.metrics import kendall
from ppuda_jax.properties.regressors import REGRESSORS, SVR_GRID, fit


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    features = rng.standard_normal((60, 4))
    targets = 70 + 8 * features[:, 0] + 4 * np.sin(2 * features[:, 1])
    return features[:40], targets[:40], features[40:], targets[40:]


@pytest.mark.parametrize("name", REGRESSORS)
def test_ranks_networks_that_it_was_not_fitted_on(name, data):
    features, targets, unseen, truth = data
    predictor = fit(name, features, targets, seed=0)
    found = predictor.predict(unseen)
    assert found.dtype == np.float64 and found.shape == (20,)
    assert kendall(truth, found) > 0.6
    rounded = fit(name, features, targets, seed=0, rounded=True).predict(unseen)
    np.testing.assert_array_equal(rounded, np.round(found))


def test_svr_has_the_best_published_settings_over_the_folds(data):
    features, targets, unseen, _ = data
    predictor = fit("svr", features, targets)
    grid = [
        {"C": c, "gamma": gamma, "epsilon": epsilon}
        for c in SVR_GRID["C"]
        for gamma in SVR_GRID["gamma"]
        for epsilon in SVR_GRID["epsilon"]
    ]
    assert len(grid) == 105
    scores = [cross_val_score(SVR(**chosen), features, targets, cv=5).mean() for chosen in grid]
    best = SVR(**grid[int(np.argmax(scores))]).fit(features, targets)
    np.testing.assert_allclose(predictor.predict(unseen), best.predict(unseen))


def test_gaussian_process_is_less_sure_far_away(data):
    features, targets, _, _ = data
    predictor = fit("gp", features, targets)
    near, far = predictor.std(features[:1]), predictor.std(100 + features[:1])
    assert far[0] > 2 * near[0] > 0
    with pytest.raises(ValueError, match="only gp knows how sure it is; this is ridge"):
        fit("ridge", features, targets).std(features)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"regressor": "forest"}, "must be one of svr, ridge, gp, received 'forest'"),
        ({"targets": np.full(40, 0.5)}, "must vary, received 0.5 for all 40 networks"),
        ({"targets": np.full(40, np.nan)}, "targets must be finite, received 40"),
        ({"targets": np.zeros(39)}, r"one number per network \(40\), received shape \(39,\)"),
        ({"features": np.zeros(40)}, r"matrix \[n, d\], received shape \(40,\)"),
        ({"features": np.full((40, 2), np.inf)}, r"networks \[0, 1, 2, 3, 4\] are not"),
        ({"folds": 21}, "21 folds need at least 42 networks .* received 40"),
        ({"folds": 1}, "1 folds need at least 4 networks to fit on .and two folds."),
    ],
)
def test_refuses(change, message, data):
    features, targets, _, _ = data
    given = {"regressor": "svr", "features": features, "targets": targets, **change}
    with pytest.raises(ValueError, match=message):
        fit(**given)


def test_refuses_features_of_another_width(data):
    features, targets, _, _ = data
    with pytest.raises(ValueError, match="fitted on 4 features, received 3"):
        fit("ridge", features, targets).predict(features[:, :3])
