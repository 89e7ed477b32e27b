"""Pictures of kernels."""

import numpy as np
import pytest

from ppuda_jax.visualization import draw_filters
from ppuda_jax.visualization.filters import filter_tiles


def test_filters_lie_in_a_grid_with_gaps_and_scales_of_their_own():
    kernel = np.zeros((2, 2, 8, 3))
    kernel[:, :, 0, 0] = [[1.0, 0.0], [0.0, -1.0]]
    kernel[:, :, 0, 1] = [[0.0, 4.0], [2.0, 0.0]]  # the third is zero
    tiles = filter_tiles(kernel)
    gap = np.nan
    expected = [
        [1.0, 0.5, gap, 0.5, 1.0],
        [0.5, 0.0, gap, 0.75, 0.5],
        [gap, gap, gap, gap, gap],
        [0.5, 0.5, gap, gap, gap],
        [0.5, 0.5, gap, gap, gap],
    ]
    np.testing.assert_array_equal(tiles, expected)


def test_three_inputs_are_colours():
    kernel = np.zeros((1, 1, 3, 1))
    kernel[0, 0, :, 0] = [2.0, -2.0, 1.0]
    np.testing.assert_array_equal(filter_tiles(kernel), [[[1.0, 0.0, 0.75]]])


def test_drawing(tmp_path):
    figure = draw_filters(np.random.default_rng(0).normal(size=(3, 3, 3, 80)), tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 1000
    assert figure.axes[0].images[0].get_array().shape[:2] == (8 * 4 - 1, 8 * 4 - 1)


def test_kernels_side_by_side():
    kernels = {"predicted": np.ones((3, 3, 3, 4)), "He": np.ones((3, 3, 3, 4))}
    figure = draw_filters(kernels, title="stem")
    assert [axes.get_title() for axes in figure.axes] == ["predicted", "He"]
    with pytest.raises(ValueError, match="at least one kernel"):
        draw_filters({})


def test_other_arrays_are_refused():
    with pytest.raises(ValueError, match=r"height, width, input, output; received \(3, 4\)"):
        draw_filters(np.zeros((3, 4)))
