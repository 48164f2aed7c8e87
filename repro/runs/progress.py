"""Progress on the screen: a bar with an ETA for all runs, and one for the current run."""

from __future__ import annotations

import time
from datetime import timedelta
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from repro.plans.spec import RunSpec

# Share of a run's time that its training takes when nothing is known yet: 2/3 on the laptop profile.
_TRAINING_SHARE = 2 / 3

# Seconds between two lines about a run in a log: a run of a day leaves less than 200 kB.
_LOG_EVERY = 30


class Watch:
    """Progress of several runs: bars in a terminal, elsewhere a line about the current run every 30 s.

    Each finished run prints a line.
    """

    def __init__(self, runs: int, console: Console) -> None:
        self._console = console
        self._runs = runs
        self._number = 0
        self._started = 0.0
        self._trains = False
        self._name = ""
        self._phase = ""
        self._phase_began = (0.0, 0)
        self._logged = 0.0
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(elapsed_when_finished=True),
            console=console,
            transient=True,
            disable=not console.is_terminal,
            # The ETA looks back over the whole session: runs are minutes long, and methods differ in speed.
            speed_estimate_period=24 * 3600,
        )
        self._all = self._progress.add_task("all runs", total=runs)
        self._run = self._progress.add_task("", total=None)

    def __enter__(self) -> Watch:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def begin(self, spec: RunSpec) -> None:
        self._number += 1
        self._started = self._logged = time.perf_counter()
        self._phase = ""
        self._trains = spec.trains
        self._name = spec.title
        self._progress.reset(self._run, description=f"{self._name}: prepare", total=None)

    def report(self, phase: str, done: int, total: int) -> None:
        """See `repro.runs.job.Report`."""
        if not self._console.is_terminal:
            self._log(phase, done, total)
        self._progress.update(self._run, description=f"{self._name}: {phase}", completed=done, total=total)
        share = done / max(1, total)
        if self._trains:
            share = (
                _TRAINING_SHARE * share
                if phase == "train"
                else _TRAINING_SHARE + (1 - _TRAINING_SHARE) * share
            )
        self._progress.update(self._all, completed=self._number - 1 + share)

    def note(self, what: str) -> None:
        """A line about the current run."""
        self._print(what)

    def end(self, verdict: str) -> None:
        self._progress.update(self._all, completed=self._number)
        self._print(f"{verdict} ({time.perf_counter() - self._started:.0f} s)")

    def _log(self, phase: str, done: int, total: int) -> None:
        """A line with the time left in the phase, from its pace since this process began it."""
        now = time.perf_counter()
        if phase != self._phase:
            self._phase, self._phase_began = phase, (now, done)
        if now - self._logged < _LOG_EVERY or done == self._phase_began[1]:
            return
        self._logged = now
        began, before = self._phase_began
        left = timedelta(seconds=round((now - began) / (done - before) * (total - done)))
        self._print(f"{phase} {done}/{total}, {left} left")

    def _print(self, what: str) -> None:
        self._console.print(
            f"[{self._number}/{self._runs}] {self._name}: {what}",
            markup=False,
            highlight=False,
            soft_wrap=True,  # one line a run, however narrow a log is
        )
