"""Maps of embeddings."""

import numpy as np
import pytest

from ppuda_jax.visualization.embeddings import draw_embeddings, project
from tests.close import assert_close

RNG = np.random.default_rng(0)
POINTS = np.concatenate([RNG.normal(size=(12, 8)), 40 + RNG.normal(size=(12, 8))])


def test_pca_keeps_the_largest_variance():
    centred = POINTS - POINTS.mean(0)
    singular = np.linalg.svd(centred, compute_uv=False)[:2]
    found = project(POINTS, "pca")
    assert_close(np.linalg.norm(found, axis=0), singular, tol=1e-6)


def test_tsne_keeps_neighbours_together():
    found = project(POINTS, "tsne")
    centres = found[:12].mean(0), found[12:].mean(0)
    own = np.linalg.norm(found[:12] - centres[0], axis=1)
    other = np.linalg.norm(found[:12] - centres[1], axis=1)
    assert (own < other).all()


def test_splits_are_marked_and_unknown_values_are_grey(tmp_path):
    values = np.arange(24.0)
    values[3] = np.nan
    splits = ["val"] * 12 + ["test"] * 12
    figure = draw_embeddings(POINTS, values, splits, tmp_path / "map.svg", methods=("pca",))
    axes, bar = figure.axes
    assert [t.get_text() for t in axes.get_legend().get_texts()] == ["val (12)", "test (12)"]
    assert [len(c.get_offsets()) for c in axes.collections] == [1, 11, 0, 0, 12, 0]
    assert bar.get_ylabel() == "accuracy, %" and b"<svg" in (tmp_path / "map.svg").read_bytes()


@pytest.mark.parametrize(
    ("points", "message"),
    [
        (POINTS[:2], "at least 3 networks"),
        (POINTS[:, :1], "2 dimensions"),
        (np.full((4, 4), np.nan), "must be finite"),
    ],
)
def test_what_cannot_be_projected_is_refused(points, message):
    with pytest.raises(ValueError, match=message):
        draw_embeddings(points, np.zeros(len(points)), ["val"] * len(points))


def test_lengths_must_agree():
    with pytest.raises(ValueError, match="as many networks"):
        draw_embeddings(POINTS, np.zeros(3), ["val"] * 24)
