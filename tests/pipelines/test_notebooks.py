"""Every notebook runs from top to bottom on a fresh run."""

from __future__ import annotations

import os
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))


@pytest.mark.usefixtures("first_run")
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_runs(project: Path, path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(project)}})
    client.execute(env={**os.environ, "KEDRO_ENV": "tiny"})
    assert not any(cell.get("outputs") for cell in nbformat.read(path, as_version=4).cells)
