"""A whole run on a CPU and on a GPU: it learns, and its result says where it ran and what it took."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from statistics import mean
from typing import Literal

import pytest
import torch

from repro.models.shapes import base_parameters
from repro.plans.execution import Execution
from repro.plans.experiment import load_experiment
from repro.plans.plan import expand
from repro.plans.profile import load_profile
from repro.plans.spec import RunSpec
from repro.runs.bases import BaseModels
from repro.runs.environment import environment, peak_memory_bytes
from repro.runs.result import Result
from repro.runs.runner import execute
from repro.runs.store import Store


def run(precision: Literal["fp32", "bf16"], folder: Path, accelerator: Literal["auto", "cpu"]) -> Result:
    """Dual LoRA of Table 1 on a tiny model and two tasks: 16 steps, each batch four times."""
    (row,) = expand(load_experiment("table1"), load_profile("smoke")).only(["dual_lora"]).rows
    content = row.specs[0].model_dump(exclude={"version"})
    content["benchmark"] |= {"tasks": ["boolq", "piqa"], "train_per_task": 16}
    content["training"] |= {"epochs": 4, "learning_rate": 0.03, "precision": precision, "validate_every": 8}
    return execute(
        RunSpec.model_validate(content),
        store=Store(folder),
        # As many examples in a pass as fit the device.
        execution=Execution(accelerator=accelerator, evaluation_tokens=1024, wandb=False),
        bases=BaseModels(),
        group="test",
    )


@pytest.mark.parametrize(
    ("device", "precision"),
    [
        ("cpu", "fp32"),
        pytest.param("cuda", "fp32", marks=pytest.mark.gpu),
        pytest.param("cuda", "bf16", marks=pytest.mark.gpu),
    ],
)
def test_a_run_learns_and_says_where(device: str, precision: Literal["fp32", "bf16"], tmp_path: Path) -> None:
    result = run(precision, tmp_path, "auto")
    losses = result.training.losses
    assert mean(losses[-4:]) < 0.97 * mean(losses[:4])
    assert not [probe.name for probe in result.probes if probe.warning]
    assert result.training.micro_batch_size == result.spec["training"]["batch_size"]
    weights = base_parameters(result.spec["model"]["architecture"]) * (4 if precision == "fp32" else 2)
    assert result.peak_memory_bytes > weights
    if device == "cuda":
        assert result.training.kernel == "triton"
        assert torch.cuda.get_device_name() in result.environment.hardware
        assert result.peak_memory_bytes < 2**30  # what torch and CUDA take in main memory is more
        assert not [warning for warning in result.warnings if "CUDA graphs" in warning]
    else:
        assert result.training.kernel == ("c" if shutil.which("cc") else "torch")
        assert "threads of" in result.environment.hardware


@pytest.mark.gpu
def test_a_run_on_the_cpu_of_a_machine_with_a_gpu(tmp_path: Path) -> None:
    result = run("fp32", tmp_path, "cpu")
    assert result.training.kernel in ("c", "torch")
    assert "threads of" in result.environment.hardware
    assert result.peak_memory_bytes > 2**20


def test_only_tests_marked_gpu_see_one() -> None:
    assert not torch.cuda.is_available() and os.environ["CUDA_VISIBLE_DEVICES"] == ""


def test_memory_and_hardware_of_a_run_on_a_cpu_are_not_the_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "GPU")
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 7)
    assert peak_memory_bytes(gpu=True) == 7
    assert peak_memory_bytes(gpu=False) > 2**20
    uncached = environment.__wrapped__
    assert uncached(gpu=True).hardware == "1 x GPU"
    assert "threads of" in uncached(gpu=False).hardware
