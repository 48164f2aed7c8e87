"""A disk that takes nothing, files that are damaged: a line that says so, nothing lost, the rest goes on."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from shutil import disk_usage

import pytest
import torch

from repro.cli import main
from repro.plans.execution import Execution
from repro.plans.experiment import load_experiment
from repro.plans.plan import expand
from repro.plans.profile import load_profile
from repro.plans.spec import RunSpec
from repro.runs.bases import BaseModels
from repro.runs.interruption import Interrupted, on_stop_signal, stop
from repro.runs.result import Result
from repro.runs.runner import execute
from repro.runs.store import Store

BASES = BaseModels()
RUN = ["run", "table1", "--profile", "smoke", "--no-wandb", "--rows"]


@pytest.fixture
def at(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], Path]:
    """Puts the results into a folder."""

    def put(folder: Path) -> Path:
        monkeypatch.setattr("repro.paths.RESULTS", folder)
        return folder

    return put


def test_a_read_only_folder_is_said_before_anything_trains_and_is_still_read(
    read_only: Path, at: Callable[[Path], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    at(read_only)
    assert main([*RUN, "base"]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"repro: {read_only}/runs: Read-only file system; make it writable")
    assert said.count("\n") == 1
    assert main(["status", "table1", "--profile", "smoke"]) == 0


def test_a_full_disk_fails_the_run_that_meets_it_and_the_same_command_goes_on(
    small_disk: Path, at: Callable[[Path], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    results = at(small_disk)
    filler = small_disk / "filler"
    # Room for the result of an evaluation, and for no checkpoint.
    filler.write_bytes(bytes(disk_usage(small_disk).free - 2**16))
    assert main([*RUN, "base,lora"]) == 2  # neither is there room for the table
    said = capsys.readouterr().err
    assert "latest.ckpt: No space left on device; make room, then run the same command again" in said
    assert "Traceback" not in said
    assert len(list((results / "runs").glob("*/result.json"))) == 1
    assert not list((results / "runs").rglob("*.partial"))
    filler.write_bytes(b"")
    assert main([*RUN, "base,lora"]) == 0
    assert len(list((results / "runs").glob("*/result.json"))) == 2


def test_a_damaged_result_stops_no_other(
    tmp_path: Path, at: Callable[[Path], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    results = at(tmp_path)
    assert main([*RUN, "base,lora"]) == 0
    (damaged,) = (results / "runs").glob("*--lora--*/result.json")
    damaged.write_text('{"broken')
    capsys.readouterr()
    assert main([*RUN, "base,lora,hira"]) == 1
    assert f"damaged: {damaged}: not a valid result" in capsys.readouterr().err
    assert list((results / "runs").glob("*--hira--*/result.json"))
    assert main(["status", "table1", "--profile", "smoke"]) == 1
    for command in (["render", "table1"], ["plan", "table1"], ["claims"], ["report"]):
        capsys.readouterr()
        assert main([*command, "--profile", "smoke"]) == 1
        assert f"damaged: {damaged}: not a valid result" in capsys.readouterr().err
    # Figure 1, Table 1's figure and its diagnostics, and figures of experiments that share its runs.
    assert (results / "report" / "smoke.html").read_text().count("<img ") >= 3


# --- checkpoints --------------------------------------------------------------------------------------------


def _turn_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _with(**changes: object) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        torch.save(torch.load(path, weights_only=False) | changes, path)

    return change


class _Payload:
    """Runs code when it is unpickled: it creates a file, whose name is in the environment."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ('touch "$REPRO_TEST_PAYLOAD"',)


@pytest.fixture(scope="module")
def spec() -> RunSpec:
    rows = {row.id: row for row in expand(load_experiment("table1"), load_profile("smoke")).rows}
    return rows["dual_lora"].specs[0]


def _run(
    spec: RunSpec, folder: Path, *, stop_at: int | None = None, notes: list[str] | None = None
) -> tuple[list[int], Result]:
    """The steps that were trained, and the result."""
    steps: list[int] = []

    def report(phase: str, done: int, total: int) -> None:
        if phase == "train":
            steps.append(done)
            if done == stop_at:
                os.kill(os.getpid(), signal.SIGTERM)

    execution = Execution(micro_batch_size=4, evaluation_tokens=8192, checkpoint_minutes=100, wandb=False)
    with on_stop_signal(stop):
        result = execute(
            spec,
            store=Store(folder),
            execution=execution,
            bases=BASES,
            group="test",
            report=report,
            note=(notes if notes is not None else []).append,
        )
    return steps, result


@pytest.fixture(scope="module")
def whole(spec: RunSpec, tmp_path_factory: pytest.TempPathFactory) -> Result:
    return _run(spec, tmp_path_factory.mktemp("whole"))[1]


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (_turn_a_byte, "damaged in"),
        (_cut, "not a zip file"),
        (_with(run="000000000000"), "of run 000000000000"),
        (_with(version=0), "of version 0"),
        (_with(state_dict={}), "other tensors than the run trains"),
        (_with(payload=_Payload()), "it holds more than tensors and plain values"),
    ],
    ids=["a byte", "half of it", "another run", "another version", "other tensors", "code"],
)
def test_a_run_starts_over_where_its_checkpoint_cannot_be_used(
    damage: Callable[[Path], None],
    why: str,
    spec: RunSpec,
    whole: Result,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And runs no code that somebody planted in it."""
    monkeypatch.setenv("REPRO_TEST_PAYLOAD", str(tmp_path / "executed"))
    with pytest.raises(Interrupted):
        _run(spec, tmp_path, stop_at=2)
    (checkpoint,) = tmp_path.rglob("latest.ckpt")
    damage(checkpoint)
    notes: list[str] = []
    steps, result = _run(spec, tmp_path, notes=notes)
    (note,) = notes
    assert note.startswith("starts over: its checkpoint in ") and why in note and "\n" not in note
    assert steps == [1, 2, 3, 4]
    assert result.training.losses == whole.training.losses
    assert result.scores == whole.scores
    assert not (tmp_path / "executed").exists()
