"""The notebooks run from top to bottom in their quick variant."""

import os
import pathlib

import nbformat
import pytest
from nbclient import NotebookClient

FOLDER = pathlib.Path(__file__).parents[2] / "experiments" / "notebooks"
PRINTED = {
    "predict": [
        "quick variant",
        "23,520,842 parameters in 161 arrays",
        "own network on digits: 0.",
    ],
    "train": ["quick variant", "finished after 3 steps", "ResNet-18: 11,173,962 parameters"],
    "finetune": ["57,130 parameters", "the classifier is random", "predicted: "],
    "properties": ["trained networks: ", "grad_norm  Spearman", "embedding   Kendall", "evolution"],
    "structure": ["divergence from the uniform one: 0.707", "of the test images"],
}
PICTURES = {"predict": 3, "train": 1, "finetune": 2, "properties": 2, "structure": 3}


def test_every_notebook_is_run_here():
    assert {path.stem for path in FOLDER.glob("*.ipynb")} == set(PRINTED)


@pytest.mark.parametrize("name", PRINTED)
def test_a_notebook_runs_from_top_to_bottom(name, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(FOLDER.parents[1]))
    monkeypatch.setenv("WORKDIR", str(tmp_path / "run"))
    monkeypatch.setenv("QUICK", "1")
    flags = os.environ["XLA_FLAGS"].replace("device_count=8", "device_count=1")
    monkeypatch.setenv("XLA_FLAGS", flags)  # one device, as a user has it
    notebook = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    assert all(not cell.get("outputs") for cell in notebook.cells), "stored without outputs"
    client = NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}})
    client.execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    text = "".join(output.text for output in outputs if output.output_type == "stream")
    for expected in PRINTED[name]:
        assert expected in text
    assert sum("image/png" in output.get("data", {}) for output in outputs) == PICTURES[name]
