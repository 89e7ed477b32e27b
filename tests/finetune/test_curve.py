"""What is read off a curve, by hand."""

import math

import pytest

from ppuda_jax.finetune.curve import Curve, Point

CURVE = Curve(tuple(Point(s, a, 1.0, 1.0, 0.1 * s) for s, a in ((0, 0.1), (10, 0.3), (30, 0.5))))


def test_area_is_the_mean_over_steps():
    assert CURVE.area == pytest.approx((10 * 0.2 + 20 * 0.4) / 30)
    assert Curve(CURVE.points[:1]).area == 0.1


@pytest.mark.parametrize(
    "target,steps",
    [(0.05, 0), (0.1, 0), (0.2, 5), (0.3, 10), (0.4, 20), (0.5, 30), (0.6, math.inf)],
)
def test_steps_to_a_target(target, steps):
    assert CURVE.steps_to(target) == pytest.approx(steps)


def test_a_curve_survives_json():
    assert Curve.from_dict(CURVE.to_dict()) == CURVE
    assert CURVE.final == 0.5
