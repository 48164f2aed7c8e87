"""Less memory than a run wants: passes in halves, activations computed again, weights in four bits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers.models.llama.modeling_llama import LlamaMLP

from repro.config import ConfigError
from repro.models.loading import load_model
from repro.plans.execution import Execution
from repro.plans.experiment import load_experiment
from repro.plans.plan import expand
from repro.plans.profile import load_profile
from repro.plans.spec import RunSpec
from repro.runs.bases import BaseModels
from repro.runs.result import Result
from repro.runs.runner import execute
from repro.runs.store import Store

EXECUTION = Execution(micro_batch_size=8, evaluation_tokens=2000, wandb=False, diagnostics=0)
BASES = BaseModels()


def _spec(row: str, **method: Any) -> RunSpec:
    rows = {r.id: r for r in expand(load_experiment("table1"), load_profile("smoke")).rows}
    spec = rows[row].specs[0]
    content = spec.model_dump(exclude={"version"}) | {"method": spec.method.model_dump() | method}
    content["benchmark"] |= {"tasks": ["boolq", "piqa"], "train_per_task": 16}
    return RunSpec.model_validate(content)


def _execute(spec: RunSpec, folder: Path, **settings: Any) -> Result:
    execution = EXECUTION.model_copy(update=settings)
    return execute(spec, store=Store(folder), execution=execution, bases=BASES, group="test")


def _limit_rows(monkeypatch: pytest.MonkeyPatch, training: int, evaluation: int) -> list[int]:
    """Let a layer run out of memory on more rows than these. Returns the rows of each pass that succeeded."""
    forward, seen = LlamaMLP.forward, []

    def limited(self: LlamaMLP, x: torch.Tensor) -> torch.Tensor:
        if x.shape[0] > (training if self.training else evaluation):
            raise torch.OutOfMemoryError(f"no memory for {x.shape[0]} rows")
        if self.training:
            seen.append(x.shape[0])
        return forward(self, x)

    monkeypatch.setattr(LlamaMLP, "forward", limited)
    return seen


@pytest.mark.parametrize("row", ["dual_lora", "lora"])
def test_a_training_that_runs_out_of_memory_goes_on_in_smaller_passes(
    row: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = _spec(row)
    whole = _execute(spec, tmp_path / "whole")
    seen = _limit_rows(monkeypatch, training=2, evaluation=10**6)
    result = _execute(spec, tmp_path / "halved")
    assert max(seen) == 2
    assert whole.training.micro_batch_size == 8 and result.training.micro_batch_size == 2
    assert result.training.steps == whole.training.steps == 4
    # A row's loss in a pass of two and in one of eight differs by fp32's rounding alone.
    assert result.training.losses == pytest.approx(whole.training.losses, rel=1e-6)
    validations = zip(result.training.validation_losses, whole.training.validation_losses, strict=True)
    assert all(one == pytest.approx(other, rel=1e-6) for one, other in validations)
    (warning,) = (text for text in result.warnings if "out of memory" in text)
    assert "passes of 2 examples instead of 8, the optimiser batch unchanged" in warning
    assert not any("out of memory" in text for text in whole.warnings)


def test_an_evaluation_that_runs_out_of_memory_goes_on_in_smaller_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = _spec("base")
    whole = _execute(spec, tmp_path / "whole", evaluation_tokens=8000)
    _limit_rows(monkeypatch, training=0, evaluation=2)
    result = _execute(spec, tmp_path / "halved", evaluation_tokens=8000)
    ids, same = ([p["id"] for p in Store(tmp_path / n).predictions(spec)] for n in ("halved", "whole"))
    assert ids == same
    assert result.scores == whole.scores
    assert any("out of memory in evaluation: batches of" in text for text in result.warnings)


def test_what_does_not_fit_in_a_single_row_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _limit_rows(monkeypatch, training=0, evaluation=10**6)
    with pytest.raises(
        torch.OutOfMemoryError, match=r"over a single row: no memory for 1 rows; set execution"
    ):
        _execute(_spec("lora"), tmp_path)


@pytest.mark.parametrize("row", ["dual_lora", "lora", "fft"])
def test_gradient_checkpointing_changes_nothing_but_what_is_computed(
    row: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With dropout, whose masks must be the same the second time."""
    spec = _spec(row, **({"dropout": 0.1} if row == "lora" else {}))
    passes = {"kept": 0, "again": 0}
    now, forward = "kept", LlamaMLP.forward

    def counted(self: LlamaMLP, x: torch.Tensor) -> torch.Tensor:
        passes[now] += self.training
        return forward(self, x)

    monkeypatch.setattr(LlamaMLP, "forward", counted)
    kept = _execute(spec, tmp_path / "kept")
    now = "again"
    again = _execute(spec, tmp_path / "again", gradient_checkpointing=True)
    assert again.training.losses == kept.training.losses
    assert again.scores == kept.scores
    assert passes["again"] == 2 * passes["kept"] > 0


def _quantized(spec: RunSpec) -> RunSpec:
    content = spec.model_dump()
    content["model"] |= {"quantization": "nf4"}
    return RunSpec.model_validate(content)


def test_a_quantization_is_part_of_a_runs_identity_and_none_is_not() -> None:
    spec = _spec("lora")
    assert _quantized(spec).hash != spec.hash
    assert "quantization" not in spec.model_dump_json()


def test_a_quantization_needs_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "bitsandbytes", None)
    with pytest.raises(ConfigError, match=r"nf4 needs the package bitsandbytes; install it by"):
        load_model(_quantized(_spec("lora")).model, "causal_lm")


def test_four_bits_cannot_be_sharded(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="fsdp cannot shard a model of quantization nf4"):
        _execute(_quantized(_spec("lora")), tmp_path, devices=2, strategy="fsdp")


@pytest.mark.parametrize("row", ["dual_lora", "lora", "dora", "hira"])
def test_a_model_in_four_bits_trains(row: str, tmp_path: Path) -> None:
    """As one in fp32 whose weights are the unpacked ones: the same losses."""
    bitsandbytes = pytest.importorskip("bitsandbytes")
    spec = _quantized(_spec(row))
    result = _execute(spec, tmp_path / "packed")
    assert not [probe.name for probe in result.probes if probe.warning]
    assert result.evaluation.merged is False

    class Unpacked(BaseModels):
        def checkout(self, *args: Any, **kwargs: Any) -> Any:
            model, tokenizer = super().checkout(*args, **kwargs)
            for name, module in list(model.named_modules()):
                if isinstance(module, bitsandbytes.nn.Linear4bit):
                    with torch.random.fork_rng():  # the adapters are drawn next
                        linear = torch.nn.Linear(module.in_features, module.out_features, bias=False)
                    weight = module.weight
                    with torch.no_grad():
                        linear.weight.copy_(
                            bitsandbytes.functional.dequantize_4bit(weight.data, weight.quant_state)
                        )
                    model.set_submodule(name, linear)
            model.is_loaded_in_4bit = False
            return model, tokenizer

    plain = execute(
        spec, store=Store(tmp_path / "plain"), execution=EXECUTION, bases=Unpacked(), group="test"
    )
    assert result.training.losses == pytest.approx(plain.training.losses, rel=1e-5)
    assert result.training.losses != _execute(_spec(row), tmp_path / "fp32").training.losses
