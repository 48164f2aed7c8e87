"""SLURM's commands, replaced by scripts: how they are called, and how their output is parsed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from repro.config import ConfigError
from repro.slurm import commands
from repro.slurm.commands import Task


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], Path]:
    """Puts a shell script on the path; returns the file to which it logs its calls."""
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")

    def write(name: str, body: str) -> Path:
        path, called = tmp_path / name, tmp_path / f"{name}.called"
        path.write_text(f'#!/bin/sh\necho "$@" >> {called}\n{body}\n')
        path.chmod(0o755)
        return called

    return write


def test_the_queue_is_every_task_of_an_array(program: Callable[[str, str], Path]) -> None:
    program("squeue", "printf 'a|7|0|RUNNING|None\\na|7|11|PENDING|Resources\\nshell|8|N/A|RUNNING|None\\n'")
    assert commands.queue() == [
        Task("a", "7", 0, "RUNNING", "None"),
        Task("a", "7", 11, "PENDING", "Resources"),
    ]
    assert commands.queue()[1].id == "7_11"


def test_a_submission_returns_its_id_and_names_what_it_waits_for(
    program: Callable[[str, str], Path], tmp_path: Path
) -> None:
    called = program("sbatch", "echo '15;north'")
    assert commands.submit(tmp_path / "s", None) == "15"
    assert commands.submit(tmp_path / "s", "14") == "15"
    assert called.read_text().splitlines() == [
        f"--parsable {tmp_path}/s",
        f"--parsable --dependency=aftercorr:14 --kill-on-invalid-dep=yes {tmp_path}/s",
    ]


def test_a_refusal_is_slurms_last_line(program: Callable[[str, str], Path], tmp_path: Path) -> None:
    program("sbatch", "printf 'sbatch: error: bad\\nsbatch: error: Invalid account\\n' >&2; exit 1")
    with pytest.raises(ConfigError, match=r"^sbatch failed: sbatch: error: Invalid account$"):
        commands.submit(tmp_path / "s", None)


def test_a_script_is_tested_without_submitting_it(program: Callable[[str, str], Path]) -> None:
    program("sbatch", '[ "$1" = --test-only ] && cat >/dev/null && echo "sbatch: it would start" >&2')
    assert commands.refusal("#!/bin/sh\n") == ""
    program("sbatch", 'cat >/dev/null; echo "sbatch: error: invalid partition" >&2; exit 1')
    assert commands.refusal("#!/bin/sh\n") == "sbatch: error: invalid partition"


def test_the_longest_array_is_the_clusters(program: Callable[[str, str], Path]) -> None:
    program("scontrol", "printf 'MaxArraySize            = 64\\nMaxJobCount = 10000\\n'")
    assert commands.longest_array() == 64


@pytest.mark.parametrize(("status", "answers"), [(0, True), (1, False)])
def test_a_controller_that_sleeps_is_no_slurm(
    status: int, answers: bool, program: Callable[[str, str], Path]
) -> None:
    program("scontrol", f"exit {status}")
    assert commands.answers() is answers


@pytest.mark.parametrize(("state", "requeued"), [("RUNNING", True), ("COMPLETING", False), ("", False)])
def test_a_task_requeues_itself_alone_and_only_while_it_runs(
    state: str, requeued: bool, program: Callable[[str, str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "7")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    with monkeypatch.context() as container:
        container.setenv("PATH", "/nowhere")
        assert not commands.requeue_this_task()
    squeue, scontrol = program("squeue", f"echo {state}"), program("scontrol", "")
    with monkeypatch.context() as outside:
        outside.delenv("SLURM_ARRAY_JOB_ID")
        assert not commands.requeue_this_task()
    assert not scontrol.exists()
    assert commands.requeue_this_task() is requeued
    assert "--jobs=7_3" in squeue.read_text()
    assert scontrol.exists() is requeued
    if requeued:
        assert scontrol.read_text() == "requeue 7_3\n"
