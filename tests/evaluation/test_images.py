"""Batches of images: their order, repeats, noise and calibration."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from ppuda_jax import evaluation
from ppuda_jax.data.datasets import dataset_spec
from ppuda_jax.data.images import normalise
from ppuda_jax.evaluation import runners
from ppuda_jax.ghn.config import GHNConfig
from ppuda_jax.ghn.loaded import LoadedGHN
from tests.data.image_sets import encode, pictures, write_tfds
from tests.evaluation.given import arrays


def test_batches_are_those_of_the_reference():
    given = arrays(20)
    images = evaluation.make_images(given, "test", batch_size=8)
    assert [batch.size for batch in images.batches] == [8, 8, 8] and images.num_images == 20
    last = images.batches[-1]
    np.testing.assert_array_equal(last.weights, [1, 1, 1, 1, 0, 0, 0, 0])
    np.testing.assert_array_equal(last.labels, np.tile(given.labels[16:], 2))
    expected = normalise(given.images[16:], given.spec)
    np.testing.assert_allclose(last.images[:4], expected, rtol=1e-5, atol=1e-6)
    statistics = [np.mean(x, axis=(0, 1, 2)) for x in (last.images, last.images[:4])]
    np.testing.assert_allclose(*statistics, rtol=1e-5)


def test_all_batches_have_one_size_and_repeats_weigh_nothing():
    given = arrays(20)
    images = evaluation.make_images(given, "test", batch_size=8, max_images=11)
    assert [batch.size for batch in images.batches] == [8, 8]
    last = images.batches[-1]
    np.testing.assert_array_equal(last.weights, [1, 1, 1, 0, 0, 0, 0, 0])
    np.testing.assert_array_equal(last.labels, given.labels[[8, 9, 10, 8, 9, 10, 8, 9]])
    np.testing.assert_array_equal(last.images[:3], last.images[3:6])
    assert sum(float(batch.weights.sum()) for batch in images.batches) == images.num_images == 11


def test_noise_is_clipped_before_normalisation_and_repeatable():
    given = arrays(8)
    spec = given.spec
    noisy = [
        evaluation.make_images(given, "test", noise=0.3, seed=s).batches[0].images
        for s in (0, 0, 1)
    ]
    np.testing.assert_array_equal(noisy[0], noisy[1])
    assert not np.array_equal(noisy[0], noisy[2])
    pixels = np.asarray(noisy[0]) * spec.std[0] + spec.mean[0]
    assert -1e-5 < pixels.min() < 1e-5 and 1 - 1e-5 < pixels.max() < 1 + 1e-5
    clean = given.images / 255
    inside = (clean > 0.45) & (clean < 0.55)
    assert np.std((pixels - clean)[inside]) == pytest.approx(0.27, abs=0.03)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"batch_size": 1}, "batch_size"), ({"noise": 1.5}, "noise"), ({"max_images": 0}, "max_")],
)
def test_wrong_image_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        evaluation.make_images(arrays(4), "test", **options)


def test_unknown_parts_are_refused():
    with pytest.raises(ValueError, match="part must be val or test, received 'train'"):
        evaluation.load_eval_images("digits", "train")


def test_calibration_images_stand_before_every_batch_and_weigh_nothing():
    images = evaluation.load_eval_images(
        "digits", "test", batch_size=8, max_images=12, calibration_images=5
    )
    assert (images.calibration, images.batch_size, images.num_images) == (5, 8, 12)
    first, last = images.batches
    assert first.size == last.size == 13
    np.testing.assert_array_equal(first.images[:5], last.images[:5])
    np.testing.assert_array_equal(last.weights, [0] * 5 + [1] * 4 + [0] * 4)
    plain = evaluation.load_eval_images("digits", "test", batch_size=8, max_images=12)
    np.testing.assert_array_equal(first.images[5:], plain.batches[0].images)
    np.testing.assert_array_equal(first.labels[5:], plain.batches[0].labels)
    with pytest.raises(ValueError, match="calibration_images must be 0 or lie in 2 ... 1295"):
        evaluation.load_eval_images("digits", "test", calibration_images=1)


def test_hits_and_loss_leave_repeats_out():
    logits = jnp.array([[3.0, 2, 1, 0, -1, -2], [0, 1, 2, 3, 4, 5], [9, 0, 0, 0, 0, 0]])
    sums = runners.count_hits(logits, jnp.array([0, 0, 0]), jnp.array([1.0, 1, 0]))
    losses = -jax.nn.log_softmax(logits)[:2, 0]
    np.testing.assert_allclose(sums, [1, 1, float(losses.sum())], rtol=1e-6)


def test_logits_that_are_no_numbers_hit_nothing():
    logits = jnp.array([[jnp.nan] * 6, [0, jnp.inf, 0, 0, 0, 0], [9, -jnp.inf, 0, 0, 0, 0]])
    sums = runners.count_hits(logits, jnp.array([0, 1, 0]), jnp.ones(3))
    np.testing.assert_array_equal(sums[:2], [1, 1])
    assert np.isnan(sums[2])


def test_imagenet_is_evaluated_on_its_validation_images_as_published(tmp_path):
    """Short side to 256, central 224, published statistics; from a folder that TFDS would write."""
    pixels = pictures(6, (300, 400, 3))
    rows = [(encode(image), 100 * label) for label, image in enumerate(pixels)]
    names = [f"n{label:08d}" for label in range(1000)]
    write_tfds(tmp_path, "imagenet2012", {"train": [rows], "validation": [rows]}, names)
    images = evaluation.load_eval_images("imagenet", "test", str(tmp_path), batch_size=4)
    assert [batch.size for batch in images.batches] == [4, 4] and images.num_images == 6
    resized = Image.fromarray(pixels[1]).resize((341, 256), Image.Resampling.BILINEAR)
    central = np.asarray(resized)[16:240, 58:282] / 255
    expected = (central - np.asarray([0.485, 0.456, 0.406])) / np.asarray([0.229, 0.224, 0.225])
    np.testing.assert_allclose(images.batches[0].images[1], expected, atol=1e-5)
    np.testing.assert_array_equal(images.batches[1].labels, [400, 500, 400, 500])

    def apply_fn(variables, given):  # right for every image but the last, second best for that
        flat = jnp.abs(given[:, None] - variables["pictures"][None]).mean((2, 3, 4))
        logits = jnp.full((given.shape[0], 1000), -100.0).at[:, ::100].set(-flat)
        return logits.at[:, 7].set(jnp.where(logits[:, 500] > -0.1, 1.0, -200.0))

    batches = jnp.concatenate([batch.images for batch in images.batches])[:6]
    filler = jnp.full((4, *batches.shape[1:]), 9.0)
    variables = {"pictures": jnp.concatenate([batches, filler])}
    assert evaluation.accuracy(apply_fn, variables, images) == pytest.approx(5 / 6)
    sums = [
        runners.count_hits(apply_fn(variables, batch.images), batch.labels, batch.weights)
        for batch in images.batches
    ]
    top1, top5 = np.sum([np.asarray(row[:2]) for row in sums], axis=0) / images.num_images
    assert (top1, top5) == (pytest.approx(5 / 6), pytest.approx(1.0))


def test_images_for_a_hypernetwork_are_those_of_its_training(tmp_path):
    np.savez(tmp_path / "old.npz", images=pictures(40, (9, 9, 3)), labels=np.arange(40) % 2)
    np.savez(tmp_path / "new.npz", images=pictures(40, (9, 9, 3), 1) // 3, labels=np.arange(40) % 2)
    trained = dataset_spec(str(tmp_path / "old.npz"))
    config = GHNConfig(num_classes=2, hid=4)
    ghn = LoadedGHN(config, {}, metadata=trained.to_metadata())
    images = evaluation.load_eval_images(ghn=ghn)
    assert images.spec == trained and images.num_images == 8
    new = evaluation.load_eval_images(str(tmp_path / "new.npz"), ghn=ghn)
    assert (new.spec.mean, new.spec.std) == (trained.mean, trained.std)
    assert float(new.batches[0].images.mean()) < -0.5
    with pytest.raises(ValueError, match="was trained on npz:.* with class_names"):
        evaluation.load_eval_images("digits", ghn=ghn)
    with pytest.raises(ValueError, match="pass the name of a dataset, or a hypernetwork"):
        evaluation.load_eval_images()
