"""REPRO_* variables: what cannot be is refused in a line, before anything is loaded."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from repro import variables
from repro.cli import main
from repro.config import ConfigError


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a file, a link to itself and a link to nothing; the current one."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "nothing").symlink_to("gone")
    (tmp_path / "folder").mkdir()
    return tmp_path


FOLDERS = [variables.DATA, variables.EXPERIMENTS, variables.RESULTS]
NO_FOLDERS = {
    "": "''; unset it, or set it to the path of a folder",
    " ": "' '; unset it",
    "~/x": "only a shell replaces ~; write the whole path",
    "file": "not a folder",
    "file/below": "Not a directory",
    "/dev/null": "not a folder",
    "loop": "Too many levels of symbolic links",
    "loop/below": "Too many levels of symbolic links",
    "x" * 300: "File name too long",
}


@pytest.mark.parametrize("name", FOLDERS)
@pytest.mark.parametrize(("value", "reason"), NO_FOLDERS.items())
def test_what_is_no_folder_is_refused_in_a_line(
    name: str,
    value: str,
    reason: str,
    places: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv(name, value)
    assert main(["list"]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"repro: {name} is ") and reason in said and said.count("\n") == 1
    assert sorted(path.name for path in places.iterdir()) == ["file", "folder", "loop", "nothing"]


@pytest.mark.parametrize("value", ["gone", "nothing"])
def test_a_folder_that_is_missing(value: str, places: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REPRO_DATA_DIR", value)
    for read in (variables.data_folder, lambda: variables.folder(variables.DATA, exists=True)):
        with pytest.raises(ConfigError, match=f"REPRO_DATA_DIR is '{value}': No such file"):
            read()
    monkeypatch.setenv("REPRO_RESULTS_DIR", "gone/deeper")
    assert variables.folder(variables.RESULTS, exists=False) == places / "gone" / "deeper"  # can be made


def test_paths_are_absolute(places: Path) -> None:
    command = "from repro import paths; import os; os.chdir('/'); print(paths.RESULTS)"
    given = os.environ | {"REPRO_RESULTS_DIR": "folder"}
    root = str(Path(variables.__file__).parent.parent)
    done = subprocess.run(
        [sys.executable, "-c", command],
        env=given | {"PYTHONPATH": root},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == f"{places}/folder\n"


@pytest.mark.parametrize("value", ["cuda", "", "Torch"])
def test_a_kernel_that_there_is_not(
    value: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("REPRO_KERNEL", value)
    assert main(["list"]) == 2
    assert capsys.readouterr().err == (
        f"repro: REPRO_KERNEL={value!r} is not possible, it must be auto or torch\n"
    )


def test_a_variable_that_nothing_reads_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("REPRO_RESULT_DIR", "/x")
    assert main(["list"]) == 0
    line = "repro: REPRO_RESULT_DIR is set, but nothing reads it; did you mean REPRO_RESULTS_DIR?\n"
    assert line in capsys.readouterr().err


@pytest.mark.parametrize("verb", [["list"], ["--help"], ["audit"]])
def test_a_reader_that_is_gone_is_no_error(verb: list[str]) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "repro.cli", *verb],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=Path(variables.__file__).parent.parent,
    )
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    assert (process.stderr.read(), process.wait()) == (b"", 0)
