"""Every notebook runs from top to bottom on smoke results, and is stored without output."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from repro.cli import main
from repro.paths import ROOT

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The smoke results of Table 1 and Figure 3."""
    folder = tmp_path_factory.mktemp("notebooks") / "results"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("repro.paths.RESULTS", folder)
        patch.setattr("repro.analysis.run_ranks.random_ranks", lambda *_: None)  # minutes, and not looked at
        for name in ("table1", "fig3"):
            assert main(["run", name, "--profile", "smoke", "--no-wandb", "--rows", "lora,dual_lora"]) == 0
    return folder


def read(path: Path) -> nbformat.NotebookNode:
    return nbformat.read(path, as_version=4)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_stored_without_output_and_says_how_to_start(path: Path) -> None:
    notebook = read(path)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert code and not any(cell.outputs or cell.execution_count for cell in code)
    assert "make notebooks" in notebook.cells[0].source


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_and_shows_pictures(
    path: Path, results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REPRO_RESULTS_DIR", str(results))
    monkeypatch.setenv("PROFILE", "smoke")
    notebook = read(path)
    NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(path.parent)}}).execute()
    shown = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert any("image/png" in output.get("data", {}) for output in shown)
    assert not [output for output in shown if output.get("name") == "stderr"]


def test_a_notebook_without_results_says_which_command_makes_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REPRO_RESULTS_DIR", str(tmp_path))
    monkeypatch.setenv("PROFILE", "smoke")
    notebook = read(ROOT / "notebooks" / "inspect_results.ipynb")
    client = NotebookClient(notebook, timeout=60, resources={"metadata": {"path": str(ROOT / "notebooks")}})
    with pytest.raises(Exception, match="`repro run table1 --profile smoke` executes them"):
        client.execute()
