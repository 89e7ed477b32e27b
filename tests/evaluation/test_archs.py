"""The same result by both runners, resuming, and what is compiled when."""

import dataclasses
import json
import threading

import jax
import numpy as np
import pytest

from ppuda_jax import evaluation
from ppuda_jax.archs.sampling import arch_at
from ppuda_jax.data.batches import ResidentImages
from ppuda_jax.data.order import ImageOrder
from ppuda_jax.evaluation import runners
from ppuda_jax.evaluation.sgd import SgdTrainer, train_archs
from ppuda_jax.ghn.config import ghn2_cifar10
from ppuda_jax.ghn.loaded import LoadedGHN
from ppuda_jax.ghn.model import init_theta
from tests.evaluation.given import arrays, small_nets


@pytest.fixture(scope="module")
def ghn() -> LoadedGHN:
    config = ghn2_cifar10()
    return LoadedGHN(config, init_theta(config, jax.random.key(0)), "tested")


@pytest.fixture(scope="module")
def evaluator(ghn) -> evaluation.Evaluator:
    images = evaluation.make_images(arrays(12), "test", batch_size=8)
    return evaluation.Evaluator(ghn.config, images, evaluation.EvalSettings(num_devices=1))


def test_executor_and_network_agree_and_variants_compile_once(ghn, evaluator):
    nets = small_nets(3)
    calls = []
    results = evaluation.evaluate_archs(
        ghn,
        nets,
        evaluator.images,
        evaluator=evaluator,
        progress=lambda done, total, result, left: calls.append((done, total, left)),
    )
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


def test_two_batches_at_once_where_there_is_memory_give_the_same(ghn, evaluator):
    net = small_nets(1)[0]
    need = runners.executor_bytes(net.variant, 8, 10) / 2**30
    results = []
    for limit in (1.5 * need, 2.5 * need):
        settings = dataclasses.replace(evaluator.settings, memory_limit_gib=limit)
        limited = evaluation.Evaluator(ghn.config, evaluator.images, settings)
        runner, threads, both = limited.runner_of(net)[0], [], threading.Event()
        score = runner.score

        def counted(*args, score=score, threads=threads, both=both, limit=limit):
            threads.append(threading.get_ident())
            if len(threads) == 2:
                both.set()
            if limit > 2 * need:  # the first batch ends only after the second has begun
                assert both.wait(timeout=60)
            return score(*args)

        runner.score = counted
        results.append(limited.evaluate(ghn, net))
        assert len(threads) == 2
        assert (set(threads) == {threading.get_ident()}) == (limit < 2 * need)
    assert all(r.runner == "executor" for r in results)
    assert results[0].loss == results[1].loss and results[0].top1 == results[1].top1


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
        return evaluation.NetResult(
            net.split, net.index, net.name, 1, 0.1, 0.5, 2.3, 8, 0, 0, 0, "executor", ""
        )

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
    net = next(
        net
        for net in small_nets(40)
        if {"sep_conv_3x3", "conv_1x1"} & {op.kind for op in net.plan.ops}
        and net.config.norm is not None
    )
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
    with pytest.raises(ValueError, match="compiled for 8 calibration images, received 0"):
        both.with_images(plain.images)


def test_sgd_learns_its_images_through_the_executor(evaluator, tmp_path):
    given = arrays(12)
    spec = dataclasses.replace(given.spec, crop_padding=0)
    images = ResidentImages(spec, (given.images, given.labels), ImageOrder(12, 12, seed=0))
    trainer, net = SgdTrainer(images), small_nets(1)[0]
    start, end = (trainer.train(evaluator, net, steps) for steps in (1, 25))
    assert (end.name, end.steps) == (net.name, 25) and end.train_s > 0
    assert end.top1 >= max(0.5, start.top1) and (trainer.batch_size, trainer.epoch) == (12, 1)
    (program,) = trainer._steps.values()
    memory = program.memory_analysis()
    measured = memory.temp_size_in_bytes + memory.argument_size_in_bytes
    assert 0.6 < runners.executor_bytes(net.variant, 12, 10, training=True) / measured < 2.5
    small = evaluation.Evaluator(
        evaluator.config, evaluator.images, evaluation.EvalSettings(memory_limit_gib=1e-3)
    )
    with pytest.raises(ValueError, match="cannot be trained .*GiB in the executor to be trained"):
        trainer.train(small, net, 1)
    (model, _) = evaluation.choose_networks("predefined")
    with pytest.raises(ValueError, match="resnet50 cannot be trained .* hand-made model"):
        trainer.train(evaluator, model, 1)
    path, new = tmp_path / "sgd.jsonl", []
    first, second = (
        train_archs(trainer, evaluator, [net], 1, results_path=path, progress=new.append)
        for _ in range(2)
    )
    assert first == second == tuple(new) and first[0].top1 == start.top1
    with pytest.raises(ValueError, match="another evaluation .*steps: there 1, now 2"):
        train_archs(trainer, evaluator, [net], 2, results_path=path)


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
        ghn,
        nets,
        evaluator.images,
        evaluator=evaluator,
        results_path=path,
        progress=lambda done, total, result, left: seen.append(result.name),
    )
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
    with pytest.raises(
        ValueError, match="trained on cifar10 with class_names .* the images of digits"
    ):
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
