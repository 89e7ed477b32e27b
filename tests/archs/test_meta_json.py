"""The JSON file of DeepNets-1M: random access equals parsing the whole file."""

import io
import json

import pytest

from ppuda_jax.archs import meta_json
from ppuda_jax.archs.meta_json import MetaFile, MetaWriter
from tests.reference import REFERENCE, needs_reference


def document(nets=5):
    return {
        split: {
            "nets": [{"a": [[1, 2], {"b": i}], "c": {"d": {}}} for i in range(nets)],
            "meta": {"primitives_ext": {"0": "input"}, "unique_op_names": {"0": "x"}},
        }
        for split in ("val", "test")
    }


def check_equal(path, content):
    file = MetaFile(str(path))
    assert set(file.splits) == set(content)
    for split, entry in content.items():
        assert len(file.splits[split].nets) == len(entry["nets"])
        assert [file.record(split, i) for i in range(len(entry["nets"]))] == entry["nets"]
        assert file.meta(split) == entry["meta"]


@pytest.mark.parametrize("chunk", [7, 64, 1 << 24])
@pytest.mark.parametrize("indent", [None, 2])
def test_random_access(tmp_path, monkeypatch, chunk, indent):
    monkeypatch.setattr(meta_json, "_CHUNK", chunk)
    path = tmp_path / "x_meta.json"
    path.write_text(json.dumps(document(), indent=indent))
    check_equal(path, document())


def test_meta_before_nets(tmp_path):
    path = tmp_path / "x_meta.json"
    content = {s: dict(reversed(list(entry.items()))) for s, entry in document().items()}
    path.write_text(json.dumps(content))
    check_equal(path, content)


@needs_reference
def test_files_of_the_reference():
    path = REFERENCE / "deepnets1m" / "deepnets1m_train_meta.json"
    check_equal(path, json.loads(path.read_text()))


def test_writing_gives_the_same_file():
    text = io.StringIO()
    writer = MetaWriter(text)
    for split, entry in document().items():
        writer.begin(split)
        for record in entry["nets"]:
            writer.add(record)
        writer.end(entry["meta"])
    writer.close()
    assert json.loads(text.getvalue()) == document()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "an empty file"),
        (json.dumps(document())[:-30], "ends within an object"),
        ("[1]", "ends within an object"),
        ("{}", "no split"),
        ('{"val": {"nets": [{}]}}', "without one 'meta' object"),
    ],
)
def test_foreign_files_are_refused(tmp_path, text, message):
    path = tmp_path / "x_meta.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        MetaFile(str(path))


def test_a_file_that_changed_is_noticed(tmp_path):
    path = tmp_path / "x_meta.json"
    path.write_text(json.dumps(document()))
    file = MetaFile(str(path))
    path.write_text("x" * 2000)
    with pytest.raises(ValueError, match="changed or is damaged"):
        file.record("val", 1)
