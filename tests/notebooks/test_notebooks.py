"""The sample notebook in a kernel of Jupyter, cell by cell."""

from __future__ import annotations

from pathlib import Path

import pytest

from n8nrunner.broker import Broker
from tests.test_samples import call, json_of, variables

NOTEBOOK = Path(__file__).parents[2] / "samples" / "iris.ipynb"


def test_the_cells_of_the_notebook_run(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    pytest.importorskip("sklearn")
    for name, value in variables(broker).items():
        monkeypatch.setenv(name, value)
    measured = {"sepal_length": 5.9, "sepal_width": 3.0, "petal_length": 5.1, "petal_width": 1.8}
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    client = nbclient.NotebookClient(notebook, timeout=60)
    chances = []
    with client.setup_kernel():
        for index, cell in enumerate(notebook.cells):
            if cell.source == "runner.stop()":
                chances.append(json_of(call(broker, "iris", "classify", **measured)))
            client.execute_cell(cell, index)
            if cell.source == "runner.start()":
                chances.append(json_of(call(broker, "iris", "classify", **measured)))
    (before,), (after,) = chances
    assert before["species"] == after["species"] == "virginica"
    assert before["chances"] != after["chances"]  # the model was replaced in between
