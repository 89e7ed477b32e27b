"""Summaries and published figures."""

import dataclasses

import pytest

from ppuda_jax import evaluation
from ppuda_jax.evaluation import published
from ppuda_jax.evaluation.results import mean_and_error, read_results, table_row
from ppuda_jax.ghn.config import ghn1_cifar10, ghn2_cifar10, mlp_cifar10


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


def result(split, index, top1):
    return evaluation.NetResult(
        split, index, f"{split}-{index}", 10, top1, 0.9, 1.0, 5, 0.1, 0.2, 0.0, "host"
    )


def test_a_row_of_the_table():
    groups = {
        "test": [result("test", 0, 0.25), result("test", 1, 0.75)],
        "predefined": [result("predefined", 0, 0.5), result("predefined", 1, 0.125)],
    }
    assert table_row(groups, "top1") == {
        "test": (50.0, 25.0),
        "test max": (75.0, None),
        "resnet50": (50.0, None),
        "vit": (12.5, None),
    }


def test_a_file_is_read_with_what_was_evaluated(tmp_path):
    path = tmp_path / "test.jsonl"
    evaluation.ResultFile(path, {"dataset": "digits"}, evaluation.NetResult).add(
        result("test", 0, 0.25)
    )
    assert read_results(path, evaluation.NetResult) == (
        {"dataset": "digits"},
        [result("test", 0, 0.25)],
    )
    for foreign in ("", "[1]\n", '{"dataset": "digits"}\n{"name": "other"}\n', "no json"):
        path.write_text(foreign)
        with pytest.raises(ValueError, match="is no file of results"):
            read_results(path, evaluation.NetResult)
