"""Summaries and published figures."""

import dataclasses

import pytest

from ppuda_jax import evaluation
from ppuda_jax.evaluation import published
from ppuda_jax.evaluation.results import mean_and_error
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
