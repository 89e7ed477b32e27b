"""Comparisons of initialisations: what the rows say, by hand and by SciPy; continuing."""

import dataclasses
import math

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from ppuda_jax.evaluation.images import make_images
from ppuda_jax.evaluation.networks import EvalNet
from ppuda_jax.finetune.compare import compare
from ppuda_jax.finetune.fit import fit
from ppuda_jax.finetune.inits import random
from ppuda_jax.finetune.network import of_apply
from ppuda_jax.finetune.recipe import Recipe
from tests.finetune.conftest import drawn, initial, linear

RECIPE = Recipe(learning_rate=0.004, batch_size=8, grad_clip=0.0, schedule="constant")


def _better(network, seed):
    """Half way to what separates the classes."""
    params = initial(seed + 100)
    return {**params, "kernel": params["kernel"] + 0.3 * jnp.eye(3)}


def _networks(count=4):
    """Networks that differ in the scale of their logits."""
    nets = []
    for index in range(count):
        scale = 0.5 + 0.5 * index

        def apply(variables, images, scale=scale):
            return scale * linear(variables, images)

        key = f"linear{index}"
        nets.append(
            (EvalNet("test", index, None, key), of_apply(apply, initial, name=key, key=key))
        )
    return nets


@pytest.fixture
def run(train_images, held_out):
    def call(inits, recipes=None, networks=None, **options):
        options = {"steps": 8, "every": 4, "seeds": 2, **options}
        recipes = {"sgd": RECIPE} if recipes is None else recipes
        nets = _networks() if networks is None else networks
        return compare(nets, inits, recipes, lambda seed: train_images, held_out, **options)

    return call


def test_rows_are_means_over_networks_of_means_over_seeds(run, train_images, held_out):
    base, better = run({"random": random(), "better": _better})
    finals = {}
    for name, init in {"random": random(), "better": _better}.items():
        curves = np.array(
            [
                np.mean(
                    [
                        fit(
                            n, init(n, s), train_images, held_out, RECIPE, steps=8, every=4, seed=s
                        ).accuracy
                        for s in range(2)
                    ],
                    axis=0,
                )
                for _, n in _networks()
            ]
        )
        finals[name] = curves
    for row, curves in ((base, finals["random"]), (better, finals["better"])):
        assert row.steps == (0, 4, 8)
        np.testing.assert_allclose(row.mean, curves.mean(0), rtol=1e-6)
        np.testing.assert_allclose(row.error, scipy.stats.sem(curves, axis=0), rtol=1e-6)
    assert better.wins == np.mean(finals["better"][:, -1] > finals["random"][:, -1])
    want = scipy.stats.wilcoxon(finals["better"][:, -1], finals["random"][:, -1]).pvalue
    assert better.p_value == pytest.approx(want) and math.isnan(base.p_value)
    assert better.start > base.start and better.area > base.area
    assert better.worth > 0 and base.worth == 0


def test_an_initialisation_against_itself_shows_nothing(run):
    _, same = run({"random": random(), "again": random()})
    assert same.wins == 0 and math.isnan(same.p_value) and same.worth == 0


def test_each_gets_the_rate_that_is_best_for_it_on_images_of_their_own(run):
    tuning = make_images(drawn(16, 2), "val", batch_size=8)
    trained = []
    row, hopeless = run(
        {
            "random": random(),
            "huge": lambda network, seed: {"kernel": jnp.eye(3), "bias": jnp.zeros(3)},
        },
        rate_factors=(0.0, 75.0),
        tuning=tuning,
        progress=lambda done, total, newest: trained.append((done, total, newest)),
    )
    assert row.learning_rate == 0.3 and hopeless.learning_rate == 0.0  # equal: the first
    assert [done for done, *_ in trained] == list(range(1, len(trained) + 1))
    assert trained[0][1] == len(trained) == 2 * (4 * 2 + 2 * 2)
    assert {t.init for *_, t in trained} == {"random", "huge", "random (tuning)", "huge (tuning)"}


def test_an_interrupted_comparison_continues(run, tmp_path):
    path, count = tmp_path / "trainings.jsonl", []

    def interrupt(done, total, newest):
        count.append(newest)
        if done == 3:
            raise KeyboardInterrupt

    whole = run({"random": random(), "better": _better})
    with pytest.raises(KeyboardInterrupt):
        run({"random": random(), "better": _better}, results_path=path, progress=interrupt)
    assert len(path.read_text().splitlines()) == 4
    calls = []

    def better(network, seed):
        calls.append(network)
        return _better(network, seed)

    def drawn_again(network, seed):
        calls.append(network)
        return random()(network, seed)

    got = run({"random": drawn_again, "better": better}, results_path=path)
    assert len(calls) == 16 - 3
    for a, b in zip(got, whole, strict=True):
        assert a.mean == b.mean
    with pytest.raises(ValueError, match="holds another evaluation .steps: there 8, now 12"):
        run({"random": random()}, results_path=path, steps=12)


def test_trainings_that_diverge_are_counted_and_others_go_on(run):
    broken = {**initial(0), "kernel": jnp.full((3, 3), jnp.nan)}
    base, row = run({"random": random(), "broken": lambda network, seed: broken})
    assert row.diverged == 8 and base.diverged == 0
    assert row.mean[0] == row.mean[-1] and base.mean[-1] > base.mean[0]


@pytest.mark.parametrize(
    "options,message",
    [
        ({"networks": []}, "nothing to compare: 0 networks"),
        ({"inits": {}}, "0 initialisations"),
        ({"recipes": {}}, "0 optimisers"),
        ({"seeds": 0}, "0 seeds"),
        ({"rate_factors": (0.1,)}, "images of their own: give tuning="),
    ],
)
def test_bad_arguments(run, options, message):
    with pytest.raises(ValueError, match=message):
        run(**{"inits": {"random": random()}, **options})


def test_two_optimisers(run):
    adam = dataclasses.replace(RECIPE, optimizer="adam", learning_rate=0.01)
    rows = run({"random": random()}, {"sgd": RECIPE, "adam": adam}, _networks(1))
    assert [row.optimizer for row in rows] == ["sgd", "adam"]
    assert rows[0].error == (0.0, 0.0, 0.0) and rows[0].mean != rows[1].mean
