"""After `repro register` every program of the environment knows the adapters, once it imports peft."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from repro.cli import main
from repro.paths import ROOT

PROGRAM = """\
import site, sys
site.addsitedir(sys.argv[1])
site.addsitedir(sys.argv[1])
print(sorted({"torch", "peft", "repro.adapters", "typing"} & sys.modules.keys()))
from peft import PeftConfig, PeftType
print(type(PeftConfig.from_pretrained(sys.argv[2])).__name__, "MORA" in list(PeftType))
import peft
print(type(peft.__loader__).__name__, type(peft.__spec__.loader).__name__)
print([finder for finder in sys.meta_path if type(finder).__module__.startswith("repro")])
"""


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of packages in the place of this environment's."""
    folder = tmp_path / "site-packages"
    folder.mkdir()
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(folder))
    return folder


def _start(packages: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | environment,
        capture_output=True,
        text=True,
    )


def test_a_program_that_imports_peft_alone_loads_an_adapter(packages: Path, tmp_path: Path) -> None:
    from repro.adapters.dual_lora import DualLoraConfig

    DualLoraConfig().save_pretrained(str(tmp_path / "adapter"))
    assert main(["register"]) == 0
    ran = _start(packages, "-c", PROGRAM, str(packages), str(tmp_path / "adapter"))
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.splitlines() == [
        "[]",
        "DualLoraConfig True",
        "SourceFileLoader SourceFileLoader",
        "[]",
    ]
    assert ran.stderr == ""


def test_the_file_says_nothing_without_this_project(packages: Path) -> None:
    assert main(["register"]) == 0
    start = "import site, sys; site.addsitedir(sys.argv[1])"
    ran = _start(packages, "-I", "-S", "-c", start, str(packages))
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")


def test_it_is_written_once_and_removed(packages: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = packages / "repro_adapters.pth"
    for arguments, said, there in [
        (["register", "--remove"], "nothing to do", False),
        (["register"], f"written: {path}", True),
        (["register"], "nothing to do", True),
        (["register", "--remove"], f"removed: {path}", False),
    ]:
        assert main(arguments) == 0
        assert said in capsys.readouterr().out and path.exists() == there
    path.write_text("import of_an_older_version\n")
    assert main(["register"]) == 0 and "wait_for_peft" in path.read_text()
    assert os.listdir(packages) == [path.name]


def test_a_folder_that_cannot_be_written_is_refused(
    packages: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("os.access", lambda path, mode: path != packages)
    assert main(["register"]) == 2
    assert f"{packages} is not writable; use an environment of your own" in capsys.readouterr().err
    assert os.listdir(packages) == []
