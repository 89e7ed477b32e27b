"""Terms of the objective, as they are written, and which of them need what."""

import pytest

from ppuda_jax import parallel
from ppuda_jax.training.config import TrainConfig
from ppuda_jax.training.driver import choose_driver
from ppuda_jax.training.terms import Terms, parse_terms


def test_terms_are_read():
    terms = parse_terms(("distill:1", "regress:0.1", "norm:3e-5"))
    assert terms == Terms(task=1.0, distill=1.0, regress=0.1, norm=3e-5)
    assert terms.names == ("task", "distill", "regress", "norm")
    assert terms.taught == ("distill", "regress") and terms.of_architectures == ("regress",)
    assert not terms.plain and Terms().plain and parse_terms(("task:1",)).plain
    assert parse_terms(("task:0", "reptile:2")).names == ("reptile",)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (("destill:1",), "teacher_terms are task, distill, regress, .* received 'destill'"),
        (("distill:-1",), "must be finite and not negative, received 'distill:-1'"),
        (("distill:inf",), "must be finite and not negative"),
        (("distill",), "are written name:weight, such as distill:1, received 'distill'"),
        (("distill:much",), "are written name:weight"),
        (("norm:1", "norm:2"), "each term once, received norm twice"),
        (("task:0",), "needs a term with a weight above zero"),
    ],
)
def test_terms_that_are_none(texts, message):
    with pytest.raises(ValueError, match=message):
        parse_terms(texts)
    with pytest.raises(ValueError, match=message):
        TrainConfig(teacher_terms=texts, teacher="there")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"teacher_terms": ("distill:1",)}, "distill need trained networks: pass --teacher=DIR"),
        ({"teacher_terms": ("regress_unaligned:1",)}, "regress_unaligned need trained networks"),
        ({"teacher": "there"}, "teaches nothing without terms: pass --teacher_terms=distill:1"),
        (
            {"teacher": "there", "teacher_terms": ("distill:1",), "arch_file": "nets.hdf5"},
            "drawn from the teachers, so leave out arch_file",
        ),
        ({"temperature": 0.0}, "temperature must be above zero"),
        ({"reptile_steps": 0}, "reptile_steps must be above zero"),
        ({"teacher_held_out": 1.0}, "teacher_held_out must be in"),
    ],
)
def test_settings_that_do_not_fit(fields, message):
    with pytest.raises(ValueError, match=message):
        TrainConfig(**fields)


def test_reptile_and_norm_need_no_teacher():
    assert TrainConfig(teacher_terms=("reptile:1", "norm:3e-5")).terms.taught == ()


def test_terms_need_the_host():
    one, two = parallel.make_topology(1), parallel.make_topology(2)
    settings = TrainConfig(teacher_terms=("norm:3e-5",))
    assert choose_driver(settings, one) == "host"
    with pytest.raises(ValueError, match="terms task, norm of the objective need the host's"):
        choose_driver(settings, two)
    with pytest.raises(ValueError, match="set driver=host and num_devices=1; the executor has"):
        choose_driver(TrainConfig(teacher_terms=("norm:3e-5",), driver="executor"), one)
