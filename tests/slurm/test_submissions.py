"""Submitted arrays joined with the queue: every run has one state, and a crash loses none."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from repro.plans.experiment import load_experiment
from repro.plans.plan import expand
from repro.plans.profile import load_profile
from repro.plans.spec import RunSpec
from repro.runs.states import RunState, State
from repro.slurm.commands import Task
from repro.slurm.submissions import Submissions

BEFORE = "2026-01-01T00:00:00+00:00"  # any array was written


@pytest.fixture
def specs() -> list[RunSpec]:
    return list(expand(load_experiment("table1"), load_profile("smoke")).runs.values())


@pytest.fixture
def submissions(tmp_path: Path, specs: list[RunSpec]) -> Submissions:
    """An array of three tasks with a run each."""
    submissions = Submissions(tmp_path / "slurm")
    submissions.write("array", {index: [spec] for index, spec in enumerate(specs[:3])}, "script")
    return submissions


def _task(index: int, state: str, reason: str = "None", name: str = "array") -> Task:
    return Task(name, "12", index, state, reason)


def test_a_run_is_found_in_the_queue_by_its_arrays_name(
    submissions: Submissions, specs: list[RunSpec]
) -> None:
    tasks = [
        _task(1, "RUNNING"),
        _task(2, "PENDING"),
        _task(0, "PENDING", name="of-another-clone"),
        _task(9, "RUNNING"),
    ]
    assert submissions.queued(tasks) == {specs[1].hash: tasks[0], specs[2].hash: tasks[1]}
    assert submissions.script("array").read_text() == "script"


def test_states_are_joined_with_the_queue(submissions: Submissions, specs: list[RunSpec]) -> None:
    submissions.log("array", 0).write_text("start 1: x\n[1/1] x: train 3/9, 0:01:00 left\n\n")
    states = [RunState(spec, State.MISSING) for spec in specs[:4]]
    tasks = [_task(0, "RUNNING"), _task(1, "PENDING", "Priority"), _task(2, "CONFIGURING")]
    joined = [(state.state, state.detail) for state in submissions.joined(states, tasks)]
    (unseen,) = submissions.joined(states[:1], [_task(0, "PENDING")])  # SLURM's reason is "None"
    assert (unseen.state, unseen.detail) == (State.PENDING, "task 12_0")
    assert joined == [
        (State.RUNNING, "task 12_0: [1/1] x: train 3/9, 0:01:00 left"),
        (State.PENDING, "task 12_1: Priority"),
        (State.RUNNING, "task 12_2"),
        (State.MISSING, ""),
    ]


def test_a_task_that_left_nothing_is_lost_and_one_that_never_began_is_not(
    submissions: Submissions, specs: list[RunSpec]
) -> None:
    submissions.log("array", 0).write_bytes(
        b"x" * 10_000 + b"\nslurmstepd: error: Detected 1 oom-kill event\n"
    )
    states = [RunState(spec, State.MISSING) for spec in specs[:2]]
    lost, missing = submissions.joined(states, [])
    assert lost.state is State.LOST
    assert lost.detail.startswith("slurmstepd: error: Detected 1 oom-kill event (")
    assert lost.detail.endswith("array/0.log)")
    assert missing.state is State.MISSING


def test_what_the_store_knows_for_sure_stands(submissions: Submissions, specs: list[RunSpec]) -> None:
    submissions.log("array", 0).write_text("something\n")
    done = RunState(specs[0], State.DONE)
    assert submissions.joined([done], [_task(0, "COMPLETING")]) == [done]
    failed = RunState(specs[0], State.FAILED, detail="ValueError: no (attempt 1)", failed=BEFORE)
    assert submissions.joined([failed], []) == [failed]
    # Until it is tried again.
    (retried,) = submissions.joined([failed], [_task(0, "PENDING", "Resources")])
    assert retried.state is State.PENDING
    # And where its task has no other run, it is tried again also after a failure in this task.
    again = RunState(specs[0], State.FAILED, failed=datetime.now(UTC).isoformat(timespec="seconds"))
    (retried,) = submissions.joined([again], [_task(0, "RUNNING")])
    assert retried.state is State.RUNNING


def test_a_task_of_several_runs_is_at_the_first_that_is_open(
    submissions: Submissions, specs: list[RunSpec]
) -> None:
    submissions.write("several", {4: specs[3:8]}, "script")
    submissions.log("several", 4).write_text("[3/5] x: train 3/9, 0:01:00 left\n")
    states = [
        RunState(specs[3], State.DONE),
        RunState(specs[4], State.FAILED, detail="no", failed=datetime.now(UTC).isoformat(timespec="seconds")),
        RunState(specs[5], State.FAILED, detail="no", failed=BEFORE),
        RunState(specs[6], State.MISSING),
        RunState(specs[7], State.MISSING),
    ]

    def joined(*tasks: Task) -> list[tuple[State, str]]:
        return [(state.state, state.detail) for state in submissions.joined(states, tasks)]

    running, pending = (_task(4, state, name="several") for state in ("RUNNING", "PENDING"))
    assert submissions.queued([running]) == {spec.hash: running for spec in specs[3:8]}
    waits = (State.PENDING, "task 12_4: after another run of this task")
    assert joined(running) == [
        (State.DONE, ""),
        (State.FAILED, "no"),
        (State.RUNNING, "task 12_4: [3/5] x: train 3/9, 0:01:00 left"),  # its failure is an earlier one
        waits,
        waits,
    ]
    assert [state for state, _ in joined(pending)] == [State.DONE, State.FAILED, *3 * [State.PENDING]]
    assert [state for state, _ in joined()] == [
        State.DONE, State.FAILED, State.FAILED, State.LOST, State.LOST
    ]  # fmt: skip


def test_the_list_of_an_array_written_when_a_task_had_one_run_is_read(
    submissions: Submissions, specs: list[RunSpec]
) -> None:
    path = submissions.script("array").with_name("runs.json")
    written = json.loads(path.read_text())
    path.write_text(json.dumps(written | {"runs": {k: hash for k, (hash,) in written["runs"].items()}}))
    assert submissions.queued([_task(1, "RUNNING")]).keys() == {specs[1].hash}


def test_the_last_submission_of_a_run_speaks_for_it(submissions: Submissions, specs: list[RunSpec]) -> None:
    submissions.write("again", {5: [specs[0]]}, "script")
    submissions.log("array", 0).write_text("first\n")
    submissions.log("again", 5).write_text("second\n")
    (state,) = submissions.joined([RunState(specs[0], State.MISSING)], [])
    assert state.detail.startswith("second (")


def test_names_are_no_paths_and_never_alike(submissions: Submissions) -> None:
    names = {submissions.new_name("sweeps/alpha", "smoke") for _ in range(100)}
    assert len(names) == 100
    assert all(name.startswith("repro-sweeps-alpha-smoke-") for name in names)
