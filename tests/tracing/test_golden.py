"""Every traced network of the tests is what it was when `tests/golden/traces.json` was made."""

import json

import pytest

from tests.golden.make_traces import FILE, entry, networks, versions

GOLDEN = json.loads(FILE.read_text())
NETWORKS = networks()


def test_the_file_has_every_network():
    assert list(GOLDEN["networks"]) == list(NETWORKS)


@pytest.mark.parametrize("name", NETWORKS)
def test_traced_as_before(name):
    found, expected = entry(NETWORKS[name]()), dict(GOLDEN["networks"][name])
    if versions() != GOLDEN["versions"]:  # other versions may list equations in another order
        del found["digest"], expected["digest"]
    assert found == expected
