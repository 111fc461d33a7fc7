"""The notebook: no outputs in the repository, and from its first cell to its last it runs."""

import json
import shutil
from pathlib import Path

import pytest

PATH = Path(__file__).resolve().parent.parent / "docs" / "alexnet-in-ten-minutes.ipynb"


def test_it_holds_no_outputs():
    notebook = json.loads(PATH.read_text())
    for cell in notebook["cells"]:
        assert cell["metadata"] == {}
        if cell["cell_type"] == "code":
            assert cell["outputs"] == []
            assert cell["execution_count"] is None
    assert notebook["metadata"]["language_info"] == {"name": "python"}  # not the version of whoever saved it last


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_it_runs_and_learns(tmp_path):
    shutil.copy(PATH.with_name("cat.jpg"), tmp_path)
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    notebook = nbformat.read(PATH, as_version=4)
    notebook.cells.append(nbformat.v4.new_code_cell('print(found["top1"])'))
    client = nbclient.NotebookClient(notebook, timeout=2000, resources={"metadata": {"path": str(tmp_path)}})
    client.execute()
    assert float(notebook.cells[-1].outputs[0].text) > 80
    pictures = [out for cell in notebook.cells for out in cell.get("outputs", []) if "image/png" in out.get("data", {})]
    assert len(pictures) >= 12
    assert [path.name for path in tmp_path.iterdir()] == ["cat.jpg"]
