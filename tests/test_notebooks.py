"""The notebooks, executed from the first cell to the last."""

from __future__ import annotations

import base64
import sys
from pathlib import Path

import pytest

nbclient = pytest.importorskip("nbclient")
nbformat = pytest.importorskip("nbformat")

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))


@pytest.fixture
def kernel_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the user's settings is read, and nothing is left in the home folder."""
    for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    for name in ("JUPYTER_PATH", "MPLBACKEND", "PYTHONWARNINGS", "PYTHONPATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.mark.usefixtures("kernel_settings")
@pytest.mark.filterwarnings("default")  # of the client's own libraries
@pytest.mark.parametrize(
    "path",
    [pytest.param(p, marks=[pytest.mark.slow] if p.stem == "hypernetworks" else [], id=p.stem) for p in NOTEBOOKS],
)
def test_a_notebook_runs(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert not any(cell.outputs or cell.execution_count for cell in cells), "clear its outputs before committing it"
    notebook.cells.append(nbformat.v4.new_code_cell("import sys; print(sys.executable)"))
    nbclient.NotebookClient(
        notebook, kernel_name="python3", timeout=120, resources={"metadata": {"path": str(path.parent)}}
    ).execute()
    *cells, kernel = (cell for cell in notebook.cells if cell.cell_type == "code")
    assert kernel.outputs[0].text.strip() == sys.executable, "the kernel is not that of this environment"
    for cell in cells:
        assert cell.execution_count, cell.source
        for output in cell.outputs:
            assert output.output_type != "error", cell.source
            assert output.get("name") != "stderr", output.text
    for cell in cells:
        if "plt.show()" in cell.source:
            (picture,) = (output.data["image/png"] for output in cell.outputs if "image/png" in output.get("data", {}))
            assert base64.b64decode(picture).startswith(b"\x89PNG")


def test_the_first_notebook_shows_a_histogram_and_finds_a_changed_layer() -> None:
    first = nbformat.read(NOTEBOOKS[0], as_version=4)
    code = "\n".join(cell.source for cell in first.cells if cell.cell_type == "code")
    assert NOTEBOOKS[0].name == "1-first-init.ipynb"
    assert all(
        word in code for word in ("initconf.load", "initconf.compile", "initconf.apply", ".hist(", "plt.show()", ".verify()")
    )
