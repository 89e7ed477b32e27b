"""The benchmark of fine-tuning's step: its flags and its table; nothing is compiled."""

import pytest

from experiments import bench_finetune
from experiments.bench_finetune import BenchConfig, Timing


def test_ratios_are_of_the_same_network_and_compiling_is_beside():
    timings = [
        Timing("test-1", 30, (0.5, 0.25, 1.0), (1.0, 0.75, 2.0), (20.0, 60.0, 5.0)),
        Timing("test-2", 40, (0.25, 0.5, 1.0), (0.5, 0.75, 2.0), (20.0, 0.5, 1.0)),
        Timing("test-3", 50, (0.5, 0.5, 1.0), (1.0, 1.25, 2.0), (40.0, 0.5, 1.0)),
    ]
    assert [timing.ratios[0] for timing in timings] == [0.5, 2.0, 1.0]
    lines = bench_finetune.times_table(timings).splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert cells[0][2:6] == ["own, s", "executor, s", "host, s", "executor / own"]
    assert cells[2][:2] == ["test-1", "30"] and len(lines) == 2 + 3 + 2
    median, total = cells[-2:]
    assert median[2:6] == ["0.500", "0.500", "1.000", "1.000"] and median[9] == "1.250"
    assert total[2:10] == [""] * 8 and total[10:] == ["80.000", "61.000", "7.000"]
    assert "executor to own 0.50" in bench_finetune.report_line(timings[0])


@pytest.mark.parametrize(
    "fields,message",
    [
        ({"num_nets": 0}, "num_nets must be at least 1, received 0"),
        ({"block": 0}, "block must be at least 1, received 0"),
        ({"batch_size": 1}, "batch_size must be at least 2, received 1"),
    ],
)
def test_bad_flags(fields, message):
    with pytest.raises(ValueError, match=message):
        BenchConfig(**fields)
