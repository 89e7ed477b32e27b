"""The benchmark of evaluation: its table and what it refuses; nothing compiled."""

import pytest

from experiments import bench_evaluate
from experiments.bench_evaluate import BenchConfig, Timing


def test_report():
    timings = [
        Timing("a", "executor", 20.0, 1.0, 0.1, 3, 0.1, 2.0),
        Timing("a", "network", 9.0, 1.0, 0.1, 2, 0.1, 2.002),
        Timing("a", "reference", 4.0, 1.0, 0.1, 0, 0.1, 2.0),
        Timing("b", "executor", 1.0, 0.8, 0.1, 0, 0.1, 4.0),
        Timing("b", "reference", 4.0, 3.0, 0.5, 0, 0.1, 4.4),
    ]
    lines = bench_evaluate.report(timings).splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:6]]
    assert cells[0][1:] == ["1", "20.00", "0.100", "1.00", "3"]
    assert cells[3] == ["reference", "2", "4.00", "0.300", "2.00", "0"]
    assert lines[6].endswith("between executor and network: 1.0e-03 of it")
    assert lines[7].endswith("between executor and reference: 9.1e-02 of it")
    assert "9.0 times faster" in lines[8] and "after 3 architectures" in lines[8]
    assert lines[9].endswith("1 architectures of compiled variants: median of ratios 0.25")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_images": 100}, "100 images are no multiple of 64; choose --max_images"),
        ({"split": "predefined"}, "networks of DeepNets-1M, not predefined"),
    ],
)
def test_the_reference_is_not_asked_for_what_it_does_otherwise(options, message):
    options = BenchConfig(peer="checkout", num_nets=1, max_variants=None, **options)
    with pytest.raises(ValueError, match=message):
        bench_evaluate.bench(options)
