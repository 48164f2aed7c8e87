"""Reading a trained model back into the model that is there, and what that alone would not see."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from repro.methods.corda import CorDA
from repro.methods.lora import LoRA
from repro.plans.execution import Execution
from repro.plans.experiment import load_experiment
from repro.plans.plan import expand
from repro.plans.profile import load_profile
from repro.plans.spec import RunSpec
from repro.runs.bases import BaseModels
from repro.runs.reloading import _bits
from repro.runs.result import Result
from repro.runs.runner import execute
from repro.runs.store import Store

EXECUTION = Execution(micro_batch_size=8, evaluation_tokens=4096, wandb=False)
RELOADED = "reloaded = in memory"


class Counting(BaseModels):
    """Counts the base models that are asked for."""

    count = 0

    def checkout(self, *args: Any, **settings: Any) -> Any:
        self.count += 1
        return super().checkout(*args, **settings)


def run(method: dict[str, Any], folder: Path, bases: BaseModels | None = None) -> Result:
    rows = {row.id: row for row in expand(load_experiment("table2"), load_profile("smoke")).rows}
    content = rows["lora"].specs[0].model_dump(exclude={"version"}) | {"method": method}
    spec = RunSpec.model_validate(content)
    return execute(spec, store=Store(folder), execution=EXECUTION, bases=bases or BaseModels(), group="test")


def found(result: Result) -> str:
    """The warning of the probe; empty if there is none."""
    (probe,) = [probe for probe in result.probes if probe.name == RELOADED]
    return probe.warning or ""


@pytest.mark.parametrize(
    ("method", "bases"),
    [({"name": "lora"}, 1), ({"name": "fft"}, 1), ({"name": "corda", "rank": 4, "samples": 2}, 2)],
    ids=lambda value: value["name"] if isinstance(value, dict) else "",
)
def test_one_base_model_is_enough_where_it_stays_as_it_is(
    method: dict[str, Any], bases: int, tmp_path: Path
) -> None:
    counting = Counting()
    result = run(method, tmp_path, counting)
    assert not found(result)
    assert counting.count == bases


@pytest.mark.parametrize("cls", [LoRA, CorDA])
def test_a_file_without_a_tensor_is_a_warning(
    cls: type[LoRA] | type[CorDA], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = cls.save

    def leave_one_out(self: Any, model: nn.Module, directory: Path) -> None:
        save(self, model, directory)
        path = directory / "adapter_model.safetensors"
        save_file(dict(sorted(load_file(path).items())[1:]), path)

    monkeypatch.setattr(cls, "save", leave_one_out)
    settings = {"rank": 4, "samples": 2} if cls is CorDA else {}
    result = run({"name": cls.model_fields["name"].default} | settings, tmp_path)
    assert "adapter_model.safetensors: not what was trained (it lacks base_model." in found(result)
    assert found(result) in result.warnings and result.scores  # what was trained is kept and scored


def test_a_base_model_that_training_changed_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    optimizer = LoRA.optimizer

    def with_a_frozen_weight(self: LoRA, model: nn.Module, settings: Any) -> Any:
        weight = model.get_base_model().bert.encoder.layer[0].output.dense.weight
        made = optimizer(self, model, settings)
        made.register_step_post_hook(lambda *_: torch.no_grad()(weight.mul_)(1.001))
        return made

    monkeypatch.setattr(LoRA, "optimizer", with_a_frozen_weight)
    assert "a frozen weight has changed in training, and is not saved" in found(
        run({"name": "lora"}, tmp_path)
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.uint8])
@pytest.mark.parametrize("size", [1, 7, 8, 1001])
def test_a_single_changed_bit_is_seen(dtype: torch.dtype, size: int) -> None:
    whole = torch.arange(size + 1).to(dtype)
    for values in (whole[:size], whole[1:]):  # the second begins anywhere in its memory
        model = nn.Module()
        model.weight = nn.Parameter(values, requires_grad=False)
        before = _bits(model)
        assert _bits(model) == before
        for place in (0, size - 1):
            model.weight.data.view(torch.uint8)[place * dtype.itemsize] ^= 1
            assert _bits(model) != before
            model.weight.data.view(torch.uint8)[place * dtype.itemsize] ^= 1
