"""Submitted arrays, and the state of their runs.

Each array has a folder with its script, logs and list of runs. The list is written before the script is
submitted and found by the array's name, so an interrupted submission is not lost.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

from filelock import FileLock
from pydantic import BeforeValidator

from repro.config import ConfigError, Frozen
from repro.plans.spec import RunSpec
from repro.runs.json_files import read_json, write_json
from repro.runs.states import RunState, State
from repro.slurm.commands import Task

# Bytes read from the end of a log: enough for its last lines, including an error message of SLURM.
_LOG_END = 4096


def _several(runs: Any) -> Any:
    """A task's runs; arrays that were written when a task had one run have its hash alone."""
    runs = [runs] if isinstance(runs, str) else runs
    return tuple(runs) if isinstance(runs, list) else runs


class Submission(Frozen):
    """An array: its name, when it was written (ISO, UTC), and the hashes of each task's runs by its index."""

    name: str
    written: str
    runs: dict[int, Annotated[tuple[str, ...], BeforeValidator(_several)]]

    def left(self, states: Sequence[RunState]) -> list[RunState]:
        """The runs with which a task goes on when it is started again, of those that it has.

        None that is done, and none that has failed in this task, unless there is no other: who starts such a
        task again wants the failed ones tried again.
        """
        undone = [state for state in states if state.state is not State.DONE]
        # Both in UTC. A failure is dated in whole seconds: compared are the 19 characters up to these.
        return [s for s in undone if s.failed is None or s.failed[:19] < self.written[:19]] or undone


class Submissions:
    """All arrays below one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Lock that lets one process submit at a time."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(self.folder / ".lock"):
            yield

    def new_name(self, experiment: str, profile: str) -> str:
        """A unique array name, also across users and clones."""
        return f"repro-{experiment.replace('/', '-')}-{profile}-{secrets.token_hex(4)}"

    def script(self, name: str) -> Path:
        return self.folder / name / "array.sbatch"

    def log(self, name: str, index: int) -> Path:
        return self.folder / name / f"{index}.log"

    def write(self, name: str, runs: Mapping[int, Sequence[RunSpec]], script: str) -> None:
        """Record an array before it is submitted."""
        hashes = {index: tuple(spec.hash for spec in specs) for index, specs in runs.items()}
        written = datetime.now(UTC)
        # A run's state is read from its latest log, so the order must hold even if the clock was set back.
        for earlier in self.all()[-1:]:
            written = max(written, datetime.fromisoformat(earlier.written) + timedelta(microseconds=1))
        stamp = written.isoformat(timespec="microseconds")
        write_json(self._list(name), Submission(name=name, written=stamp, runs=hashes))
        self.script(name).write_text(script, encoding="utf-8")

    def all(self) -> list[Submission]:
        """All arrays with a readable list of runs, oldest first."""
        found = []
        for path in self.folder.glob("*/runs.json"):
            # The list is needed here only to find logs; `queued` raises if a queued array's is unreadable.
            with suppress(ConfigError):
                found.append(read_json(path, Submission))
        return sorted((item for item in found if item is not None), key=lambda item: item.written)

    def array(self, name: str) -> Submission | None:
        """The array of this name, if it is one of these.

        Raises:
            ConfigError: its list of runs is unreadable.
        """
        return read_json(self._list(name), Submission, "end its tasks with scancel and delete it")

    def queued(self, tasks: Sequence[Task]) -> dict[str, Task]:
        """Tasks that belong to these arrays, by the hash of each of their runs.

        Raises:
            ConfigError: the list of runs of a queued array is unreadable.
        """
        lists = {name: self.array(name) for name in {task.name for task in tasks}}
        return {
            hash: task
            for task in tasks
            if (array := lists[task.name]) is not None
            for hash in array.runs.get(task.index, ())
        }

    def joined(self, states: Sequence[RunState], tasks: Sequence[Task]) -> list[RunState]:
        """The store's states, updated from SLURM's queue for runs that are not done.

        Args:
            states: in the order of the plan, in which tasks execute their runs.
        """
        queued, logs = self.queued(tasks), self._last_logs()
        arrays = {array.name: array for array in self.all()}
        of_task: dict[Task, list[RunState]] = {}
        for state in states:
            if state.spec.hash in queued:
                of_task.setdefault(queued[state.spec.hash], []).append(state)
        left = {state.spec.hash for task, runs in of_task.items() for state in arrays[task.name].left(runs)}
        joined: list[RunState] = []
        busy: set[Task] = set()
        for state in states:
            task, now = queued.get(state.spec.hash), state
            if task is None or state.spec.hash in left:
                now = _joined(state, task, logs.get(state.spec.hash), waits=task in busy)
            if task is not None and now.state is State.RUNNING:
                busy.add(task)
            joined.append(now)
        return joined

    def _list(self, name: str) -> Path:
        return self.folder / name / "runs.json"

    def _last_logs(self) -> dict[str, Path]:
        """Each run's latest log, by hash."""
        return {
            hash: self.log(item.name, index)
            for item in self.all()
            for index, hashes in item.runs.items()
            for hash in hashes
        }


def _joined(state: RunState, task: Task | None, log: Path | None, *, waits: bool) -> RunState:
    """A run's state in the store, updated from its task; `waits`: another run of the task goes on."""
    if state.state in (State.DONE, State.DAMAGED):
        return state
    last = _last_line(log) if log else ""
    if task is not None and task.state == "PENDING":
        # Reason "None": the scheduler has not looked at the task yet.
        reason = "" if task.reason == "None" else f": {task.reason}"
        return replace(state, state=State.PENDING, detail=f"task {task.id}{reason}")
    if task is not None and waits:
        return replace(state, state=State.PENDING, detail=f"task {task.id}: after another run of this task")
    if task is not None:
        return replace(state, state=State.RUNNING, detail=f"task {task.id}: {last}".rstrip(": "))
    # Without a log the task never started (it was cancelled, or the run it waited for failed): still missing.
    if state.state is State.MISSING and log is not None and log.exists():
        return replace(state, state=State.LOST, detail=f"{last} ({os.path.relpath(log)})".lstrip())
    return state


def _last_line(log: Path) -> str:
    """The log's last line that is not blank; empty if there is none."""
    try:
        with log.open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - _LOG_END))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return ""
    return next((line.strip() for line in reversed(lines) if line.strip()), "")
