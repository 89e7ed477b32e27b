"""Evaluation: which networks, which images, the same result by both runners, and resuming."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ppuda_jax import evaluation
from ppuda_jax.archs.sampling import arch_at, arch_rng, sample_arch
from ppuda_jax.archs.splits import SPLITS
from ppuda_jax.data.batches import ResidentImages
from ppuda_jax.data.images import DATASETS, ImageArrays, normalise
from ppuda_jax.data.order import ImageOrder
from ppuda_jax.evaluation import published, runners
from ppuda_jax.evaluation.results import mean_and_error
from ppuda_jax.evaluation.sgd import SgdTrainer
from ppuda_jax.executor.layout import Variant
from ppuda_jax.ghn.config import ghn1_cifar10, ghn2_cifar10, mlp_cifar10
from ppuda_jax.ghn.loaded import LoadedGHN
from ppuda_jax.ghn.model import init_theta

SMALL = Variant(11, 1, 32, attention=True)  # compiles fastest


def arrays(count: int) -> ImageArrays:
    rng = np.random.default_rng(count)
    images = rng.integers(0, 256, (count, 32, 32, 3)).astype(np.uint8)
    return ImageArrays(DATASETS["digits"], images, (np.arange(count) % 10).astype(np.int32))


def small_nets(count: int) -> tuple[evaluation.EvalNet, ...]:
    """Short networks of the val split at training widths, all of one small variant."""
    split = dataclasses.replace(SPLITS["val"], width="training")
    drawn = (evaluation.EvalNet("val", i, sample_arch(arch_rng(split, i), split))
             for i in range(300))  # fmt: skip
    found = [net for net in drawn if net.variant == SMALL]
    return tuple(sorted(found, key=lambda net: len(net.plan.ops))[:count])


@pytest.fixture(scope="module")
def ghn() -> LoadedGHN:
    config = ghn2_cifar10()
    return LoadedGHN(config, init_theta(config, jax.random.key(0)), "tested")


@pytest.fixture(scope="module")
def evaluator(ghn) -> evaluation.Evaluator:
    images = evaluation.make_images(arrays(12), "test", batch_size=8)
    return evaluation.Evaluator(ghn.config, images, evaluation.EvalSettings(num_devices=1))


# ---- networks ------------------------------------------------------------------------------


def test_split_networks_are_those_of_the_sampler():
    nets = evaluation.choose_networks("val", 3)
    assert [net.index for net in nets] == [0, 1, 2]
    assert all(net.config == arch_at("val", net.index) for net in nets)
    assert nets[0].name == "val-0" and nets[0].plan.num_params >= 2_000_000


def test_networks_by_index_and_predefined():
    (net,) = evaluation.choose_networks("wide", indices=[7])
    assert (net.split, net.index, net.config) == ("wide", 7, arch_at("wide", 7))
    resnet, vit = evaluation.choose_networks("predefined")
    assert resnet.name == "resnet50" and resnet.plan is None and resnet.variant is None
    assert vit.plan.num_params == 1_012_234 and vit.variant == Variant(11, 1, 128, True)


def test_few_variants_take_the_most_frequent():
    nets = evaluation.choose_networks("test", 6, max_variants=2)
    assert len(nets) == 6 and len({net.variant for net in nets}) <= 2


@pytest.mark.parametrize(
    ("split", "options", "message"),
    [
        ("tset", {}, r"split must be one of train, val, .*predefined.*, got 'tset'"),
        ("predefined", {"indices": [2]}, r"has networks 0\.\.1, got \[2\]"),
        ("test", {"indices": [500]}, r"has networks 0\.\.499, got \[500\]"),
        ("wide", {"num": 101}, r"has 100 networks, got num=101"),
        ("wide", {"num": 0}, r"num must be at least 1"),
        ("wide", {"num": 1, "indices": [0]}, r"not both"),
    ],
)
def test_wrong_networks_are_refused_with_the_choices(split, options, message):
    with pytest.raises(ValueError, match=message):
        evaluation.choose_networks(split, **options)


def test_networks_of_a_file(tmp_path):
    from ppuda_jax.archs.hdf5 import SplitWriter

    path = tmp_path / "nets.hdf5"
    config = arch_at("val", 0)
    with SplitWriter(str(path)) as writer:
        adjacency, nodes = np.triu(np.ones((2, 2), np.uint8), 1), np.zeros((2, 3), np.uint16)
        writer.write_split("val", iter([(config.to_dict(), adjacency, nodes)]))
    (net,) = evaluation.choose_networks(str(path))
    assert (net.split, net.index, net.config) == ("val", 0, config)
    with pytest.raises(ValueError, match=r"has the splits val, got 'test'"):
        evaluation.choose_networks(f"{path}:test")
    with pytest.raises(FileNotFoundError, match="which is missing"):
        evaluation.choose_networks("nowhere.hdf5")


# ---- images --------------------------------------------------------------------------------


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
    noisy = [evaluation.make_images(given, "test", noise=0.3, seed=s).batches[0].images
             for s in (0, 0, 1)]
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
    with pytest.raises(ValueError, match="part must be val or test, got 'train'"):
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


# ---- running -------------------------------------------------------------------------------


def test_executor_and_network_agree_and_variants_compile_once(ghn, evaluator):
    nets = small_nets(3)
    calls = []
    results = evaluation.evaluate_archs(
        ghn, nets, evaluator.images, evaluator=evaluator,
        progress=lambda done, total, result, left: calls.append((done, total, left)),
    )  # fmt: skip
    assert evaluator.programs == 2 and [c[:2] for c in calls] == [(1, 3), (2, 3), (3, 3)]
    assert calls[-1][2] == 0 and all(r.runner == "executor" and not r.reason for r in results)
    assert [r.num_params for r in results] == [net.plan.num_params for net in nets]
    alone = evaluation.Evaluator(
        ghn.config, evaluator.images, evaluation.EvalSettings(memory_limit_gib=1e-6, num_devices=1)
    ).evaluate(ghn, nets[0])
    assert alone.runner == "network" and "GiB in the executor" in alone.reason
    for name in ("top1", "top5", "num_params", "num_images"):
        assert getattr(alone, name) == getattr(results[0], name)
    assert alone.loss == pytest.approx(results[0].loss, rel=1e-4)


def test_random_parameters_use_the_same_programs(ghn, evaluator):
    evaluator.evaluate(ghn, small_nets(1)[0])
    before, random = evaluator.programs, evaluator.with_params("random")
    first, again = (random.evaluate(ghn, net) for net in small_nets(1) * 2)
    assert first.loss == again.loss and first.finite and random.programs == before
    assert first.loss != evaluator.evaluate(ghn, small_nets(1)[0]).loss


def test_other_images_use_the_same_programs(ghn, evaluator):
    evaluator.evaluate(ghn, small_nets(1)[0])
    others = evaluation.make_images(arrays(8), "val", batch_size=8)
    before, twin = evaluator.programs, evaluator.with_images(others)
    assert twin.evaluate(ghn, small_nets(1)[0]).num_images == 8
    assert twin.programs == evaluator.programs == before


def test_variants_compile_ahead_in_the_order_of_use_and_old_ones_go(ghn, evaluator, monkeypatch):
    """However many variants there are, few of their programs are held at a time."""
    from ppuda_jax.evaluation import archs
    from ppuda_jax.evaluation import evaluator as module

    monkeypatch.setattr(module, "_KEPT_VARIANTS", 2)
    compiled, held = [], []
    monkeypatch.setattr(archs, "_compile", lambda e, g, net: compiled.append(e.runner_of(net)[0]))

    def evaluate(self, ghn, net):
        held.append(len(self._runners))
        return evaluation.NetResult(net.split, net.index, net.name, 1, 0.1, 0.5, 2.3, 8, 0, 0, 0,
                                    "executor", "")  # fmt: skip

    monkeypatch.setattr(module.Evaluator, "evaluate", evaluate)
    nets = evaluation.choose_networks("test", 20)
    settings = evaluation.EvalSettings(num_devices=1, compile_threads=1, memory_limit_gib=64)
    fresh = evaluation.Evaluator(ghn.config, evaluator.images, settings)
    evaluation.evaluate_archs(ghn, nets, evaluator.images, evaluator=fresh)
    variants = [v for v in dict.fromkeys(net.variant for net in nets) if v is not None]
    assert len(variants) > 5 and len(held) == 20
    assert [runner._variant for runner in compiled] == variants  # each once, first used first
    assert max(held) <= 3 and len(fresh._runners) == 3


def test_batches_spread_over_devices_give_the_same_result(ghn, evaluator):
    images = evaluation.make_images(arrays(11), "test", batch_size=4)  # three batches, two devices
    net = small_nets(1)[0]
    single = evaluator.with_images(images).evaluate(ghn, net)
    double = evaluation.Evaluator(ghn.config, images, evaluation.EvalSettings(num_devices=2))
    assert [len(batch.images.devices()) for batch in double.images.batches] == [2, 2]
    assert (double.images.batch_size, double.images.num_images) == (4, 11)
    result = double.evaluate(ghn, net)
    assert (result.top1, result.top5) == (single.top1, single.top5)
    assert result.loss == pytest.approx(single.loss, rel=1e-6)
    with pytest.raises(ValueError, match="spread over 2 devices already"):
        evaluator.with_images(double.images)


def test_calibrated_norms_know_the_calibration_images_alone(ghn, evaluator):
    net = next(net for net in small_nets(40) if {"sep_conv_3x3", "conv_1x1"} & {
        op.kind for op in net.plan.ops} and net.config.norm is not None)
    given = arrays(8)
    calibrated = evaluation.make_images(given, "test", batch_size=8, calibration=given)
    settings = evaluation.EvalSettings(num_devices=1)
    both = evaluation.Evaluator(ghn.config, calibrated, settings)
    same = both.evaluate(ghn, net)
    plain = evaluator.with_images(evaluation.make_images(given, "test", batch_size=8))
    assert same.loss == pytest.approx(plain.evaluate(ghn, net).loss, rel=1e-5)
    # Whatever shares a batch with an image, its logits stay: by another runner, in other batches.
    small = evaluation.make_images(given, "test", batch_size=4, calibration=given)
    alone = evaluation.Evaluator(
        ghn.config, small, dataclasses.replace(settings, memory_limit_gib=1e-6)
    ).evaluate(ghn, net)
    assert alone.runner == "network" and alone.loss == pytest.approx(same.loss, rel=1e-4)
    split = evaluator.with_images(evaluation.make_images(given, "test", batch_size=4))
    assert abs(split.evaluate(ghn, net).loss - same.loss) > 1e-3 * same.loss
    with pytest.raises(ValueError, match="compiled for 8 calibration images, got 0"):
        both.with_images(plain.images)


def test_sgd_learns_its_images_through_the_executor(ghn, evaluator):
    given = arrays(12)
    spec = dataclasses.replace(given.spec, crop_padding=0)
    images = ResidentImages(spec, (given.images, given.labels), ImageOrder(12, 12, seed=0))
    trainer, net = SgdTrainer(images), small_nets(1)[0]
    start, end = (trainer.train(evaluator, net, steps) for steps in (1, 25))
    assert (end.name, end.steps) == (net.name, 25) and end.train_s > 0
    assert end.top1 >= max(0.5, start.top1)
    (model, _) = evaluation.choose_networks("predefined")
    with pytest.raises(ValueError, match="resnet50 cannot be trained .* hand-made model"):
        trainer.train(evaluator, model, 1)


def test_he_parameters_have_the_published_spread():
    net = evaluation.choose_networks("test", 1)[0]
    params = runners.he_params(net.plan, 0)
    for spec in net.plan.params:
        leaf = params
        for key in spec.path:
            leaf = leaf[key]
        assert leaf.shape == spec.shape and leaf.dtype == np.float32
        if spec.role == "kernel" and spec.size > 4000:
            fan_in = np.prod(spec.shape[:-1])
            assert leaf.std() == pytest.approx(np.sqrt(2 / fan_in), rel=0.1)


def test_an_interrupted_evaluation_continues(ghn, evaluator, tmp_path):
    nets, path = small_nets(3), tmp_path / "nets.jsonl"
    run = evaluation.evaluate_archs
    first = run(ghn, nets[:2], evaluator.images, evaluator=evaluator, results_path=path)
    seen = []
    full = run(
        ghn, nets, evaluator.images, evaluator=evaluator, results_path=path,
        progress=lambda done, total, result, left: seen.append(result.name),
    )  # fmt: skip
    assert full[:2] == first and seen == [nets[2].name]
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert lines[0]["dataset"] == "digits" and [r["index"] for r in lines[1:]] == [
        net.index for net in nets
    ]
    other = dataclasses.replace(ghn, theta=jax.tree.map(lambda x: x + 1, dict(ghn.theta)))
    with pytest.raises(ValueError, match=r"holds another evaluation \(theta_crc32"):
        run(other, nets, evaluator.images, evaluator=evaluator, results_path=path)
    path.write_text(path.read_text()[:-20])
    with pytest.raises(ValueError, match="is no file of results"):
        run(ghn, nets, evaluator.images, evaluator=evaluator, results_path=path)


def test_another_dataset_or_class_count_is_refused(ghn, evaluator):
    trained = dataclasses.replace(ghn, metadata={"dataset": "cifar10"})
    with pytest.raises(ValueError, match="trained on cifar10, the images are of digits"):
        evaluation.evaluate_archs(trained, (), evaluator.images)
    config = dataclasses.replace(ghn.config, num_classes=1000)
    with pytest.raises(ValueError, match="1000 classes, digits has 10"):
        evaluation.Evaluator(config, evaluator.images)


def test_wide_networks_leave_the_executor_for_a_reason(ghn):
    wide = evaluation.EvalNet("wide", 0, dataclasses.replace(arch_at("wide", 0), C=2048))
    assert "GiB in the executor" in runners.why_not_executor(wide, ghn.config, 64, 2**32)
    assert runners.why_not_executor(small_nets(1)[0], ghn.config, 64, 2**32) is None
    other = dataclasses.replace(ghn.config, decoder="mlp")
    assert "decoder" in runners.why_not_executor(small_nets(1)[0], other, 64, 2**32)


def test_the_hook_of_training_returns_what_chooses_the_best(ghn, evaluator, monkeypatch):
    from ppuda_jax.evaluation import validation

    monkeypatch.setattr(validation, "choose_networks", lambda *a, **k: small_nets(2))
    monkeypatch.setattr(validation, "load_eval_images", lambda *a, **k: evaluator.images)
    monkeypatch.setattr(validation, "Evaluator", lambda *a: evaluator)
    hook = evaluation.validation_hook(ghn.config, "digits")
    before = evaluator.programs
    values = hook(ghn.theta, 10)
    assert 0 <= values["val_accuracy"] <= values["val_accuracy_max"] <= 1
    assert hook(ghn.theta, 20)["val_accuracy"] == values["val_accuracy"]
    assert evaluator.programs == before


# ---- summaries -----------------------------------------------------------------------------


def test_summary_and_csv():
    base = evaluation.NetResult(
        "test", 0, "test-0", 10, 0.2, 0.6, 1.0, 5, 0.1, 0.2, 0.0, "executor"
    )
    other = dataclasses.replace(base, index=1, top1=0.4, loss=float("nan"), runner="network")
    s = evaluation.summarise([base, other])
    assert (s.count, s.top1_max, s.not_finite, s.through_executor) == (2, 0.4, 1, 1)
    assert s.top1 == pytest.approx(0.3) and s.top1_se == pytest.approx(0.1)
    assert mean_and_error([3.0]) == (3.0, 0.0)
    header, *rows = evaluation.to_csv([base, other]).splitlines()
    assert header.startswith("split,index,name,num_params,top1") and len(rows) == 2
    with pytest.raises(ValueError, match="at least one result"):
        evaluation.summarise([])


@pytest.mark.parametrize(
    ("config", "name", "mean"),
    [(ghn2_cifar10(), "ghn2", 66.9), (ghn1_cifar10(), "ghn1", 51.4), (mlp_cifar10(), "mlp", 42.2)],
)
def test_published_rows(config, name, mean):
    assert published.model_of(config) == name
    assert published.published_row("cifar10", name)["test"] == mean
    assert published.published_row("digits", name) is None
