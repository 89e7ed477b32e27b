"""What is stored is read again; what is damaged, foreign or missing is named."""

import dataclasses
import json

import numpy as np
import pytest

from ppuda_jax.data.spec import PUBLISHED
from ppuda_jax.teachers.record import TeacherError, read_leaves, read_record, save_teacher
from ppuda_jax.teachers.store import open_store
from tests.networks import plan_of
from tests.teachers.stored import random_leaves, record_of, save_zoo

PLANS = [plan_of(f"conv_{k}x{k}:0 none:1", "none:0 max_pool_3x3:1", n_cells=2) for k in (1, 3, 5)]


def test_a_network_comes_back_as_it_was(tmp_path):
    record, leaves = record_of(PLANS[0]), random_leaves(PLANS[0], 0)
    path = save_teacher(tmp_path / "new", record, leaves)
    assert path.name == "train-0-seed0.npz" and [p.name for p in path.parent.iterdir()] == [
        path.name
    ]
    assert read_record(path) == record and record.plan == PLANS[0]
    assert record.spec == PUBLISHED["digits"]
    for ours, theirs in zip(read_leaves(path), leaves, strict=True):
        np.testing.assert_array_equal(ours, theirs)
        assert ours.dtype == theirs.dtype


def test_a_store_has_the_best_of_each_architecture(tmp_path):
    save_zoo(tmp_path, PLANS)
    better = record_of(PLANS[0], 0, seed=1, accuracy=0.9)
    save_teacher(tmp_path, better, random_leaves(PLANS[0], 9))
    (tmp_path / "train-9-seed0.npz.12.part").write_bytes(b"half of a file")
    (tmp_path / "networks.jsonl").write_text("{}")
    store = open_store(tmp_path)
    assert len(store) == 3 and store.of(better.fingerprint).record == better
    assert store.configs[0] == PLANS[0].config
    with pytest.raises(
        TeacherError, match="no trained network of the architecture abc; it has tra"
    ):
        store.of("abc")


def test_a_store_is_split_by_architecture_and_stays_so(tmp_path):
    plans = [
        plan_of(f"conv_1x1:0 none:{i % 2}", f"{op}:0 none:1", n_cells=n)
        for i, (op, n) in enumerate(
            (op, n) for op in ("conv_3x3", "cse", "max_pool_3x3") for n in (2, 3, 4, 5)
        )
    ]
    save_zoo(tmp_path, plans[:8])
    train, held_out = open_store(tmp_path).split(0.4)
    assert train.teachers.keys().isdisjoint(held_out.teachers) and len(train) + len(held_out) == 8
    assert len(held_out) > 0
    save_zoo(tmp_path, plans)
    more, more_out = open_store(tmp_path).split(0.4)
    assert train.teachers.keys() <= more.teachers.keys()
    assert held_out.teachers.keys() <= more_out.teachers.keys()
    everything, nothing = open_store(tmp_path).split(0.0)
    assert (len(everything), len(nothing)) == (12, 0)
    only = dataclasses.replace(held_out, name="zoo")
    with pytest.raises(TeacherError, match="architectures of zoo are held out with teacher_held_"):
        only.split(0.4)
    with pytest.raises(ValueError, match="held_out must be in"):
        only.split(1.0)


def test_a_digest_tells_stores_apart(tmp_path):
    save_zoo(tmp_path, PLANS)
    before = open_store(tmp_path)
    digest = before.digest
    fewer = dataclasses.replace(before, teachers=dict([*before.teachers.items()][:2]))
    assert digest == open_store(tmp_path).digest != fewer.digest
    save_teacher(tmp_path, record_of(PLANS[0]), random_leaves(PLANS[0], 7))
    assert open_store(tmp_path).digest != digest


def test_images_of_another_kind_are_refused(tmp_path):
    save_zoo(tmp_path, PLANS)
    store = open_store(tmp_path)
    store.check_images(PUBLISHED["digits"])
    with pytest.raises(TeacherError, match="the zoo .* digits with class_names"):
        store.check_images(PUBLISHED["cifar10"])
    few = dataclasses.replace(PUBLISHED["digits"], num_classes=4, class_names=())
    with pytest.raises(TeacherError, match="num_classes 10, the images of digits have 4"):
        store.check_images(few)


def test_folders_without_networks_are_named(tmp_path):
    with pytest.raises(
        FileNotFoundError, match="is not there: make a folder .*experiments.train_zoo"
    ):
        open_store(tmp_path / "nowhere")
    with pytest.raises(TeacherError, match="has no trained networks .files .npz.: make some by"):
        open_store(tmp_path)


def test_networks_of_different_images_do_not_lie_together(tmp_path):
    save_zoo(tmp_path, PLANS[:1])
    other = record_of(PLANS[1], 1, PUBLISHED["cifar10"])
    save_teacher(tmp_path, other, random_leaves(PLANS[1], 1))
    with pytest.raises(TeacherError, match="different images: train-0-seed0.npz of digits .10 cl"):
        open_store(tmp_path)


def _cut(path):
    path.write_bytes(path.read_bytes()[:-200])


def _empty(path):
    path.write_bytes(b"")


def _text(path):
    path.write_text("a list")


def _array(path):
    with path.open("wb") as file:
        np.save(file, np.zeros(3))


def _without_record(path):
    np.savez(path, a=np.zeros(3))


def _record(path, **changes):
    values = {"format": 1, **dataclasses.asdict(record_of(PLANS[0])), **changes}
    text = np.frombuffer(json.dumps(values).encode(), np.uint8)
    names = [spec.torch_name for spec in PLANS[0].params]
    np.savez(path, record=text, **dict(zip(names, random_leaves(PLANS[0], 0), strict=True)))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_cut, "is no trained network, or is damaged .*: remove it, and make it anew"),
        (_empty, "is no trained network: it is no .npz file"),
        (_text, "is no trained network: it is no .npz file"),
        (_array, "is no trained network: it is no .npz file"),
        (_without_record, "is no trained network: it has no record"),
        (lambda path: _record(path, format=9), "must say format 1, received 9"),
        (lambda path: _record(path, more=1), "has a record that cannot be read"),
        (lambda path: _record(path, config={}), "has a record that cannot be read"),
        (lambda path: _record(path, dataset={}), "has a record that cannot be read"),
    ],
)
def test_damaged_and_foreign_files_are_named(tmp_path, damage, message):
    (record,) = save_zoo(tmp_path, PLANS[:1])
    path = tmp_path / f"{record.name}.npz"
    damage(path)
    with pytest.raises(
        TeacherError, match=f"{path.name} .*{message}" if "or is" in message else message
    ):
        open_store(tmp_path)


def test_parameters_of_another_network_are_named(tmp_path):
    record, leaves = record_of(PLANS[0]), random_leaves(PLANS[0], 0)
    with pytest.raises(ValueError, match="there are 2 of them, not"):
        save_teacher(tmp_path, record, leaves[:2])
    with pytest.raises(ValueError, match="stem/conv/kernel is .*, not"):
        save_teacher(tmp_path, record, [leaves[0][:1], *leaves[1:]])
    assert not list(tmp_path.iterdir())
    path = tmp_path / "train-0-seed0.npz"
    _record(path, config=PLANS[1].config.to_dict())
    with pytest.raises(TeacherError, match="is .1, 1, 16, 16., not .3, 3, 16, 16."):
        read_leaves(path)
    _record(path, config=plan_of("cse:0 none:1", "cse:0 none:1", n_cells=2).config.to_dict())
    with pytest.raises(TeacherError, match="another network than its record says .missing: .*fc1"):
        read_leaves(path)
