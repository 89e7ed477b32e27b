"""Trainings are done once, and kept with what decides them."""

import pytest

from ppuda_jax.evaluation.networks import EvalNet
from ppuda_jax.finetune.recipe import Recipe
from ppuda_jax.finetune.trainings import Trainings
from tests.finetune.conftest import initial

RECIPE = Recipe(learning_rate=0.5, batch_size=8, schedule="constant")
NET = EvalNet("test", 3, None, "linear")


@pytest.fixture
def train(network, train_images, held_out, tmp_path):
    def call(steps=3, path=tmp_path / "trainings.jsonl", **options):
        starts = []

        def start():
            starts.append(1)
            return network.pack(initial(0))

        trainings = Trainings(
            lambda seed: train_images,
            {"sgd": RECIPE},
            steps=steps,
            path=path,
            identity={"dataset": "noise"},
        )
        done = trainings.train(NET, network, "he", start, "sgd", held_out, **options)
        return done, len(starts)

    return call


def test_a_training_that_the_file_has_is_not_done_again(train):
    first, started = train()
    again, started_again = train()
    assert (started, started_again) == (1, 0) and again == first
    assert first.last.step == 3 and first.last.seconds > 0
    other, started = train(rate=0.25)
    assert started == 1 and other.learning_rate == 0.25
    assert other.last.train_loss != first.last.train_loss


def test_without_a_file_nothing_is_kept(train):
    assert [train(path=None)[1] for _ in range(2)] == [1, 1]


def test_a_file_of_another_budget_is_refused(train):
    train()
    with pytest.raises(ValueError, match=r"another evaluation .*steps: there 3, now 4"):
        train(steps=4)
