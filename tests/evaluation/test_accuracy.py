"""The accuracy of one network: compiled once, and mistakes found before anything runs."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ppuda_jax import evaluation
from ppuda_jax.programs import PROGRAMS
from tests.evaluation.given import arrays


class Small(nn.Module):
    classes: int = 10

    @nn.compact
    def __call__(self, x):
        return nn.Dense(self.classes)(x.reshape(x.shape[0], -1))


@pytest.fixture(scope="module")
def images() -> evaluation.EvalImages:
    return evaluation.make_images(arrays(12), "test", batch_size=8)


def _variables(model, images):
    return model.init(jax.random.key(0), images.batches[0].images)


def test_accuracy_is_the_share_of_hits(images):
    model = Small()
    variables = _variables(model, images)
    given = np.concatenate([batch.images for batch in images.batches])[:12]
    labels = np.concatenate([batch.labels for batch in images.batches])[:12]
    hits = np.argmax(model.apply(variables, given), axis=-1) == labels
    moves = []
    found = evaluation.accuracy(
        model.apply, variables, images, progress=lambda *move: moves.append(move)
    )
    assert found == pytest.approx(hits.mean())
    assert moves == [(1, 2), (2, 2)]


def test_a_function_is_compiled_once(images):
    model = Small()
    variables = _variables(model, images)
    evaluation.accuracy(model.apply, variables, images)
    before = PROGRAMS.loads
    others = jax.tree.map(lambda leaf: leaf + 1, variables)
    evaluation.accuracy(model.apply, others, images)
    assert PROGRAMS.loads == before
    evaluation.accuracy(Small().apply, variables, images)  # another module
    assert PROGRAMS.loads == before + 1


class Unhashable:
    """Such as a module of Equinox, which holds arrays."""

    __hash__ = None

    def __init__(self, model):
        self.model, self.traced = model, 0

    def __call__(self, variables, x):
        self.traced += 1
        return self.model.apply(variables, x)


def test_what_cannot_be_hashed_is_compiled_once_too(images):
    function = Unhashable(Small())
    variables = _variables(Small(), images)
    first, second = (evaluation.accuracy(function, variables, images) for _ in range(2))
    assert first == second and function.traced == 1


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda v, x: jnp.zeros((x.shape[0], 1000)), r"return logits \(8, 10\).*\(8, 1000\)"),
        (lambda v, x: jnp.zeros(10), r"received \(10,\)"),
        (lambda v, x: (jnp.zeros((8, 10)), None), "received tuple"),
        (lambda v, x: x.reshape(x.shape[0], 28, 28, 3), r"images \(8, 32, 32, 3\)"),
        (lambda v, x: x @ jnp.zeros((5, 10)), "32x32 pixels, 10 classes"),
    ],
)
def test_other_classes_and_sizes_are_refused(images, function, message):
    with pytest.raises(ValueError, match=message):
        evaluation.accuracy(function, {}, images)


@pytest.mark.parametrize("given", [[], (1, 2), np.zeros((2, 8, 8, 3))])
def test_images_of_another_kind_are_refused(given):
    with pytest.raises(ValueError, match="images must be from load_eval_images"):
        evaluation.accuracy(lambda v, x: x, {}, given)


def test_another_set_with_the_same_shapes_is_checked_too(images):
    def classify(variables, x):
        return jnp.zeros((x.shape[0], 10))

    assert 0 <= evaluation.accuracy(classify, {}, images) <= 1
    spec = dataclasses.replace(images.spec, num_classes=12)
    with pytest.raises(ValueError, match=r"logits \(8, 12\)"):
        evaluation.accuracy(classify, {}, dataclasses.replace(images, spec=spec))
