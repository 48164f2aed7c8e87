"""The pace of a run of Table 1 under the workstation profile, and from it how long a whole run takes.

The run is executed as `repro run` does it, its validations included, and stopped after some steps. The test
set is evaluated by the run of the untrained model, which takes as long as one that is merged.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from statistics import median
from typing import NamedTuple

from repro.plans.execution import Execution
from repro.plans.experiment import load_experiment
from repro.plans.plan import expand
from repro.plans.profile import load_profile
from repro.plans.spec import RunSpec
from repro.runs.bases import BaseModels
from repro.runs.measurements import Measurement, Ratio
from repro.runs.runner import execute
from repro.runs.store import Store
from repro.speed.budget import Budget, OutOfTime
from repro.speed.conditions import Conditions, Found

# Targets: optimiser steps a second, and seconds of a run.
_STEPS_A_SECOND, _SECONDS = 30.0, 30.0


class _Windows(NamedTuple):
    """Steps that are not counted, then the steps of a round, and the number of rounds."""

    first: int
    steps: int
    rounds: int


# The workstation profile validates after every 80 steps: once in each round.
_FULL, _SMALL = _Windows(first=40, steps=80, rounds=3), _Windows(first=1, steps=1, rounds=2)


class _Enough(Exception):
    """The run has told what it was asked."""


class _Watch:
    """When each step or batch of a phase was done, on the budget's clock; it stops the run after `last`."""

    def __init__(self, phase: str, budget: Budget, last: float, least: int) -> None:
        self.ends: list[float] = []
        self.total = 0
        self._phase, self._budget, self._last, self._least = phase, budget, last, least

    def __call__(self, phase: str, done: int, total: int) -> None:
        if phase != self._phase:
            return
        self.ends.append(time.perf_counter())
        self.total = total
        if done >= self._last or (done >= self._least and self._budget.share < 0):
            raise _Enough


def figures(conditions: Conditions) -> Iterator[Found]:
    """Optimiser steps a second, then the seconds of a whole run, each relative to its target."""
    windows = _SMALL if conditions.small else _FULL
    profile = load_profile("smoke" if conditions.small else "workstation")
    rows = {row.id: row.specs[0] for row in expand(load_experiment("table1"), profile).rows}
    dual, base = rows["dual_lora"], rows["base"]
    execution = profile.execution_for("commonsense", dual.model.name).model_copy(
        update={"wandb": False, "accelerator": "gpu" if conditions.device == "cuda" else "cpu"}
    )
    bases = BaseModels()
    at = f"Table 1, {dual.model.name}, {dual.training.precision}, alone"
    pace: tuple[float, float] | None = None
    for part, budget in conditions.budget.shared({"training": 1.0, "evaluation": 1.0}):
        budget.check(0)
        if part == "training":
            last = windows.first + windows.steps * windows.rounds
            steps = _Watch("train", budget, last, windows.first + windows.steps)
            start = _watched(steps, dual, execution, bases)
            rates = tuple(_rates(steps.ends, windows))
            if not rates:
                raise OutOfTime(f"its training has {steps.total} steps, fewer than a round needs")
            yield _pace(rates, at)
            pace = start, median(rates)
        else:
            assert pace is not None
            batches = _Watch("evaluate", budget, float("inf"), 2)
            begun = _watched(batches, base, execution, bases)
            yield _whole(pace, steps.total, begun, batches, at)


def _watched(watch: _Watch, spec: RunSpec, execution: Execution, bases: BaseModels) -> float:
    """Execute a run until the watch has enough. Returns the seconds to the end of its first step or batch."""
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder, suppress(_Enough):
        execute(
            spec, store=Store(Path(folder)), execution=execution, bases=bases, group="bench", report=watch
        )
    return watch.ends[0] - started


def _rates(ends: Sequence[float], windows: _Windows) -> Iterator[float]:
    """Steps a second in each whole window."""
    for first in range(windows.first, len(ends) - windows.steps + 1, windows.steps):
        yield windows.steps / (ends[first + windows.steps - 1] - ends[first - 1])


def _pace(rates: tuple[float, ...], at: str) -> Measurement:
    return Measurement(
        name=f"the workstation profile's run: optimiser steps a second / its bound of {_STEPS_A_SECOND:g}",
        at=at,
        ratio=Ratio(rounds=tuple(rate / _STEPS_A_SECOND for rate in rates)),
        target=1.0,
        higher_is_better=True,
        note=f"{median(rates):.1f} steps a second, validations included",
    )


def _whole(pace: tuple[float, float], steps: int, begun: float, batches: _Watch, at: str) -> Measurement:
    start, rate = pace
    training = start + steps / rate
    a_batch = (batches.ends[-1] - batches.ends[0]) / max(1, len(batches.ends) - 1)
    evaluation = begun + (batches.total - 1) * a_batch
    return Measurement(
        name=f"the workstation profile's run, extrapolated: seconds / its bound of {_SECONDS:g}",
        at=at,
        ratio=Ratio(rounds=((training + evaluation) / _SECONDS,)),
        target=1.0,
        note=f"{training:.0f} s for {steps} steps, {evaluation:.0f} s for {batches.total} test batches, each "
        f"with its start; {len(batches.ends)} batches were evaluated",
    )
