"""The same result by all runners, resuming, and what is compiled when."""

import dataclasses
import json
import threading

import jax
import jax.numpy as jnp
import pytest

from ppuda_jax import evaluation, programs
from ppuda_jax.archs.sampling import arch_at
from ppuda_jax.evaluation import evaluate as module
from ppuda_jax.evaluation.executor_runner import executor_bytes, why_not_executor
from ppuda_jax.executor.tables import CapacityError
from ppuda_jax.ghn.config import ghn2_cifar10
from ppuda_jax.ghn.loaded import LoadedGHN
from ppuda_jax.ghn.model import init_theta
from ppuda_jax.programs import PROGRAMS, ProgramCache
from tests.evaluation.given import arrays, small_nets

ONE = evaluation.EvalSettings(num_devices=1, driver="executor")
ALONE = evaluation.EvalSettings(num_devices=1, memory_limit_gib=1e-6, driver="executor")
HOST = evaluation.EvalSettings(num_devices=1, driver="host")


@pytest.fixture(scope="module")
def ghn() -> LoadedGHN:
    config = ghn2_cifar10()
    return LoadedGHN(config, init_theta(config, jax.random.key(0)), "tested")


@pytest.fixture(scope="module")
def images() -> evaluation.EvalImages:
    return evaluation.make_images(arrays(12), "test", batch_size=8)


def run(ghn, nets, images, settings=ONE, **options):
    parameters = evaluation.predicted(ghn) if isinstance(ghn, LoadedGHN) else ghn
    return evaluation.evaluate_archs(parameters, nets, images, settings=settings, **options)


def test_executor_and_network_agree_and_variants_compile_once(ghn, images):
    nets = small_nets(3)
    calls = []

    def progress(done, total, result, left):
        calls.append((done, total, left))

    run(ghn, nets[:1], images)
    before = PROGRAMS.loads
    results = run(ghn, nets, images, progress=progress)
    assert PROGRAMS.loads == before and [c[:2] for c in calls] == [(1, 3), (2, 3), (3, 3)]
    assert calls[-1][2] == 0 and all(r.runner == "executor" and not r.reason for r in results)
    assert [r.num_params for r in results] == [net.plan.num_params for net in nets]
    (alone,) = run(ghn, nets[:1], images, ALONE)
    assert alone.runner == "network" and "GiB in the executor" in alone.reason
    for name in ("top1", "top5", "num_params", "num_images", "fingerprint"):
        assert getattr(alone, name) == getattr(results[0], name)
    assert alone.loss == pytest.approx(results[0].loss, rel=1e-4)


def test_two_batches_at_once_where_there_is_memory_give_the_same(ghn, images, monkeypatch):
    net = small_nets(1)[0]
    need = executor_bytes(net.variant, 8, 10) / 2**30
    results = []
    for limit in (1.5 * need, 2.5 * need):
        settings = dataclasses.replace(ONE, memory_limit_gib=limit)
        prepared = settings.executor.prepare(net, images, ghn)
        threads, both = [], threading.Event()
        score, at_once = prepared.score, prepared.batches_at_once

        def counted(*args, score=score, threads=threads, both=both, at_once=at_once):
            threads.append(threading.get_ident())
            if len(threads) == 2:
                both.set()
            if at_once == 2:  # the first batch ends only after the second has begun
                assert both.wait(timeout=60)
            return score(*args)

        monkeypatch.setattr(prepared, "score", counted)
        results.append(module.score_images(prepared, prepared.predict(ghn), images))
        assert len(threads) == 2 and at_once == (1 if limit < 2 * need else 2)
        assert (set(threads) == {threading.get_ident()}) == (at_once == 1)
    assert results[0] == results[1]


def test_drawn_and_given_parameters_use_the_same_programs(ghn, images):
    net = small_nets(1)[0]
    (predicted,) = run(ghn, [net], images)
    before = PROGRAMS.loads
    first, again = (run(evaluation.he(), [net], images)[0] for _ in range(2))
    assert first.loss == again.loss and first.finite and PROGRAMS.loads == before
    assert first.loss != predicted.loss
    assert run(evaluation.he(1), [net], images)[0].loss != first.loss
    leaves = evaluation.parameters.he_params(net.plan, 7)
    given = evaluation.given(lambda net: leaves, "mine")
    (mine,) = run(given, [net], images)
    (alone,) = run(given, [net], images, ALONE)
    assert alone.runner == "network" and alone.loss == pytest.approx(mine.loss, rel=1e-4)


def test_other_images_use_the_same_programs(ghn, images):
    net = small_nets(1)[0]
    run(ghn, [net], images)
    before, others = PROGRAMS.loads, evaluation.make_images(arrays(8), "val", batch_size=8)
    assert run(ghn, [net], others)[0].num_images == 8 and PROGRAMS.loads == before


def test_more_networks_than_programs_fit(ghn, images, monkeypatch):
    """Each has programs of its own, and the process has room for those of one."""
    nets = small_nets(2)
    expected = run(ghn, nets, images)
    peak = []

    def in_use():
        peak.append(1000 * len(cache))
        return peak[-1]

    cache = ProgramCache(lambda: 2_500, in_use)
    monkeypatch.setattr(programs, "PROGRAMS", cache)
    settings = dataclasses.replace(ALONE, compile_threads=2)
    found = run(ghn, nets, images, settings)
    assert [r.runner for r in found] == ["network"] * 2
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.loss == pytest.approx(theirs.loss, rel=1e-4)
    assert cache.loads >= 4 and max(peak) <= 2_500


class _Fake:
    """A runner that only says what it is asked."""

    name = "fake"

    def __init__(self, asked, unfit=()):
        self.asked, self.unfit = asked, unfit

    def refuses(self, net, images, ghn):
        return None

    def shares(self, net):
        return net.variant

    def prepare(self, net, images, ghn):
        self.asked.append(net)
        if net.index in self.unfit:
            raise module.UnfitError("too odd")
        return _Nothing(net)


class _Nothing:
    num_params, batches_at_once = 1, 1

    def __init__(self, net):
        self.net = net

    def predict(self, ghn):
        return jnp.zeros(3)

    pack = predict

    def score(self, params, batch):
        return params


def test_a_third_runner_needs_nothing_but_the_protocol(ghn, images, monkeypatch):
    asked, nets = [], evaluation.choose_networks("val", 6)
    runners = (_Fake(asked, unfit={nets[1].index}), _Fake([]))
    runners[1].name = "other"
    monkeypatch.setattr(module.EvalSettings, "runners", runners)
    found = run(ghn, nets, images, dataclasses.replace(ONE, compile_threads=0))
    assert [r.runner for r in found] == ["fake", "other", "fake", "fake", "fake", "fake"]
    assert found[1].reason == "too odd" and found[0].reason == ""
    assert [r.index for r in found] == [net.index for net in nets]
    order = [net.variant for net in asked]
    assert order == sorted(order, key=order.index)  # one variant after the other


def test_batches_spread_over_devices_give_the_same_result(ghn):
    images = evaluation.make_images(arrays(11), "test", batch_size=4)  # three batches, two devices
    nets = small_nets(1)
    (single,) = run(ghn, nets, images)
    two = evaluation.EvalSettings(num_devices=2)
    spread = images.spread(two.topology)
    assert [len(batch.images.devices()) for batch in spread.batches] == [2, 2]
    assert (spread.batch_size, spread.num_images) == (4, 11)
    (double,) = run(ghn, nets, spread, two)
    assert (double.top1, double.top5) == (single.top1, single.top5)
    assert double.loss == pytest.approx(single.loss, rel=1e-6)
    with pytest.raises(ValueError, match="spread over 2 devices already"):
        run(ghn, nets, spread)


def test_calibrated_norms_know_the_calibration_images_alone(ghn):
    net = next(
        net
        for net in small_nets(40)
        if {"sep_conv_3x3", "conv_1x1"} & {op.kind for op in net.plan.ops}
        and net.config.norm is not None
    )
    given = arrays(8)
    calibrated = evaluation.make_images(given, "test", batch_size=8, calibration=given)
    (same,) = run(ghn, [net], calibrated)
    (plain,) = run(ghn, [net], evaluation.make_images(given, "test", batch_size=8))
    assert same.loss == pytest.approx(plain.loss, rel=1e-5)
    # Whatever shares a batch with an image, its logits stay: by another runner, in other batches.
    small = evaluation.make_images(given, "test", batch_size=4, calibration=given)
    (alone,) = run(ghn, [net], small, ALONE)
    assert alone.runner == "network" and alone.loss == pytest.approx(same.loss, rel=1e-4)
    (split,) = run(ghn, [net], evaluation.make_images(given, "test", batch_size=4))
    assert abs(split.loss - same.loss) > 1e-3 * same.loss


def test_an_interrupted_evaluation_continues(ghn, images, tmp_path):
    nets, path = small_nets(3), tmp_path / "nets.jsonl"
    first = run(ghn, nets[:2], images, results_path=path)
    seen = []

    def progress(done, total, result, left):
        seen.append(result.name)

    full = run(ghn, nets, images, results_path=path, progress=progress)
    assert full[:2] == first and seen == [nets[2].name]
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert lines[0]["dataset"] == "digits" and [r["index"] for r in lines[1:]] == [
        net.index for net in nets
    ]
    other = dataclasses.replace(ghn, theta=jax.tree.map(lambda x: x + 1, dict(ghn.theta)))
    with pytest.raises(ValueError, match=r"holds another evaluation \(theta_crc32"):
        run(other, nets, images, results_path=path)
    whole = path.read_text()
    path.write_text(whole[:-20])  # the last line is cut off: that network alone is run again
    seen.clear()
    again = run(ghn, nets, images, results_path=path, progress=progress)
    assert seen == [nets[2].name] and again[:2] == full[:2] and again[2].loss == full[2].loss
    path.write_text(whole.replace("{", "[", 1))
    with pytest.raises(ValueError, match="is no file of results"):
        run(ghn, nets, images, results_path=path)


def test_results_of_other_networks_of_the_same_name_are_not_used(ghn, images, tmp_path):
    """A file of networks that was made anew, and two files with splits of one name."""
    nets, path = small_nets(2), tmp_path / "nets.jsonl"
    (first,) = run(ghn, nets[:1], images, results_path=path)
    changes = [
        dataclasses.replace(nets[1], split=nets[0].split, index=nets[0].index),
        dataclasses.replace(nets[0], config=dataclasses.replace(nets[0].config, fc_dim=999)),
    ]
    for other in changes:
        assert other.name == nets[0].name and other.fingerprint != nets[0].fingerprint
    (second,) = run(ghn, changes[:1], images, results_path=path)
    assert second.loss != first.loss and second.fingerprint == changes[0].fingerprint
    seen = []
    again = run(ghn, nets[:1], images, results_path=path, progress=lambda *a: seen.append(a))
    assert again == (first,) and not seen
    lines = path.read_text().splitlines()
    old = [json.loads(line) for line in lines]
    del old[1]["fingerprint"]  # of a file that was written before there were any
    path.write_text("".join(json.dumps(line) + "\n" for line in old))
    run(ghn, nets[:1], images, results_path=path, progress=lambda *a: seen.append(a))
    assert len(seen) == 1


def test_another_dataset_or_class_count_is_refused(ghn, images):
    trained = dataclasses.replace(ghn, metadata={"dataset": "cifar10"})
    with pytest.raises(ValueError, match="trained on cifar10"):
        run(trained, (), images)
    config = dataclasses.replace(ghn.config, num_classes=1000)
    with pytest.raises(ValueError, match="1000 classes, digits has 10"):
        run(dataclasses.replace(ghn, config=config), (), images)


def test_wide_networks_leave_the_executor_for_a_reason(ghn, images):
    wide = evaluation.EvalNet("wide", 0, dataclasses.replace(arch_at("wide", 0), C=2048))
    assert "GiB in the executor" in why_not_executor(wide, 64, 2**32)
    net = small_nets(1)[0]
    assert why_not_executor(net, 64, 2**32) is None
    other = dataclasses.replace(ghn, config=dataclasses.replace(ghn.config, decoder="mlp"))
    assert "decoder" in ONE.executor.refuses(net, images, other)
    assert ONE.executor.refuses(net, images, ghn) is None


def test_networks_without_room_in_the_executor_are_compiled_by_themselves(ghn, images, monkeypatch):
    def full(*_):
        raise CapacityError("no rows")

    monkeypatch.setattr("ppuda_jax.evaluation.executor_runner.build_meta_batch", full)
    (result,) = run(ghn, small_nets(1), images)
    assert result.runner == "network" and result.reason == "no room in the executor: no rows"


def test_the_hook_of_training_returns_what_chooses_the_best(ghn, images, monkeypatch):
    from ppuda_jax.evaluation import validation

    monkeypatch.setattr(validation, "choose_networks", lambda *a, **k: small_nets(2))
    monkeypatch.setattr(validation, "load_eval_images", lambda *a, **k: images)
    hook = evaluation.validation_hook(ghn.config, "digits", settings=ONE)
    run(ghn, small_nets(2), images)
    before = PROGRAMS.loads
    values = hook(ghn.theta, 10)
    assert 0 <= values["val_accuracy"] <= values["val_accuracy_max"] <= 1
    assert hook(ghn.theta, 20)["val_accuracy"] == values["val_accuracy"]
    assert PROGRAMS.loads == before


def test_missing_images_are_missed_before_a_run_starts(ghn, tmp_path):
    with pytest.raises(FileNotFoundError):
        evaluation.validation_hook(ghn.config, "imagenet", str(tmp_path))


def test_networks_driven_from_the_host_give_the_same_and_compile_nothing_again(ghn, images):
    net = small_nets(1)[0]
    (host,) = run(ghn, [net], images, HOST)
    assert host.runner == "host" and not host.reason
    loads = PROGRAMS.loads
    assert run(ghn, [net], images, HOST)[0].loss == host.loss and PROGRAMS.loads == loads
    (drawn,) = run(evaluation.he(3), [net], images, HOST)
    for parameters, result in ((ghn, host), (evaluation.he(3), drawn)):
        (want,) = run(parameters, [net], images)
        assert want.runner == "executor" and result.num_params == want.num_params
        assert result.loss == pytest.approx(want.loss, rel=1e-4) and result.top1 == want.top1
