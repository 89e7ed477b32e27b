"""DeepNets-1M as a stream, sampled or from a file."""

import os
import pathlib
import pickle
import subprocess
import sys

import pytest

from ppuda_jax.archs.genotypes import NetConfig
from ppuda_jax.archs.sampling import arch_at
from ppuda_jax.data import architectures
from ppuda_jax.data.architectures import DeepNets
from ppuda_jax.executor.tables import CapacityError
from ppuda_jax.executor.variants import variant_of
from ppuda_jax.graphs.from_plan import graph_from_plan

REFERENCE = pathlib.Path(__file__).parents[2].parent / "shared/reference/deepnets1m"
REFERENCE = REFERENCE / "deepnets1m_train.hdf5"


def build(plans, variant):
    if len(plans) > 3:
        raise CapacityError("room for three")
    return [plan.num_params for plan in plans]


NETS = DeepNets(variant_of, build, seed=5)


def test_architectures_are_sampled_by_index():
    assert NETS.config(7) == arch_at("train", 7, 32, 5) != NETS.config(8)
    assert NETS.describe(7) == NETS.config(7).to_dict()
    assert NetConfig.from_dict(NETS.describe(7)) == NETS.config(7)


def test_surveys_say_variant_and_size():
    survey = NETS.survey(3)
    plan = NETS.plan(3)
    assert survey.index == 3 and survey.variant == variant_of(plan)
    assert survey.num_nodes == graph_from_plan(plan).num_nodes


def test_the_family_travels_to_workers():
    assert pickle.loads(pickle.dumps(NETS)).survey(3) == NETS.survey(3)


def test_networks_without_room_are_reported_as_none():
    variant = NETS.survey(0).variant
    assert NETS.build([0, 1], variant) == [NETS.plan(0).num_params, NETS.plan(1).num_params]
    assert NETS.build([0, 1, 2, 3], variant) is None


def test_a_file_is_gone_through_in_shuffled_passes(monkeypatch):
    records = [type("Record", (), {"config": number})() for number in range(10)]
    monkeypatch.setattr(architectures, "_records", lambda *_: records)
    nets = DeepNets(variant_of, build, seed=5, path="some.hdf5")
    passes = [[nets.config(10 * epoch + i) for i in range(10)] for epoch in range(2)]
    assert sorted(passes[0]) == sorted(passes[1]) == list(range(10))
    assert passes[0] != passes[1] and passes[0] != list(range(10))


def test_workers_start_no_jax_backend():
    """With a platform that does not exist whatever needs a backend fails."""
    code = (
        "import ppuda_jax.training.setup, ppuda_jax.data.stream\n"
        "from tests.data.test_architectures import NETS\n"
        "from ppuda_jax.prediction.meta_batch import build_meta_batch\n"
        "build_meta_batch([NETS.plan(0)], NETS.survey(0).variant)\n"
        "import jax\n"
        "try:\n"
        "    jax.devices()\n"
        "except RuntimeError as error:\n"
        "    print('no backend:', error)\n"
    )
    environment = {**os.environ, "JAX_PLATFORMS": "nowhere"}
    result = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert "no backend:" in result.stdout


def test_a_missing_file_is_named():
    nets = DeepNets(variant_of, build, path="nowhere.hdf5")
    with pytest.raises(FileNotFoundError, match="nowhere.hdf5"):
        nets.config(0)


@pytest.mark.skipif(not REFERENCE.is_file(), reason="no reference file beside the repository")
def test_a_file_of_the_reference_is_read():
    nets = DeepNets(variant_of, build, path=str(REFERENCE))
    survey = nets.survey(0)
    assert survey.num_nodes > 20 and survey.variant == variant_of(nets.plan(0))


def test_networks_without_norm_are_added_in_the_given_share():
    more = DeepNets(variant_of, build, seed=5, bnfree_share=0.25)
    norms = [more.config(i).norm for i in range(200)]
    assert 50 <= norms.count(None) <= 65
    same = [i for i in range(200) if more.config(i) == NETS.config(i)]
    assert len(same) >= 145
    with pytest.raises(ValueError, match="bnfree_share=0.25.*some.hdf5"):
        DeepNets(variant_of, build, path="some.hdf5", bnfree_share=0.25)
