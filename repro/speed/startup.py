"""Fixed costs: the start-up time of commands, and a run's time outside training, relative to limits."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from repro.plans.spec import RunSpec
from repro.runs.bases import BaseModels
from repro.runs.measurements import Measurement, Ratio
from repro.runs.runner import execute
from repro.runs.store import Store
from repro.speed.conditions import Conditions, Found
from repro.speed.runs import lora_run
from repro.speed.timing import Times, take_turns

# Limits in seconds.
_COMMANDS = {"--help": 0.5, "plan table1": 2.0, "status table1": 2.0, "render table1": 2.0}
_RUN = 3.0


def figures(conditions: Conditions) -> Iterator[Found]:
    """Seconds over the limit: of commands, each in its own process, then of a run."""
    with tempfile.TemporaryDirectory() as results:
        cases = {command: _Command(command, results) for command in _COMMANDS}
        times = take_turns(cases, rounds=1 if conditions.small else 5, budget=conditions.budget)
    for command, bound in _COMMANDS.items():
        yield _over(f"`repro {command}`", "laptop profile", times[command], bound)
    yield _over(
        "a run outside training and evaluation",
        "LoRA, base loaded, probes included",
        _fixed(conditions.small),
        _RUN,
    )


def _over(what: str, at: str, times: Times, bound: float) -> Measurement:
    return Measurement(
        name=f"{what} / its bound of {bound:g} s",
        at=at,
        ratio=Ratio(rounds=tuple(seconds / bound for seconds in times.seconds)),
        target=1.0,
        note=f"{times.median:.2f} s",
    )


class _Command:
    def __init__(self, command: str, results: str) -> None:
        self._arguments = [sys.executable, "-m", "repro.cli", *command.split()]
        self._environment = {**os.environ, "REPRO_RESULTS_DIR": results}

    def __call__(self) -> None:
        subprocess.run(self._arguments, env=self._environment, check=True, capture_output=True)


def _fixed(small: bool) -> Times:
    """Seconds of runs outside training and prediction, one per seed; the first, which imports, is dropped."""
    spec, execution = lora_run(small)
    few = {"train_per_task": 2, "test_per_task": 4, "validation_size": 0}
    bases = BaseModels()
    seconds = []
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(2 if small else 4):
            content = spec.model_dump() | {"seed": seed, "benchmark": spec.benchmark.model_dump() | few}
            result = execute(
                RunSpec.model_validate(content),
                store=Store(Path(folder)),
                execution=execution,
                bases=bases,
                group="bench",
            )
            evaluation = result.evaluation
            predicting = evaluation.seconds - (evaluation.probing_seconds or 0.0)
            seconds.append(result.total_seconds - result.training.seconds - predicting)
    return Times(seconds=tuple(seconds[1:]))
