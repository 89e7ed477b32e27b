"""The report at the end of a training run."""

from experiments import report
from experiments.configs import recipe
from experiments.train import base_of
from ppuda_jax.finetune.curve import Point
from ppuda_jax.training.config import TrainConfig
from ppuda_jax.training.setup import deepnets_task
from ppuda_jax.training.task import TrainResult
from tests.evaluation.given import small_nets


def sgd(steps, top1, seconds):
    return [Point(steps, value, 2.0, 2.0, seconds) for value in top1]


COMPARISON = report.Comparison(
    nets=(),
    trained=[0.5, 0.7],
    before=[0.1, 0.1],
    he=[0.1],
    lecun=[0.05],
    at_once=sgd(1, [0.1, 0.2], 0.2),
    epoch=sgd(20, [0.9, 0.6], 4.0),
    fraction=0.5,
    predict_s=0.02,
)


def test_the_table_has_means_errors_and_extremes():
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in report._table(COMPARISON, 10).splitlines()[2:]
    ]
    assert rows[0] == ["chance", "10.0", "", "", ""]
    assert rows[3] == [
        "SGD for as long as a prediction takes (1 step)", "15.0 ± 5.0", "10.0", "20.0", "2",
    ]  # fmt: skip
    assert rows[4][0] == "SGD for 0.50 epochs (20 steps)"
    assert rows[-1] == ["predicted by the GHN of this run", "60.0 ± 10.0", "50.0", "70.0", "2"]


def test_times_are_compared_with_a_whole_epoch():
    assert report._times(COMPARISON, 80.0) == (
        "Predicting all parameters of a network takes 0.02 s, an epoch of SGD 8.0 s (400 times as "
        "long). Training the GHN took 80 s, as long as 10 epochs of SGD for one network."
    )


def test_the_next_commands_name_the_run_and_its_images():
    settings = TrainConfig(dataset="folder:a", data_dir="DIR", workdir="runs/x", model="ghn1")
    _, predict, evaluate, train = report.next_commands(settings)
    checkpoint = "--checkpoint=runs/x --data_dir=DIR"
    assert predict.startswith(f"python -m experiments.predict {checkpoint} --model=experiments.own")
    assert evaluate.startswith(f"python -m experiments.evaluate {checkpoint} --split=test")
    wanted = "--dataset=folder:a --data_dir=DIR --model=ghn1 --init_from=runs/x"
    assert train == f"python -m experiments.train {wanted} --workdir=runs/x-longer"


def test_networks_are_unseen_ones_of_the_variants_that_are_trained():
    settings = recipe("digits")
    nets = report.unseen_networks(settings, deepnets_task(settings), 6)
    assert [net.split for net in nets] == ["test"] * 6 and len({net.index for net in nets}) == 6
    assert 1 < len({net.variant for net in nets}) <= settings.max_variants


def test_a_report_has_a_table_a_picture_and_the_next_commands(tmp_path, monkeypatch):
    settings = TrainConfig(
        dataset="digits", batch_size=8, workdir=str(tmp_path), init_from="ghn2-cifar10",
        num_devices=1, driver="host", compilation_cache=None,
    )  # fmt: skip
    monkeypatch.setattr(report, "unseen_networks", lambda *_: small_nets(1))
    monkeypatch.setattr(report, "_SGD_SECONDS", 0.0)
    task = deepnets_task(settings)
    result = TrainResult(task.theta, 3, "finished", 0, 0, 10.0)
    lines = report.training_report(settings, task, result, max_images=16).splitlines()
    assert lines[0] == (
        "1 architectures of the test split that training never saw, 16 test images of digits:"
    )
    assert lines[-5] == "" and lines[-3].startswith("python -m experiments.predict")
    assert lines[-6] == f"Picture: {tmp_path}/report.png"
    assert (tmp_path / "report.png").stat().st_size > 1000
    shared = {line.split("|")[2] for line in lines if "by the GHN" in line}
    assert len(shared) == 1, "nothing was trained, so both predictions are the same"


def test_the_first_command_is_the_recipe_of_digits():
    first = base_of({})
    assert (first.dataset, first.workdir) == ("digits", "runs/ghn2-digits")
    assert first.steps == recipe("digits").steps
