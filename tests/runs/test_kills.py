"""A run that is killed again and again, at random moments: it leaves no result or a whole one, the same one.

Really killed: each start is a process of its own, which gets SIGKILL from outside. It is forked from this
process, so that its life is the run's and not that of imports. REPRO_TEST_KILLS says how many (25).
"""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from repro import files
from repro.plans.execution import Execution
from repro.plans.experiment import load_experiment
from repro.plans.plan import expand
from repro.plans.profile import load_profile
from repro.plans.spec import RunSpec
from repro.runs import checkpointing
from repro.runs.bases import BaseModels
from repro.runs.runner import execute
from repro.runs.store import Store

KILLS = int(os.environ.get("REPRO_TEST_KILLS", "25"))
PHASES = ("prepare", "train", "evaluate", "write", "end")
EXECUTION = Execution(micro_batch_size=4, evaluation_tokens=8192, checkpoint_minutes=0, wandb=False)

# Seconds that a slow disk takes to say that a file is there: a fair share of the kills finds the run writing.
SLOW = 0.03


@pytest.fixture(scope="module")
def spec() -> RunSpec:
    """Dual LoRA, four steps, the weights of the best of two validations."""
    rows = {row.id: row for row in expand(load_experiment("table1"), load_profile("smoke")).rows}
    spec = rows["dual_lora"].specs[0]
    benchmark = spec.benchmark.model_dump() | {"tasks": ["boolq", "piqa"], "train_per_task": 18}
    training = spec.training.model_dump() | {"learning_rate": 1e-2, "selection": "best_validation_loss"}
    return RunSpec.model_validate(spec.model_dump() | {"benchmark": benchmark, "training": training})


@dataclass
class Life:
    """A process that executes a run: its phase, as it was the last time that anybody could see."""

    spec: RunSpec
    store: Store
    bases: BaseModels
    temporary: Path
    phase: Any = field(default_factory=lambda: multiprocessing.RawValue("i", 0))

    def begin(self) -> Any:
        process = multiprocessing.get_context("fork").Process(target=self._run)
        process.start()
        return process

    def wait(self, phase: str, times: int, process: Any) -> None:
        """Return when the process enters a phase for the so many-th time, or ends."""
        seen, last = 0, ""
        while seen < times and process.is_alive():
            now = PHASES[self.phase.value]
            seen += now == phase and last != phase
            last = now
            time.sleep(0.001)

    def _run(self) -> None:
        tempfile.tempdir = str(self.temporary)
        os.fsync = lambda descriptor: time.sleep(SLOW)  # type: ignore[assignment]
        checkpointing.whole_file = self._slowly(files.whole_file)  # type: ignore[attr-defined]
        files.whole_file = checkpointing.whole_file  # type: ignore[attr-defined]
        execute(
            self.spec, store=self.store, execution=EXECUTION, bases=self.bases, group="test", report=self._see
        )
        self.phase.value = PHASES.index("end")

    def _see(self, phase: str, done: int, total: int) -> None:
        self.phase.value = PHASES.index(phase)

    def _slowly(self, whole_file: Any) -> Any:
        @contextmanager
        def slowly(path: Path) -> Iterator[BinaryIO]:
            before, self.phase.value = self.phase.value, PHASES.index("write")
            with whole_file(path) as file:
                yield file
            self.phase.value = before

        return slowly


def left(store: Store, spec: RunSpec) -> dict[str, bytes]:
    """Every file of a run, without what no two executions share."""
    folder = store.directory(spec)
    found = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in found.items() if name != "result.json"}


def test_a_run_killed_at_random_moments_ends_like_one_that_was_not(spec: RunSpec, tmp_path: Path) -> None:
    bases, whole = BaseModels(), Store(tmp_path / "whole")
    expected = execute(spec, store=whole, execution=EXECUTION, bases=bases, group="test")
    temporary = tmp_path / "tmp"
    temporary.mkdir()

    began = time.monotonic()
    process = Life(spec, Store(tmp_path / "timed"), bases, temporary).begin()
    process.join()
    life = time.monotonic() - began
    assert process.exitcode == 0

    moments, killed, runs = random.Random(0), Counter[str](), 0
    while sum(killed.values()) < KILLS:
        runs += 1
        store = Store(tmp_path / f"run{runs}")
        while store.result(spec) is None:
            one = Life(spec, store, bases, temporary)
            process = one.begin()
            if sum(killed.values()) >= KILLS:
                process.join()
            elif moments.random() < 0.5:
                process.join(moments.uniform(0, life))
            else:  # a busy machine takes longer to compute, but no longer to write
                one.wait(moments.choice(PHASES[:-1]), moments.randint(1, 4), process)
            if process.exitcode is None:
                os.kill(process.pid, signal.SIGKILL)
                process.join()
            if process.exitcode == -signal.SIGKILL:
                killed[PHASES[one.phase.value]] += 1
            else:
                assert process.exitcode == 0
            store.result(spec)  # raises where there is half a one
            assert store.failure(spec) is None
            assert len(list(store.folder.glob("*"))) <= 1
            assert len(list(store.folder.rglob("*.partial"))) <= 1  # that of the last process
        result = execute(spec, store=store, execution=EXECUTION, bases=None, group="test")  # type: ignore[arg-type]
        assert result.training.losses == expected.training.losses
        assert result.training.validation_losses == expected.training.validation_losses
        assert (result.scores, result.other_scores) == (expected.scores, expected.other_scores)
        assert result.probes == expected.probes
        assert left(store, spec) == left(whole, spec)
    print(f"{sum(killed.values())} kills in {runs} runs: {dict(killed)}")
    assert list(temporary.iterdir()) == []
    assert killed.keys() >= {"prepare", "train", "evaluate", "write"}
