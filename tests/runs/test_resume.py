"""Every method: a run that broke off goes on and ends like one that did not, to the last bit."""

from __future__ import annotations

from pathlib import Path

import pytest

from repro.methods import METHODS
from repro.optimizers.state_bytes import adamw_state_bytes
from repro.plans.execution import Execution
from repro.plans.experiment import load_experiment
from repro.plans.plan import expand
from repro.plans.profile import load_profile
from repro.plans.spec import RunSpec
from repro.runs.bases import BaseModels
from repro.runs.job import Report
from repro.runs.result import Result
from repro.runs.runner import execute
from repro.runs.store import Store

# For the tiny model, and such that what a method does every few steps happens on both sides of the break.
SMALL = {
    "rank": 4, "magnitude_rank": 4, "direction_rank": 4, "bottleneck_size": 4, "warmup_steps": 3,
    "samples": 4, "start_step": 1, "update_gap": 2,
}  # fmt: skip
EXECUTION = Execution(micro_batch_size=4, evaluation_tokens=8192, checkpoint_minutes=0, wandb=False)
BASES = BaseModels()


class Break(RuntimeError):
    """Something outside of the run goes wrong."""


def spec_of(name: str) -> RunSpec:
    """Four steps of the smoke profile on two tasks, and a learning rate that moves things."""
    rows = {row.id: row for row in expand(load_experiment("table1"), load_profile("smoke")).rows}
    spec = rows["lora"].specs[0]
    cls = METHODS[name]
    method = {"name": name} | {key: value for key, value in SMALL.items() if key in cls.model_fields}
    benchmark = spec.benchmark.model_dump() | {
        "tasks": ["boolq", "piqa"], "train_per_task": 16, "validation_size": 0, "test_per_task": 2,
    }  # fmt: skip
    training = spec.training.model_dump() | {
        "learning_rate": 1e-2, "validate_every": None, "selection": "last",
    }  # fmt: skip
    content = spec.model_dump(exclude={"version"}) | {
        "method": method,
        "benchmark": benchmark,
        "training": training,
    }
    return RunSpec.model_validate(content)


def run(spec: RunSpec, folder: Path, report: Report = lambda *_: None) -> Result:
    return execute(spec, store=Store(folder), execution=EXECUTION, bases=BASES, group="test", report=report)


@pytest.mark.parametrize("name", [name for name, cls in METHODS.items() if cls.trains])
def test_a_resumed_run_equals_an_uninterrupted_one(name: str, tmp_path: Path) -> None:
    spec = spec_of(name)
    whole = run(spec, tmp_path / "whole")

    def break_off(phase: str, done: int, total: int) -> None:
        if (phase, done) == ("train", 3):
            raise Break

    with pytest.raises(Break):
        run(spec, tmp_path / "resumed", break_off)
    assert (Store(tmp_path / "resumed").directory(spec) / "checkpoints" / "latest.ckpt").exists()
    steps = []
    resumed = run(
        spec, tmp_path / "resumed", lambda phase, done, _: steps.append(done) if phase == "train" else None
    )
    assert steps[0] > 1 and whole.training.steps == 4
    assert resumed.training.losses == whole.training.losses
    assert len(set(whole.training.losses)) == 4
    stored = [Store(tmp_path / place).predictions(spec) for place in ("whole", "resumed")]
    assert stored[0] == stored[1]
    check_memory(name, whole)


def check_memory(name: str, result: Result) -> None:
    """The optimiser's state: AdamW's two moments and a step count each; GaLore's and GaRare's is smaller."""
    kept, adamw = result.training.optimizer_state_bytes, result.training.adamw_state_bytes
    assert kept is not None and adamw is not None
    assert adamw == 2 * 4 * result.trainable_parameters
    if name in ("galore", "garare"):
        assert kept < 0.75 * adamw
    else:
        assert adamw < kept < 1.1 * adamw


def test_adamws_state_is_counted_without_a_step() -> None:
    import torch

    parameter = torch.nn.Parameter(torch.zeros(3, 5))
    assert adamw_state_bytes(torch.optim.SGD([parameter], lr=1.0)) == 2 * 15 * 4
