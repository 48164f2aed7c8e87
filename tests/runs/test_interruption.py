"""A run that is told to stop keeps the step it is in, and ends like one that was not."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from repro.plans.execution import Execution
from repro.plans.experiment import load_experiment
from repro.plans.plan import expand
from repro.plans.profile import load_profile
from repro.plans.spec import RunSpec
from repro.runs.bases import BaseModels
from repro.runs.interruption import Interrupted, on_stop_signal, stop
from repro.runs.job import Report
from repro.runs.result import Result
from repro.runs.runner import execute
from repro.runs.store import Store

# No checkpoint but that of the signal: the runs have four steps.
EXECUTION = Execution(micro_batch_size=4, evaluation_tokens=8192, checkpoint_minutes=100, wandb=False)
BASES = BaseModels()


@pytest.fixture(scope="module")
def spec() -> RunSpec:
    rows = {row.id: row for row in expand(load_experiment("table1"), load_profile("smoke")).rows}
    return rows["lora"].specs[0]


@pytest.fixture(scope="module")
def whole(spec: RunSpec, tmp_path_factory: pytest.TempPathFactory) -> Result:
    return _run(spec, tmp_path_factory.mktemp("whole"))


def _run(
    spec: RunSpec, folder: Path, report: Report = lambda *_: None, execution: Execution = EXECUTION
) -> Result:
    with on_stop_signal(stop):
        return execute(
            spec, store=Store(folder), execution=execution, bases=BASES, group="test", report=report
        )


def _kill(number: signal.Signals, at: tuple[str, int]) -> Report:
    def report(phase: str, done: int, total: int) -> None:
        if (phase, done) == at:
            os.kill(os.getpid(), number)

    return report


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
@pytest.mark.parametrize("step", [1, 4])
def test_a_training_keeps_the_step_it_is_in(
    number: signal.Signals, step: int, spec: RunSpec, whole: Result, tmp_path: Path
) -> None:
    with pytest.raises(Interrupted):
        _run(spec, tmp_path, _kill(number, ("train", step)))
    assert Store(tmp_path).result(spec) is None
    assert Store(tmp_path).failure(spec) is None
    steps: list[int] = []
    resumed = _run(spec, tmp_path, lambda phase, done, _: steps.append(done) if phase == "train" else None)
    assert steps == list(range(step + 1, 5))
    assert resumed.training.losses == whole.training.losses
    assert resumed.training.validation_losses == whole.training.validation_losses
    assert resumed.scores == whole.scores


def test_who_is_told_twice_stops_at_once(spec: RunSpec, tmp_path: Path) -> None:
    def twice(phase: str, done: int, total: int) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        pytest.fail("went on")

    with pytest.raises(Interrupted):
        _run(spec, tmp_path, twice)
    assert not list(tmp_path.rglob("latest.ckpt"))


@pytest.mark.parametrize(("phase", "every"), [("evaluate", 100), ("train", None)])
def test_what_keeps_no_checkpoint_stops_at_once(
    phase: str, every: int | None, spec: RunSpec, tmp_path: Path
) -> None:
    execution = EXECUTION.model_copy(update={"checkpoint_minutes": every})

    def report(now: str, done: int, total: int) -> None:
        if now == phase:
            os.kill(os.getpid(), signal.SIGTERM)
            pytest.fail("went on")

    with pytest.raises(Interrupted):
        _run(spec, tmp_path, report, execution)


def test_handlers_are_as_before_when_it_is_over(spec: RunSpec, tmp_path: Path) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1)]
    with pytest.raises(Interrupted):
        _run(spec, tmp_path, _kill(signal.SIGUSR1, ("train", 2)))
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1)] == before
