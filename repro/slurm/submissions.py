"""What was submitted, and where it stands.

An array has a folder with its script, its logs and the list of its runs. The list is written before SLURM
gets the script, and is found again by the array's name: a submission that breaks off at any point is known.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from filelock import FileLock

from repro.config import ConfigError, Frozen
from repro.plans.spec import RunSpec
from repro.runs.states import RunState, State
from repro.runs.store import read_json, write_json
from repro.slurm.commands import Task

# Enough for the last lines of a log, among them an error of SLURM's.
_LOG_END = 4096


class Submission(Frozen):
    """An array: its name, when it was written, and the hashes of its runs by index."""

    name: str
    written: str
    runs: dict[int, str]


class Submissions:
    """The arrays whose folders lie below one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Only one process submits at a time; others wait."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(self.folder / ".lock"):
            yield

    def new_name(self, experiment: str, profile: str) -> str:
        """A name that no other array has, of whichever user or clone."""
        return f"repro-{experiment.replace('/', '-')}-{profile}-{secrets.token_hex(4)}"

    def script(self, name: str) -> Path:
        return self.folder / name / "array.sbatch"

    def log(self, name: str, index: int) -> Path:
        return self.folder / name / f"{index}.log"

    def write(self, name: str, runs: Mapping[int, RunSpec], script: str) -> None:
        """Write down an array that is about to be submitted."""
        hashes = {index: spec.hash for index, spec in runs.items()}
        written = datetime.now(UTC)
        # The last of a run's logs is the one that counts, also where the clock was set back in between.
        for earlier in self.all()[-1:]:
            written = max(written, datetime.fromisoformat(earlier.written) + timedelta(microseconds=1))
        stamp = written.isoformat(timespec="microseconds")
        write_json(self._list(name), Submission(name=name, written=stamp, runs=hashes))
        self.script(name).write_text(script, encoding="utf-8")

    def all(self) -> list[Submission]:
        """Every array, the oldest first; without those whose list of runs cannot be understood."""
        found = []
        for path in self.folder.glob("*/runs.json"):
            with suppress(
                ConfigError
            ):  # it only tells where the logs are; one that is queued is another matter
                found.append(read_json(path, Submission))
        return sorted((item for item in found if item is not None), key=lambda item: item.written)

    def queued(self, tasks: Sequence[Task]) -> dict[str, Task]:
        """The tasks that hold runs of these arrays, by the run's hash.

        Raises:
            ConfigError: the list of runs of an array that is queued cannot be understood.
        """
        remedy = "end its tasks with scancel and delete it"
        names = {task.name for task in tasks}
        lists = {name: read_json(self._list(name), Submission, remedy) for name in names}
        return {
            submission.runs[task.index]: task
            for task in tasks
            if (submission := lists[task.name]) is not None and task.index in submission.runs
        }

    def joined(self, states: Sequence[RunState], tasks: Sequence[Task]) -> list[RunState]:
        """States of the store, with what SLURM's queue says of the runs that are not done."""
        queued, logs = self.queued(tasks), self._last_logs()
        return [_joined(state, queued.get(state.spec.hash), logs.get(state.spec.hash)) for state in states]

    def _list(self, name: str) -> Path:
        return self.folder / name / "runs.json"

    def _last_logs(self) -> dict[str, Path]:
        """The log of each run's last task, by hash."""
        return {hash: self.log(item.name, index) for item in self.all() for index, hash in item.runs.items()}


def _joined(state: RunState, task: Task | None, log: Path | None) -> RunState:
    if state.state in (State.DONE, State.UNREADABLE):
        return state
    last = _last_line(log) if log else ""
    if task is not None and task.state == "PENDING":
        # SLURM's "None": its scheduler has not looked at the task yet.
        reason = "" if task.reason == "None" else f": {task.reason}"
        return replace(state, state=State.PENDING, detail=f"task {task.id}{reason}")
    if task is not None:
        return replace(state, state=State.RUNNING, detail=f"task {task.id}: {last}".rstrip(": "))
    # A task that never began, because it was cancelled or waited in vain, leaves its run just missing.
    if state.state is State.MISSING and log is not None and log.exists():
        return replace(state, state=State.LOST, detail=f"{last} ({os.path.relpath(log)})".lstrip())
    return state


def _last_line(log: Path) -> str:
    """The last line that says something; empty where there is none yet."""
    try:
        with log.open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - _LOG_END))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return ""
    return next((line.strip() for line in reversed(lines) if line.strip()), "")
