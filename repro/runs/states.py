"""Where a plan stands: the expected runs, held against the store. Nothing is scanned, nothing is changed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from statistics import median

from repro.plans.plan import Plan
from repro.plans.spec import RunSpec
from repro.runs.json_files import DamagedFile
from repro.runs.result import Result
from repro.runs.store import Store
from repro.text import one_line


class State(StrEnum):
    """What the store says of a run; of an open one what SLURM's queue says (`repro.slurm`).

    `damaged`: its result, or the record of its failure, cannot be used; it neither counts nor is replaced.
    `lost`: a task of an array began the run and left neither a result nor an error.
    """

    DONE = "done"
    RUNNING = "running"
    PENDING = "pending"
    MISSING = "missing"
    LOST = "lost"
    FAILED = "failed"
    DAMAGED = "damaged"


@dataclass(frozen=True)
class RunState:
    """A run and where it stands; `detail` says why, where it is not done.

    Attributes:
        again: it failed, but by no fault of its own (see `Failure`).
        failed: when it failed (ISO, UTC).
    """

    spec: RunSpec
    state: State
    result: Result | None = None
    detail: str = ""
    again: bool = False
    failed: str | None = None


def run_states(plan: Plan, store: Store) -> list[RunState]:
    """One state for every run of a plan, in the plan's order."""
    return [run_state(spec, store) for spec in plan.runs.values()]


def to_execute(states: Sequence[RunState], *, retry_failed: bool) -> list[RunSpec]:
    """The runs that are missing or failed by no fault of their own; with `retry_failed` all that failed."""
    return [
        state.spec
        for state in states
        if state.state is State.MISSING or (state.state is State.FAILED and (retry_failed or state.again))
    ]


def expected_seconds(states: Sequence[RunState], finished: Sequence[RunState] | None = None) -> float | None:
    """What the runs that are not done should take, from those that are; None where nothing was measured.

    A run is expected to cost the median of its method's finished runs, or of all where there are none.

    Args:
        finished: where the finished runs are; None takes `states`, and the time is that of this machine.
    """
    measured: dict[str, list[float]] = {}
    for state in states if finished is None else finished:
        if state.result is not None:
            measured.setdefault(state.spec.method.name, []).append(state.result.total_seconds)
    if not measured:
        return None
    every = [seconds for values in measured.values() for seconds in values]
    return sum(
        median(measured.get(state.spec.method.name, every))
        for state in states
        if state.state is not State.DONE
    )


def run_state(spec: RunSpec, store: Store) -> RunState:
    """Where one run stands."""
    try:
        result, failure = store.result(spec), store.failure(spec)
    except DamagedFile as error:
        return RunState(spec, State.DAMAGED, detail=one_line(str(error)))
    if result is not None:
        return RunState(spec, State.DONE, result)
    if failure is not None:
        detail = f"{one_line(failure.error)} (attempt {failure.attempts})"
        return RunState(spec, State.FAILED, detail=detail, again=failure.again, failed=failure.when)
    return RunState(spec, State.MISSING)
