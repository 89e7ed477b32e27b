"""Pictures are drawn; where points lie on them is exact."""

import numpy as np
import pytest

from ppuda_jax.structure import comparison, pictures
from ppuda_jax.structure.synthetic import Outcome


def test_corners_and_centre_of_the_triangle():
    points = pictures.on_triangle(np.array([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [1 / 3] * 3]))
    np.testing.assert_allclose(
        points, [[0, 0], [1, 0], [0.5, 0.866025], [0.5, 0.288675]], atol=1e-5
    )
    with pytest.raises(ValueError, match=r"shows 3 weights, received \(2, 4\)"):
        pictures.on_triangle(np.ones((2, 4)))


def test_samples_against_temperature_are_drawn(tmp_path):
    figure = pictures.draw_temperatures(tmp_path / "temperatures.png")
    assert len(figure.axes) == 15
    assert (tmp_path / "temperatures.png").stat().st_size > 10_000


def test_outcomes_and_comparisons_are_drawn(tmp_path):
    samples = np.full((2, 5, 3), 1 / 3)
    outcome = Outcome("a setting", samples[:, 0], samples[:, 0], samples, np.zeros(2))
    assert outcome.places == ["centre", "centre"]
    figure = pictures.draw_outcomes([outcome] * 4, tmp_path / "outcomes.png")
    assert [axes.get_title() for axes in figure.axes] == ["a setting"] * 4
    small, large = (comparison.Row("", 0, "", n, 20.0, 1, 0.1, 0.5, 0.6) for n in (16e3, 19e3))
    results = [
        comparison.MethodResult("gdas", (small,), 1.0, np.ones((1, 3)), np.ones((1, 3))),
        comparison.MethodResult("adanet", (large,), 1.0),
    ]
    figure = pictures.draw_comparison(results, tmp_path / "comparison.png")
    assert len(figure.axes[0].lines) == 1 and len(figure.axes[2].collections) == 2
    # Within a decade a logarithmic axis has no number of its own.
    numbers = [label.get_text() for label in figure.axes[2].get_xticklabels()]
    assert sum(number.endswith("k") for number in numbers) >= 2
