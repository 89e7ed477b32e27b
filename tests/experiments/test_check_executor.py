"""The comparison of the executor: what is chosen, and that a deviation is seen."""

import collections

import numpy as np

from experiments import check_executor
from ppuda_jax.executor.variants import variant_of


def test_networks_of_the_most_frequent_variants_from_all_splits():
    chosen = check_executor.choose(12, 2, 16)
    assert len(chosen) == 2 and sum(map(len, chosen.values())) == 12
    splits = collections.Counter()
    for variant, items in chosen.items():
        for name, plan in items:
            assert variant_of(plan) == variant and plan.config.C == 16
            splits[name.partition("[")[0]] += 1
    assert len(splits) > 2


def test_a_deviation_is_relative_to_the_largest_entry_and_never_hides_nan():
    expected = [np.asarray([1.0, -4.0]), np.zeros(0), np.asarray([2.0])]
    ours = [np.asarray([1.0, -4.0]), np.zeros(0), np.asarray([2.2])]
    np.testing.assert_allclose(check_executor.deviation(ours, expected), 0.05)
    for place in (0, 2):
        broken = [array.copy() for array in ours]
        broken[place][0] = np.nan
        assert np.isnan(check_executor.deviation(broken, expected))


def test_features_name_operations_and_options():
    (items,) = check_executor.choose(1, 1, 16).values()
    found = check_executor.features(items[0][1])
    assert any(name.startswith("stem") for name in found)
    assert any(name.startswith("head") for name in found)
    assert {op.kind for op in items[0][1].ops} <= found
