"""The ramp of dW: it follows the optimiser's steps, by itself, and only while training."""

from __future__ import annotations

import copy
import gc
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter
from torch.distributed.optim import ZeroRedundancyOptimizer
from transformers import Trainer, TrainingArguments

from repro.adapters.dual_lora import DualLoraConfig, DualLoraLayer, count_step, warmup
from repro.adapters.dual_lora.trainer import RampCallback

STEPS = 4


def make(**fields: Any) -> tuple[PeftModel, Any]:
    torch.manual_seed(0)
    settings = {"magnitude_rank": 2, "init_std": 0.5, "target_modules": ["0"], "warmup_steps": STEPS}
    model = get_peft_model(nn.Sequential(nn.Linear(8, 6)), DualLoraConfig(**(settings | fields)))
    return model, next(module for module in model.modules() if isinstance(module, DualLoraLayer))


def optimizer_of(*models: nn.Module) -> torch.optim.Optimizer:
    # A learning rate of 0 leaves the factors alone, so that only the ramp moves.
    return torch.optim.SGD([p for m in models for p in m.parameters() if p.requires_grad], lr=0.0)


def step(model: nn.Module, optimizer: torch.optim.Optimizer, passes: int = 1) -> None:
    for _ in range(passes):
        model(torch.ones(3, 8)).sum().backward()
    optimizer.step()
    optimizer.zero_grad()


def strength(model: nn.Module) -> float:
    """The factor of dW in the model's present output."""
    layer = next(module for module in model.modules() if isinstance(module, DualLoraLayer))
    identity = torch.eye(8)
    with torch.no_grad():
        change = model(identity) - layer.base_layer(identity)
    delta = layer.get_delta_weight("default").T
    factor = (change * delta).sum() / delta.square().sum()
    torch.testing.assert_close(change, factor * delta, rtol=1e-4, atol=1e-5)
    return float(factor)


@pytest.mark.parametrize("passes", [1, 3])
def test_ramp_advances_once_per_optimiser_step(passes: int) -> None:
    model, _ = make()
    optimizer = optimizer_of(model)
    seen = []
    for _ in range(6):
        seen.append(strength(model))
        step(model, optimizer, passes)
    assert seen == pytest.approx([0.25, 0.5, 0.75, 1, 1, 1])


def test_ramp_scales_the_gradients() -> None:
    whole, ramped = make(warmup="none", clip="none")[0], make(clip="none")[0]
    for model in (whole, ramped):
        model(torch.ones(3, 8)).sum().backward()
    for (name, p), q in zip(whole.named_parameters(), ramped.parameters(), strict=True):
        if p.requires_grad:
            torch.testing.assert_close(q.grad, p.grad / STEPS, msg=name)


def test_buffers_may_be_written_between_two_forward_passes_and_their_backward_pass() -> None:
    # As DistributedDataParallel does: it copies the buffers of the first process at every forward pass.
    model, layer = make()
    first = model(torch.ones(3, 8)).sum()
    layer.dual_lora_step["default"].copy_(layer.dual_lora_step["default"].clone())
    (first + model(torch.ones(3, 8)).sum()).backward()
    twice = layer.dual_lora_A["default"].grad.clone()
    model.zero_grad()
    model(torch.ones(3, 8)).sum().backward()
    torch.testing.assert_close(twice, 2 * layer.dual_lora_A["default"].grad)


def test_evaluation_has_no_ramp() -> None:
    model, _ = make()
    assert strength(model.eval()) == pytest.approx(1)
    assert strength(model.train()) == pytest.approx(1 / STEPS)


@pytest.mark.parametrize("warmup_kind", ["none", "subtract_initial"])
def test_other_warm_ups_store_no_counter(warmup_kind: str) -> None:
    model, layer = make(warmup=warmup_kind)
    step(model, optimizer_of(model))
    assert not layer.dual_lora_step.keys() and not [name for name in model.state_dict() if "step" in name]


def test_models_keep_their_own_time() -> None:
    (first, first_layer), (second, second_layer) = make(), make()
    step(first, optimizer_of(first))
    step(first, optimizer_of(first))
    step(second, optimizer_of(second))
    assert (int(first_layer.dual_lora_step["default"]), int(second_layer.dual_lora_step["default"])) == (2, 1)
    step(nn.Linear(8, 2), optimizer_of(nn.Linear(8, 2)))
    assert (int(first_layer.dual_lora_step["default"]), int(second_layer.dual_lora_step["default"])) == (2, 1)


def test_optimisers_that_share_an_adapter_count_once() -> None:
    model, layer = make()
    model(torch.ones(3, 8)).sum().backward()
    for group in "ABCD":
        torch.optim.SGD([getattr(layer, f"dual_lora_{group}")["default"]], lr=0.0).step()
    assert int(layer.dual_lora_step["default"]) == 1


def test_only_the_trained_adapter_advances() -> None:
    model, layer = make()
    model.add_adapter("second", DualLoraConfig(magnitude_rank=2, target_modules=["0"]))
    every = [p for n, p in model.named_parameters() if "dual_lora" in n]
    model(torch.ones(3, 8)).sum().backward()
    torch.optim.SGD(every, lr=0.0).step()
    assert {name: int(count) for name, count in layer.dual_lora_step.items()} == {"default": 1, "second": 0}


def copied(model: nn.Module) -> nn.Module:
    return copy.deepcopy(model)


def pickled(model: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("duplicate", [copied, pickled])
def test_copies_go_on_by_themselves(duplicate: Callable[[nn.Module], nn.Module]) -> None:
    model, _ = make()
    step(model, optimizer_of(model))
    twin = duplicate(model)
    assert strength(twin) == pytest.approx(2 / STEPS)
    step(twin, optimizer_of(twin))
    assert strength(twin) == pytest.approx(3 / STEPS)
    assert strength(model) == pytest.approx(2 / STEPS)


def test_resuming_goes_on_where_it_stopped(tmp_path: Path) -> None:
    model, _ = make()
    for _ in range(2):
        step(model, optimizer_of(model))
    model.save_pretrained(tmp_path)
    torch.manual_seed(0)
    resumed = PeftModel.from_pretrained(nn.Sequential(nn.Linear(8, 6)), tmp_path, is_trainable=True).train()
    assert strength(resumed) == pytest.approx(3 / STEPS)
    step(resumed, optimizer_of(resumed))
    assert strength(resumed) == pytest.approx(1)


def test_a_merge_is_whole() -> None:
    model, layer = make()
    expected = layer.base_layer.weight + layer.get_delta_weight("default")
    merged: Any = model.train().merge_and_unload()
    torch.testing.assert_close(merged[0].weight, expected)


def test_layers_that_are_gone_are_forgotten() -> None:
    gc.collect()
    before = len(warmup._layers)
    model, layer = make()
    assert len(warmup._layers) == before + 1
    del model, layer
    assert len(warmup._layers) <= before


def test_the_ramp_does_not_recompile() -> None:
    torch._dynamo.reset()
    counter = CompileCounter()
    model, _ = make()
    optimizer = optimizer_of(model)
    compiled: Any = torch.compile(model, backend=counter, fullgraph=True)
    outputs: list[Tensor] = []
    for _ in range(STEPS):
        y = compiled(torch.ones(3, 8))
        y.sum().backward()
        outputs.append(y.detach())
        optimizer.step()
    assert counter.frame_count == 1
    change = [float((y - outputs[0]).norm()) for y in outputs]
    assert change == pytest.approx([0, change[1], 2 * change[1], 3 * change[1]]) and change[1] > 0


def count(layer: Any) -> int:
    return int(layer.dual_lora_step["default"])


@pytest.mark.parametrize("name", ["SGD", "AdamW", "Adafactor", "Muon", "LBFGS"])
def test_every_kind_of_optimiser_counts_once_per_step(name: str) -> None:
    model, layer = make()
    optimizer = getattr(torch.optim, name)([p for p in model.parameters() if p.requires_grad])

    def loss() -> Tensor:
        optimizer.zero_grad()
        value: Tensor = model(torch.ones(3, 8)).square().mean()
        value.backward()
        return value

    for _ in range(3):
        optimizer.step(loss)
    assert count(layer) == 3


@pytest.fixture(scope="module")
def one_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    file = tmp_path_factory.mktemp("store") / "store"
    torch.distributed.init_process_group("gloo", init_method=f"file://{file}", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def test_a_sharding_optimiser_counts_once_per_step(one_process: None) -> None:
    model, layer = make()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = ZeroRedundancyOptimizer(trained, torch.optim.SGD, lr=0.0)
    for _ in range(3):
        step(model, optimizer)
    assert count(layer) == 3


class Wrapping(torch.optim.Optimizer):
    """Steps another optimiser; may fail before it has."""

    def __init__(self, inner: torch.optim.Optimizer) -> None:
        super().__init__(inner.param_groups, {})
        self.inner, self.fails = inner, False

    def step(self, closure: Any = None) -> None:
        if self.fails:
            raise RuntimeError("fails")
        self.inner.step()


def test_a_wrapping_optimiser_counts_once_even_after_one_that_failed() -> None:
    model, layer = make()
    outer = Wrapping(optimizer_of(model))
    step(model, outer)
    assert count(layer) == 1
    outer.fails = True
    with pytest.raises(RuntimeError):
        outer.step()
    step(model, outer.inner)  # a step by itself, not within the one that failed
    assert count(layer) == 2


class Masters:
    """An optimiser of fp32 copies, which it writes back, as DeepSpeed's and Megatron's are."""

    def __init__(self, model: nn.Module, lr: float = 0.1) -> None:
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.masters = [nn.Parameter(p.detach().clone()) for p in self.parameters]
        self.optimizer = torch.optim.SGD(self.masters, lr=lr)

    def step(self) -> None:
        for parameter, master in zip(self.parameters, self.masters, strict=True):
            master.grad = parameter.grad
        self.optimizer.step()
        for parameter, master in zip(self.parameters, self.masters, strict=True):
            parameter.data.copy_(master)

    def zero_grad(self) -> None:
        for parameter in self.parameters:
            parameter.grad = None


class ByHand(Masters):
    def step(self) -> None:
        with torch.no_grad():
            for parameter in self.parameters:
                parameter -= 0.1 * parameter.grad


@pytest.mark.parametrize("kind", [Masters, ByHand])
@pytest.mark.parametrize("passes", [1, 3])
def test_steps_that_no_hook_sees_are_found_by_the_values(
    kind: type[Masters], passes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(warmup, "_warned", False)
    model, _ = make()
    optimizer: Any = kind(model)
    seen = []
    with pytest.warns(UserWarning, match="count_step") as warned:
        for _ in range(5):
            seen.append(strength(model))
            step(model, optimizer, passes)
    assert seen == pytest.approx([0.25, 0.5, 0.75, 1, 1])
    assert len(warned) == 1


def test_values_that_change_without_training_are_no_step() -> None:
    model, layer = make()
    strength(model)
    torch.nn.init.ones_(layer.dual_lora_B["default"])
    assert strength(model) == pytest.approx(0.25)
    model(torch.ones(3, 8)).sum().backward()  # no step behind it
    assert strength(model) == pytest.approx(0.25)


@pytest.mark.parametrize("kind", [Masters, ByHand, optimizer_of])
def test_a_loop_that_counts_its_own_steps_counts_each_once(kind: Callable[..., Any]) -> None:
    model, layer = make()
    optimizer = kind(model)
    for expected in range(1, 4):
        step(model, optimizer)
        count_step(model)
        assert count(layer) == expected


def test_trainer_s_callback_counts_each_step_once(tmp_path: Path) -> None:
    class Squared(nn.Module):
        def __init__(self, model: nn.Module) -> None:
            super().__init__()
            self.model = model

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"loss": self.model(x).square().mean()}

    for kind in (optimizer_of, Masters):
        model, layer = make(warmup_steps=100)
        optimizer: Any = kind(model)
        if kind is Masters:
            inner, optimizer = optimizer, optimizer.optimizer
            optimizer.register_step_pre_hook(lambda *_, inner=inner: _share_gradients(inner))
        trainer = Trainer(
            Squared(model),
            TrainingArguments(
                str(tmp_path),
                max_steps=3,
                report_to=[],
                use_cpu=True,
                save_strategy="no",
                gradient_accumulation_steps=2,
                per_device_train_batch_size=1,
            ),
            train_dataset=[{"x": torch.ones(8)}] * 8,
            optimizers=(optimizer, torch.optim.lr_scheduler.ConstantLR(optimizer)),
            callbacks=[RampCallback()],
        )
        trainer.train()
        assert count(layer) == 3


def _share_gradients(masters: Masters) -> None:
    for parameter, master in zip(masters.parameters, masters.masters, strict=True):
        master.grad = parameter.grad


def test_lora_plus_trains_b_and_d_faster() -> None:
    from peft.optimizers import create_loraplus_optimizer

    model, layer = make()
    optimizer = create_loraplus_optimizer(model, torch.optim.SGD, lr=1.0, loraplus_lr_ratio=16.0)
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert {name: rates[id(f)] for name, f in layer.factors("default").items()} == {
        "A": 1,
        "B": 16,
        "C": 1,
        "D": 16,
    }
    assert len(rates) == sum(len(group["params"]) for group in optimizer.param_groups) == 4


def test_lora_plus_refuses_an_embedding() -> None:
    from peft.optimizers import create_loraplus_optimizer

    config = DualLoraConfig(magnitude_rank=2, target_modules=["0", "1"])
    model = get_peft_model(nn.Sequential(nn.Embedding(8, 6), nn.Linear(6, 4)), config)
    with pytest.raises(ValueError, match="0 is an embedding with Dual LoRA"):
        create_loraplus_optimizer(model, torch.optim.SGD, lr=1.0, loraplus_lr_ratio=16.0)
