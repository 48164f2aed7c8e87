"""Checkpoints come by time: a run of any size writes a few, and loses minutes when it is killed."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from repro.config import ConfigError
from repro.plans.execution import Execution
from repro.plans.experiment import load_experiment
from repro.plans.plan import expand
from repro.plans.profile import Profile, load_profile
from repro.runs import checkpointing
from repro.runs.bases import BaseModels
from repro.runs.checkpointing import Checkpoints
from repro.runs.result import Result
from repro.runs.runner import execute
from repro.runs.store import Store


class Killed(RuntimeError):
    """Stands for a process that is gone."""


class Clock:
    """Every step takes six minutes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.minutes = 0
        self.steps: list[int] = []
        self.kept: list[int] = []
        save = Checkpoints.save_checkpoint

        def kept(self_: Checkpoints, content: dict[str, Any], path: str | Path, **options: Any) -> None:
            if Path(path) == self_.latest:
                self.kept.append(content["global_step"])
            save(self_, content, path, **options)

        monkeypatch.setattr(Checkpoints, "save_checkpoint", kept)
        monkeypatch.setattr(checkpointing, "time", SimpleNamespace(monotonic=lambda: 60.0 * self.minutes))

    def run(self, folder: Path, minutes: float | None, killed_at: int | None = None) -> Result:
        def report(phase: str, done: int, total: int) -> None:
            if phase == "train":
                self.minutes += 6
                self.steps.append(done)
                if done == killed_at:
                    raise Killed

        rows = {row.id: row for row in expand(load_experiment("table1"), load_profile("smoke")).rows}
        return execute(
            rows["lora"].specs[0],
            store=Store(folder),
            execution=Execution(
                micro_batch_size=4, evaluation_tokens=8192, checkpoint_minutes=minutes, wandb=False
            ),
            bases=BaseModels(),
            group="test",
            report=report,
        )


@pytest.mark.parametrize(
    ("minutes", "steps"), [(10, [2, 4]), (12, [2, 4]), (12.5, [3]), (0, [1, 2, 3, 4]), (60, []), (None, [])]
)
def test_the_first_step_that_ends_after_the_time_is_kept(
    minutes: float | None, steps: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch)
    clock.run(tmp_path, minutes)
    assert clock.steps == [1, 2, 3, 4]
    assert clock.kept == steps


def test_a_run_that_was_killed_goes_on_from_the_last_one_to_the_last_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Clock(monkeypatch).run(tmp_path / "whole", 10)
    clock = Clock(monkeypatch)
    with pytest.raises(Killed):
        clock.run(tmp_path / "killed", 10, killed_at=3)
    resumed = clock.run(tmp_path / "killed", 10)
    assert clock.steps == [1, 2, 3, 3, 4]
    assert clock.kept == [2, 4]
    assert resumed.training.losses == whole.training.losses
    assert resumed.training.validation_losses == whole.training.validation_losses
    assert resumed.scores == whole.scores


def test_ten_minutes_are_the_default_and_every_profile_has_them_but_the_smoke_test() -> None:
    assert Execution().checkpoint_minutes == 10
    for name in ("laptop", "workstation", "paper"):
        assert load_profile(name).execution.checkpoint_minutes == 10
    assert load_profile("smoke").execution.checkpoint_minutes == 0


@pytest.mark.parametrize("place", ["execution", "family", "model"])
def test_a_number_of_steps_is_refused_in_one_line_that_says_what_to_write(place: str) -> None:
    content = load_profile("paper").model_dump(exclude_unset=True)
    old = {"checkpoint_every": 500}
    if place == "execution":
        content["execution"] = old
    elif place == "family":
        content["families"]["glue"] = {"execution": old}
    else:
        content["models"] = {"llama-7b": {"execution": old}}
    with pytest.raises((ConfigError, ValueError), match="write checkpoint_minutes: 10, or null") as caught:
        Profile.model_validate(content)
    assert "checkpoint_every: 500 counts steps" in str(caught.value)


def test_a_time_is_no_negative_number() -> None:
    with pytest.raises(ValueError, match="checkpoint_minutes"):
        Execution(checkpoint_minutes=-1)
