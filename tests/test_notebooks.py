"""The notebooks, executed from the first cell to the last."""

from __future__ import annotations

import ast
import base64
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from initconf import laws, registry

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


# --- the page that defines the stream --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stream() -> tuple[str, ast.Module]:
    """The text and the code of the page."""
    page = nbformat.read(NOTEBOOKS[1], as_version=4)
    text, code = ("\n".join(c.source for c in page.cells if c.cell_type == kind) for kind in ("markdown", "code"))
    return text, ast.parse(code)


def keys_of(code: ast.Module, name: str) -> set[str]:
    """The keys of the dictionary that is assigned to a name."""
    (found,) = (n.value for n in code.body if isinstance(n, ast.Assign) and ast.unparse(n.targets[0]) == name)
    assert isinstance(found, ast.Dict)
    return {ast.literal_eval(key) for key in found.keys if key is not None}


def test_every_law_is_defined_on_the_page(stream: tuple[str, ast.Module]) -> None:
    text, code = stream
    kinds: list[Any] = [kind for kind in map(vars(laws).get, laws.__all__) if isinstance(kind, type)]
    elementwise = {kind.__name__ for kind in kinds if getattr(kind, "elementwise", False)}
    constructions = {kind.__name__ for kind in kinds if issubclass(kind, laws.Construction)} - {"Construction"}
    assert (keys_of(code, "ELEMENTWISE"), keys_of(code, "CONSTRUCTIONS")) == (elementwise, constructions)
    others = {kind.__name__ for kind in kinds if issubclass(kind, laws.Law)} - {"Law", "Construction", "Blocks"}
    assert {name for name in others if not re.search(rf"`{name}\b", text)} == set()


def test_every_shipped_initializer_stands_in_the_table_of_the_page(stream: tuple[str, ast.Module]) -> None:
    rows = [line for line in stream[0].splitlines() if line.startswith("| `")]
    said = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    shipped = {name for name in registry.names() if registry.find(name).shipped}
    assert len(shipped) > 50
    assert shipped - said == set()


def test_the_page_takes_nothing_of_what_it_defines(stream: tuple[str, ast.Module]) -> None:
    """Its values are its own: of initconf it uses the plan, what was written, and the one law that no initializer gives."""
    nodes = [node for node in ast.walk(stream[1]) if isinstance(node, ast.Attribute)]
    used = {ast.unparse(node) for node in nodes if ast.unparse(node.value).startswith("initconf")}
    assert used == {"initconf.apply", "initconf.compile", "initconf.laws", "initconf.laws.LogUniform", "initconf.register"}
    imported = [node for node in ast.walk(stream[1]) if isinstance(node, (ast.Import, ast.ImportFrom))]
    assert {ast.unparse(node) for node in imported if "initconf" in ast.unparse(node)} == {"import initconf"}
