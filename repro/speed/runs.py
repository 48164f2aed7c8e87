"""The run used by the benchmarks of training, evaluation and generation: LoRA from Table 1."""

from __future__ import annotations

from typing import Literal

from repro.plans.execution import Execution
from repro.plans.experiment import load_experiment
from repro.plans.plan import expand
from repro.plans.profile import load_profile
from repro.plans.spec import RunSpec

Precision = Literal["fp32", "bf16"]


def lora_run(small: bool, precision: Precision = "fp32", device: str = "cpu") -> tuple[RunSpec, Execution]:
    """Table 1's LoRA row on SmolLM2-135M, and its execution settings.

    Under the laptop profile on a CPU, and under the workstation profile on a GPU.

    Args:
        small: use the smoke profile's tiny model, to test the benchmark itself.
    """
    on_gpu = device == "cuda"
    profile = load_profile("smoke" if small else "workstation" if on_gpu else "laptop")
    planned = expand(load_experiment("table1"), profile).only(["lora"])
    (row,) = planned.rows
    spec = row.specs[0]
    training = spec.training.model_copy(
        update={"precision": precision, "validate_every": None, "selection": "last"}
    )
    execution = profile.execution_for("commonsense", spec.model.name).model_copy(
        update={"wandb": False, "diagnostics": 0, "accelerator": "gpu" if on_gpu else "cpu"}
    )
    # A new object, since `model_copy` would keep the cached hash.
    return RunSpec.model_validate(spec.model_dump() | {"training": training.model_dump()}), execution
