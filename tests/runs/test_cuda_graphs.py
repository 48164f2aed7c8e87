"""A run that is decided to train by CUDA graphs, with a recorder that fails as a CPU does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from repro.plans.execution import Execution
from repro.plans.experiment import load_experiment
from repro.plans.plan import expand
from repro.plans.profile import load_profile
from repro.runs import build, runner
from repro.runs.bases import BaseModels
from repro.runs.store import Store


class NoGpu:
    def warm_up(self, work: Callable[[], Tensor]) -> Tensor:
        return work()

    def record(self, work: Callable[[], Tensor]) -> Any:
        raise RuntimeError("there is no GPU")


def test_a_run_pads_its_rows_for_graphs_and_says_where_they_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = {row.id: row for row in expand(load_experiment("table1"), load_profile("smoke")).rows}
    spec, notes = rows["dual_lora"].specs[0], []
    options: dict[str, Any] = {"bases": BaseModels(), "group": "test", "note": notes.append}
    execution = Execution(micro_batch_size=4, evaluation_tokens=8192, wandb=False)
    plain = runner.execute(spec, store=Store(tmp_path / "plain"), execution=execution, **options)
    assert not notes

    decided = runner.fitted

    def with_graphs(*args: Any) -> Execution:
        execution = decided(*args)
        assert not execution.cuda_graphs  # on a CPU
        return execution.model_copy(update={"cuda_graphs": True})

    monkeypatch.setattr(runner, "fitted", with_graphs)
    monkeypatch.setattr(build, "CudaRecorder", NoGpu)
    graphed = runner.execute(spec, store=Store(tmp_path / "graphs"), execution=execution, **options)
    assert notes == ["trains on without CUDA graphs, in more time: RuntimeError: there is no GPU"]
    (warning,) = [warning for warning in graphed.warnings if warning not in plain.warnings]
    assert warning.startswith("trained without CUDA graphs, in more time (RuntimeError: there is no GPU)")
    # Other rows, the same sums but for rounding.
    assert graphed.training.losses == pytest.approx(plain.training.losses, rel=1e-4)
    assert graphed.training.losses != plain.training.losses
    assert graphed.hash == plain.hash
