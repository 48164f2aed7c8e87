"""Snapshots of adapters in training, compared with dense formulas in double precision."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from repro.adapters.weight_update import updated_layers, weight_update
from repro.methods.dual_lora import DualLoRA
from repro.methods.registry import METHODS
from repro.models import load_model_spec
from repro.models.loading import load_model
from repro.plans.execution import Execution
from repro.plans.experiment import load_experiment
from repro.plans.plan import expand
from repro.plans.profile import load_profile
from repro.plans.spec import RunSpec
from repro.runs.bases import BaseModels
from repro.runs.runner import execute
from repro.runs.starting import trained_model, untrained_model
from repro.runs.store import Store
from repro.training.diagnosing import _measures
from repro.training.diagnostics import Diagnostics

EXECUTION = Execution(
    micro_batch_size=4, evaluation_tokens=8192, checkpoint_minutes=0, wandb=False, diagnostics=2
)


def smoke(row: str, **training: object) -> RunSpec:
    rows = {r.id: r for r in expand(load_experiment("table1"), load_profile("smoke")).rows}
    content = rows[row].specs[0].model_dump()
    content["training"] |= {"learning_rate": 1e-2, "validate_every": None, "selection": "last"} | training
    return RunSpec.model_validate(content)


def execute_in(spec: RunSpec, folder: Path, execution: Execution = EXECUTION, **settings: object) -> Store:
    store = Store(folder)
    execute(spec, store=store, execution=execution, bases=BaseModels(), group="test", **settings)
    return store


def diagnostics(spec: RunSpec, store: Store) -> Diagnostics:
    found = store.diagnostics(spec)
    assert found is not None
    return found


@pytest.mark.parametrize(
    "name", ["lora", "dora", "hira", "randlora", "vera", "mora", "delta_lora", "dual_lora"]
)
def test_the_update_is_what_merging_adds(name: str) -> None:
    """Merging in double precision, by the tuner's own code, moves the weight by `weight_update`."""
    torch.manual_seed(0)
    model = load_model(load_model_spec("tiny-llama"), "causal_lm")
    model = METHODS[name]().attach(model, ["k_proj", "up_proj"], "causal_lm").double()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
    layers = dict(updated_layers(model))
    assert len(layers) == 2 * 2
    for layer in layers.values():
        before, update = layer.get_base_layer().weight.clone(), weight_update(layer)
        layer.merge()
        torch.testing.assert_close(layer.get_base_layer().weight - before, update, rtol=1e-5, atol=1e-7)
        assert update.abs().max() > 1e-3


def test_the_snapshots_of_a_dual_lora_run_follow_the_formulas(tmp_path: Path) -> None:
    spec = smoke("dual_lora")
    store = execute_in(spec, tmp_path)
    found = diagnostics(spec, store)
    assert found.steps == (0, 2, 4)
    start = dict(updated_layers(untrained_model(spec, store, BaseModels())))
    end = dict(updated_layers(trained_model(spec, store, BaseModels())))
    assert set(found.layers) == set(end) == set(start) == set(found.merge_errors)

    for name, series in found.layers.items():
        first, last = start[name], end[name]
        A, B, C, D = (last.factors("default")[f].detach().double() for f in "ABCD")
        C0, D0 = (first.factors("default")[f].detach().double() for f in "CD")
        scale = last.scaling["default"]
        update = scale * (B @ A).clamp(min=0) * (D @ C).sign()
        weight = last.get_base_layer().weight.detach().double()
        # Entries a rounding away from zero may count either way.
        share = 3 / update.numel()
        assert series["dead"][-1] == pytest.approx(((B @ A) <= 0).double().mean().item(), abs=share)
        assert series["unchanged"][-1] == pytest.approx((update == 0).double().mean().item(), abs=share)
        assert series["flipped"][-1] == pytest.approx(
            ((D @ C < 0) != (D0 @ C0 < 0)).double().mean().item(), abs=share
        )
        assert series["flipped"][0] == 0 and series["flipped_in_step"][0] is None
        assert 0 < series["flipped_in_step"][-1] < series["flipped"][-1] + share
        assert series["zero"] == (0, 0, 0)
        assert series["update_norm"][-1] == pytest.approx(update.norm().item(), rel=1e-3)
        assert series["relative_norm"][-1] == pytest.approx((update.norm() / weight.norm()).item(), rel=1e-3)
        for group in "ABCD":
            values = series[f"gradient/dual_lora_{group}"]
            assert values[0] is None and values[-1] > 0
        exact = weight.bfloat16().double() + update
        lost = (exact.bfloat16().double() - exact).norm() / update.norm()
        assert found.merge_errors[name]["bf16"] == pytest.approx(lost.item(), rel=1e-3)
        assert found.merge_errors[name]["fp32"] < 1e-3 * found.merge_errors[name]["bf16"]


def test_exact_zeros_are_those_under_the_sign() -> None:
    torch.manual_seed(0)
    base = load_model(load_model_spec("tiny-llama"), "causal_lm")
    model = DualLoRA(magnitude_rank=2).attach(base, ["k_proj"], "causal_lm")
    (_, layer), _ = updated_layers(model)
    factors = layer.factors("default")
    then = (factors["C"].detach().clone(), factors["D"].detach().clone())
    rows = len(factors["D"])
    with torch.no_grad():
        factors["D"][0] = 0
        factors["D"][1] *= -1
    found = _measures(layer, then, None)
    assert found["zero"] == 1 / rows
    # A turned row, and the half of the empty one that was positive: zero counts as not positive.
    assert found["flipped"] == pytest.approx(1.5 / rows, abs=0.35 / rows)
    assert found["flipped"] > 1 / rows


def test_the_gradient_is_the_whole_batchs_before_clipping(tmp_path: Path) -> None:
    """However the batch is cut, and however little of the gradient the clip lets through."""
    found = []
    for micro_batch_size, clip in [(4, 1.0), (8, 1.0), (4, 1e-6)]:
        execution = EXECUTION.model_copy(update={"micro_batch_size": micro_batch_size})
        spec = smoke("lora", gradient_clip=clip, epochs=1)
        execution = execution.model_copy(update={"diagnostics": 4})
        store = execute_in(spec, tmp_path / f"{micro_batch_size}-{clip}", execution)
        series = next(iter(diagnostics(spec, store).layers.values()))
        found.append(series["gradient/lora_B"][1])  # in step 1, before anything differs
        assert set(series) == {
            "unchanged",
            "update_norm",
            "relative_norm",
            "gradient/lora_A",
            "gradient/lora_B",
        }
        # LoRA starts with B = 0; a trained product of two factors has no entry that is exactly 0.
        assert (series["unchanged"][0], series["unchanged"][-1]) == (1, 0)
        assert series["update_norm"][0] == 0 < series["update_norm"][-1]
    assert found[0] > 1e-3
    assert found == pytest.approx([found[0]] * 3, rel=2e-3)


def test_snapshots_change_nothing_and_an_interruption_loses_none(tmp_path: Path) -> None:
    spec = smoke("dual_lora")
    whole = execute_in(spec, tmp_path / "whole")
    blind = execute_in(spec, tmp_path / "blind", EXECUTION.model_copy(update={"diagnostics": 0}))
    assert blind.diagnostics(spec) is None
    assert whole.predictions(spec) == blind.predictions(spec)
    assert whole.result(spec).training.losses == blind.result(spec).training.losses

    class Break(RuntimeError):
        pass

    def break_off(phase: str, done: int, total: int) -> None:
        if (phase, done) == ("train", 4):
            raise Break

    with pytest.raises(Break):
        execute_in(spec, tmp_path / "resumed", report=break_off)
    resumed = execute_in(spec, tmp_path / "resumed")
    assert diagnostics(spec, resumed) == diagnostics(spec, whole)


def test_a_method_without_adapted_layers_leaves_no_file(tmp_path: Path) -> None:
    spec = smoke("fft")
    assert execute_in(spec, tmp_path).diagnostics(spec) is None
